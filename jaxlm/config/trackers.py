"""The trackers (tracker.name=...): one dataclass for each, with exactly its keys.

`jaxlm.train.trackers` has the class that writes each.
"""

from dataclasses import dataclass

from jaxlm.config.keys import Kinds, key


@dataclass
class TrackerConfig:
    """The keys of every tracker."""

    name: str = key("", "a second place for the records")


@dataclass
class NoTracker(TrackerConfig):
    """Records go to metrics.jsonl only."""

    name: str = key("none", "no second place")


@dataclass
class TensorBoard(TrackerConfig):
    """Event files in run.dir/tensorboard."""

    name: str = key("tensorboard", "TensorBoard's event files")


TRACKERS = Kinds(NoTracker, TensorBoard)
