"""The trackers (tracker.name=...): one dataclass for each, with exactly its keys.

`jaxlm.train.trackers` has the classes that write them.
"""

from dataclasses import dataclass

from jaxlm.config.keys import Kinds, key


@dataclass
class TrackerConfig:
    """The keys that all trackers share."""

    name: str = key("", "a second destination for the records")


@dataclass
class NoTracker(TrackerConfig):
    """Records go to metrics.jsonl only."""

    name: str = key("none", "no second destination")


@dataclass
class TensorBoard(TrackerConfig):
    """Event files in run.dir/tensorboard."""

    name: str = key("tensorboard", "TensorBoard's event files")


TRACKERS = Kinds(NoTracker, TensorBoard)
