"""All figures of an analysis: none that fails costs another, and two processes share the work.

The second process is started before the fit (`prepare`), so that it is ready when the fit is. It is
a program of its own and no fork, in which the threads of JAX would be missing; what it is to draw
is sent through a pipe. Without it, or should it die, everything is drawn in this process.
"""

import atexit
import collections
import contextlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from scaling.errors import ScalingError

if TYPE_CHECKING:
    from scaling.law.laws import Law
    from scaling.report.plots import Plan

_LONGEST = 160  # characters of a reason
_PATIENCE = 300  # seconds that a single figure may take over there
_PROGRAM = "import sys; sys.path[:] = {path!r}; from scaling.report.drawing import work; work()"


def draw(name: str, plan: "Plan", folder: Path) -> str | None:
    """Draws one figure of `plots.planned`; None, or on one line why it cannot be drawn.

    Raises:
      OSError: it cannot be written.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            plan.draw(folder / name)
        return None
    except OSError:
        raise
    except ScalingError as error:
        reason = str(error)
    except Exception as error:  # whatever it is, the report is worth more than a figure
        reason = f"it cannot be drawn ({type(error).__name__}: {error})"
    for kind in ("png", "svg"):  # one of an earlier fit would be taken for one of this
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
    reason = " ".join(reason.split()).rstrip(".")
    return reason if len(reason) <= _LONGEST else reason[: _LONGEST - 1] + "…"


def draw_all(plans: dict[str, "Plan"], folder: Path) -> dict[str, str | None]:
    """Draws all plans; for each None, or on one line why it is left out.

    Raises:
      OSError: a figure cannot be written.
    """
    left = collections.deque(plans)
    done: dict[str, str | None] = {}
    helping = threading.Thread(target=_help, args=(plans, folder, left, done), daemon=True)
    helping.start()
    while left:
        try:
            name = left.popleft()
        except IndexError:  # it was taken meanwhile
            break
        done[name] = draw(name, plans[name], folder)
    helping.join(_PATIENCE)
    return {n: done[n] if n in done else draw(n, plan, folder) for n, plan in plans.items()}


_assistant: list[subprocess.Popen[bytes]] = []  # one at most


def prepare() -> None:
    """Load what draws, and start the second process, where there are cores for two; it ends with
    this one."""
    threading.Thread(target=_load, daemon=True).start()
    if _assistant or not sys.executable or len(os.sched_getaffinity(0)) < 2:
        return
    program = _PROGRAM.format(path=[os.path.abspath(place) for place in sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Curves are small: an accelerator, and its memory, are the fit's.
        # Nor shall the threads of its linear algebra wait for those of the fit.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"},
    )
    _assistant.append(process)
    atexit.register(_dismiss)


def _load() -> None:
    with contextlib.suppress(Exception):  # that of a broken matplotlib is told where it matters
        from scaling.report import plots, plots_doubt  # noqa: F401


def _dismiss() -> None:
    while _assistant:
        process = _assistant.pop()
        process.kill()
        process.communicate()


def _help(
    plans: dict[str, "Plan"],
    folder: Path,
    left: collections.deque[str],
    done: dict[str, str | None],
) -> None:
    """Has figures drawn from the end of `left` until nothing is left, or the process is gone."""
    while _assistant:
        try:
            name = left.pop()
        except IndexError:
            return
        try:
            process = _assistant[0]
            assert process.stdin is not None and process.stdout is not None
            _send(process.stdin, (name, plans[name], folder.absolute()))
            done[name] = pickle.load(process.stdout)
        except Exception:  # a law of one's own that cannot be sent, or a process that was killed
            left.append(name)
            _dismiss()


class _Pickler(pickle.Pickler):
    """Sends laws by name: some are made of functions that cannot be sent."""

    def persistent_id(self, item: object) -> str | None:
        from scaling.law.laws import LAWS, Law

        return item.name if isinstance(item, Law) and LAWS.get(item.name) is item else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name: str) -> "Law":
        from scaling.law.laws import LAWS

        return LAWS[name]


def _send(pipe: IO[bytes], item: object) -> None:
    content = io.BytesIO()
    _Pickler(content).dump(item)  # whole or not at all: half an item would be waited for
    pipe.write(content.getvalue())
    pipe.flush()


def _warm_up() -> None:
    """Imports, and draws a first figure with its fonts, while the fit is made."""
    from scaling.report import house, plot_style, plots, plots_doubt  # noqa: F401

    with tempfile.TemporaryDirectory() as folder, house.house_style():
        figure, (axes,) = house.new_figure(1, 1, 2, 2)
        axes.plot([1, 2], [1, 2], label="label")
        plot_style.log_axis(axes, "x", (1, 1e6), "label")
        plot_style.linear_axis(axes, "y", (-3e-6, 3e-6), "label")
        plot_style.legend_above(figure)
        house.save(figure, Path(folder) / "first")


def work() -> None:
    """What the other process does: draws what it is told to, and says how that went."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever may be printed is no answer
    _warm_up()
    while True:
        try:
            task = _Unpickler(sys.stdin.buffer).load()
        except EOFError:
            return
        # An OSError ends this process, and is met again by the one that draws the rest.
        _send(answers, draw(*task))
