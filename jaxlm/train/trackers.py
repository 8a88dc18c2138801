"""A second copy of a run's records (tracker=...), in a subfolder of the run directory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.config.schema import Config
from jaxlm.config.trackers import TrackerConfig
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError


class Tracker:
    """Receives every record of a run that is at `step`; this base class discards them
    (tracker=none).

    Trackers that write files put them in the folder `run_path / config.name`.
    """

    def __init__(self, config: TrackerConfig, run_path: Path, step: int) -> None:
        """Raises UserError if a library is missing."""

    def write(self, record: Json) -> None:
        """Write one record of metrics.jsonl."""

    def close(self) -> None:
        """Called once, after the last record."""


class TensorBoardTracker(Tracker):
    """Records as scalars named kind/field, nested fields joined with slashes."""

    def __init__(self, config: TrackerConfig, run_path: Path, step: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "tracker=tensorboard needs tensorboardX, which is not installed.\n"
                "Install it with: pip install 'jaxlm[tensorboard]' (or remove tracker=tensorboard)."
            ) from None
        # TensorBoard discards what an earlier process wrote from purge_step on. The suffix keeps
        # two processes started in the same second from writing the same file.
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
    """The configured tracker of a run that is at `step`, so that no step is recorded twice.

    Raises UserError if its library is missing.
    """
    return TRACKERS[config.tracker.name](config.tracker, run_path, step)


def scalars(tree: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) for every number in a record: {'a': {'b': 1}, 'c': [2]} -> a/b, c/0.

    Text, null and the step itself are omitted.
    """
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        name = f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from scalars(value, f"{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield name, value
