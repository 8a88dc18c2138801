"""A study: named variants of one configuration, each trained for each seed in its own process.

STUDY/VARIANT/seedK/ are ordinary run directories; STUDY/study.json has the status of each.
The same command resumes the study: finished runs are skipped, interrupted ones resume.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlm.config.schema import Config
from jaxlm.host.checked import Damaged, Json
from jaxlm.host.console import Console
from jaxlm.host.errors import UserError
from jaxlm.host.files import plain
from jaxlm.host.progress import clock
from jaxlm.host.signals import Signals
from jaxlm.store.directory import RunDirectory, read_study
from jaxlm.study.pack import check_pack, program_of
from jaxlm.study.process import (
    POLL_SECONDS,
    Process,
    last_record,
    out_of_memory,
    outcome,
    wait_for_orphans,
)
from jaxlm.study.time_left import Pace, cost, fraction_done
from jaxlm.study.variants import Member, members_of, refuse_others

SETTLED = ("finished", "stopped_early", "diverged")  # training them again would change nothing
_SHOW_SECONDS = 10.0


def run_study(
    config: Config,
    variants: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    *,
    clocked_by: str | None = None,
    definition: Mapping[str, Any] | None = None,
) -> int:
    """Train every variant (a list of overrides of `config`) for every seed, into config.run.dir.

    config.study.workers processes train at once, each one run or, with config.study.pack, those of
    one program. With `clocked_by`, that variant trains first, and the others get the wall-clock
    time that it took. `definition` is kept in study.json.

    A run that fails or diverges is recorded in study.json, and the others continue. The exit status
    is 0 if all finished, 1 if some failed or diverged, 130 or 143 after SIGINT or SIGTERM (the runs
    in progress save first). Raises UserError if a variant is not a valid configuration, or if the
    folder holds other runs.
    """
    if config.study.pack:
        check_pack(config)
    members = members_of(config, variants, seeds)
    timed = {i for i, m in enumerate(members) if clocked_by not in (None, m.variant)}
    refuse_others([member for i, member in enumerate(members) if i not in timed])
    folder = RunDirectory(config.run.dir)
    if (folder.path / "config.yaml").exists():
        raise UserError(f"{folder.path} holds a run.\nName the study with run.name=NAME.")
    folder.check_writable()
    with folder.lock(), Signals() as signals:
        console = Console(folder.path / "log.txt")
        try:
            for line in [*_damage(folder.path), *changes_of(folder.path, members)]:
                console.say(line)
            study = _Study(folder, members, console, config, definition, timed)
            study.train(signals)
            return study.end(signals)
        finally:
            console.close()


def finished_runs(study: Path) -> list[Path]:
    """The run directories of a study's finished runs, in its order. Raises UserError."""
    found = read_study(study)
    if found is None:
        raise UserError(f"{study} is not a study: it has no study.json.")
    return [study / row["path"] for row in found["runs"] if row.get("status") == "finished"]


def _rows_before(folder: Path) -> dict[str, Json]:
    """Path -> row of the runs that an earlier process of this study recorded.

    Empty if study.json is damaged; it is then rewritten from the runs.
    """
    try:
        found = read_study(folder)
    except Damaged:
        return {}
    return {row["path"]: row for row in found["runs"]} if found else {}


def _damage(folder: Path) -> list[str]:
    """A line on a study.json that cannot be read."""
    try:
        read_study(folder)
    except Damaged as error:
        said = str(error).splitlines()[0].rstrip(".")
        return [f"warning: {said}: it is rewritten from the runs"]
    return []


def changes_of(folder: Path, members: Sequence[Member]) -> list[str]:
    """Lines on what a changed definition means for the runs in a study's folder; [] if unchanged.

    Runs that no longer belong to the study stay on disk but are not reported.
    """
    before = _rows_before(folder)
    now = {str(member.run.path.relative_to(folder)): member for member in members}
    if not before or before.keys() == now.keys():
        return []
    kinds = {
        "reused": [path for path in now if (folder / path / "config.yaml").exists()],
        "new": [path for path in now if not (folder / path / "config.yaml").exists()],
        "no longer used, kept on disk": [path for path in before if path not in now],
    }
    lines = [f"{folder}: the study has changed since it last ran here"]
    return lines + [f"  {kind}: {', '.join(paths)}" for kind, paths in kinds.items() if paths]


class _Study:
    """The runs in progress, what is known about them, and what the user sees."""

    def __init__(
        self,
        folder: RunDirectory,
        members: list[Member],
        console: Console,
        config: Config,
        definition: Mapping[str, Any] | None,
        timed: set[int],
    ) -> None:
        self.folder, self.members, self.console = folder, members, console
        self.workers, self.definition = config.study.workers, definition
        self.timed = timed  # runs that wait for the baseline's time
        self.costs = [1.0 if self.timed else cost(member.config) for member in members]
        self.running: dict[Process, list[int]] = {}
        # The runs of one program train together, as many as were found to fit in memory.
        self.programs = [program_of(m.config) if config.study.pack else None for m in members]
        self.most_packed = len(members)
        self.before = _rows_before(folder.path)
        for number, member in enumerate(members):
            if number not in timed:
                self._look_up(member)
        if timed and not self._untimed():
            self._set_times()
        done = len(members) - len(self._waiting())
        console.say(f"{folder.path}: {len(members)} runs, {done} of them already done")

    def _look_up(self, member: Member) -> None:
        """Take over the status of a run that needs no more training."""
        summary = self._summary(member)
        if summary.get("status") in SETTLED and not member.config.run.overwrite:
            member.status, member.reason = summary["status"], summary.get("reason")
            key = str(member.run.path.relative_to(self.folder.path))
            member.process_seconds = self.before.get(key, {}).get("process_seconds")

    def _summary(self, member: Member) -> Json:
        """A run's summary; {} if it is missing or damaged, which the run itself refuses."""
        try:
            return member.run.read_summary() or {}
        except UserError:
            return {}

    def _waiting(self) -> list[int]:
        return [i for i, member in enumerate(self.members) if member.status == "waiting"]

    def _untimed(self) -> list[int]:
        """The waiting runs that need not wait for the baseline's time."""
        return [number for number in self._waiting() if number not in self.timed]

    # -- training them ---------------------------------------------------------------------------

    def train(self, signals: Signals) -> None:
        """Train the unsettled runs, `workers` at a time, until all are done or a signal comes."""
        wait_for_orphans([self.members[i].run for i in self._waiting()], signals)
        passed, shown = False, time.monotonic()
        while True:
            while not signals.received and len(self.running) < self.workers:
                numbers = self._next()
                if not numbers:
                    break
                self._begin(numbers)
            if not self.running:
                return
            if signals.received and not passed:
                passed = True
                for process in self.running:
                    process.signal(signals.received)
            ended = [process for process in self.running if process.status() is not None]
            for process in ended:
                self._end(process, signals)
            if ended:
                continue
            time.sleep(POLL_SECONDS)
            if time.monotonic() - shown >= (1.0 if self.console.terminal else _SHOW_SECONDS):
                shown = time.monotonic()
                self._show()

    def _next(self) -> list[int]:
        """The runs to start next, in one process; [] if all are done or wait for a time."""
        if self.timed and not self.running and not self._untimed():
            self._set_times()
        waiting = self._untimed()
        if not waiting or self.programs[waiting[0]] is None:
            return waiting[:1]
        fitting = [i for i in waiting if self.programs[i] == self.programs[waiting[0]]]
        share = -(-len(fitting) // (self.workers - len(self.running)))
        return fitting[: min(share, self.most_packed)]

    def _set_times(self) -> None:
        """Give all other runs the time that the baseline took, on average over its seeds."""
        clocks = [m for i, m in enumerate(self.members) if i not in self.timed]
        found = [self._summary(m) for m in clocks if m.status == "finished"]
        found = [summary for summary in found if summary.get("wall_seconds")]
        for number in sorted(self.timed):
            member = self.members[number]
            try:
                if not found:
                    raise UserError("the baseline did not finish, so its time is unknown")
                seconds = sum(summary["wall_seconds"] for summary in found) / len(found)
                member = self.members[number] = member.lasting(seconds)
                refuse_others([member])
                self._look_up(member)
            except UserError as error:
                member.status, member.reason = "failed", str(error).splitlines()[0]
        self.timed = set()

    def _begin(self, numbers: list[int]) -> None:
        slot = min(set(range(self.workers)) - {process.slot for process in self.running})
        errors = self.folder.path / f".errors{slot}.txt"
        words = [self.members[number].words for number in numbers]
        self.running[Process(words, errors, slot, self.workers)] = numbers
        for number in numbers:
            member = self.members[number]
            member.status, member.reason = "running", None
        self.write("running")

    def _end(self, process: Process, signals: Signals) -> None:
        numbers = self.running.pop(process)
        for number, (status, errors) in zip(numbers, process.end(), strict=True):
            member = self.members[number]
            member.process_seconds = process.seconds / len(numbers)
            member.status, member.reason = outcome(member.run, status, errors)
            if signals.received and member.status not in SETTLED:
                member.status, member.reason = "interrupted", signals.name
            if member.status == "failed" and out_of_memory(status, errors):
                self._short_of_memory(member, len(numbers))
        self.write("running")
        for number in numbers:
            self._tell(number)

    def _short_of_memory(self, member: Member, packed: int) -> None:
        """Try a run of a pack again, in a pack of half the size; else say what may help."""
        if packed > 1:
            self.most_packed = min(self.most_packed, packed // 2)
            member.status = "waiting"
            member.reason = f"no memory for {packed} runs in one program, trying {packed // 2}"
        elif self.workers > 1:
            more = f"{self.workers} runs at once share the memory: try study.workers=1"
            member.reason = f"{member.reason}; {more}"

    # -- what the user sees ----------------------------------------------------------------------

    def _show(self) -> None:
        shares = {}
        for process, numbers in self.running.items():
            for number in numbers:
                member = self.members[number]
                done = fraction_done(member.config, last_record(member.run.path))
                shares[number] = (process.seconds / len(numbers), done)
        seconds_of = [m.process_seconds if m.status == "finished" else None for m in self.members]
        pace, waiting = Pace(self.costs, seconds_of), self._waiting()
        left = pace.left(shares, waiting, self.workers)
        now = [self._now(process, shares) for process in self.running]
        finished = len(self.members) - len(waiting) - len(shares)
        fields = {
            "runs done": f"{finished}/{len(self.members)}",
            "now": "; ".join(now),
            "left": clock(left) if left is not None else "?",
        }
        self.console.progress(min(pace.share(shares, waiting), 0.999), fields)

    def _now(self, process: Process, shares: Mapping[int, tuple[float, float]]) -> str:
        """The runs that a process trains, and their progress."""
        numbers = self.running[process]
        done = sum(shares[number][1] for number in numbers) / len(numbers)
        others = f" and {len(numbers) - 1} with it" if len(numbers) > 1 else ""
        return f"{self.members[numbers[0]].label}{others} {done:.0%}"

    def _tell(self, number: int) -> None:
        member, summary = self.members[number], self._summary(self.members[number])
        loss = f", validation loss {summary['val_loss']:.4f}" if summary.get("val_loss") else ""
        reason = f" ({member.reason})" if member.reason else ""
        status = member.status.replace("_", " ")
        self.console.say(
            f"[{number + 1}/{len(self.members)}] {member.label}: {status}{reason}{loss} "
            f"after {clock(member.process_seconds or 0.0)}, including start and report"
        )

    def end(self, signals: Signals) -> int:
        """Write the final study.json and say how it went; the exit status."""
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
            lines.append("The same command retries the failed runs.")
        self.console.say("\n".join(lines))
        return 1 if failed else 0

    def write(self, status: str, reason: str | None = None) -> None:
        """Replace study.json."""
        rows = [_row(m, self._summary(m), self.folder.path) for m in self.members]
        study = {"status": status, "reason": reason, "definition": self.definition, "runs": rows}
        self.folder.write_text("study.json", json.dumps(plain(study), indent=1) + "\n")


def _row(member: Member, summary: Json, study: Path) -> Json:
    row = {
        "variant": member.variant,
        "seed": member.seed,
        "path": str(member.run.path.relative_to(study)),
        "status": member.status,
        "reason": member.reason,
        "process_seconds": member.process_seconds,
    }
    names = ("step", "tokens", "non_embedding_parameters", "flops", "val_loss", "seconds")
    return row | {name: summary.get(name) for name in names}
