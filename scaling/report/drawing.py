"""Draws all figures of an analysis, independently of each other, in two processes.

The second process is started before the fit (`prepare`), so that it is ready when the fit is. It is
a separate program, because a fork would lack the threads of JAX, and it receives its figures
through a pipe. If it is not available or dies, everything is drawn in this process.
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
_PATIENCE = 300  # seconds to wait for the second process at the end
_PROGRAM = "import sys; sys.path[:] = {path!r}; from scaling.report.drawing import work; work()"


def draw(name: str, plan: "Plan", folder: Path) -> str | None:
    """Draw one figure of `plots.planned`.

    Returns:
      None, or the reason why the figure cannot be drawn, on one line.

    Raises:
      OSError: the figure cannot be written.
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
    except Exception as error:  # of any kind: the report is worth more than one figure
        reason = f"it cannot be drawn ({type(error).__name__}: {error})"
    for kind in ("png", "svg"):  # remove the figure of an earlier fit
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
    reason = " ".join(reason.split()).rstrip(".")
    return reason if len(reason) <= _LONGEST else reason[: _LONGEST - 1] + "…"


def draw_all(plans: dict[str, "Plan"], folder: Path) -> dict[str, str | None]:
    """Draw all plans.

    Returns:
      For each, None or the reason why it was skipped, on one line.

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
        except IndexError:  # the second process took the last one
            break
        done[name] = draw(name, plans[name], folder)
    helping.join(_PATIENCE)
    return {n: done[n] if n in done else draw(n, plan, folder) for n, plan in plans.items()}


_assistant: list[subprocess.Popen[bytes]] = []  # the second process, if there is one


def prepare() -> None:
    """Load the drawing code, and start the second process if there are at least two cores.

    The second process ends with this one.
    """
    threading.Thread(target=_load, daemon=True).start()
    if _assistant or not sys.executable or len(os.sched_getaffinity(0)) < 2:
        return
    program = _PROGRAM.format(path=[os.path.abspath(place) for place in sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Curves are small, so the accelerator and its memory are left to the fit. With one thread,
        # linear algebra does not wait for the threads of the fit.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"},
    )
    _assistant.append(process)
    atexit.register(_dismiss)


def _load() -> None:
    with contextlib.suppress(Exception):  # a broken matplotlib is reported when it is needed
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
    """Let the second process draw from the end of `left`, until none is left or it has died."""
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
        except Exception:  # a user's law that cannot be sent, or a process that was killed
            left.append(name)
            _dismiss()


class _Pickler(pickle.Pickler):
    """Pickles laws by name, because some contain functions that cannot be pickled."""

    def persistent_id(self, item: object) -> str | None:
        from scaling.law.laws import LAWS, Law

        return item.name if isinstance(item, Law) and LAWS.get(item.name) is item else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name: str) -> "Law":
        from scaling.law.laws import LAWS

        return LAWS[name]


def _send(pipe: IO[bytes], item: object) -> None:
    content = io.BytesIO()
    _Pickler(content).dump(item)  # first in memory: the receiver would wait for half an item
    pipe.write(content.getvalue())
    pipe.flush()


def _warm_up() -> None:
    """Import everything and draw a first figure with its fonts, while the fit is computed."""
    from scaling.report import house, plot_style, plots, plots_doubt  # noqa: F401

    with tempfile.TemporaryDirectory() as folder, house.house_style():
        figure, (axes,) = house.new_figure(1, 1, 2, 2)
        axes.plot([1, 2], [1, 2], label="label")
        plot_style.log_axis(axes, "x", (1, 1e6), "label")
        plot_style.linear_axis(axes, "y", (-3e-6, 3e-6), "label")
        plot_style.legend_above(figure)
        house.save(figure, Path(folder) / "first")


def work() -> None:
    """The second process: draw each figure that arrives, and answer with the result of `draw`."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printed text must not mix with the answers
    _warm_up()
    while True:
        try:
            task = _Unpickler(sys.stdin.buffer).load()
        except EOFError:
            return
        # An OSError ends this process; the main process draws the figure again and reports it.
        _send(answers, draw(*task))
