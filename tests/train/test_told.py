"""Promises of the numbers that a run and a study report: each is what its name says."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import parameter_groups, synthetic_run
from synthetic_study import write_run

from jaxlm.cli.main import main
from jaxlm.compare import analysis, convergence, log, pages, sweeps
from jaxlm.compare.document import markdown
from jaxlm.compare.figures import all as figures
from jaxlm.compare.metrics import METRICS, amount, difference_shown, shown
from jaxlm.compare.reading import read_run
from jaxlm.compare.statistics import mean
from jaxlm.compare.variants import load
from jaxlm.config.compose import compose
from jaxlm.config.duration import horizon
from jaxlm.config.schema import resolve_model
from jaxlm.config.trackers import NoTracker
from jaxlm.host.console import Console
from jaxlm.inference.figures import recent_speed, run_figures, smoothed, smoothing_width
from jaxlm.inference.report import description, results, write_run_report
from jaxlm.spec.contract import StepMetrics
from jaxlm.store.directory import RunDirectory
from jaxlm.store.late import last_loss, late_mean, late_records, late_words
from jaxlm.train.clocks import Clocks
from jaxlm.train.ledger import Ledger, Position
from jaxlm.train.trackers import Tracker

RESULT = {
    "loss": 2.0, "standard_error": 0.1, "accuracy": 0.5, "top5_accuracy": 0.8,
    "confidence": 0.4, "perplexity": 7.389, "bits_per_byte": 1.0, "tokens": 100,
}  # fmt: skip


class Clock(Clocks):
    """A clock that shows the time it is set to."""

    def __init__(self, wall, seconds):
        self.at = wall, seconds

    def wall(self):
        return self.at[0]

    def seconds(self):
        return self.at[1]


@pytest.fixture
def told(tmp_path):
    """told(*words) -> (ledger of a new process of the run, console with the fields it received)."""

    def start(*words, peak=10**8, duration="100"):
        config = compose([f"train.duration={duration}", f"run.dir={tmp_path}", *words])
        model = resolve_model(config.model, 64)
        engine = SimpleNamespace(
            model_config=model, peak_flops=None, memory_bytes=lambda: 10**7,
            peak_memory_bytes=lambda: peak,
        )  # fmt: skip
        console = Console()
        console.fields = []
        console.progress = lambda fraction, fields: console.fields.append((fraction, fields))
        ahead = horizon(config, 10**6)
        run = RunDirectory(tmp_path)
        tracker = Tracker(NoTracker(), tmp_path, 0)
        return Ledger(config, run, engine, ahead, None, console, tracker), console

    return start


def measured(ledger, loss=3.0):
    """A step's metrics in the form that an engine returns."""
    groups = parameter_groups(ledger.engine.model_config.n_layers)
    norms = np.ones(len(groups))
    return StepMetrics(np.float32(loss), np.float32(1.0), norms, norms, norms, np.ones(2))


# -- a running training --------------------------------------------------------------------------


def test_progress_bar_records_and_summary_report_the_same_speed(told):
    ledger, console = told()
    ledger.start(0, Clock(wall=50.0, seconds=0.0))
    for step, seconds in ((1, 8.0), (50, 12.0), (100, 20.0)):
        ledger.clocks.at = 50.0 + seconds, seconds
        ledger.train(step, 1e-3, measured(ledger), 2.5)
    ledger.summarize("finished", Position(step=100))
    speed = 100 * ledger.tokens_per_step / 20.0  # tokens over training time
    assert ledger.run.records("train")[-1]["tokens_per_second"] == speed
    assert ledger.run.read_summary()["tokens_per_second"] == speed
    assert console.fields[-1][1]["tokens/s"] == f"{speed:,.0f} so far"
    for record in ledger.run.records("train"):
        assert record["tokens_per_second"] == record["tokens"] / record["seconds"]
    rows = dict(results(ledger.run.read_summary(), []))
    assert rows["mean speed"] == f"{speed:,.0f} tokens/s of training time"


def test_time_left_is_never_negative(told):
    ledger, console = told("data.train_tokens=1M", duration="1hours")
    ledger.start(0, Clock(wall=3000.0, seconds=1.0))
    ledger.clocks.at = 3700.0, 1.0  # the last step took longer than the time left
    ledger.train(9, 1e-3, measured(ledger), 2.5)
    fraction, fields = console.fields[-1]
    assert fields["left"] == "0:00" and fraction == 1.0


def test_an_evaluation_of_one_row_shows_no_standard_error(told, capsys):
    ledger, _ = told()
    ledger.evaluation(5, RESULT | {"standard_error": None})
    assert "validation loss 2.0000, perplexity" in capsys.readouterr().out
    ledger.evaluation(6, RESULT)
    assert "2.0000 ± 0.1000," in capsys.readouterr().out


def test_peak_memory_is_the_maximum_over_all_processes_of_a_run(told):
    ledger, _ = told(peak=3 * 10**8)
    ledger.evaluation(5, RESULT)
    ledger.summarize("interrupted", Position(step=5))
    resumed, _ = told(peak=10**8)
    resumed.summarize("finished", Position(step=9))
    assert resumed.run.read_summary()["peak_memory_bytes"] == 3 * 10**8
    resumed.run.truncate_after(-1)  # a run that starts over
    again, _ = told(peak=10**8)
    again.summarize("finished", Position(step=9))
    assert again.run.read_summary()["peak_memory_bytes"] == 10**8


# -- an ended run --------------------------------------------------------------------------------


def train(*steps):
    return [{"kind": "train", "step": step, "loss": float(step)} for step in steps]


def test_the_last_training_loss_names_the_batches_that_it_averages():
    few, many = train(1, 10, 20, 30, 40), train(*range(1, 1001))
    assert late_mean(few, "loss") == 40 and late_words(few) == "of the batch of step 40 alone"
    assert [r["step"] for r in late_records(many)] == list(range(951, 1001))
    assert late_mean(many, "loss") == 975.5
    assert late_words(many) == "mean of 50 batches, steps 951 to 1,000"
    assert late_mean([], "loss") is None and late_records([]) == []


def test_the_last_training_loss_of_a_short_run_is_also_a_mean():
    """It averages all steps since the previous record: 60 steps have one record in the last 5 %."""
    records = train(1, 20, 40, 60)
    for record in records:
        record["interval_loss"] = record["step"] / 10
    assert last_loss(records) == (6.0, "mean of the 20 steps 41 to 60")
    dense = train(*range(1, 101))
    for record in dense:
        record["interval_loss"] = record["loss"]
    assert last_loss(dense) == (98.0, "mean of the 5 steps 96 to 100")
    assert last_loss(train(1, 20, 40, 60)) == (60.0, "of the batch of step 60 alone")
    assert last_loss(records[:1]) == (0.1, "of step 1 alone") and last_loss([]) is None


def kept(run, kind):
    """The records of one kind in a run directory."""
    return [r for r in RunDirectory(run).records() if r["kind"] == kind]


@pytest.mark.slow
def test_each_record_holds_the_mean_loss_since_the_previous_record(tmp_path):
    """This also holds for a run that was interrupted between two records."""
    words = ["scale=smoke", "backend=torch", "torch.compile=false", "run.samples=0"]
    words += ["model.n_layers=1", "model.d_model=16", "model.n_heads=1", "train.duration=9"]
    words += ["train.checkpoint_every=4"]

    def run(name, *more):
        assert main([*words, f"run.dir={tmp_path / name}", *more]) == 0

    run("each", "train.log_every=1")
    run("some", "train.log_every=5")
    run("again", "train.log_every=5", "run.stop_at=7")
    run("again", "train.log_every=5")
    losses = {r["step"]: r["loss"] for r in kept(tmp_path / "each", "train")}
    expected = {1: [1], 5: [2, 3, 4, 5], 9: [6, 7, 8, 9]}
    for name in ("some", "again"):
        found = {r["step"]: r["interval_loss"] for r in kept(tmp_path / name, "train")}
        assert found == {
            step: pytest.approx(np.mean([losses[i] for i in of]), rel=1e-12)
            for step, of in expected.items()
        }
    assert found == {r["step"]: r["interval_loss"] for r in kept(tmp_path / "some", "train")}


def test_the_report_and_the_last_lines_show_that_mean():
    records, summary = synthetic_run(n=60, log_every=10)
    late = [r for r in records if r["kind"] == "train" and r["step"] > 0.95 * 590]
    value = sum(r["loss"] for r in late) / len(late)
    said = dict(results(summary, records))["training loss"]
    assert said == f"{value:.4f}, mean of {len(late)} batches, steps 570 to 590"


def test_every_row_of_the_report_says_what_it_measures(tmp_path):
    records, summary = synthetic_run()
    rows = dict(results(summary, records))
    assert "without compilation and evaluation" in rows["training time"]
    assert "standard error" in rows["validation loss"]
    assert "(6 N D)" in rows["training FLOPs"] and "process" in rows["peak memory"]
    assert rows["perplexity"] == f"{np.exp(summary['val_loss']):.3f}"
    write_run_report(tmp_path / "r.md", compose([]), summary, records, [], [tmp_path / "loss.png"])
    text = (tmp_path / "r.md").read_text("utf-8")
    assert "of wall-clock time" in text and "mean of 3 records" in text and "{" not in text


def test_the_description_names_units_and_only_keys_that_had_an_effect():
    _, summary = synthetic_run()

    def told(*words):
        return dict(description(compose(list(words), checked=False), summary))

    assert told("train.duration=300")["training"].startswith("300 steps of 8 x 256 tokens a step")
    assert told("train.duration=2epochs")["training"].startswith("2epochs of ")
    assert "backend torch" in told("backend=torch")["training"]
    assert told("data=shakespeare", "data.path=book.txt")["data"].startswith("shakespeare;")
    assert told("data=text", "data.path=book.txt")["data"].startswith("book.txt;")
    small = told("model.n_layers=1", "model.n_heads=1")["model"]
    assert small.startswith("1 block, 96 wide, 1 head of 96,")


@pytest.mark.slow
def test_the_speed_figure_shows_tokens_over_training_time():
    rows = [{"tokens": 100 * (i + 1), "seconds": 2.0 * (i + 1)} for i in range(10)]
    rows[-1]["seconds"] = rows[-2]["seconds"]  # the last step is read at once
    speed_N = recent_speed(rows)
    assert speed_N[:-1] == pytest.approx([50.0] * 9)
    assert speed_N[-1] == pytest.approx(75.0)  # over three records, so not infinite
    records, summary = synthetic_run()
    left, right = run_figures(records, summary)["speed"].axes
    kept = [r for r in records if r["kind"] == "train"]
    assert left.lines[0].get_ydata() * 1e3 == pytest.approx(recent_speed(kept))
    assert len(right.lines) == 1


def test_the_caption_states_the_width_of_the_plotted_mean():
    for n in (1, 5, 99, 400, 1000):
        width = smoothing_width(n)
        values = np.random.default_rng(0).normal(size=n)
        middle = n // 2
        if n >= width:
            low = middle - width // 2
            assert smoothed(values)[middle] == pytest.approx(values[low : low + width].mean())


def test_one_evaluation_has_no_best():
    records, summary = synthetic_run()
    one = [r for r in records if r["kind"] == "train"] + [records[-1] | {"kind": "eval"}]
    labels = run_figures(one, summary)["loss"].axes[0].get_legend_handles_labels()[1]
    assert not any(label.startswith("best") for label in labels)


# -- studies ---------------------------------------------------------------------------------------


def short_study(tmp_path, steps=20, seeds=1):
    for i, lr in enumerate((1e-3, 3e-3)):
        for seed in range(seeds):
            write_run(tmp_path / f"lr{i}s{seed}", 2.0 + i + 0.1 * seed * (1 + i), seed=seed,
                      steps=steps, changes={"optimizer.lr": lr})  # fmt: skip
    return analysis.compare(load(sorted(tmp_path.iterdir())))


def page_of(comparison, tmp_path, captions=None):
    return markdown(pages.comparison_page(comparison, captions or {}, tmp_path, None), tmp_path)


def test_a_short_study_states_how_many_records_its_training_loss_averages(tmp_path):
    comparison = short_study(tmp_path, steps=20)  # records at steps 1, 5, 10, 15, 20
    assert {run.metrics["late_records"] for run in comparison.counted} == {1}
    page = page_of(comparison, tmp_path)
    assert "in the last 5 % of a run's steps: 1 record, a single batch" in page
    assert "noisy" in page and METRICS["late_records"].help in page
    long = short_study(tmp_path / "long", steps=1000) if (tmp_path / "long").mkdir() is None else 0
    page = page_of(long, tmp_path)
    assert "in the last 5 % of a run's steps: 10 records, each" in page and "noisy" not in page


def test_early_against_late_is_omitted_if_there_are_few_records(tmp_path):
    few = short_study(tmp_path, steps=60)  # 13 records: a tenth of the run holds one
    assert not few.shares and "at 10% of the steps" not in page_of(few, tmp_path)
    (tmp_path / "more").mkdir()
    more = short_study(tmp_path / "more", steps=100)
    assert more.shares
    assert "a loss in between is the mean of 3 records" in page_of(more, tmp_path)
    assert convergence.early_shares(few.counted[0]) is None
    caption, figure = figures._figures(few)["convergence_analysis"]
    assert len(figure.axes) == 2 and "share" not in caption
    caption, figure = figures._figures(more)["convergence_analysis"]
    assert len(figure.axes) == 3 and "share" in caption


@pytest.mark.slow
def test_one_seed_has_no_interval_no_test_and_no_mean(tmp_path):
    comparison = short_study(tmp_path)
    captions = {name: text for name, (text, _) in figures._figures(comparison).items()}
    page = page_of(comparison, tmp_path, captions)
    assert "One seed each, so there are no intervals" in page
    assert "has the best value" in page and "nothing here was tested" in page
    assert "95 % interval" not in page.split("<summary>What each metric means")[0]
    assert "±" not in page.split("## What was run")[0]
    (tmp_path / "more").mkdir()
    page = page_of(short_study(tmp_path / "more", seeds=3), tmp_path)
    assert "has the best mean" in page and "95 % interval of the mean" in page


def test_one_variant_alone_is_not_the_best(tmp_path):
    write_run(tmp_path / "a")
    page = page_of(analysis.compare(load([tmp_path / "a"])), tmp_path)
    assert "best mean" not in page and "other variant" not in page
    write_run(tmp_path / "b", status="diverged", changes={"model.d_ff": 8})
    page = page_of(analysis.compare(load([tmp_path / "a", tmp_path / "b"])), tmp_path)
    assert "best mean" not in page and "No other variant has finished" in page


def test_an_interval_is_never_shown_as_zero_and_zero_has_no_sign():
    loss, memory, share = (METRICS[n] for n in ("val_loss", "peak_memory_bytes", "accuracy"))
    assert shown(loss, 2.0, 3e-9) == "2.00000 ± 3e-09"
    assert shown(memory, 2.0**30, 2.0**18) == "1,024 ± 0.2"
    assert shown(loss, -1e-9) == "0.0000" and difference_shown(loss, 0.0, None) == "0.0000"
    assert difference_shown(loss, -1e-9, None) == "0.0000"
    assert difference_shown(loss, 0.02, None) == "+0.0200"
    assert mean([2.0, 2.0]).half == 0.0 and shown(loss, 2.0, 0.0) == "2.0000"
    assert amount(share, 0.5, 0.01) == "50.0 ± 1.0 %"
    assert amount(share, 0.5, difference=True) == "50.00 points"


def test_a_best_value_at_the_edge_of_the_sweep_is_reported_as_such(tmp_path):
    comparison = short_study(tmp_path)  # 0.001 is best of 0.001 and 0.003
    (sweep,) = comparison.sweeps
    (said,) = sweeps.words(sweep, METRICS["best_val_loss"])
    assert "**0.001**" in said and "smaller ones may be better" in said


def test_the_times_in_the_log_add_up(tmp_path):
    for name in ("a", "b"):
        path = write_run(tmp_path / name)
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | {"packed": 2, "wall_seconds": 100}))
    runs = [read_run(tmp_path / name) for name in ("a", "b")]
    page = markdown(log.log_page(log.entries(runs), []), tmp_path)
    assert "2 runs, 1:40 of wall-clock time in total" in page
    assert len(re.findall(r"\| 0:50 \|", page)) == 2  # each has half of its program's time
    lines = log.log_lines(log.entries(runs))
    assert sum("0:50" in line for line in lines) == 2
