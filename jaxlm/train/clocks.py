"""The two clocks of a run, which continue from its earlier processes."""

import time


class Clocks:
    """`wall` counts all time since the run began; `seconds` counts training only, between `resume`
    and `pause`, without compilation and evaluation."""

    def __init__(self, wall: float = 0.0, seconds: float = 0.0) -> None:
        self._wall_started = time.monotonic() - wall
        self._seconds = seconds
        self._resumed: float | None = None

    def wall(self) -> float:
        """Wall-clock seconds of the run, over all its processes."""
        return time.monotonic() - self._wall_started

    def seconds(self) -> float:
        """Seconds of training, over all its processes."""
        running = time.monotonic() - self._resumed if self._resumed is not None else 0.0
        return self._seconds + running

    def pause(self) -> None:
        """Stop counting training; may be called twice."""
        self._seconds, self._resumed = self.seconds(), None

    def resume(self) -> None:
        """Count training from now on."""
        self._resumed = time.monotonic()
