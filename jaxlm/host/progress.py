"""Shows progress on stderr: a bar on a terminal, lines elsewhere, nothing for quick tasks."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_SILENT_SECONDS = 1.5
_LINE_SECONDS = 10.0


@contextlib.contextmanager
def progress_bar(
    label: str, total: float | None, unit: str, enabled: bool = True
) -> Iterator[Callable[[float], None]]:
    """Yield `advance(amount)`. Nothing is shown in the first moments, or if not enabled."""
    start = time.monotonic()
    done, bar, last_line = 0.0, None, start

    def advance(amount: float) -> None:
        nonlocal done, bar, last_line
        done += amount
        now = time.monotonic()
        if not enabled or now - start < _SILENT_SECONDS:
            return
        if sys.stderr.isatty():
            bar = bar or open_bar(label, total, stderr=True)
            left = clock((now - start) * (total - done) / done) if total and done else "?"
            bar.update(bar.task_ids[0], completed=done, shown=f"{left} left" if total else "")
        elif now - last_line >= _LINE_SECONDS:
            last_line = now
            share = f" of {total:,.0f} ({done / total:.0%})" if total else ""
            print(f"{label}: {done:,.0f}{share} {unit}", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        if bar:
            bar.stop()
    if bar or last_line > start:
        seconds = time.monotonic() - start
        print(f"{label}: {done:,.0f} {unit} in {seconds:.0f} s", file=sys.stderr, flush=True)


def open_bar(label: str, total: float | None, stderr: bool = False) -> "Progress":
    """A started bar with one task: label, bar, percent, and the task's field `shown`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    bar = Progress(
        *([TextColumn(label)] if label else []),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[shown]}"),
        console=Console(stderr=True) if stderr else None,
        transient=stderr,
    )
    bar.add_task(label, total=total, shown="")
    bar.start()
    return bar


def clock(seconds: float) -> str:
    """3725 -> '1:02:05', 65 -> '1:05', in whole seconds passed."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
