"""Texts written by the models of a study, side by side, with their scores."""

import dataclasses
import functools
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxlm.compare.files import write_rows
from jaxlm.compare.texts.scores import (
    LEGEND,
    Specimen,
    TrainingText,
    mean,
    passages,
    scored,
    split_text,
)
from jaxlm.config.compose import from_file
from jaxlm.config.schema import Config
from jaxlm.data.dataset import Dataset
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.files import plain
from jaxlm.inference.engines import engine_class
from jaxlm.inference.generate import LoadedRun
from jaxlm.inference.open import prepare
from jaxlm.spec.contract import LoadEngine
from jaxlm.spec.sampling import Sampling
from jaxlm.store.directory import RunDirectory

SWEEP_TEMPERATURES = (0.3, 0.7, 1.0, 1.3)
SWEEP_TOP_P = (0.8, 0.9, 1.0)
_REFERENCE_GROUPS = 4


# Prompt and decoding by corpus. For the built-in corpus, texts are drawn from the model's unchanged
# distribution, so that their likelihood under the grammar can be compared with the corpus's own.
DEFAULTS = {
    "stories": ("Once", Sampling(1.0)),
    "shakespeare": ("ROMEO:", Sampling(0.8, top_k=40, top_p=0.95)),
    "tinystories": (
        "Once upon a time, there was a little girl named Sue.",
        Sampling(0.3, top_p=0.9),
    ),
    "other": ("", Sampling(0.8, top_k=40, top_p=0.95)),
}


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The settings shared by all models: what is drawn, from which prompt."""

    prompt: str
    sampling: Sampling
    samples: int
    measured: int
    max_tokens: int
    seed: int
    checkpoint: str | int
    searched_tokens: int


class _Written(NamedTuple):
    """The texts of one model, before they are scored."""

    config: Config
    step: int | None
    texts: list[Specimen]
    tokens_per_second: float
    sweep: dict[Sampling, list[Specimen]]


class _Scores(NamedTuple):
    """Scores of one model's texts: of each, of all together, of each setting; of real text."""

    rows: list[Json]
    together: Json
    sweep: list[Json]
    reference: Json


def write_specimens(
    runs: Mapping[str, str | Path],
    out: str | Path,
    *,
    samples: int = 3,
    measured: int = 8,
    max_tokens: int = 300,
    prompt: str | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    checkpoint: str | int = "best",
    sweep: bool = True,
    searched_tokens: int = 5_000_000,
    load_engine: LoadEngine | None = None,
) -> Json:
    """Have each run write `measured` texts from one prompt and seed; their scores, fit for JSON.

    Files in `out`: generation_comparison.csv (every text) and, with `sweep`, decoding_sweep.csv
    (the run with the lowest validation loss, over temperatures and top-p). The result: prompt,
    settings, models (variant -> step, the first `samples` texts with their scores, scores over
    all texts, and reference: the scores of validation text of the same length), scores_legend,
    decoding (a row per setting), notes (what was skipped and why).

    Prompt and decoding default to those of the first run's corpus (DEFAULTS); if one of
    temperature, top_k and top_p is given, the others are 1 and off. Overlaps are searched in the
    first `searched_tokens` tokens of a run's own training text. A run that cannot be opened, or
    cannot write, is named in notes. Without `load_engine`, each run's own backend is used.
    """
    notes: list[str] = []
    configs = _configs(runs, notes)
    given = (temperature, top_k, top_p)
    default_prompt, sampling = DEFAULTS[_corpus(next(iter(configs.values()), Config()))]
    if any(value is not None for value in given):
        sampling = Sampling(1.0 if temperature is None else temperature, top_k, top_p)
    settings = _Settings(
        default_prompt if prompt is None else prompt,
        sampling,
        samples,
        max(samples, measured),
        max_tokens,
        seed,
        checkpoint,
        searched_tokens,
    )
    written = _write_all(runs, configs, settings, sweep, load_engine, notes)
    scores = _score_all(written, settings, notes)
    result = plain(_result(written, scores, settings, notes))
    _write_files(Path(out), written, scores, result["decoding"] if sweep else None)
    return result


def _corpus(config: Config) -> str:
    name, path = config.data.name, getattr(config.data, "path", None)
    told = f"{path} {config.run.experiment}".lower()
    if name in DEFAULTS:
        return name
    return "tinystories" if "tinystories" in told else "other"


def _configs(runs: Mapping[str, str | Path], notes: list[str]) -> dict[str, Config]:
    """The configurations of the runs that can be read."""
    configs = {}
    for variant, path in runs.items():
        try:
            configs[variant] = from_file(Path(path) / "config.yaml")
        except UserError as error:
            notes.append(_left_out(variant, error))
    return configs


def _left_out(variant: str, error: Exception) -> str:
    return f"{variant} is skipped: {' '.join(str(error).splitlines())}"


# -- writing -------------------------------------------------------------------------------------


def _write_all(
    runs: Mapping[str, str | Path],
    configs: Mapping[str, Config],
    settings: _Settings,
    sweep: bool,
    load_engine: LoadEngine | None,
    notes: list[str],
) -> dict[str, _Written]:
    """The texts of each run; the best run that can write also writes those of the sweep."""
    written: dict[str, _Written] = {}
    losses = {variant: _loss(runs[variant]) for variant in configs}
    for variant in sorted(configs, key=lambda variant: losses[variant]):
        backend = configs[variant].backend
        load = load_engine or functools.partial(engine_class, backend)
        try:
            run = _opened(variant, Path(runs[variant]), settings, load, notes)
            written[variant] = _write(run, settings, sweep and not written)
        except UserError as error:
            notes.append(_left_out(variant, error))
    return {variant: written[variant] for variant in runs if variant in written}


def _loss(run: str | Path) -> float:
    """The lowest validation loss of a run; infinite if unknown."""
    try:
        summary = RunDirectory(run).read_summary() or {}
    except UserError:
        return math.inf
    found = [summary.get(name) for name in ("best_val_loss", "val_loss")]
    return next((loss for loss in found if loss is not None), math.inf)


def _opened(
    variant: str, path: Path, settings: _Settings, load: LoadEngine, notes: list[str]
) -> LoadedRun:
    """The run at the requested checkpoint, or at its last one if there is no readable best one."""
    try:
        return LoadedRun(path, settings.checkpoint, load_engine=load)
    except UserError:
        if settings.checkpoint != "best":
            raise
    run = LoadedRun(path, "last", load_engine=load)
    notes.append(f"{variant} has no readable best checkpoint: its last one was used.")
    return run


def _write(run: LoadedRun, settings: _Settings, sweep: bool) -> _Written:
    def texts(sampling: Sampling) -> list[Specimen]:
        options = {"max_tokens": settings.max_tokens, "seed": settings.seed, **sampling._asdict()}
        found = run.continuations(settings.prompt, settings.measured, **options)
        return [Specimen(settings.prompt, *sample) for sample in found]

    grid = [Sampling(t, top_p=p) for t in SWEEP_TEMPERATURES for p in SWEEP_TOP_P] if sweep else []
    return _Written(
        run.config,
        run.step,
        texts(settings.sampling),
        run.tokens_per_second(
            settings.prompt, max_tokens=settings.max_tokens, **settings.sampling._asdict()
        ),
        {sampling: texts(sampling) for sampling in grid},
    )


# -- scoring -------------------------------------------------------------------------------------


def _score_all(
    written: Mapping[str, _Written], settings: _Settings, notes: list[str]
) -> dict[str, _Scores]:
    """The scores of every run's texts; runs of the same data share one search."""
    datasets: dict[str | None, Dataset | None] = {}
    members: dict[str | None, list[str]] = {}
    for variant, found in written.items():
        try:
            dataset = prepare(found.config)
            key = dataset.fingerprint
        except UserError as error:
            dataset, key = None, None
            why = " ".join(str(error).splitlines())
            notes.append(f"{variant}: no training text to search for overlaps: {why}")
        datasets.setdefault(key, dataset)
        members.setdefault(key, []).append(variant)
    scores: dict[str, _Scores] = {}
    for key, variants in members.items():
        own = {variant: written[variant] for variant in variants}
        scores |= _score_together(own, datasets[key], settings, notes)
    if written and not any("self_bleu" in found.together for found in scores.values()):
        notes.append("self_bleu requires nltk: pip install 'jaxlm[text]'.")
    return scores


def _score_together(
    written: Mapping[str, _Written],
    dataset: Dataset | None,
    settings: _Settings,
    notes: list[str],
) -> dict[str, _Scores]:
    """The scores of runs of one dataset."""
    training, reference = None, []
    if dataset is not None:
        searched = min(settings.searched_tokens, len(dataset.train))
        if searched < len(dataset.train):
            notes.append(
                f"{', '.join(written)}: overlaps and known words refer to the first {searched:,} "
                f"of {len(dataset.train):,} training tokens."
            )
        assert dataset.tokenizer is not None  # a run that writes texts has one
        training = TrainingText.of(split_text(dataset.train[:searched], dataset.tokenizer))
        lengths = [len(text.new) for found in written.values() for text in found.texts]
        real = passages(
            dataset,
            round(statistics.median(lengths)),
            _REFERENCE_GROUPS * settings.measured,
            settings.searched_tokens,
        )
        groups = max(1, len(real) // settings.measured)
        reference = [real[i::groups] for i in range(groups)] if real else []
    parts = [part for found in written.values() for part in (found.texts, *found.sweep.values())]
    data = [found.config.data for found in written.values()]
    corpora = {(one.name, getattr(one, "choices", None)) for one in data}
    grammar = {name for name, _ in corpora} == {"stories"}
    choices = corpora.pop()[1] if len(corpora) == 1 else None
    results = iter(scored([*parts, *reference], training, grammar, choices))
    scores = {}
    for variant, found in written.items():
        rows, together = next(results)
        together["tokens_per_second_generating"] = found.tokens_per_second
        scores[variant] = _Scores(rows, together, [next(results)[1] for _ in found.sweep], {})
    of_reference = [together for _, together in results]
    names = of_reference[0] if of_reference else []
    means = {name: mean([found[name] for found in of_reference]) for name in names}
    return {variant: found._replace(reference=means) for variant, found in scores.items()}


# -- the result ----------------------------------------------------------------------------------


def _result(
    written: Mapping[str, _Written],
    scores: Mapping[str, _Scores],
    settings: _Settings,
    notes: list[str],
) -> Json:
    models = {}
    for variant, found in written.items():
        rows = list(zip(found.texts, scores[variant].rows, strict=True))[: settings.samples]
        models[variant] = {
            "step": found.step,
            "samples": [{"text": text.text, "whole": text.whole} | row for text, row in rows],
            "scores": scores[variant].together,
            "reference": scores[variant].reference,
        }
    told = dataclasses.asdict(settings)
    sampling = told.pop("sampling")
    told |= {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p")}
    prompt = told.pop("prompt")
    return {
        "prompt": prompt,
        "settings": told,
        "models": models,
        "scores_legend": LEGEND,
        "decoding": [
            {"variant": variant, "temperature": sampling.temperature, "top_p": sampling.top_p}
            | {"text": texts[0].text}
            | row
            for variant, found in written.items()
            for (sampling, texts), row in zip(
                found.sweep.items(), scores[variant].sweep, strict=True
            )
        ],
        "notes": notes,
    }


def _write_files(
    out: Path,
    written: Mapping[str, _Written],
    scores: Mapping[str, _Scores],
    sweep: list[Json] | None,
) -> None:
    """generation_comparison.csv and, unless None, decoding_sweep.csv. Raises UserError."""
    rows = [
        {"variant": variant, "sample": number, "text": text.text, "whole": text.whole} | row
        for variant, found in written.items()
        for number, (text, row) in enumerate(zip(found.texts, scores[variant].rows, strict=True))
    ]
    first = ["variant", "sample", "text", "whole"]
    write_rows(out / "generation_comparison.csv", _header(first, rows), rows)
    if sweep is not None:
        first = ["variant", "temperature", "top_p", "text"]
        write_rows(out / "decoding_sweep.csv", _header(first, sweep), sweep)


def _header(first: Iterable[str], rows: list[Json]) -> list[str]:
    """`first`, then all other names in the rows."""
    return list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
