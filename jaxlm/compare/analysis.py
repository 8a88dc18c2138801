"""Computes a comparison: means, differences from the baseline, verdicts, convergence, claims."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from jaxlm.compare import convergence, sweeps
from jaxlm.compare.claims import Answer, answer_claims, reported_rows
from jaxlm.compare.metrics import METRICS, Metric, metric_named
from jaxlm.compare.reading import Run, Study
from jaxlm.compare.statistics import Difference, Mean, holm, mean, paired, verdict
from jaxlm.compare.variants import differing_keys, same_tokens, text_keys
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError, nearest

_EQUAL = {
    "steps": "Each variant trained for its configured duration.",
    "tokens": "All variants saw the same number of tokens.",
    "time": "All variants had as much wall-clock time as the baseline took.",
}


@dataclass
class Comparison:
    """A study and everything computed from its runs. Built by `compare`."""

    study: Study
    primary: Metric
    baseline: str | None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def variants(self) -> list[str]:
        return self.study.variants

    @cached_property
    def counted(self) -> list[Run]:
        """The runs that finished; all means and curves are over these."""
        return [run for run in self.study.runs if run.complete]

    @cached_property
    def varied(self) -> list[str]:
        """The configuration keys in which the variants differ.

        Keys that vary between the seeds of a variant, such as a measured duration, are excluded.
        """
        loose = {key for v in self.variants for key in differing_keys(self.study.of(v))}
        return [key for key in differing_keys(self.study.runs) if key not in loose]

    @cached_property
    def comparable(self) -> bool:
        """Whether a token is the same for all variants, so that losses per token compare."""
        return same_tokens(self.study.runs, self.varied)

    @property
    def loss(self) -> str:
        """The field of an evaluation that is compared: loss (nats per token) or bits_per_byte."""
        return "loss" if self.comparable else "bits_per_byte"

    @property
    def loss_label(self) -> str:
        unit = "nats per token" if self.comparable else "bits per byte"
        return f"validation loss ({unit})"

    def values(self, variant: str, metric: str) -> dict[int, float]:
        """seed -> value, of the variant's finished runs."""
        runs = [run for run in self.study.of(variant) if run.complete]
        found = ((r.seed, r.metrics.get(metric)) for r in runs)
        return {seed: value for seed, value in found if value is not None}

    def mean(self, variant: str, metric: str) -> Mean | None:
        return mean(list(self.values(variant, metric).values()))

    def mean_of_ranked(self, variant: str) -> Mean:
        """The mean of the primary metric of a variant in `ranking`, which always exists."""
        found = self.mean(variant, self.primary.name)
        assert found is not None
        return found

    @cached_property
    def diverged(self) -> dict[str, int]:
        """Variant -> how many of its runs diverged."""
        return {
            variant: sum(run.status == "diverged" for run in self.study.of(variant))
            for variant in self.variants
        }

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics that at least one finished run has."""
        return [
            metric
            for metric in METRICS.values()
            if any(run.metrics[metric.name] is not None for run in self.counted)
        ]

    @cached_property
    def differences(self) -> dict[str, dict[str, Difference]]:
        """metric -> variant -> difference from the baseline; p is corrected within each metric."""
        found: dict[str, dict[str, Difference]] = {}
        for metric in self.metrics:
            if self.baseline is None or (metric.per_token and not self.comparable):
                continue
            base = self.values(self.baseline, metric.name)
            others = [v for v in self.variants if v != self.baseline]
            tests = {v: paired(self.values(v, metric.name), base) for v in others}
            tests = {v: test for v, test in tests.items() if test is not None}
            corrected = holm([test.p for test in tests.values()])
            found[metric.name] = {
                v: dataclasses.replace(test, p_holm=p)
                for (v, test), p in zip(tests.items(), corrected, strict=True)
            }
        return found

    def verdict(self, variant: str) -> str:
        """The variant against the baseline in the primary metric, in words."""
        lost, runs = self.diverged[variant], len(self.study.of(variant))
        tail = f"; {lost} of {runs} runs diverged" if lost else ""
        if not self.values(variant, self.primary.name):
            return f"diverged in {lost} of {runs} runs" if lost else "not measured"
        if variant == self.baseline:
            return f"baseline{tail}"
        difference = self.differences.get(self.primary.name, {}).get(variant)
        return verdict(self.primary, difference) + tail

    @cached_property
    def answers(self) -> list[Answer]:
        claims = self.study.definition.get("claims") or []
        return answer_claims(claims, self.values, self.diverged, self.comparable)

    @cached_property
    def reported(self) -> list[Json]:
        return reported_rows(self.study.definition.get("reported") or {}, self.values)

    @cached_property
    def ranking(self) -> list[str]:
        """Variants that were measured, best first in the primary metric."""
        known = {v: self.mean(v, self.primary.name) for v in self.variants}
        known = {v: found.value for v, found in known.items() if found}
        return sorted(known, key=lambda v: -self.primary.sign * known[v])

    # -- convergence ---------------------------------------------------------------------------

    def over_seeds(self, variant: str, value: Any) -> Mean | None:
        """Mean over the variant's finished runs of a function of a run; None is skipped."""
        found = [value(run) for run in self.study.of(variant) if run.complete]
        return mean([one for one in found if one is not None])

    @cached_property
    def shares(self) -> dict[str, dict[float, Mean]]:
        """variant -> part of the run -> share of the fall in training loss."""
        found: dict[str, dict[float, Mean]] = {}
        for variant in self.variants:
            by_part = {
                part: self.over_seeds(
                    variant, lambda run, part=part: (convergence.early_shares(run) or {}).get(part)
                )
                for part in convergence.EARLY
            }
            known = {part: share for part, share in by_part.items() if share}
            if len(known) == len(by_part):
                found[variant] = known
        return found

    @cached_property
    def common_loss(self) -> float | None:
        return convergence.common_loss(self.counted, self.loss)

    def reached_by_run(self, variant: str) -> list[dict[str, float]]:
        """Where each finished run of the variant reached the common loss; see `reached`."""
        if self.common_loss is None:
            return []
        runs = [run for run in self.study.of(variant) if run.complete]
        found = [convergence.reached(run, self.common_loss, self.loss) for run in runs]
        return [one for one in found if one is not None]

    @cached_property
    def reaching(self) -> dict[str, dict[str, Mean]]:
        """variant -> step, tokens, flops, seconds -> where it reached the common loss."""
        found = {v: self.reached_by_run(v) for v in self.variants}
        return {
            variant: {
                name: cast(Mean, mean([one[name] for one in runs])) for name in convergence.BUDGETS
            }
            for variant, runs in found.items()
            if runs
        }

    @cached_property
    def at_equal_budgets(self) -> dict[str, Json]:
        """step, tokens, flops, seconds -> the common x and each variant's loss there."""
        found = {}
        for name in convergence.BUDGETS:
            x = convergence.common_budget(self.counted, name, self.loss)
            if x is None:
                continue
            losses = {
                variant: self.over_seeds(
                    variant,
                    lambda run, name=name, x=x: convergence.loss_at(run, name, x, self.loss),
                )
                for variant in self.variants
            }
            found[name] = {"x": x, "loss": losses}
        return found

    @cached_property
    def sweeps(self) -> list[sweeps.Sweep]:
        """Each number that was swept: learning rate, batch size, width, ..."""
        return sweeps.sweeps_of(self.study.runs, self.varied, self.primary)


def compare(study: Study, metric: str | None = None, baseline: str | None = None) -> Comparison:
    """The comparison of a study's variants.

    Verdicts are about `metric`, which defaults to best_val_loss, or to best_bits_per_byte if the
    tokenizers differ. `baseline` defaults to the study's own, or to the first variant. Raises
    UserError if either is unknown.
    """
    comparison = Comparison(study, METRICS["best_val_loss"], None)
    wanted = metric or study.definition.get("metric")
    if wanted:
        comparison.primary = metric_named(wanted)
    elif not comparison.comparable:
        comparison.primary = METRICS["best_bits_per_byte"]
    if comparison.primary.per_token and not comparison.comparable:
        raise UserError(
            f"job.metric={wanted} is measured per token, but the variants' tokenizers differ.\n"
            "Use job.metric=best_bits_per_byte or bits_per_byte."
        )
    comparison.baseline = _baseline(comparison, baseline)
    comparison.notes = _notes(comparison)
    return comparison


def _baseline(comparison: Comparison, asked: str | None) -> str | None:
    variants, name = comparison.variants, comparison.primary.name
    if asked is not None and asked not in variants:
        raise UserError(
            f"job.baseline={asked}: there is no such variant{nearest(asked, variants)}.\n"
            f"Choose from: {'; '.join(variants)}."
        )
    wanted = asked or comparison.study.definition.get("baseline")
    order = [v for v in [wanted, *variants] if v in variants]
    measured = [v for v in order if comparison.values(v, name)]
    return measured[0] if measured else None


def _notes(comparison: Comparison) -> list[str]:
    """What a reader must know before trusting the figures."""
    study = comparison.study
    notes: list[str] = []
    declared = study.definition.get("baseline") or next(iter(comparison.variants), None)
    if comparison.baseline not in (None, declared) and declared in comparison.variants:
        if not comparison.values(declared, comparison.primary.name):
            notes.append(
                f"{declared} has no finished run, so the others are compared with "
                f"{comparison.baseline} instead."
            )
    if not comparison.comparable:
        notes.append(
            "The variants' tokenizers differ, and so do their tokens. Losses in nats per token, "
            "perplexities and accuracies are not comparable between variants, so no differences in "
            "them are given. The comparison uses bits per byte of text."
        )
    counts = (run.metrics["tokens"] for run in comparison.counted)
    tokens = {count for count in counts if count is not None}
    if tokens and max(tokens) > 1.01 * min(tokens):
        notes.append(
            f"The runs saw different numbers of tokens, {min(tokens):,} to {max(tokens):,}: "
            "“What the loss costs” compares them at equal steps, tokens, FLOPs and time."
        )
    texts = text_keys(comparison.varied)
    if texts:
        notes.append(
            f"The variants were evaluated on different texts ({', '.join(texts)}), so differences "
            "in loss also reflect the texts."
        )
    lost = {v: n for v, n in comparison.diverged.items() if n}
    if lost:
        said = ", ".join(f"{v} ({n} of {len(study.of(v))})" for v, n in lost.items())
        notes.append(f"Diverged runs are shown but excluded from means and tests: {said}.")
    seeds = {len(comparison.values(v, comparison.primary.name)) for v in comparison.variants} - {0}
    if seeds == {1}:
        notes.append(
            "Each variant was trained with one seed, so nothing here tells merit from luck."
        )
    machines = {_machine(run) for run in comparison.counted}
    if len(machines) > 1:
        notes.append(
            "The runs come from different machines, so their speeds, times and memory are not "
            "comparable."
        )
    return notes


def _machine(run: Run) -> tuple:
    environment = run.environment
    return (environment.get("platform"), *(environment.get("devices") or []), run.keys["backend"])


def equal_words(study: Study) -> str:
    """What was equal for all variants, if the study says so."""
    return _EQUAL.get(str(study.definition.get("equal")), "")


def to_dict(comparison: Comparison) -> Json:
    """Everything, for research_data.json."""
    study = comparison.study
    return {
        "study": study.name,
        "status": study.status,
        "definition": study.definition,
        "metrics": {m.name: {"unit": m.unit, "better": m.better, "is": m.help} for m in
                    METRICS.values()},
        "primary_metric": comparison.primary.name,
        "baseline": comparison.baseline,
        "varied": comparison.varied,
        "notes": comparison.notes,
        "variants": {v: _variant_dict(comparison, v) for v in comparison.variants},
        "claims": [answer.to_dict() for answer in comparison.answers],
        "reported": comparison.reported,
        "common_loss": comparison.common_loss,
        "at_equal_budgets": {
            name: {"x": found["x"], "loss": _plain(found["loss"])}
            for name, found in comparison.at_equal_budgets.items()
        },
        "sweeps": [_plain(sweep) for sweep in comparison.sweeps],
        "left_out": [
            {"path": study.place(one.path), "reason": one.reason} for one in study.left_out
        ],
        "runs": [run_dict(run) | {"path": study.place(run.path)} for run in study.runs],
    }  # fmt: skip


def _variant_dict(comparison: Comparison, variant: str) -> Json:
    runs = comparison.study.of(variant)
    return {
        "keys": {key: runs[0].keys.get(key) for key in comparison.varied},
        "seeds": [run.seed for run in runs],
        "diverged": comparison.diverged[variant],
        "verdict": comparison.verdict(variant),
        "metrics": {
            metric.name: _plain(comparison.mean(variant, metric.name))
            for metric in comparison.metrics
        },
        "difference_to_baseline": {
            name: _plain(by_variant[variant])
            for name, by_variant in comparison.differences.items()
            if variant in by_variant
        },
        "share_of_fall": _plain(comparison.shares.get(variant)),
        "reached_common_loss_at": _plain(comparison.reaching.get(variant)),
    }


def run_dict(run: Run) -> Json:
    """One run for research_data.json: configuration, summary, metrics and all its records."""
    return {
        "path": str(run.path),
        "variant": run.variant,
        "seed": run.seed,
        "started": run.started,
        "configuration": run.keys,
        "summary": run.summary,
        "metrics": run.metrics,
        "environment": run.environment,
        "train": run.train,
        "eval": run.evals,
        "samples": run.samples,
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def seeds_words(counts: Sequence[int]) -> str:
    """'3 seeds', '1 seed', '2 to 3 seeds'."""
    low, high = min(counts), max(counts)
    return f"{low} to {high} seeds" if low < high else f"{low} seed{'s' if low != 1 else ''}"
