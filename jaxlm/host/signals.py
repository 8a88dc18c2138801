"""Handles SIGTERM and SIGINT in training: the first requests a save, the second stops at once."""

import signal
from collections.abc import Callable
from types import FrameType

# As `signal.signal` takes and returns it; None if it was not set by Python.
Handler = Callable[[int, FrameType | None], object] | int | None


class Signals:
    """Record a signal inside the context instead of exiting. The exit status is 128 + number."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: object) -> None:
        if self.received:
            self.__exit__()
            signal.raise_signal(number)
        self.received = number

    @property
    def name(self) -> str | None:
        return signal.Signals(self.received).name if self.received else None

    @property
    def exit_status(self) -> int:
        return 128 + self.received if self.received else 0
