"""Promises of a comparison's numbers: statistics, metrics, convergence, claims, sweeps."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic_study import STEPS, TOKENS_PER_STEP, heads_study, write_run, write_study

from jaxlm.compare import convergence
from jaxlm.compare.analysis import compare, to_dict
from jaxlm.compare.claims import FAILS, HOLDS, OPEN, answer_claims
from jaxlm.compare.metrics import METRICS, metrics_of, shown
from jaxlm.compare.reading import read_run
from jaxlm.compare.statistics import Difference, holm, mean, paired, ratio, verdict
from jaxlm.compare.sweeps import words
from jaxlm.compare.variants import load
from jaxlm.host.errors import UserError

LOSS = METRICS["best_val_loss"]

# -- statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1.0, 2.0], [2.0, 2.1, 1.9], [0.3, 0.1, 0.4, 0.1, 0.5]])
def test_an_interval_is_students(values):
    found = mean(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found.value == pytest.approx(np.mean(values), rel=1e-12)
    assert found.half == pytest.approx((high - low) / 2, rel=1e-12)
    assert found.n == len(values)


def test_one_value_has_no_interval_and_none_no_mean():
    assert mean([2.0]).half is None and mean([]) is None
    assert mean([0.1 + 0.2, 0.3]).half == 0.0  # rounding does not count as spread


def test_a_difference_is_scipys_paired_test():
    a, b = {0: 2.0, 1: 2.2, 2: 1.9}, {0: 2.1, 1: 2.25, 2: 2.02}
    found = paired(a, b)
    test = stats.ttest_rel(list(a.values()), list(b.values()))
    interval = test.confidence_interval(0.95)
    assert found.value == pytest.approx(-0.09, rel=1e-9)
    assert found.p == pytest.approx(test.pvalue, rel=1e-12)
    assert found.value - found.half == pytest.approx(interval.low, rel=1e-9)
    assert found.value + found.half == pytest.approx(interval.high, rel=1e-9)


def test_pairs_are_of_the_same_seed_only():
    a, b = {3: 1.0, 1: 2.0, 7: 9.0}, {1: 2.5, 3: 1.4, 8: 0.0}
    assert paired(a, b).value == pytest.approx(-0.45) and paired(a, b).n == 2
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 1.0}, {0: 2.0}).p is None


def test_pairing_finds_what_unpaired_means_hide():
    """Seeds move both alike, so the paired test sees a difference far below their spread."""
    base = {0: 2.0, 1: 2.5, 2: 1.5}
    better = {0: 1.98, 1: 2.479, 2: 1.481}
    assert paired(better, base).p < 0.01
    assert stats.ttest_ind(list(better.values()), list(base.values())).pvalue > 0.9


def test_equal_values_are_no_difference_and_exact_ones_are_certain():
    assert paired({0: 5, 1: 5}, {0: 5, 1: 5}).p == 1.0
    assert paired({0: 5, 1: 5}, {0: 6, 1: 6}).p == 0.0


@given(st.lists(st.none() | st.floats(0, 1), max_size=5))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """By brute force: a hypothesis has the largest Bonferroni p of all sets that contain it."""
    tested = [i for i, p in enumerate(p_values) if p is not None]
    corrected = holm(p_values)
    for i, p in enumerate(p_values):
        if p is None:
            assert corrected[i] is None
            continue
        sets = [s for n in range(1, 6) for s in itertools.combinations(tested, n) if i in s]
        closed = max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets)
        assert corrected[i] == pytest.approx(closed, abs=1e-15)


def test_a_ratios_interval_is_that_of_the_logarithms():
    middle, low, high = ratio({0: 4.0, 1: 5.0}, {0: 2.0, 1: 2.0})
    assert middle == pytest.approx(math.sqrt(2.0 * 2.5))
    half = stats.t.ppf(0.975, 1) * np.std(np.log([2.0, 2.5]), ddof=1) / math.sqrt(2)
    assert math.log(high / middle) == pytest.approx(half)
    assert math.log(middle / low) == pytest.approx(half)
    assert ratio({0: 4.0}, {0: 2.0}) == (2.0, 0.0, math.inf)
    assert ratio({0: 4.0}, {0: 0.0}) is None


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (None, "no seed in common with the baseline: no conclusion"),
        (Difference(-0.03, None, 1, None), "one seed: no conclusion"),
        (Difference(-0.031, 0.012, 3, 0.008, 0.016), "better by 0.031 ± 0.012 nats/token"),
        (Difference(0.031, 0.012, 3, 0.008, 0.016), "worse by 0.031 ± 0.012 nats/token"),
        (Difference(0.01, 0.05, 3, 0.6, 0.6), "no difference that 3 seeds can show"),
        (
            Difference(0.03, 0.02, 4, 0.02, 0.08),
            "no difference that 4 seeds can show once corrected for the number of comparisons",
        ),
    ],
)
def test_a_verdict_is_in_words(difference, said):
    assert verdict(LOSS, difference) == said


def test_higher_is_better_only_for_metrics_that_say_so():
    gain = Difference(0.05, 0.01, 3, 0.001, 0.001)
    assert verdict(METRICS["accuracy"], gain) == "better by 5.0 ± 1.0 points"
    assert verdict(METRICS["confidence"], gain).startswith("higher by")


# -- metrics -------------------------------------------------------------------------------------


def test_the_metrics_of_a_run_are_those_of_its_files(tmp_path):
    run = read_run(write_run(tmp_path / "r", 2.5, train_loss=2.0, speed=40, parameters=1000))
    found = run.metrics
    assert found["best_val_loss"] == found["val_loss"] == 2.5
    assert found["train_loss"] == pytest.approx(2.0) and found["overfitting"] == 1.25
    assert found["perplexity"] == found["best_perplexity"] == pytest.approx(math.exp(2.5))
    assert found["bits_per_byte"] == pytest.approx(2.5 / math.log(2) / 2)
    assert found["best_bits_per_byte"] == found["bits_per_byte"]
    assert (found["accuracy"], found["top5_accuracy"], found["confidence"]) == (0.5, 0.8, 0.45)
    assert found["gradient_norm"] == 0.5 and found["steps_per_second"] == 40
    assert found["tokens_per_second"] == 40 * TOKENS_PER_STEP and found["seconds"] == STEPS / 40
    assert found["peak_memory_bytes"] == 300 * 2**20
    assert (found["parameters"], found["non_embedding_parameters"]) == (61_000, 1000)
    assert found["flops"] == 6 * 1000 * STEPS * TOKENS_PER_STEP
    assert list(found) == list(METRICS)


def test_the_best_evaluation_is_not_the_last_where_a_model_overfits():
    evals = [{"loss": loss, "bits_per_byte": loss / 2} for loss in (3.0, 2.0, 2.6)]
    summary = {"step": 30, "seconds": 3.0, "best_val_loss": 2.0, "val_loss": 2.6}
    train = [{"step": step, "loss": 1.3, "gradient_norm": 1.0} for step in (10, 20, 30)]
    found = metrics_of(summary, train, evals)
    assert (found["best_val_loss"], found["val_loss"]) == (2.0, 2.6)
    assert (found["best_bits_per_byte"], found["bits_per_byte"]) == (1.0, 1.3)
    assert found["overfitting"] == pytest.approx(2.0)


def test_what_is_unknown_or_not_finite_is_none():
    summary = {"step": 3, "seconds": 0.0, "best_val_loss": math.inf, "peak_memory_bytes": None}
    found = metrics_of(summary, [{"step": 3, "loss": None}], [])
    assert found["best_val_loss"] is None and found["train_loss"] is None
    assert found["steps_per_second"] is None and found["perplexity"] is None


def test_numbers_are_shown_with_the_digits_of_their_interval():
    assert shown(LOSS, 2.00345, 0.0123) == "2.003 ± 0.012"
    assert shown(LOSS, 2.00345) == "2.0034" or shown(LOSS, 2.00345) == "2.0035"
    assert shown(METRICS["parameters"], 3192897) == "3,192,897"
    assert shown(METRICS["peak_memory_bytes"], 3 * 2**20) == "3"
    assert shown(METRICS["flops"], 1.234e15) == "1.23e+15"
    assert shown(LOSS, None) == "–"


# -- studies -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return compare(load(heads_study(tmp_path_factory.mktemp("studies") / "heads")))


def test_a_studys_verdicts_follow_from_its_seeds(heads):
    assert heads.baseline == "4_heads"
    assert heads.verdict("4_heads") == "baseline"
    assert heads.verdict("2_heads") == "no difference that 3 seeds can show"
    assert heads.verdict("8_heads").startswith("better by 0.100")
    assert heads.verdict("1_head") == "diverged in 3 of 3 runs"
    test = heads.differences["best_val_loss"]["8_heads"]
    by_hand = stats.ttest_rel([1.902, 1.950, 1.858], [2.0, 2.05, 1.96])
    assert test.p == pytest.approx(by_hand.pvalue, rel=1e-9)
    assert test.p_holm == pytest.approx(2 * by_hand.pvalue, rel=1e-9)  # two variants were tested


def test_diverged_runs_are_excluded_from_means(tmp_path):
    study = write_study(tmp_path / "s", {"a": [2.0, 2.1, 2.2], "b": [1.9, None, 2.1]})
    found = compare(load(study))
    assert found.mean("b", "best_val_loss").value == pytest.approx(2.0)
    assert found.differences["best_val_loss"]["b"].n == 2
    assert found.verdict("b").endswith("; 1 of 3 runs diverged")
    assert any("b (1 of 3)" in note for note in found.notes)


def test_a_diverged_baseline_is_replaced_and_the_report_says_so(tmp_path):
    found = compare(load(write_study(tmp_path / "s", {"a": [None], "b": [2.0], "c": [2.1]})))
    assert found.baseline == "b"
    assert any("a has no finished run" in note for note in found.notes)


def test_an_unknown_baseline_or_metric_is_refused(tmp_path):
    study = load(write_study(tmp_path / "s", {"alpha": [2.0], "beta": [2.1]}))
    with pytest.raises(UserError, match="job.baseline=alfa.*alpha"):
        compare(study, baseline="alfa")
    with pytest.raises(UserError, match="job.metric=val_los.*val_loss"):
        compare(study, metric="val_los")


def test_tokens_of_different_tokenizers_are_not_compared(tmp_path):
    changes = {"big": {"tokenizer.vocab_size": 4096}}
    runs = {"big": {"bytes_per_token": 3.0}}
    losses = {"small": [2.0, 2.1], "big": [2.5, 2.61]}
    study = write_study(tmp_path / "s", losses, changes=changes, runs=runs)
    found = compare(load(study))
    assert found.primary.name == "best_bits_per_byte" and found.loss == "bits_per_byte"
    assert not {"val_loss", "perplexity", "accuracy", "overfitting"} & set(found.differences)
    assert found.ranking == ["big", "small"]
    assert found.common_loss == pytest.approx(2.1 / math.log(2) / 2)
    assert any("bits per byte" in note for note in found.notes)
    with pytest.raises(UserError, match="val_loss is measured per token.*\n.*bits_per_byte"):
        compare(load(study), metric="val_loss")


def test_a_tokenizer_trained_on_the_corpus_changes_with_it(tmp_path):
    changes = {"b": {"data.name": "shakespeare"}}
    found = compare(load(write_study(tmp_path / "s", {"a": [2.0], "b": [2.5]}, changes=changes)))
    assert not found.comparable and any("different texts" in note for note in found.notes)
    for variant in ("a", "b"):
        changes.setdefault(variant, {})["tokenizer.name"] = "byte"
    found = compare(load(write_study(tmp_path / "t", {"a": [2.0], "b": [2.5]}, changes=changes)))
    assert found.comparable


def test_unequal_tokens_are_reported(tmp_path):
    runs = {"b": {"steps": 400}}
    found = compare(load(write_study(tmp_path / "s", {"a": [2.0], "b": [2.5]}, runs=runs)))
    assert any("102,400 to 204,800" in note for note in found.notes)
    assert found.at_equal_budgets["tokens"]["x"] == 102_400


def test_the_data_are_complete_and_strict_json(heads):
    from jaxlm.host.files import plain

    data = json.loads(json.dumps(plain(to_dict(heads)), allow_nan=False))
    assert data["variants"]["8_heads"]["metrics"]["best_val_loss"]["n"] == 3
    assert len(data["runs"]) == 12 and data["runs"][0]["eval"] and data["runs"][0]["train"]
    assert data["runs"][0]["path"] == "4_heads/seed0"
    assert data["variants"]["2_heads"]["keys"] == {"model.n_heads": 2}


# -- convergence ---------------------------------------------------------------------------------


def linear_run(tmp_path, name, start, end, steps=100):
    """A run whose training and validation loss fall linearly from `start` to `end`."""
    path = write_run(tmp_path / name, steps=steps)
    records = []
    for step in range(0, steps + 1):
        loss = start + (end - start) * min(1.0, step / (0.94 * steps))
        at = {"step": step, "tokens": 10 * step, "flops": 100.0 * step, "seconds": 0.5 * step}
        at["wall_seconds"] = 0.6 * step
        records.append({"kind": "train"} | at | {"loss": loss, "gradient_norm": 1.0})
        if step % 20 == 0 and step:
            records.append({"kind": "eval"} | at | {"loss": loss, "bits_per_byte": loss})
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    summary = json.loads((path / "summary.json").read_text()) | {"best_step": steps}
    summary |= dict.fromkeys(("val_loss", "best_val_loss"), end)
    (path / "summary.json").write_text(json.dumps(summary))
    return read_run(path)


def test_the_share_of_the_fall_of_a_straight_line_is_its_part(tmp_path):
    shares = convergence.early_shares(linear_run(tmp_path, "r", 6.0, 2.0))
    assert shares == pytest.approx({p: p / 0.94 for p in (0.1, 0.25, 0.5)}, abs=1e-9)


def test_a_common_loss_is_reached_where_the_line_crosses_it(tmp_path):
    fast, slow = (linear_run(tmp_path, n, 6.0, end) for n, end in (("fast", 2.0), ("slow", 4.0)))
    assert convergence.common_loss([fast, slow], "loss") == 4.0
    where = convergence.reached(fast, 4.0, "loss")
    assert where == pytest.approx({"step": 47, "tokens": 470, "flops": 4700, "seconds": 23.5})
    assert convergence.reached(slow, 4.0, "loss")["step"] == pytest.approx(100, abs=6.1)
    assert convergence.reached(slow, 3.9, "loss") is None


def test_losses_at_equal_budgets_are_read_off_the_curves(tmp_path):
    a, b = linear_run(tmp_path, "a", 6.0, 2.0), linear_run(tmp_path, "b", 6.0, 2.0, steps=60)
    x = convergence.common_budget([a, b], "tokens", "loss")
    assert x == 600
    assert convergence.loss_at(a, "tokens", x, "loss") == pytest.approx(6 - 4 * 60 / 94)
    assert convergence.loss_at(a, "tokens", 150, "loss") is None  # before the first evaluation
    assert convergence.loss_at(b, "tokens", 601, "loss") is None


def test_curves_against_time_are_drawn_though_the_seeds_times_do_not_overlap():
    from jaxlm.compare.figures.curves import _over_seeds

    curves = {"fast": ([1.0, 2.0], [5.0, 3.0]), "slow": ([11.0, 12.0], [6.0, 4.0])}
    points = {name: tuple(map(np.array, both)) for name, both in curves.items()}
    x, middle, low, high = _over_seeds(["fast", "slow"], points.__getitem__)
    assert x.tolist() == [6.0, 7.0] and middle.tolist() == [5.5, 3.5]
    assert low.tolist() == [5.0, 3.0] and high.tolist() == [6.0, 4.0]
    points["short"] = tuple(map(np.array, ([1.5], [4.0])))
    x, middle, *_ = _over_seeds(["fast", "short"], points.__getitem__)
    assert x.tolist() == [1.5] and middle.tolist() == [4.0]


# -- claims and sweeps ---------------------------------------------------------------------------

TABLE = {
    ("base", "perplexity"): {0: 40.0, 1: 42.0, 2: 41.0},
    ("big", "perplexity"): {0: 10.0, 1: 10.6, 2: 10.2},
    ("same", "perplexity"): {0: 41.0, 1: 41.0, 2: 41.2},
    ("alone", "perplexity"): {0: 10.0},
    ("base", "parameters"): {0: 100, 1: 100},
    ("big", "parameters"): {0: 200, 1: 200},
    ("base", "steps_per_second"): {0: 10.0, 1: 10.1, 2: 10.2},
    ("big", "steps_per_second"): {0: 15.0, 1: 15.1, 2: 15.3},
}
DIVERGED = {"base": 0, "big": 0, "same": 0, "alone": 0, "lost": 3}


@pytest.mark.parametrize(
    ("better", "than", "metric", "factor", "answer", "part"),
    [
        ("big", "base", "perplexity", None, HOLDS, "p < 0.001"),
        ("base", "big", "perplexity", None, FAILS, "+"),
        ("same", "base", "perplexity", None, OPEN, "p = 0"),
        ("alone", "base", "perplexity", None, OPEN, "difference −30"),
        ("big", "base", "perplexity", 4.0, HOLDS, "within the interval"),
        ("big", "base", "perplexity", 3.0, HOLDS, "at least that"),
        ("big", "base", "perplexity", 36, FAILS, "the direction holds, the size does not"),
        ("same", "base", "perplexity", 5, FAILS, "ruled out"),
        ("alone", "base", "perplexity", 4.0, OPEN, "4 times"),
        ("big", "base", "steps_per_second", 1.44, HOLDS, "at least that"),
        ("base", "big", "parameters", None, HOLDS, "100"),
        ("big", "base", "parameters", None, FAILS, "200"),
        ("big", "lost", "perplexity", None, HOLDS, "lost diverged in 3 of 3 runs"),
        ("lost", "big", "perplexity", None, FAILS, "lost diverged in 3 of 3 runs"),
        ("big", "nobody", "perplexity", None, OPEN, "no variant 'nobody'"),
        ("big", "base", "beauty", None, OPEN, "no metric 'beauty'"),
        ("big", "base", "accuracy", None, OPEN, "no finished run with accuracy"),
    ],
)
def test_a_claim_is_answered(better, than, metric, factor, answer, part):
    claim = {"text": "so it is", "metric": metric, "better": better, "than": than}
    claim |= {"factor": factor} if factor else {}
    found = answer_claims([claim], lambda v, m: TABLE.get((v, m), {}), DIVERGED)[0]
    assert found.answer == answer and part in found.why


def test_claims_are_corrected_for_their_number():
    values = {("a", "val_loss"): {0: 1.0, 1: 1.02, 2: 1.05}, ("b", "val_loss"): {0: 1.1, 1: 1.1,
              2: 1.2}}  # fmt: skip
    claim = {"text": "", "metric": "val_loss", "better": "a", "than": "b"}
    alone = answer_claims([claim], lambda v, m: values[v, m], {"a": 0, "b": 0})[0]
    assert alone.answer == HOLDS and 0.025 < alone.p < 0.05
    other = {"text": "", "metric": "val_loss", "better": "b", "than": "a"}
    both = answer_claims([claim, other], lambda v, m: values[v, m], {"a": 0, "b": 0})
    assert both[0].p == pytest.approx(2 * alone.p) and both[0].answer == OPEN


def test_claims_per_token_are_open_between_tokenizers():
    claim = {"text": "", "metric": "perplexity", "better": "big", "than": "base"}
    found = answer_claims([claim], lambda v, m: TABLE[v, m], DIVERGED, comparable=False)[0]
    assert found.answer == OPEN and "bits_per_byte" in found.why


def lr_study(folder, losses):
    changes = {f"lr{lr:g}": {"optimizer.lr": lr} for lr in losses}
    named = {f"lr{lr:g}": values for lr, values in losses.items()}
    return compare(load(write_study(folder, named, changes=changes)))


def test_the_best_learning_rate_is_related_to_the_edge_of_divergence(tmp_path):
    found = lr_study(tmp_path / "s", {1e-3: [2.0], 3e-3: [1.8], 1e-2: [1.9], 3e-2: [None]})
    (sweep,) = found.sweeps
    assert sweep.stem == "learning_rate_against_loss"
    assert sweep.lines[0].edge == (0.01, 0.03) and sweep.lines[0].best(-1)[0] == 3e-3
    (said,) = words(sweep, LOSS)
    assert "Best learning rate: **0.003**" in said
    assert "between 0.01 and 0.03" in said and "3.33 to 10 times below" in said


def test_without_divergence_the_edge_lies_above(tmp_path):
    found = lr_study(tmp_path / "s", {1e-3: [2.0], 3e-3: [1.8]})
    (said,) = words(found.sweeps[0], LOSS)
    assert "Nothing diverged up to 0.003" in said and "larger ones may be better" in said


def test_a_rate_at_which_one_seed_diverged_is_beyond_the_edge(tmp_path):
    found = lr_study(tmp_path / "s", {1e-3: [2.0, 2.0], 3e-3: [1.8, None]})
    assert found.sweeps[0].lines[0].edge == (0.001, 0.003)
    assert found.sweeps[0].lines[0].best(-1)[0] == 1e-3


@pytest.mark.parametrize(("highest", "edge"), [(1.05, None), (1.2, (0.001, 0.003))])
def test_a_loss_that_rises_above_its_first_has_diverged(highest, edge, tmp_path):
    """With clipping and norms, it falls again as the learning rate falls, and stays finite."""
    study = write_study(
        tmp_path / "s", {"a": [2.0], "b": [1.9]},
        changes={"a": {"optimizer.lr": 1e-3}, "b": {"optimizer.lr": 3e-3}},
    )  # fmt: skip
    path = study / "b" / "seed0" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    trained = [record for record in records if record["kind"] == "train"]
    trained[3]["loss"] = highest * trained[0]["loss"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = compare(load(study))
    assert found.sweeps[0].lines[0].edge == edge


def test_a_sweep_over_two_keys_has_a_line_for_each_value_of_the_other(tmp_path):
    losses, changes = {}, {}
    for width, lr in itertools.product((64, 128), (1e-3, 1e-2)):
        losses[f"w{width}-{lr}"] = [2.0 - lr]
        changes[f"w{width}-{lr}"] = {"model.d_model": width, "optimizer.lr": lr}
    found = compare(load(write_study(tmp_path / "s", losses, changes=changes)))
    (sweep,) = found.sweeps
    assert [line.label for line in sweep.lines] == ["d_model=64", "d_model=128"]
    assert words(sweep, LOSS)[-1] == "The best learning rate is the same for all: **0.01**."


def test_lines_are_divided_among_panels_by_the_key_with_the_fewest_values(tmp_path):
    losses, changes = {}, {}
    norms, widths, rates = ("rmsnorm", "none"), (64, 128, 256), (1e-3, 1e-2)
    for i, (norm, width, lr) in enumerate(itertools.product(norms, widths, rates)):
        best = 1e-2 if norm == "none" or width == 64 else 1e-3
        losses[str(i)] = [1.8 if lr == best else 1.9]
        changes[str(i)] = {"model.norm": norm, "model.d_model": width, "optimizer.lr": lr}
    found = compare(load(write_study(tmp_path / "s", losses, changes=changes)))
    sweep = next(sweep for sweep in found.sweeps if sweep.key == "optimizer.lr")
    assert {name: len(lines) for name, lines in sweep.panels.items()} == {
        "norm=rmsnorm": 3,
        "norm=none": 3,
    }
    said = words(sweep, LOSS)[-2:]
    assert said[0].startswith("The best learning rate moves (norm=rmsnorm) from 0.001 to 0.01")
    assert said[1] == "The best learning rate is the same for all (norm=none): **0.01**."


def test_a_learning_rate_that_follows_the_batch_size_is_one_sweep_with_it(tmp_path):
    losses = {str(size): [2.0 - size / 100] for size in (1, 4, 16)}
    changes = {
        name: {"train.batch_size": int(name), "optimizer.lr": 1e-3 * math.sqrt(int(name))}
        for name in losses
    }
    found = compare(load(write_study(tmp_path / "s", losses, changes=changes)))
    (sweep,) = found.sweeps
    assert sweep.key == "train.batch_size" and sweep.stem == "batch_size_against_loss"
    assert len(sweep.lines) == 1 and len(sweep.lines[0].points) == 3


def test_a_duration_measured_for_each_seed_is_not_a_difference_between_variants(tmp_path):
    study = write_study(tmp_path / "s", {"a": [2.0, 2.1], "b": [1.9, 2.0]})
    for i, run in enumerate(sorted(study.glob("*/*/config.yaml"))):
        run.write_text(run.read_text().replace("duration: '1000'", f"duration: {i + 10}.5seconds"))
    found = load(study)
    assert len({run.keys["train.duration"] for run in found.runs}) == 4
    assert compare(found).varied == []


def test_experiments_name_only_metrics_that_exist():
    """This finds what a report could not answer before a week of training, not after it."""
    import yaml

    from jaxlm.config.compose import config_folder

    for file in sorted((config_folder() / "experiment").glob("*.yaml")):
        study = yaml.safe_load(file.read_text("utf-8")).get("study") or {}
        reported = [name for by in (study.get("reported") or {}).values() for name in by]
        claimed = [claim["metric"] for claim in study.get("claims") or []]
        assert not {*reported, *claimed} - set(METRICS), file.name
