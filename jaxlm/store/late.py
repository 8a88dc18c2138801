"""The end of training: the records over which a last training loss is averaged."""

import itertools
import math

from jaxlm.host.checked import Json

Records = list[Json]

LATE_SHARE = 0.05
"""The end of training, where noisy quantities are averaged: the last 5 % of the steps."""


def late_records(train: Records) -> Records:
    """The training records of the last 5 % of the steps; at least the last record.

    A record holds one step's batch, so a short run, or one that records rarely, has few.
    """
    if not train:
        return []
    start = train[-1]["step"] * (1 - LATE_SHARE)
    return [record for record in train if record["step"] > start]


def late_mean(train: Records, name: str) -> float | None:
    """Mean of a field over `late_records`; None if there are none or one is not finite."""
    found: list[float | None] = [record.get(name) for record in late_records(train)]
    values = [value for value in found if value is not None]
    return None if not values or len(values) < len(found) else math.fsum(values) / len(values)


def last_loss(train: Records) -> tuple[float, str] | None:
    """The training loss at the end of a run, with a description: 'mean of the 20 steps 41 to 60'.

    It is the mean over all steps after the last record before `late_records`; None if unknown. If
    the records lack the mean over the steps since the previous record, as they once did, it is the
    mean of the records alone: 'mean of 5 batches, steps 960 to 1,000'.
    """
    late = late_records(train)
    earlier = train[: len(train) - len(late)]
    first = earlier[-1]["step"] if earlier else 0
    counts = [b - a for a, b in itertools.pairwise([first, *(r["step"] for r in late)])]
    means = [record.get("interval_loss") for record in late]
    if late and None not in means:
        steps, last = late[-1]["step"] - first, late[-1]["step"]
        value = math.fsum(c * m for c, m in zip(counts, means, strict=True)) / steps
        words = f"mean of the {steps:,} steps {first + 1:,} to {last:,}"
        return value, words if steps > 1 else f"of step {last:,} alone"
    value = late_mean(train, "loss")
    return None if value is None else (value, late_words(train))


def late_words(train: Records) -> str:
    """Describes a last training loss: 'of the batch of step 60 alone', 'mean of 5 batches, steps
    960 to 1,000'.
    """
    late = late_records(train)
    first, last = late[0]["step"], late[-1]["step"]
    if len(late) == 1:
        return f"of the batch of step {last:,} alone"
    return f"mean of {len(late)} batches, steps {first:,} to {last:,}"
