"""What was run, on what, when, how long, and how to run it again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jaxlm.compare.analysis import Comparison
from jaxlm.compare.document import Block, Bullets, Code, Details, Heading, Paragraph, Table
from jaxlm.compare.metrics import METRICS, shown
from jaxlm.compare.reading import Run
from jaxlm.host.checked import Json
from jaxlm.host.names import command_line
from jaxlm.host.progress import clock


def blocks(comparison: Comparison) -> list[Block]:
    """The section: machine, versions, time, commands, and a table of all runs."""
    runs = comparison.study.runs
    if not runs:
        return []
    made: list[Block] = [Heading(2, "What was run"), Bullets(_facts(runs))]
    commands = again(comparison)
    if commands:
        made += [Paragraph("To run it again:"), Code("\n".join(commands[:1]), "sh")]
    if len(commands) > 1:
        rest = Code("\n".join(commands), "sh")
        made[-2:] = [Details(f"To run them again: {len(commands)} commands", [rest])]
    made.append(Details(f"All {len(runs)} runs", [_runs_table(comparison)]))
    return made


def again(comparison: Comparison) -> list[str]:
    """The study's command or, for loose runs, each run's own."""
    command = comparison.study.definition.get("command")
    if command:
        return [_command(command)]
    found = [(run.environment.get("starts") or [{}])[-1].get("command") for run in
             comparison.study.runs]  # fmt: skip
    return list(dict.fromkeys(_command(command) for command in found if command))


def _command(command: Any) -> str:
    text = command if isinstance(command, str) else command_line(map(str, command))
    return text if text.startswith("python") else f"python {text}"


def _facts(runs: Sequence[Run]) -> list[str]:
    """Lines on machine, versions, commit and time; several values if runs differ."""
    environments = [run.environment for run in runs if run.environment]
    facts = []
    wall = sum(run.cost_seconds for run in runs)
    steps = shown(METRICS["steps"], sum(run.summary["step"] for run in runs))
    flops = sum(run.metrics["flops"] or 0 for run in runs)
    facts.append(f"**runs**: {len(runs)}, {steps} steps, {flops:.3g} FLOPs (6 N D) in total")
    facts.append(f"**time**: {clock(wall)} of wall-clock time, summed over the runs")
    packed = max(run.packed for run in runs)
    if packed > 1:
        facts.append(
            f"**packed**: up to {packed} runs in one program (`study.pack`); a run's time, speed "
            "and memory are those of its program and say nothing about its variant"
        )
    times = sorted(t for t in (started_first(run) for run in runs) if t)
    if times:
        span = day(times[0]) if day(times[0]) == day(times[-1]) else (
            f"{day(times[0])} to {day(times[-1])}"
        )  # fmt: skip
        facts.append(f"**started**: {span}")
    for word, values in (
        ("machine", [_machine(e) for e in environments]),
        ("versions", [_versions(e) for e in environments]),
        ("commit", [e.get("git_commit") for e in environments]),
        ("backend", [f"{r.keys['backend']}, {r.keys.get('precision')}" for r in runs]),
    ):
        known = list(dict.fromkeys(value for value in values if value))
        if known:
            facts.append(f"**{word}**: {'; or '.join(known)}")
    return facts


def _machine(environment: Json) -> str:
    devices = environment.get("devices") or []
    return ", ".join(filter(None, [", ".join(map(str, devices)), environment.get("platform")]))


def _versions(environment: Json) -> str:
    return ", ".join(f"{name} {v}" for name, v in (environment.get("versions") or {}).items())


def started_first(run: Run) -> str:
    """Time of the first start, or ''."""
    starts = run.environment.get("starts") or [{}]
    return starts[0].get("time") or ""


def day(time: str) -> str:
    """'2026-11-21T14:21:15+0000' -> '2026-11-21 14:21'."""
    try:
        return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return time


def _runs_table(comparison: Comparison) -> Table:
    rows = []
    for run in comparison.study.runs:
        reason = f" ({run.reason})" if run.reason else ""
        rows.append(
            [
                run.variant,
                str(run.seed),
                run.status.replace("_", " ") + reason,
                shown(METRICS["steps"], run.summary["step"]),
                shown(METRICS["best_val_loss"], run.metrics["best_val_loss"]),
                shown(METRICS["train_loss"], run.metrics["train_loss"]),
                clock(run.cost_seconds),
                f"`{comparison.study.place(run.path)}`",
            ]
        )
    header = ["variant", "seed", "outcome", "steps", "best validation loss", "training loss",
              "time", "folder"]  # fmt: skip
    return Table(header, rows, text_columns=(0, 2, 7))
