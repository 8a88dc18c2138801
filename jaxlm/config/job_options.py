"""The options of each job: the keys under `job.*`, which `schema.Config` does not hold."""

from dataclasses import dataclass

from jaxlm.config.keys import Kinds, key


@dataclass
class TrainJob:
    name: str = key("train", "train or resume the run in run.dir")


@dataclass
class EvaluateJob:
    name: str = key(
        "evaluate", "compute the loss and other metrics over a whole split; writes evaluation.json"
    )
    checkpoint: str = key("last", "last, best, a step, or a .safetensors file")
    split: str = key("validation", "the split to evaluate", choices=("validation", "train"))
    max_batches: int | None = key(None, "stop after this many batches; null: the whole split")


@dataclass
class StudyJob:
    name: str = key("study", "train all variants and seeds of study.*, then write a report")


@dataclass
class LadderJob:
    name: str = key(
        "ladder",
        "train every size at every budget, each to the end of its schedule, and fit the law",
    )
    sizes: str = key(
        "24x2, 32x2, 48x2, 64x2, 96x2, 128x2, 160x2",
        "list of width x layers; all sizes use the same model.head_dim",
    )
    flops: str | None = key(
        "3.8e11, 7.7e11, 1.5e12, 3.8e12",
        "compute budgets (6 N D), one per IsoFLOP curve; null: none",
    )
    tokens: str | None = key(None, "token budgets, in addition to job.flops or instead of it")
    seeds: list[int] | None = key(
        None, "train every size and budget with each of these seeds; null: only with seed"
    )
    least_tokens: str = key("0.5M", "skip runs with fewer training tokens")
    most_tokens: str | None = key("8M", "skip runs with more training tokens; null: no limit")
    lr_width_exponent: float = key(
        -1.0, "lr = optimizer.lr x (width / model.d_model)^this x (tokens / train.duration)^..."
    )
    lr_token_exponent: float = key(-0.25, "...this: the base configuration has optimizer.lr")
    holdout: float | None = key(
        None, "fit the runs up to this share of the largest compute; null: all but the largest"
    )
    out: str | None = key(None, "folder for the fit and its report; null: run.dir/fit")


@dataclass
class GenerateJob:
    name: str = key("generate", "generate text; standard output receives only the text")
    checkpoint: str = key("last", "last, best, a step, or a .safetensors file")
    prompt: str = key("", "text to continue")
    prompt_file: str | None = key(None, "file with the prompt; - reads standard input")
    samples: int = key(1, "number of texts, generated together")
    max_tokens: int = key(256, "number of tokens to generate after the prompt")
    temperature: float = key(0.8, "divisor of the logits; 0: greedy")
    top_k: int | None = key(None, "keep only the k likeliest tokens")
    top_p: float | None = key(
        None, "keep the smallest set of tokens whose total probability reaches p"
    )
    min_p: float | None = key(
        None, "keep tokens with at least this fraction of the highest probability"
    )
    repetition_penalty: float = key(1.0, "divisor of the positive logits of tokens already seen")
    stop: str | None = key(None, "stop a text before this string")
    stream: bool = key(True, "print tokens as they are generated (one sample only)")
    seed: int = key(0, "seed for sampling")


@dataclass
class LogitsJob:
    name: str = key("logits", "write the float32 logits for given tokens")
    checkpoint: str = key("last", "last, best, a step, or a .safetensors file")
    tokens: str | None = key(None, ".npy file of integers, batch x length")
    out: str = key("logits.npy", ".npy file to write, batch x length x vocabulary")


@dataclass
class ParityJob:
    name: str = key("parity", "compare JAX with PyTorch on this machine; prints a table of errors")
    part: str = key(
        "all",
        "what to compare",
        choices=(
            "all", "forward", "gradients", "optimizer", "trajectory", "generation", "evaluation"
        ),
    )  # fmt: skip
    steps: int = key(200, "number of training steps to compare")
    max_tokens: int = key(256, "tokens to generate")
    out: str = key("parity.json", "output file for the table")


@dataclass
class FitJob:
    name: str = key(
        "fit", "fit a scaling law to records, with intervals; writes fit.json, figures and a report"
    )
    records: str | None = key(
        None,
        "a CSV file (also with tabs or semicolons), a JSON, Parquet or npy file, a run directory, "
        "a "
        "folder of runs or files, or a glob of these",
    )
    law: str = key(
        "chinchilla",
        "the law: chinchilla, tied, data_constrained, or one of power_N, power_D and power_C, "
        "which "
        "have a single variable",
    )
    delta: float | None = key(1e-3, "Huber's delta in log loss; null: least squares")
    fix: str | None = key(
        None, "parameters to hold fixed, such as 'E=1.69, alpha=0.34'; they get no interval"
    )
    bootstrap: int = key(4000, "number of resamples for the intervals; 0: no intervals")
    bootstrap_starts: int = key(1, "starting points for the fit of each resample")
    count: str | None = key(
        None,
        "the parameters that N counts, if the records have both",
        choices=(None, "non_embedding", "total"),
    )
    where: str | None = key(
        None, "use only rows that match: column=value, column<value, column>value"
    )
    columns: str | None = key(
        None, "the meaning of columns, such as N=size*1e6, loss=c4_val; null: by their names"
    )
    keep: str = key(
        "final",
        "final: each run's last point; best: the lowest final loss at each N and D; all: every "
        "evaluation",
        choices=("final", "best", "all"),
    )
    holdout: str | None = key(
        None,
        "hold out and predict records above these FLOPs (1e21); 10x: above a tenth of the largest",
    )
    budgets: list[float] = key(
        [], "FLOPs to allocate; empty: 1, 10 and 100 times the largest record"
    )
    out: str = key("fit", "folder for fit.json, figures and report.md")


@dataclass
class PredictJob:
    name: str = key(
        "predict", "predict the loss, the best N and D, the least C, or plan a run, from a fit.json"
    )
    fit: str = key("fit/fit.json", "the fit.json written by job=fit, or its folder")
    N: float | None = key(None, "parameters, counted as in the fit")
    D: float | None = key(None, "training tokens")
    C: float | None = key(None, "FLOPs: 6 N D, plus 2 N per inference token")
    U: float | None = key(None, "data_constrained: unique training tokens")
    target_loss: float | None = key(None, "loss to reach, in nats per token")
    inference_tokens: float = key(
        0.0, "tokens to process after training; their cost counts as well"
    )
    hours: float | None = key(None, "plan the best run for this number of hours")
    device: str | None = key(
        None, "the device to plan for, such as H100; null: measure this machine"
    )
    mfu: float = key(0.4, "share of a named device's peak that training reaches")
    out: str | None = key(None, "JSON file for the result")


@dataclass
class ReportJob:
    name: str = key(
        "report", "compare the runs of a study, or any runs; job.runs='runs/**' lists every run"
    )
    runs: str | None = key(None, "the folder of a study, a folder of runs, or a glob of these")
    kind: str = key(
        "auto",
        "comparison: compare variants; log: list every run; auto: log if job.runs contains **",
        choices=("auto", "comparison", "log"),
    )
    metric: str | None = key(
        None, "the metric for verdicts; null: best_val_loss (bits per byte if tokenizers differ)"
    )
    baseline: str | None = key(
        None, "the variant that others are compared with; null: the study's, or the first"
    )
    sort: str = key("newest", "log: newest (newest first), or a metric (best first)")
    out: str | None = key(None, "folder for the report; null: the study's folder, or report")


@dataclass
class DoctorJob:
    name: str = key(
        "doctor", "show devices, versions, memory and disk, run a self-test and give advice"
    )


JOBS = Kinds(
    TrainJob, EvaluateJob, GenerateJob, LogitsJob, StudyJob, ReportJob, LadderJob, FitJob,
    PredictJob, ParityJob, DoctorJob,
)  # fmt: skip

OPENING = ("evaluate", "generate", "logits")
"""Jobs that open a trained run and use the data of that run."""
