"""The options of each job: what stands under `job.*`, beside `schema.Config`."""

from dataclasses import dataclass

from jaxlm.config.keys import Kinds, key


@dataclass
class TrainJob:
    name: str = key("train", "train, or resume, run.dir")


@dataclass
class EvaluateJob:
    name: str = key("evaluate", "loss and other metrics over a whole split; evaluation.json")
    checkpoint: str = key("last", "last, best, a step, or a .safetensors file")
    split: str = key("validation", "which split", choices=("validation", "train"))
    max_batches: int | None = key(None, "stop after this many batches; null: the whole split")


@dataclass
class StudyJob:
    name: str = key("study", "train all variants and seeds of study.* and report on them")


@dataclass
class LadderJob:
    name: str = key("ladder", "train sizes x budgets, each run to its own end, and fit the law")
    sizes: str = key(
        "24x2, 32x2, 48x2, 64x2, 96x2, 128x2, 160x2",
        "widths x layers; model.head_dim is the same for all",
    )
    flops: str | None = key(
        "3.8e11, 7.7e11, 1.5e12, 3.8e12", "6 N D budgets: the curves of IsoFLOP; null: none"
    )
    tokens: str | None = key(None, "token budgets, beside job.flops or instead of it")
    seeds: list[int] | None = key(None, "train every size and budget with each; null: the seed")
    least_tokens: str = key("0.5M", "leave out shorter runs")
    most_tokens: str | None = key("8M", "leave out longer runs; null: none")
    lr_width_exponent: float = key(
        -1.0, "lr = optimizer.lr x (width / model.d_model)^this x (tokens / train.duration)^..."
    )
    lr_token_exponent: float = key(-0.25, "...this: the base configuration has optimizer.lr")
    holdout: float | None = key(
        None, "fit up to this share of the largest compute; null: all but the largest compute"
    )
    out: str | None = key(None, "folder of the fit and its report; null: run.dir/fit")


@dataclass
class GenerateJob:
    name: str = key("generate", "text on standard output, and nothing else there")
    checkpoint: str = key("last", "last, best, a step, or a .safetensors file")
    prompt: str = key("", "text to continue")
    prompt_file: str | None = key(None, "file that holds the prompt; - is standard input")
    samples: int = key(1, "texts, drawn at once")
    max_tokens: int = key(256, "tokens to generate after the prompt")
    temperature: float = key(0.8, "divides the logits; 0 is greedy")
    top_k: int | None = key(None, "keep the k likeliest tokens")
    top_p: float | None = key(None, "keep the smallest set of tokens whose mass reaches p")
    min_p: float | None = key(None, "keep tokens at least this fraction of the likeliest")
    repetition_penalty: float = key(1.0, "divides positive logits of tokens already seen")
    stop: str | None = key(None, "end a text before this string")
    stream: bool = key(True, "print tokens as they come (one sample only)")
    seed: int = key(0, "seed of the sampling")


@dataclass
class LogitsJob:
    name: str = key("logits", "float32 logits of given tokens")
    checkpoint: str = key("last", "last, best, a step, or a .safetensors file")
    tokens: str | None = key(None, ".npy file of integers, batch x length")
    out: str = key("logits.npy", ".npy file to write, batch x length x vocabulary")


@dataclass
class ParityJob:
    name: str = key("parity", "JAX against PyTorch on this machine, as a table of errors")
    part: str = key(
        "all",
        "what to compare",
        choices=(
            "all", "forward", "gradients", "optimizer", "trajectory", "generation", "evaluation"
        ),
    )  # fmt: skip
    steps: int = key(200, "length of the trajectory")
    max_tokens: int = key(256, "tokens to generate")
    out: str = key("parity.json", "file for the table")


@dataclass
class FitJob:
    name: str = key("fit", "a scaling law from records, with intervals; fit.json, figures, report")
    records: str | None = key(
        None,
        "CSV (tabs and semicolons, too), JSON, parquet or npy file, a run directory, a folder of "
        "runs or files, or a glob of these",
    )
    law: str = key(
        "chinchilla",
        "the law: chinchilla, tied, data_constrained, or power_N, power_D and power_C, which are "
        "in one variable",
    )
    delta: float | None = key(1e-3, "Huber's delta in log loss; null: least squares")
    fix: str | None = key(
        None, "parameters held at a value, as in 'E=1.69, alpha=0.34'; they get no interval"
    )
    bootstrap: int = key(4000, "resamples behind the intervals; 0: none")
    bootstrap_starts: int = key(1, "starts of each resample's fit")
    count: str | None = key(
        None, "what N counts, where records hold both", choices=(None, "non_embedding", "total")
    )
    where: str | None = key(None, "use only these rows: column=value, column<value, column>value")
    columns: str | None = key(
        None, "which column holds what, as N=size*1e6, loss=c4_val; null: by their names"
    )
    keep: str = key(
        "final",
        "each run's last point; best: the lowest of these at each N and D; all: every evaluation",
        choices=("final", "best", "all"),
    )
    holdout: str | None = key(
        None, "predict the records above these FLOPs (1e21), or 10x: above a tenth of the largest"
    )
    budgets: list[float] = key([], "FLOPs to divide; none: 1, 10 and 100 times the largest record")
    out: str = key("fit", "folder for fit.json, figures and report.md")


@dataclass
class PredictJob:
    name: str = key("predict", "loss, best N and D, cheapest C, or a plan, from a fit.json")
    fit: str = key("fit/fit.json", "the fit.json of job=fit, or its folder")
    N: float | None = key(None, "parameters, counted as in the fit")
    D: float | None = key(None, "training tokens")
    C: float | None = key(None, "FLOPs, 6 N D (and 2 N a token of inference)")
    U: float | None = key(None, "data_constrained: unique training tokens")
    target_loss: float | None = key(None, "loss to reach, in nats a token")
    inference_tokens: float = key(0.0, "tokens to be read and written later, paid for too")
    hours: float | None = key(None, "plan the best run for this time")
    device: str | None = key(None, "the plan's device, as H100; null: this machine, measured")
    mfu: float = key(0.4, "share of a named device's peak that training reaches")
    out: str | None = key(None, "JSON file for the answer")


@dataclass
class ReportJob:
    name: str = key(
        "report", "compare a study's or any runs; with job.runs='runs/**' the log of all of them"
    )
    runs: str | None = key(None, "a study's folder, a folder of runs, or a glob of these")
    kind: str = key(
        "auto",
        "a comparison of variants, or the log of every run; auto: the log where job.runs has **",
        choices=("auto", "comparison", "log"),
    )
    metric: str | None = key(
        None, "what verdicts are about; null: best_val_loss (bits per byte between tokenizers)"
    )
    baseline: str | None = key(
        None, "variant that the others are compared with; null: the study's, or the first"
    )
    sort: str = key("newest", "log: newest first, or by any metric, the best first")
    out: str | None = key(None, "folder of the report; null: the study's, or report")


@dataclass
class DoctorJob:
    name: str = key("doctor", "devices, versions, memory, disk, a self-test and advice")


JOBS = Kinds(
    TrainJob, EvaluateJob, GenerateJob, LogitsJob, StudyJob, ReportJob, LadderJob, FitJob,
    PredictJob, ParityJob, DoctorJob,
)  # fmt: skip

OPENING = ("evaluate", "generate", "logits")
"""Jobs that open a trained run, whose data are those of that run."""
