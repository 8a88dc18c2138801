"""job=study: `study.variants` x `study.axes` of an experiment, trained and reported on."""

import dataclasses
import functools
import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlm.config.corpora import Endless
from jaxlm.config.duration import horizon, parse, tokens_needed
from jaxlm.config.schema import Config, StudyConfig, resolve_model
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError, nearest
from jaxlm.host.names import command_line
from jaxlm.spec.flops import flops_words, parameter_counts
from jaxlm.store.directory import read_study
from jaxlm.study.memory_limit import Doubling, sizes_that_fit
from jaxlm.study.runner import run_study
from jaxlm.study.time_left import training_flops
from jaxlm.study.variants import Member, members_of
from scaling.text_table import text_table

Variants = dict[str, list[str]]
BATCH = "train.batch_size"
_RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


def study_job(config: Config, load_engine: object) -> int:
    """job=study: train what is missing, then report; the exit status is that of the training.

    debug=shapes only shows the plan. Each run has its own process, so the engine is not loaded
    here.
    """
    axes = axes_of(config.study)
    check_names(config.study, variants_of(config, axes))
    if config.debug.shapes:
        config.debug.shapes = False
        print("\n".join(plan_lines(config, _equal(config, variants_of(config, axes)))))
        return 0
    if config.study.equal == "tokens" or isinstance(axes.get(BATCH), Doubling):
        members_of(config, variants_of(config, axes), config.study.seeds)  # refuses wrong variants
    if isinstance(doubling := axes.get(BATCH), Doubling):
        axes[BATCH] = sizes_that_fit(config, BATCH, doubling)
    variants = variants_of(config, axes)
    baseline = config.study.baseline
    baseline = baseline if baseline in variants else next(iter(variants))
    clocked_by = baseline if config.study.equal == "time" else None
    variants = _equal(config, variants, baseline)
    status = run_study(
        config,
        variants,
        config.study.seeds,
        clocked_by=clocked_by,
        definition=definition_of(config, variants, axes, baseline),
    )
    folder = Path(config.run.dir)
    if status < 128 and _has_results(folder):  # else a signal ended it
        from jaxlm.compare.report import write_report

        print(f"report: {write_report(folder, folder, specimens=_specimens(config))}")
    return status


def _specimens(config: Config) -> Callable[[Mapping[str, Path], Path], Json] | None:
    """The function that measures texts of one run of each variant; None if none are wanted."""
    count = config.study.specimens
    if not count or config.tokenizer.name == "none":
        return None
    from jaxlm.compare.texts.specimens import write_specimens

    return functools.partial(write_specimens, samples=min(3, count), measured=count)


def _has_results(folder: Path) -> bool:
    rows = (read_study(folder) or {"runs": []})["runs"]
    return any(row.get("status") in ("finished", "stopped_early") for row in rows)


def definition_of(
    config: Config, variants: Variants, axes: Mapping[str, Any], baseline: str
) -> Json:
    """The definition of the study in study.json, for reports: see `StudyConfig`."""
    study = config.study
    return {
        "question": study.question,
        "variants": variants,
        "axes": dict(axes),
        "seeds": study.seeds,
        "baseline": baseline,
        "equal": study.equal,
        "reported": study.reported,
        "claims": [dataclasses.asdict(claim) for claim in study.claims],
        "experiment": config.run.experiment,
        "command": command_line(["python", *sys.argv]),
    }


# -- variants --------------------------------------------------------------------------------------


def axes_of(study: StudyConfig) -> dict[str, list | Doubling]:
    """Dotted key -> its values. Axes may be nested as keys are. Raises UserError."""
    axes: dict[str, list | Doubling] = {}

    def collect(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            key = prefix + str(name)
            if isinstance(value, Mapping):
                collect(value, f"{key}.")
            elif isinstance(value, list) and value:
                axes[key] = value
            elif key == BATCH and Doubling.pattern.fullmatch(str(value)):
                axes[key] = Doubling.of(value)
            else:
                raise UserError(
                    f"study.axes: {key}={value!r} is not a list of values.\nGive a list such as "
                    f"[1, 2, 4]; for {BATCH}, `doubling to 1024` also works."
                )

    collect(study.axes, "")
    return axes


def variants_of(config: Config, axes: Mapping[str, list | Doubling]) -> Variants:
    """Name -> overrides: the named variants times the product of the axes. Raises UserError.

    A point of the axes is named after its values: lr=0.001,batch_size=16.
    """
    study = config.study
    points: list[Json] = [{}]
    if axes:
        points = [
            dict(zip(axes, values, strict=True))
            for values in itertools.product(*(list(axis) for axis in axes.values()))
        ]
    if not study.variants and not axes:
        raise UserError(
            "The study is empty: it has neither study.variants nor study.axes.\n"
            "Choose an experiment that is a study (--help lists them), or give axes, for example "
            "study.axes.optimizer.lr=[1e-3,3e-3]."
        )
    if not study.seeds:
        raise UserError("The study is empty: study.seeds=[] has no seed.")
    short = _short_names(list(axes))
    found: Variants = {}
    for (name, changes), point in itertools.product((study.variants or {"": []}).items(), points):
        label = ",".join(f"{short[key]}={_label(value)}" for key, value in point.items())
        words = [f"{key}={_word(value)}" for key, value in point.items()]
        words += _retuned(config, point, [*changes, *words])
        full = ",".join(filter(None, [name, label]))
        if full in found:
            raise UserError(
                f"study.axes: two of its points would share the folder {full}.\n"
                "Remove the repeated value, or name both in study.variants."
            )
        found[full] = [*changes, *words]
    return found


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted keys that tell them apart."""
    last = [key.split(".")[-1] for key in keys]
    return {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _label(value: Any) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, list):
        return "-".join(map(_label, value))
    text = _word(value)
    if isinstance(value, float) and float(f"{value:g}") == value:
        text = f"{value:g}"
    return re.sub(r"[^\w.%+-]", "_", text)


def _retuned(config: Config, point: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """The learning rate for another batch size (study.lr_with_batch), unless it is given."""
    rule = _RULES[config.study.lr_with_batch]
    given = any(word.partition("=")[0] in ("optimizer.lr", "optimizer") for word in words)
    if BATCH not in point or not rule or given:
        return []
    ratio = point[BATCH] / config.train.batch_size
    return [f"optimizer.lr={config.optimizer.lr * ratio**rule:.4g}"]


def check_names(study: StudyConfig, variants: Variants) -> None:
    """Raises UserError if a name is not that of a variant."""
    named = [("study.baseline", study.baseline)] if study.baseline is not None else []
    named += [("study.reported", name) for name in study.reported]
    for claim in study.claims:
        named += [("study.claims, better", claim.better), ("study.claims, than", claim.than)]
    for where, name in named:
        if name not in variants:
            raise UserError(
                f"{where}: there is no variant {name!r}{nearest(name, variants)}.\n"
                f"Choose from: {', '.join(variants)}."
            )
    for name, figures in study.reported.items():
        numbers = isinstance(figures, Mapping) and all(
            isinstance(figure, int | float) for figure in figures.values()
        )
        if not numbers:
            raise UserError(f"study.reported.{name} must hold metrics and their figures.")


# -- equal steps, tokens or time -------------------------------------------------------------------


def _equal(config: Config, variants: Variants, baseline: str | None = None) -> Variants:
    """The variants at the base's tokens, or ready for the baseline's time. Raises UserError.

    Variants that differ only in length are merged; the first is kept.
    """
    if config.study.equal == "steps":
        return variants
    if config.study.equal == "time":
        return _clocked(config, variants, baseline)
    duration = f"{_tokens_of(config)}tokens"
    members = members_of(
        config,
        {name: [*words, f"train.duration={duration}"] for name, words in variants.items()},
        config.study.seeds[:1],
        merge=True,
    )
    kept = {member.variant for member in members}
    for name in variants.keys() - kept:
        print(f"{name}: skipped: with equal tokens it is identical to another variant")
    return {
        name: [*words, f"train.duration={duration}"]
        for name, words in variants.items()
        if name in kept
    }


def _tokens_of(config: Config) -> int:
    """The tokens that the base configuration trains on. Raises UserError."""
    _, unit = parse(config.train.duration, "train.duration")
    if unit == "hours":
        raise UserError(
            f"study.equal=tokens cannot count the tokens of train.duration="
            f"{config.train.duration}.\nWrite it in steps, tokens or epochs."
        )
    train_tokens = 0
    if unit == "epochs":
        from jaxlm.inference.open import prepare

        train_tokens = len(prepare(config).train)
    ahead = horizon(config, train_tokens)
    assert ahead.steps is not None  # the unit is not a time
    return ahead.steps * ahead.tokens_per_step


def _clocked(config: Config, variants: Variants, baseline: str | None) -> Variants:
    """The variants, if no schedule counts steps, since the clock ends runs. Raises UserError.

    An endless corpus is written once for all runs, four times as long as the base needs.
    """
    for name in ("warmup", "decay", "cycle"):
        key, value = f"schedule.{name}", getattr(config.schedule, name, "0%")
        if parse(value, key)[1] not in ("percent", "hours"):
            raise UserError(
                f"study.equal=time requires schedules in percent or hours, but {key}={value}.\n"
                f"Write it in percent of the run."
            )
    needed = tokens_needed(config)
    if needed is not None and isinstance(config.data, Endless):
        config.data.train_tokens = str(4 * needed)
    return variants


# -- the plan --------------------------------------------------------------------------------------


def plan_lines(config: Config, variants: Variants) -> list[str]:
    """The study as a table, and its total cost."""
    members = members_of(config, variants, config.study.seeds[:1])
    rows, found = [], []
    for member in members:
        flops = training_flops(member.config)
        found.append(flops)
        shown = "?" if flops is None else f"{flops:.3g}"
        overrides = " ".join(variants[member.variant])
        parameters, duration = f"{_parameters(member):,}", member.config.train.duration
        rows.append([member.variant, parameters, duration, shown, overrides])
    header = ["variant", "N, non-embedding", "duration", "6 N D FLOPs", "overrides"]
    lines = text_table(header, rows, left=(0, 2, 4)).splitlines()
    runs = len(members) * len(config.study.seeds)
    known = ""
    each = [flops for flops in found if flops is not None]
    if len(each) == len(found):
        known = f"; total FLOPs: {flops_words(sum(each) * len(config.study.seeds))}"
    lines.append(f"{runs} runs, {len(config.study.seeds)} of each variant{known}")
    return lines


def _parameters(member: Member) -> int:
    """Without embeddings and head, since only the data determine the vocabulary size."""
    return parameter_counts(resolve_model(member.config.model, 1)).non_embedding
