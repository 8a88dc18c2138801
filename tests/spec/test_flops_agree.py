"""Promise: the FLOPs of a run are the same number everywhere, with a word on what they count.

`flops` is 6 N D (Kaplan et al. 2020), `flops_exact` counts head and attention too.
"""

import re
from types import SimpleNamespace

import pytest

from jaxlm.compare import analysis, log, pages, provenance
from jaxlm.compare.document import markdown
from jaxlm.compare.reading import read_run
from jaxlm.compare.variants import load
from jaxlm.config.compose import compose, to_yaml
from jaxlm.config.duration import horizon
from jaxlm.config.schema import resolve_model
from jaxlm.host.console import Console
from jaxlm.inference.report import summary_lines, write_run_report
from jaxlm.predict.plan import estimate_lines, plan
from jaxlm.spec.flops import exact_flops_per_token, flops_words, parameter_counts
from jaxlm.store.directory import RunDirectory
from jaxlm.study.job import plan_lines, variants_of
from jaxlm.train import start
from jaxlm.train.clocks import Clocks
from jaxlm.train.ledger import Ledger, Position
from jaxlm.train.trackers import Tracker

VOCABULARY = 1000


class Kept(Tracker):
    def __init__(self):
        self.records = []

    def write(self, record):
        self.records.append(record)


def words(*more):
    return ["train.duration=300", "model.n_layers=2", "model.d_model=48", "run.samples=0", *more]


@pytest.fixture
def run(tmp_path):
    """A finished run, as its ledger wrote it: (directory, configuration, model, tracker)."""
    config = compose(words(f"run.dir={tmp_path / 'runs' / 'one'}", "run.name=one"))
    model = resolve_model(config.model, VOCABULARY)
    directory = RunDirectory(config.run.dir)
    directory.check_writable()
    engine = SimpleNamespace(
        model_config=model, peak_flops=None, where="here",
        memory_bytes=lambda: 10**8, peak_memory_bytes=lambda: 2 * 10**8,
    )  # fmt: skip
    tracker, console = Kept(), Console(directory.path / "log.txt")
    ahead = horizon(config, 0)
    ledger = Ledger(config, directory, engine, ahead, None, console, tracker)
    ledger.start(0, Clocks(wall=2.0, seconds=1.0))
    result = {
        "loss": 2.0, "standard_error": 0.1, "accuracy": 0.5, "top5_accuracy": 0.8,
        "confidence": 0.4, "perplexity": 7.389, "bits_per_byte": 1.0, "tokens": 100,
    }  # fmt: skip
    ledger.evaluation(300, result)
    ledger.summarize("finished", Position(step=300, val_loss=2.0, best_val_loss=2.0, best_step=300))
    directory.write_config(to_yaml(config))
    directory.write_environment(["cpu"])
    console.say(start._headline(SimpleNamespace(engine=engine, horizon=ahead, config=config)))
    console.close()
    return directory, config, model, tracker


def test_every_place_shows_the_same_flops(run, tmp_path):
    directory, config, model, tracker = run
    tokens = 300 * config.train.batch_size * model.context_length
    flops = 6.0 * parameter_counts(model).non_embedding * tokens
    exact = exact_flops_per_token(model) * tokens
    assert f"{flops:.3g}" != f"{exact:.3g}"
    said = f"{flops:.3g} (6 N D)"
    summary, records = directory.read_summary(), directory.records()
    assert (summary["flops"], summary["flops_exact"]) == (flops, exact)
    assert records[-1]["flops"] == tracker.records[-1]["flops"] == flops
    assert flops_words(flops, exact) == f"{said}, {exact:.3g} with head and attention"

    assert said in (directory.path / "log.txt").read_text("utf-8")  # the console's headline
    assert flops_words(flops, exact) in "\n".join(
        summary_lines(config, summary, records, directory.path)
    )
    write_run_report(tmp_path / "report.md", config, summary, records, [], [])
    assert flops_words(flops, exact) in (tmp_path / "report.md").read_text("utf-8")
    assert flops_words(flops, exact) in "\n".join(estimate_lines(config, model))  # debug=shapes

    found = read_run(directory.path)
    assert found.metrics["flops"] == flops
    page = markdown(log.log_page(log.entries([found]), []), tmp_path)
    assert said in page and "FLOPs (6 N D)" in page and f"{exact:.3g}" not in page
    facts = " ".join(provenance._facts([found]))
    assert f"{flops:.3g} FLOPs (6 N D)" in facts
    comparison = analysis.compare(load([directory.path]))
    page = markdown(pages.comparison_page(comparison, {}, tmp_path, None), tmp_path)
    assert "FLOPs (6 N D)" in page and f"{flops:.3g}" in page and f"{exact:.3g}" not in page


def test_a_studys_plan_counts_as_its_runs_do():
    config = compose(words("job=study", "study.axes.seed=null", "study.axes={}",
                           "study.variants.wide=['model.d_model=96']"))  # fmt: skip
    (line, last) = plan_lines(config, variants_of(config, {}))[-2:]
    member = compose(words("model.d_model=96"))
    model = resolve_model(member.model, 1)
    tokens = 300 * member.train.batch_size * model.context_length
    flops = 6.0 * parameter_counts(model).non_embedding * tokens
    assert f"{flops:.3g}" in line and f"{flops:.3g} (6 N D)" in last
    assert f"{parameter_counts(model).non_embedding:,}" in line  # without a guessed vocabulary


def test_a_plan_for_a_larger_run_shows_6_n_d():
    found = plan(1e8, 2e9, device="H100")
    (line,) = [line for line in found.lines() if line.startswith("compute")]
    assert f"{6 * found.non_embedding * found.tokens:.3g} (6 N D)" in line


def test_a_ladders_plan_shows_both_counts():
    from jaxlm.predict.ladder import plan_lines as ladder_lines
    from jaxlm.predict.ladder import rungs

    config = compose(["experiment=scaling_ladder", "scale=smoke"])
    ladder = rungs(config)
    lines = ladder_lines(config, ladder, {rung.name: rung.words() for rung in ladder}, [0])
    total = sum(rung.flops for rung in ladder)
    assert re.search(rf"{re.escape(f'{total:.3g}')} \(6 N D\), \S+ with head", lines[-1])


@pytest.mark.parametrize(
    "duration, said",
    [("1hours", "depends on the clock"), ("2epochs", "depends on the data"), ("9000", "")],
)
def test_an_estimate_says_what_its_length_depends_on(duration, said):
    config = compose([f"train.duration={duration}", "data.train_tokens=1M"])
    lines = estimate_lines(config, resolve_model(config.model, VOCABULARY))
    assert said in lines[0] and ("20 per parameter" in lines[0]) == bool(said)
    assert any(line.endswith((" s", " min")) for line in lines[3:])
    assert not any("0.0" in line for line in lines[3:])  # the seconds, if the time is in seconds
