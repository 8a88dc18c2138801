"""A study: named variants of one configuration, each trained for each seed in its own process.

STUDY/VARIANT/seedK/ are run directories like any other; STUDY/study.json says how each stands.
The same command goes on: finished runs are skipped, interrupted ones resume.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.compose import compose, from_file, groups
from jaxlm.config import Config, identity, keys_of
from jaxlm.console import Console, clock
from jaxlm.errors import UserError
from jaxlm.pace import Pace, cost, fraction_done
from jaxlm.runs import RunDirectory, plain
from jaxlm.signals import Signals

SETTLED = ("finished", "stopped_early", "diverged")  # training them again would change nothing
_POLL_SECONDS, _SHOW_SECONDS, _ORPHAN_SECONDS = 0.25, 10.0, 60.0
_PLACE = ("run.name", "run.dir", "run.experiment")


@dataclass
class Member:
    """One run of a study, and how it stands: waiting, running, or a run's status, or failed."""

    variant: str
    seed: int
    words: list[str]
    config: Config
    status: str = "waiting"
    reason: str | None = None
    process_seconds: float | None = None

    @property
    def label(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.config.run.dir)


def run_study(config: Config, variants: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> int:
    """Train every variant (a list of overrides of `config`) for every seed, into config.run.dir.

    A run that fails or diverges is recorded in study.json, and the others go on. The exit status:
    0 all well, 1 some failed or diverged, 130 or 143 after SIGINT or SIGTERM (the run in progress
    saves first). Raises UserError where a variant is no configuration, or where the folder holds
    other runs than these.
    """
    members = members_of(config, variants, seeds)
    folder = RunDirectory(config.run.dir)
    folder.check_writable()
    with folder.lock(), Signals() as signals:
        console = Console(folder.path / "log.txt")
        try:
            study = _Study(folder, members, console, config.run.overwrite)
            for number in range(len(members)):
                study.train(number, signals)
                if signals.received:
                    break
            return study.end(signals)
        finally:
            console.close()


def finished_runs(study: Path) -> list[Path]:
    """The run directories of a study's finished runs, in its order. Raises UserError."""
    try:
        found = json.loads((study / "study.json").read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{study} is no study: it has no study.json.") from None
    return [study / row["path"] for row in found["runs"] if row["status"] == "finished"]


# -- what there is to train ----------------------------------------------------------------------


def members_of(
    config: Config, variants: Mapping[str, Sequence[str]], seeds: Sequence[int]
) -> list[Member]:
    """The runs of a study, seed by seed within each variant. Raises UserError."""
    base, members = words_of(config), []
    for variant, changes in variants.items():
        if not re.fullmatch(r"[^/\\.\s][^/\\\s]*", variant):
            raise UserError(f"A variant's name is a folder's, without blanks: {variant!r} is not.")
        for seed in seeds:
            place = Path(config.run.dir) / variant / f"seed{seed}"
            named = [f"seed={seed}", f"run.name={variant}-seed{seed}", f"run.dir={place}"]
            words = [*base, *changes, *named]
            members.append(Member(variant, seed, words, compose(words)))
    _refuse_others(members)
    return members


def words_of(config: Config) -> list[str]:
    """Command-line words for training `config`, its name and place left out."""
    known = config.run.experiment in groups()["experiment"]
    start = [f"experiment={config.run.experiment}"] if known else []
    start.append("job=train")
    there = compose(start)
    differing = {
        name: _value(config, name)
        for name in keys_of(Config)
        if name not in _PLACE and _value(config, name) != _value(there, name)
    }
    return start + [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in differing.items()
    ]


def _value(config: Config, name: str) -> Any:
    node: Any = config
    for part in name.split("."):
        node = getattr(node, part)
    return node


def _refuse_others(members: list[Member]) -> None:
    """Raises UserError where a run's folder holds another run; it would be refused one by one."""
    from jaxlm.jobs import differences

    for member in members:
        path = member.run.path / "config.yaml"
        if member.config.run.overwrite or not path.exists():
            continue
        differing = differences(identity(member.config), identity(from_file(path)))
        if differing:
            name, (new, old) = next(iter(differing.items()))
            raise UserError(
                f"{member.run.path} holds a run of another configuration ({name}: {new} here, "
                f"{old} there).\n"
                "Name another study with run.name=NAME, or start over with run.overwrite=true."
            )


# -- training them -------------------------------------------------------------------------------


class _Study:
    """The runs in progress, what is known of them, and what a person sees."""

    def __init__(
        self, folder: RunDirectory, members: list[Member], console: Console, overwrite: bool
    ) -> None:
        self.folder, self.members, self.console = folder, members, console
        self.costs = [cost(member.config) for member in members]
        before = self._process_seconds()
        for member in members:
            summary = member.run.read_summary() or {}
            key = str(member.run.path.relative_to(folder.path))
            if summary.get("status") in SETTLED and not overwrite:
                member.status, member.reason = summary["status"], summary.get("reason")
                member.process_seconds = before.get(key)
        self.left = sum(member.status == "waiting" for member in members)
        done = len(members) - self.left
        console.say(f"{folder.path}: {len(members)} runs, {done} of them done already")

    def _process_seconds(self) -> dict[str, float]:
        """Run -> seconds its processes took, as an earlier process of this study noted them."""
        try:
            rows = json.loads((self.folder.path / "study.json").read_text("utf-8"))["runs"]
            return {row["path"]: row["process_seconds"] for row in rows}
        except (OSError, ValueError, KeyError):
            return {}

    def train(self, number: int, signals: Signals) -> None:
        """Train one run in a process of its own, unless it is settled already."""
        member = self.members[number]
        if member.status in SETTLED:
            return
        _wait_for_orphan(member.run, signals)
        if signals.received:
            return
        member.status, member.reason = "running", None
        self.write("running")
        started = time.monotonic()
        status, errors = self._process(number, signals)
        seconds = time.monotonic() - started
        member.process_seconds = seconds
        member.status, member.reason = outcome(member.run, status, errors)
        if signals.received and member.status not in SETTLED:
            member.status, member.reason = "interrupted", signals.name
        self.write("running")
        self._tell(number, seconds)

    def _process(self, number: int, signals: Signals) -> tuple[int, str]:
        """(exit status, standard error) of the run's process; a signal is passed on, once."""
        member, started, shown, passed = self.members[number], time.monotonic(), 0.0, False
        errors_path = self.folder.path / ".errors.txt"
        with open(errors_path, "w+b") as errors, _start(member.words, errors) as process:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                    break
                if signals.received and not passed:
                    process.send_signal(signals.received)
                    passed = True
                now = time.monotonic()
                if now - shown >= (1.0 if self.console.terminal else _SHOW_SECONDS):
                    shown = now
                    self._show(number, now - started)
            process.stdin.close()
            errors.seek(0)
            text = errors.read().decode("utf-8", "replace")
        errors_path.unlink()
        return process.returncode, text

    def _show(self, number: int, seconds: float) -> None:
        member = self.members[number]
        record = last_record(member.run.path)
        done = fraction_done(member.config, record)
        seconds_of = [m.process_seconds if m.status == "finished" else None for m in self.members]
        pace = Pace(self.costs, seconds_of)
        waiting = [i for i, m in enumerate(self.members) if m.status == "waiting" and i > number]
        left = pace.left(number, seconds, done, waiting)
        fields = {
            "run": f"{number + 1}/{len(self.members)} ({member.label})",
            "done": f"{done:.0%}",
            "loss": f"{record['loss']:.4f}" if record.get("loss") is not None else "-",
            "left": clock(left) if left is not None else "?",
        }
        self.console.progress(min(pace.share(number, done, waiting), 0.999), fields)

    def _tell(self, number: int, seconds: float) -> None:
        member, summary = self.members[number], self.members[number].run.read_summary() or {}
        loss = f", validation loss {summary['val_loss']:.4f}" if summary.get("val_loss") else ""
        reason = f" ({member.reason})" if member.reason else ""
        status = member.status.replace("_", " ")
        self.console.say(
            f"[{number + 1}/{len(self.members)}] {member.label}: {status}{reason}{loss} "
            f"after {clock(seconds)}"
        )

    def end(self, signals: Signals) -> int:
        """Write the last study.json, say how it went; the exit status."""
        if signals.received:
            self.write("interrupted", signals.name)
            left = sum(member.status not in SETTLED for member in self.members)
            self.console.say(
                f"stopped ({signals.name}), {left} runs left; the same command resumes"
            )
            return signals.exit_status
        failed = [m for m in self.members if m.status not in ("finished", "stopped_early")]
        self.write("finished" if all(m.status in SETTLED for m in self.members) else "failed")
        lines = [f"{self.folder.path}: {len(self.members) - len(failed)} runs finished"]
        lines += [f"  {m.label}: {m.status}, {m.reason}" for m in failed]
        if any(member.status not in SETTLED for member in failed):
            lines.append("The same command tries the failed ones again.")
        self.console.say("\n".join(lines))
        return 1 if failed else 0

    def write(self, status: str, reason: str | None = None) -> None:
        """Replace study.json."""
        rows = [_row(member, self.folder.path) for member in self.members]
        text = json.dumps(plain({"status": status, "reason": reason, "runs": rows}), indent=1)
        self.folder.write_text("study.json", text + "\n")


def _row(member: Member, study: Path) -> dict[str, Any]:
    row = {
        "variant": member.variant,
        "seed": member.seed,
        "path": str(member.run.path.relative_to(study)),
        "status": member.status,
        "reason": member.reason,
        "process_seconds": member.process_seconds,
    }
    summary = member.run.read_summary() or {}
    names = ("step", "tokens", "non_embedding_parameters", "flops", "val_loss", "seconds")
    return row | {name: summary.get(name) for name in names}


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


def last_record(run: Path) -> dict[str, Any]:
    """The newest whole record of metrics.jsonl, read from the file's end; {} for none."""
    with contextlib.suppress(OSError, ValueError), open(run / "metrics.jsonl", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2**16))
        lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else {}
    return {}


# -- the process of a run ------------------------------------------------------------------------


def _start(words: list[str], errors: Any) -> subprocess.Popen:
    """A process that trains, in a session of its own: a terminal's Ctrl-C reaches the study only.

    It ends when the pipe to its standard input closes, hence when the study is killed.
    """
    package = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "jaxlm.study", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )


def _wait_for_orphan(run: RunDirectory, signals: Signals) -> None:
    """Give the run of a study that was killed the time to save; whoever else writes, stays."""
    stop = time.monotonic() + _ORPHAN_SECONDS
    while (run.path / ".lock").exists() and time.monotonic() < stop and not signals.received:
        try:
            with run.lock():
                return
        except UserError:
            time.sleep(_POLL_SECONDS)


def _end_with_the_study() -> None:
    """Wait until the study closes the pipe, then ask this process to save and end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from jaxlm.cli import start

    threading.Thread(target=_end_with_the_study, daemon=True).start()
    sys.argv[0] = "run.py"  # what a person would type, for the run's record of its command
    sys.exit(start())
