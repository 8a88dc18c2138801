"""The process of one run of a study, seen from both sides: started and ended, or being it."""

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlm.checked import Damaged, Unfit, fitting, parse_json, read_json
from jaxlm.errors import UserError
from jaxlm.formats import OUTCOMES, TIMED_RECORD
from jaxlm.runs import RunDirectory, atomic_write
from jaxlm.signals import Signals

POLL_SECONDS, _ORPHAN_SECONDS = 0.25, 60.0
_CORES = "JAXLM_CORES"
_PACK, _NEXT = "--pack", "--run"  # words for this module, between those of the runs
_MEMORY_SIGNS = (
    "RESOURCE_EXHAUSTED", "MemoryError", "out of memory", "Out of memory", "bad_alloc",
    "can't allocate memory",
)  # fmt: skip


class Process:
    """A process that trains what some command-line words mean, and what it says when it fails.

    Of several lists of words, it trains the runs together (see `pack`). It has a session of its
    own, so that a terminal's Ctrl-C reaches the study only, and ends when the pipe to its standard
    input closes, hence when the study is killed.
    """

    def __init__(
        self, runs: Sequence[Sequence[str]], errors: Path, slot: int = 0, slots: int = 1
    ) -> None:
        words = list(runs[0])
        self._outcomes = errors.with_suffix(".json")
        self._outcomes.unlink(missing_ok=True)  # of a study that was killed
        if len(runs) > 1:
            words = [_PACK, str(self._outcomes), *itertools.chain(*([_NEXT, *r] for r in runs))]
        self.runs, self.slot = len(runs), slot
        package = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self.started, self._errors = time.monotonic(), errors
        with open(errors, "wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "jaxlm.process", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=os.environ | {"PYTHONPATH": path} | _share(slot, slots),
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Since it started."""
        return time.monotonic() - self.started

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> list[tuple[int, str]]:
        """(exit status, standard error) of each run, once it has ended; its own files go."""
        self._process.stdin.close()
        text = self._errors.read_bytes().decode("utf-8", "replace")
        self._errors.unlink()
        status = self._process.wait()
        try:
            outcomes = read_json(self._outcomes, OUTCOMES)
        except Damaged:
            outcomes = None
        self._outcomes.unlink(missing_ok=True)
        if outcomes is None or len(outcomes) != self.runs:  # one run, or the end of them all
            return [(status, text)] * self.runs
        return [(status, error and f"error: {error}") for status, error in outcomes]


def _share(slot: int, slots: int) -> Mapping[str, str]:
    """Environment of one of several runs at once: its cores, and its part of a device's memory."""
    if slots == 1:
        return {}
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / slots:.3f}"}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= slots:
        share[_CORES] = ",".join(map(str, cores[slot::slots]))
    return {name: value for name, value in share.items() if name not in os.environ}


def outcome(run: RunDirectory, exit_status: int, errors: str) -> tuple[str, str | None]:
    """(status, reason) of a run whose process has ended, with this on its standard error."""
    try:
        summary = run.read_summary() or {}
    except UserError as error:
        return "failed", str(error).splitlines()[0]
    said = summary.get("status")
    if exit_status == 0 and said in ("finished", "stopped_early", "interrupted"):
        return said, summary.get("reason")
    if (exit_status == 1 and said == "diverged") or (exit_status > 128 and said == "interrupted"):
        return said, summary.get("reason")
    if exit_status < 0:
        return "failed", f"its process was killed by {signal.Signals(-exit_status).name}"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    told = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    message = " ".join(lines[told[-1] :])[len("error: ") :] if told else "".join(lines[-1:])
    return "failed", message or f"its process ended with status {exit_status}"


def out_of_memory(exit_status: int, errors: str) -> bool:
    """Whether a process failed for want of memory, of the device or of this machine."""
    killed = exit_status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    return killed or (exit_status != 0 and any(sign in errors for sign in _MEMORY_SIGNS))


def last_record(run: Path) -> dict[str, Any]:
    """The newest whole record of metrics.jsonl, read from the file's end; {} for none."""
    with contextlib.suppress(OSError, Unfit), open(run / "metrics.jsonl", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2**16))
        lines = file.read().split(b"\n")[:-1]
        return fitting(parse_json(lines[-1]), TIMED_RECORD) if lines else {}
    return {}


def wait_for_orphans(runs: Sequence[RunDirectory], signals: Signals) -> None:
    """Give the runs of a study that was killed the time to save; whoever else writes, stays."""
    stop = time.monotonic() + _ORPHAN_SECONDS
    for run in runs:
        while (run.path / ".lock").exists() and time.monotonic() < stop and not signals.received:
            try:
                with run.lock():
                    break
            except UserError:
                time.sleep(POLL_SECONDS)


# -- inside the process ---------------------------------------------------------------------------


def _end_with_the_study() -> None:
    """Wait until the study closes the pipe, then ask this process to save and end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _settle_in() -> None:
    """Keep to the cores that were given, and be the first to go when memory runs out."""
    with contextlib.suppress(OSError, ValueError):
        if _CORES in os.environ:
            os.sched_setaffinity(0, map(int, os.environ[_CORES].split(",")))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _main(words: list[str]) -> int:
    if words[:1] != [_PACK]:
        from jaxlm.cli import start

        return start()
    from jaxlm.allocator import restart_with_huge_pages

    restart_with_huge_pages("jax")
    from jaxlm.jobs import engine_class
    from jaxlm.pack import train_pack

    runs: list[list[str]] = []
    for word in words[2:]:
        if word == _NEXT:
            runs.append([])
        else:
            runs[-1].append(word)
    outcomes = train_pack(runs, functools.partial(engine_class, "jax"))
    atomic_write(Path(words[1]), json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    _settle_in()
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    sys.argv[0] = "run.py"  # what a person would type, for the run's record of its command
    sys.exit(_main(sys.argv[1:]))
