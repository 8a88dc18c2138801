"""The end of a training: which records a last training loss is the mean of, and how many."""

import itertools
import math

from jaxlm.host.checked import Json

Records = list[Json]

LATE_SHARE = 0.05
"""The end of training, over whose records a noisy quantity is averaged: the last 5 % of steps."""


def late_records(train: Records) -> Records:
    """The training records of the last 5 % of the steps: the last record at least.

    A record holds one step's batch, so a short run, or one that records seldom, has few.
    """
    if not train:
        return []
    start = train[-1]["step"] * (1 - LATE_SHARE)
    return [record for record in train if record["step"] > start]


def late_mean(train: Records, name: str) -> float | None:
    """Mean of a field over `late_records`; None where there are none or one is not finite."""
    found: list[float | None] = [record.get(name) for record in late_records(train)]
    values = [value for value in found if value is not None]
    return None if not values or len(values) < len(found) else math.fsum(values) / len(values)


def last_loss(train: Records) -> tuple[float, str] | None:
    """The training loss at the end of a run, and what it is: 'mean of the 20 steps 41 to 60'.

    The mean of all steps from the record before `late_records` on; None where it is not known. Of
    a run whose records do not hold the mean of the steps since the one before (they did not once),
    it is the mean of the records alone: 'mean of 5 batches, steps 960 to 1,000'.
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
        return value, words if steps > 1 else f"of step {last:,}, the only one"
    value = late_mean(train, "loss")
    return None if value is None else (value, late_words(train))


def late_words(train: Records) -> str:
    """What a last training loss is: 'of the batch of step 60', 'mean of 5 batches, steps 960 to
    1,000'.
    """
    late = late_records(train)
    first, last = late[0]["step"], late[-1]["step"]
    if len(late) == 1:
        return f"of the batch of step {last:,} alone"
    return f"mean of {len(late)} batches, steps {first:,} to {last:,}"
