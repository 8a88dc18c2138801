"""job=ladder: sizes x budgets, each run with its own complete schedule, and the fitted law."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from jaxlm.config.corpora import Endless
from jaxlm.config.duration import horizon, parse_count
from jaxlm.config.job_options import LadderJob
from jaxlm.config.schema import Config, ModelConfig, resolve_model
from jaxlm.host.errors import UserError
from jaxlm.spec.flops import flops_words, parameter_counts
from jaxlm.store.directory import RunDirectory
from jaxlm.study.runner import finished_runs, run_study
from jaxlm.study.time_left import cost
from jaxlm.study.variants import members_of
from scaling.text_table import text_table


@dataclass(frozen=True)
class Rung:
    """One size at one budget, with the tokens of whole steps."""

    name: str
    model: ModelConfig
    steps: int
    tokens: int
    non_embedding: int
    lr: float

    @property
    def flops(self) -> float:
        """6 N D, N without embeddings."""
        return 6.0 * self.non_embedding * self.tokens

    def words(self) -> list[str]:
        """The overrides that make the base configuration this run."""
        words = [
            f"model.d_model={self.model.d_model}",
            f"model.n_layers={self.model.n_layers}",
            f"model.n_heads={self.model.n_heads}",
            f"train.duration={self.steps}steps",
            f"optimizer.lr={self.lr:.4g}",
        ]
        if self.model.parametrization == "mup":  # the base model's heads have this width as well
            words.append(f"model.head_dim={resolve_model(self.model).head_dim}")
        return words


def rungs(config: Config) -> list[Rung]:
    """The runs of the ladder, cheapest first. Raises UserError.

    All sizes have the head width of the base model, so the number of heads grows with the width.
    The learning rate is a power law of width and tokens that passes through the base's own.
    """
    job: LadderJob = config.job
    least = parse_count(job.least_tokens, "job.least_tokens")
    most = math.inf if job.most_tokens is None else parse_count(job.most_tokens, "job.most_tokens")
    if config.model.parametrization == "mup" and job.lr_width_exponent:
        raise UserError(
            f"job.lr_width_exponent={job.lr_width_exponent} scales the learning rate with the "
            "width, and so does model.parametrization=mup.\nSet job.lr_width_exponent=0."
        )
    found = []
    for width, layers in _sizes(config):
        model = _sized(config.model, width, layers)
        count = parameter_counts(resolve_model(model, 1)).non_embedding
        for budget, tokens in _budgets(job, count):
            rung = _rung(config, f"{width}x{layers}-{budget}", model, tokens)
            if least <= rung.tokens <= most:
                found.append(rung)
    if not found:
        raise UserError(
            f"The ladder has no run with job.least_tokens={job.least_tokens} to "
            f"job.most_tokens={job.most_tokens} tokens.\n"
            "Change them, or job.sizes, job.flops and job.tokens."
        )
    return sorted(found, key=lambda rung: rung.flops)


def _budgets(job: LadderJob, non_embedding: int) -> list[tuple[str, float]]:
    """(name, tokens) of each budget; C FLOPs buy C / 6 N tokens."""
    if job.flops is None and job.tokens is None:
        raise UserError("The ladder has no budget: give job.flops, job.tokens or both.")
    found = []
    for word in [] if job.flops is None else _words(job.flops, "job.flops"):
        found.append((word, parse_count(word, "job.flops") / (6 * non_embedding)))
    for word in [] if job.tokens is None else _words(job.tokens, "job.tokens"):
        found.append((word, parse_count(word, "job.tokens")))
    return found


def _rung(config: Config, name: str, model: ModelConfig, tokens: float) -> Rung:
    job, step = config.job, config.train.batch_size * model.context_length
    steps = max(1, round(tokens / step))
    base = horizon(config, 0)
    if base.steps is None:
        raise UserError(
            f"train.duration={config.train.duration} is a time, but the learning rates of a ladder "
            "depend on its tokens.\nWrite it in tokens or steps."
        )
    lr = config.optimizer.lr * (model.d_model / config.model.d_model) ** job.lr_width_exponent
    lr *= (steps / base.steps) ** job.lr_token_exponent
    count = parameter_counts(resolve_model(model, 1)).non_embedding
    return Rung(name, model, steps, steps * step, count, lr)


def _sized(model: ModelConfig, width: int, layers: int) -> ModelConfig:
    head = resolve_model(model).head_dim
    changes = {"d_model": width, "n_layers": layers, "n_heads": max(1, width // head)}
    return ModelConfig(**(vars(model) | changes))


def _sizes(config: Config) -> list[tuple[int, int]]:
    sizes = []
    for word in _words(config.job.sizes, "job.sizes"):
        match = re.fullmatch(r"(\d+)x(\d+)", word)
        if not match or not int(match[1]) or not int(match[2]):
            raise UserError(
                f"job.sizes: {word!r} is not a width and a number of layers.\n"
                "Write, for example, job.sizes=32x2,64x3."
            )
        sizes.append((int(match[1]), int(match[2])))
    return sizes


def _words(text: str, key: str) -> list[str]:
    words = re.findall(r"[^\s,\[\]]+", text)
    if not words:
        raise UserError(f"{key} is empty.")
    return list(dict.fromkeys(words))


def ladder_job(config: Config, load_engine: object) -> int:
    """job=ladder: train what is missing, then fit; the exit status is that of the study.

    debug=shapes only shows the plan. Each run has its own process, so the engine is not loaded
    here.
    """
    ladder = rungs(config)
    seeds = config.job.seeds or [config.seed]
    if isinstance(config.data, Endless) and config.data.train_tokens is None:
        # One token file for all: a shorter run draws its windows from all of it.
        config.data.train_tokens = str(max(rung.tokens for rung in ladder) + 1)
    variants = {rung.name: rung.words() for rung in ladder}
    if config.debug.shapes:
        config.debug.shapes = False
        print("\n".join(plan_lines(config, ladder, variants, seeds)))
        return 0
    status = run_study(config, variants, seeds)
    if status < 128:  # else a signal ended it
        fit_ladder(Path(config.run.dir), config.job)
    return status


def plan_lines(
    config: Config, ladder: list[Rung], variants: dict[str, list[str]], seeds: list[int]
) -> list[str]:
    """The ladder as a table, and its total cost."""
    members = members_of(config, variants, seeds[:1])
    header = ["run", "N, non-embedding", "tokens", "tokens/N", "6 N D FLOPs", "learning rate"]
    rows = [
        [
            rung.name,
            f"{rung.non_embedding:,}",
            f"{rung.tokens:,}",
            f"{rung.tokens / rung.non_embedding:.3g}",
            f"{rung.flops:.3g}",
            f"{rung.lr:.3g}",
        ]
        for rung in ladder
    ]
    lines = text_table(header, rows).splitlines()
    least, most = ladder[0].flops, ladder[-1].flops
    total = len(seeds) * sum(rung.flops for rung in ladder)
    exact = len(seeds) * sum(cost(member.config) for member in members)
    lines.append(
        f"{len(ladder) * len(seeds)} runs; compute spans {math.log10(most / least):.1f} decades; "
        f"total FLOPs: {flops_words(total, exact)}"
    )
    return lines


def fit_ladder(runs: Path, job: LadderJob) -> None:
    """Fit the law to the finished runs of the ladder in `runs`, and hold out the largest.

    Writes into job.out, or the folder `fit` in `runs`. Raises UserError.
    """
    from jaxlm.predict.jobs import told_to_the_user

    folders = finished_runs(runs)
    if not folders:
        print("no run of the ladder has finished, so there is nothing to fit")
        return
    print("\n" + _losses(runs, folders) + "\n")
    import numpy as np

    from scaling.records.records import read_records
    from scaling.report.analysis import analyse

    with told_to_the_user():
        records = read_records(folders)
        names = [str(Path(run).relative_to(runs)) for run in records.run]
        records = replace(records, run=np.array(names), source="the ladder's runs")
        largest = float(records.C.max())
        # Slightly below the largest, since equal costs may differ by rounding.
        cut = 0.999 * largest if job.holdout is None else job.holdout * largest
        analysis = analyse(records, holdout=cut)
        report = analysis.save(job.out or runs / "fit", "A scaling law of the ladder")
    print(analysis.text() + f"\n\nreport: {report}")


def _losses(runs: Path, folders: list[Path]) -> str:
    rows = []
    for folder in folders:
        summary = RunDirectory(folder).read_summary()
        assert summary is not None  # it has just been trained
        floor = summary["entropy_floor"]
        above = f"{summary['val_loss'] - floor:.4f}" if floor is not None else "-"
        rows.append(
            [
                str(folder.relative_to(runs)),
                f"{summary['non_embedding_parameters']:,}",
                f"{summary['tokens']:,}",
                f"{summary['val_loss']:.4f}",
                above,
            ]
        )
    return text_table(["run", "N", "tokens", "loss", "above the floor"], rows)
