"""A second place for a run's records (tracker=...), in a folder of its own in the run's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.config.schema import Config
from jaxlm.config.trackers import TrackerConfig
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError


class Tracker:
    """Takes every record of a run that stands at `step`; this one keeps none (tracker=none).

    One that writes files puts them into the folder `run_path / config.name`.
    """

    def __init__(self, config: TrackerConfig, run_path: Path, step: int) -> None:
        """Raises UserError where a library is missing."""

    def write(self, record: Json) -> None:
        """One record of metrics.jsonl."""

    def close(self) -> None:
        """Nothing is written after this."""


class TensorBoardTracker(Tracker):
    """Records as scalars named kind/field, nested fields joined with slashes."""

    def __init__(self, config: TrackerConfig, run_path: Path, step: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "tracker=tensorboard needs tensorboardX, which is not installed.\n"
                "Install it with: pip install 'jaxlm[tensorboard]' (or leave out the tracker)."
            ) from None
        # TensorBoard forgets what an earlier process wrote from purge_step on. The suffix keeps
        # two processes of one second from writing the same file.
        suffix = f".{step:012d}"
        self.writer = SummaryWriter(
            str(run_path / config.name), purge_step=step + 1, filename_suffix=suffix
        )

    def write(self, record: Json) -> None:
        for name, value in scalars(record):
            self.writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def close(self) -> None:
        self.writer.close()


TRACKERS: dict[str, type[Tracker]] = {
    "none": Tracker,
    "tensorboard": TensorBoardTracker,
}


def open_tracker(config: Config, run_path: Path, step: int = 0) -> Tracker:
    """The configured tracker of a run that stands at `step`, so that no step is kept twice.

    Raises UserError where its library is missing.
    """
    return TRACKERS[config.tracker.name](config.tracker, run_path, step)


def scalars(tree: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) of every number in a record: {'a': {'b': 1}, 'c': [2]} -> a/b, c/0.

    Text, null and the step itself are left out.
    """
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        name = f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from scalars(value, f"{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield name, value
