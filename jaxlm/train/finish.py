"""The end of a run: samples, figures and report from its records; and the profiler's window."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.config.schema import Config
from jaxlm.host.checked import Json
from jaxlm.host.console import Console
from jaxlm.host.errors import UserError
from jaxlm.spec.contract import LoadEngine
from jaxlm.store.directory import RunDirectory

_BETWEEN_SAMPLES = "\n\n---\n\n"


def finish(
    run: RunDirectory,
    config: Config,
    summary: Json,
    console: Console,
    load_engine: LoadEngine,
) -> None:
    """Write samples.txt, plots/ and report.md, and print where everything is.

    Raises UserError if they cannot be written.
    """
    from jaxlm.inference.report import summary_lines

    samples = _write_samples(run, config, console, load_engine)
    write_report(run, config, summary, samples)
    console.say("\n".join(summary_lines(config, summary, run.records(), run.path)))


def complete(
    run: RunDirectory,
    config: Config,
    summary: Json,
    load_engine: LoadEngine,
) -> list[str]:
    """Make missing files of an ended run: samples.txt, plots/ and report.md; returns their names.

    Raises UserError if they cannot be written or another process is writing to the run.
    """
    lost = missing(run.path, config, summary)
    if not lost:
        return []
    with run.lock():
        if "samples.txt" in lost:
            samples = _write_samples(run, config, Console(), load_engine)
        else:
            samples = _read_samples(run.path)
        write_report(run, config, summary, samples)
    return lost


def missing(path: Path, config: Config, summary: Json) -> list[str]:
    """Which of samples.txt, report.md and its figures are missing, empty or truncated."""
    from jaxlm.inference.report import REPORT_END

    lost = []
    if summary["status"] != "diverged" and _writes_samples(config):
        lost += [name for name in ["samples.txt"] if not _is_written(path / name)]
    try:
        report = (path / "report.md").read_text("utf-8")
    except (OSError, ValueError):
        report = ""
    if REPORT_END not in report:
        return [*lost, "report.md"]
    figures = re.findall(r"\]\((plots/[^)]+)\)", report)
    if config.run.figures and not figures and _is_written(path / "metrics.jsonl"):
        return [*lost, "report.md"]  # it was written with run.figures=false
    return lost + [name for name in figures if not _is_written(path / name)]


def _is_written(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def write_report(run: RunDirectory, config: Config, summary: Json, samples: list[str]) -> None:
    """Write plots/ and report.md from the run's records. Raises UserError if that fails."""
    from jaxlm.inference.figures import plot_run
    from jaxlm.inference.report import write_run_report

    records = run.records()
    try:
        drawn = records and config.run.figures
        figures = plot_run(records, summary, run.path / "plots") if drawn else []
        write_run_report(run.path / "report.md", config, summary, records, samples, figures)
    except OSError as error:
        raise UserError(
            f"the report of {run.path} cannot be written: {error.strerror or error}.\n"
            "Training is complete and saved; once this is fixed, run the same command again."
        ) from error


def _writes_samples(config: Config) -> bool:
    return bool(config.run.samples) and config.tokenizer.name != "none"


def _write_samples(
    run: RunDirectory, config: Config, console: Console, load_engine: LoadEngine
) -> list[str]:
    """A few texts from the finished model, written to samples.txt, if it has a tokenizer."""
    if not _writes_samples(config):
        return []
    from jaxlm.inference.generate import LoadedRun

    try:
        loaded = LoadedRun(run.path, operation=config, load_engine=load_engine)
        texts = loaded.generate(samples=config.run.samples, max_tokens=256)
    except UserError as error:
        console.say(f"no samples: {error}")
        return []
    samples = texts if isinstance(texts, list) else [texts]
    run.write_text("samples.txt", _BETWEEN_SAMPLES.join(samples) + "\n")
    return samples


def _read_samples(path: Path) -> list[str]:
    try:
        text = (path / "samples.txt").read_bytes().decode()  # keeps line ends unchanged
    except (OSError, ValueError):
        return []
    return text.removesuffix("\n").split(_BETWEEN_SAMPLES)


@contextlib.contextmanager
def profile(training: Any) -> Iterator[None]:
    """debug=profile: a trace of the whole loop in run.dir/profile, for TensorBoard or Perfetto."""
    if not training.config.debug.profile:
        yield
        return
    folder = training.run.path / "profile"
    with training.engine.profile(folder):
        yield
    training.console.say(f"trace written to {folder}; open it with TensorBoard or ui.perfetto.dev")
