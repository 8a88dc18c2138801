"""The end of a run: samples, figures and report from its records; and the profiler's window."""

import contextlib
from collections.abc import Iterator
from typing import Any

from jaxlm.errors import UserError


def finish(training: Any) -> None:
    """Write samples.txt, plots/ and report.md, and tell the person where everything is."""
    from jaxlm.report import summary_lines

    run, samples = training.run, draw_samples(training)
    if samples:
        run.write_text("samples.txt", "\n\n---\n\n".join(samples) + "\n")
    write_report(training, samples)
    lines = summary_lines(training.config, run.read_summary(), run.records(), run.path)
    training.console.say("\n".join(lines))


def write_report(training: Any, samples: list[str]) -> None:
    """Write plots/ and report.md from the run's records."""
    from jaxlm.plots import plot_run
    from jaxlm.report import write_run_report

    run = training.run
    records, summary = run.records(), run.read_summary()
    figures = plot_run(records, summary, run.path / "plots") if records else []
    write_run_report(run.path / "report.md", training.config, summary, records, samples, figures)


def draw_samples(training: Any) -> list[str]:
    """A few texts of the finished model, where it has a tokenizer."""
    count = training.config.run.samples
    if not count or training.dataset.tokenizer is None:
        return []
    from jaxlm.generate import LoadedRun

    try:
        run = LoadedRun(
            training.run.path,
            operation=training.config,
            load_engine=lambda: type(training.engine),
        )
        texts = run.generate(samples=count, max_tokens=256)
    except UserError as error:
        training.console.say(f"no samples: {error}")
        return []
    return texts if isinstance(texts, list) else [texts]


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
