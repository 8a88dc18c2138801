"""The process of one run of a study: starts it, watches it, collects its outcome."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxlm.host.checked import Damaged, Json, Unfit, fitting, parse_json, read_json
from jaxlm.host.errors import UserError
from jaxlm.host.signals import Signals
from jaxlm.store.directory import RunDirectory
from jaxlm.store.formats import OUTCOMES, TIMED_RECORD
from jaxlm.study import worker

POLL_SECONDS, _ORPHAN_SECONDS = 0.25, 60.0
_MEMORY_SIGNS = (
    "RESOURCE_EXHAUSTED", "MemoryError", "out of memory", "Out of memory", "bad_alloc",
    "can't allocate memory",
)  # fmt: skip


class Process:
    """A process that trains the run given by command-line words, and its error message if it fails.

    Given several lists of words, it trains the runs together (see `pack`). It has its own session,
    so that Ctrl-C in a terminal reaches only the study. It exits when the pipe to its standard
    input closes, and so when the study is killed.
    """

    def __init__(
        self, runs: Sequence[Sequence[str]], errors: Path, slot: int = 0, slots: int = 1
    ) -> None:
        words = list(runs[0])
        self._outcomes = errors.with_suffix(".json")
        self._outcomes.unlink(missing_ok=True)  # left by a killed study
        if len(runs) > 1:
            words = [
                worker.PACK,
                str(self._outcomes),
                *itertools.chain(*([worker.NEXT, *r] for r in runs)),
            ]
        self.runs, self.slot = len(runs), slot
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self.started, self._errors = time.monotonic(), errors
        with open(errors, "wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "jaxlm.study.worker", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env={**os.environ, "PYTHONPATH": path, **_share(slot, slots)},
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Seconds since it started."""
        return time.monotonic() - self.started

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> list[tuple[int, str]]:
        """(exit status, standard error) of each run, after its exit. Removes temporary files."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        text = self._errors.read_bytes().decode("utf-8", "replace")
        self._errors.unlink()
        status = self._process.wait()
        try:
            outcomes = read_json(self._outcomes, OUTCOMES)
        except Damaged:
            outcomes = None
        self._outcomes.unlink(missing_ok=True)
        if (
            outcomes is None or len(outcomes) != self.runs
        ):  # a single run, or all runs ended together
            return [(status, text)] * self.runs
        return [(status, error and f"error: {error}") for status, error in outcomes]


def _share(slot: int, slots: int) -> Mapping[str, str]:
    """The environment of one of several parallel runs: its cores and its share of device memory."""
    if slots == 1:
        return {}
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / slots:.3f}"}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= slots:
        share[worker.CORES] = ",".join(map(str, cores[slot::slots]))
    return {name: value for name, value in share.items() if name not in os.environ}


def outcome(run: RunDirectory, exit_status: int, errors: str) -> tuple[str, str | None]:
    """(status, reason) of a run whose process exited with this standard error."""
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
    """Whether a process failed because the device or this machine ran out of memory."""
    killed = exit_status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    return killed or (exit_status != 0 and any(sign in errors for sign in _MEMORY_SIGNS))


def last_record(run: Path) -> Json:
    """The newest complete record of metrics.jsonl, read from the end of the file; {} if none."""
    with contextlib.suppress(OSError, Unfit), open(run / "metrics.jsonl", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2**16))
        lines = file.read().split(b"\n")[:-1]
        return fitting(parse_json(lines[-1]), TIMED_RECORD) if lines else {}
    return {}


def wait_for_orphans(runs: Sequence[RunDirectory], signals: Signals) -> None:
    """Give the runs of a killed study time to save. Other writers keep their locks."""
    stop = time.monotonic() + _ORPHAN_SECONDS
    for run in runs:
        while (run.path / ".lock").exists() and time.monotonic() < stop and not signals.received:
            try:
                with run.lock():
                    break
            except UserError:
                time.sleep(POLL_SECONDS)
