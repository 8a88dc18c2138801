"""A run in words: report.md, and the lines that end a run on the console."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jaxlm.config.corpora import Hub, Text, Tokens
from jaxlm.config.model_kinds import POSITIONS
from jaxlm.config.schema import Config, resolve_model
from jaxlm.host import markdown, names
from jaxlm.host.checked import Json
from jaxlm.host.files import atomic_write
from jaxlm.host.markdown import bullets, fenced, table
from jaxlm.host.progress import clock
from jaxlm.inference.commands import how, next_commands, overrides
from jaxlm.inference.figures import smoothing_width
from jaxlm.spec.flops import flops_words
from jaxlm.store.late import last_loss

Records = list[Json]

_CAPTIONS = {
    "loss": "Training and validation loss against steps, tokens and wall-clock time. {train}",
    "perplexity": "Perplexity, the exponential of the loss, over its whole range. {train}",
    "accuracy": "How often the likeliest token is right, or one of the five likeliest; mean "
    "probability of the likeliest token; bits per byte of text.",
    "optimization": "Learning rate, and norm of the gradient before clipping (bold: the mean of "
    "{width} records).",
    "gradient_norms": "Gradient norm of each parameter group, before clipping.",
    "weight_norms": "Weight norm of each parameter group.",
    "update_norms": "Norm of each parameter group's update.",
    "update_ratio": "Norm of each update relative to the norm of the weights it changes.",
    "activation_rms": "Root mean square of the residual stream after each block.",
    "speed": "Tokens per second of training time (no evaluation, no compilation) over the last "
    "{width} records; memory in use.",
}
_TRAIN = (
    "Training: the loss of each recorded step's batch (pale) and the mean of {width} records, "
    "fewer at both ends (bold)."
)
REPORT_END = "All numbers are in `metrics.jsonl` and `summary.json`, all keys in `config.yaml`."


def write_run_report(
    path: Path,
    config: Config,
    summary: Json,
    records: Records,
    samples: Sequence[str],
    figures: Sequence[Path],
) -> None:
    """Write a run's Markdown page to `path`, a file in the run directory."""
    again = ["python", "run.py", *overrides(config), *how(config)]
    going_on = next_commands(config, summary, path.parent)
    parts = [
        f"# {config.run.name}",
        _status(summary) + ".",
        "## What was trained",
        bullets(f"**{name}**: {value}" for name, value in description(config, summary)),
        "## Result",
        table(["", ""], results(summary, records), (0, 1)),
        *(_figure(figure, path.parent, records) for figure in figures),
        *_sample(samples),
        "## Reproduce and continue",
        "This command trains the same model in an empty folder, bit for bit on the machine and "
        "versions of `environment.json`:",
        fenced(names.command_line(again), "sh"),
        "Next steps:",
        fenced("\n".join(f"{command}  # {why}" for command, why in going_on), "sh"),
        REPORT_END,
    ]
    text = "\n\n".join(parts) + "\n"
    atomic_write(path, text.encode("utf-8", "backslashreplace"))


def summary_lines(config: Config, summary: Json, records: Records, run_path: Path) -> list[str]:
    """The lines a run prints when it ends: result, speed, files, and the next commands."""
    table = results(summary, records)
    width = max(len(name) for name, _ in table)
    lines = ["", f"{run_path}: {_status(summary)}"]
    lines += [f"  {name:<{width}}  {value}" for name, value in table]
    there = ["report.md", "plots/", "samples.txt", "metrics.jsonl", "checkpoints/"]
    there = [name for name in there if (Path(run_path) / name).exists() or name == "report.md"]
    lines.append(f"  {'files':<{width}}  {', '.join(there)} in {run_path}")
    commands = next_commands(config, summary, run_path)
    return lines + ["", "next:", *(f"  {line}" for line, _ in commands)] if commands else lines


def _status(summary: Json) -> str:
    words = str(summary["status"]).replace("_", " ")
    reason = f" ({summary['reason']})" if summary.get("reason") else ""
    time = f"{clock(summary['wall_seconds'])} of wall-clock time"
    return f"{words}{reason} at step {summary['step']:,} after {time}"


def description(config: Config, summary: Json) -> list[tuple[str, str]]:
    """(name, description) of the model, the data and the training."""
    model, train = resolve_model(config.model), config.train
    positions = model.context_length if POSITIONS[model.position].learned else 0
    vocab_size = summary["embedding_parameters"] // model.d_model - positions
    heads = f"{model.n_heads} heads of {model.head_dim}"
    if model.n_kv_heads != model.n_heads:
        heads += f" ({model.n_kv_heads} for keys and values)"
    norm = "no norm" if model.norm == "none" else f"{model.norm_placement}-{model.norm}"
    tied = "tied" if model.tie_embeddings else "untied"
    warmup = f"warm-up {config.schedule.warmup}"
    blocks = f"{model.n_layers} block{'s' * (model.n_layers > 1)}"
    heads = heads.replace("1 heads", "1 head") if model.n_heads == 1 else heads
    return [
        (
            "model",
            f"{blocks}, {model.d_model} wide, {heads}, {model.ffn} {model.d_ff}, "
            f"{norm}, {model.position} positions, {tied} head, context {model.context_length}",
        ),
        (
            "parameters",
            f"{summary['parameters']:,}, of which {summary['non_embedding_parameters']:,} are "
            "outside the embedding and the head",
        ),
        ("data", f"{_corpus(config)}; {_tokenizer(config)}, vocabulary {vocab_size:,}"),
        (
            "training",
            f"{_duration(train.duration)} of {train.batch_size} x {model.context_length} tokens a "
            f"step, {config.optimizer.name} at a learning rate of {config.optimizer.lr:g}, "
            f"{config.schedule.name} ({warmup}), {config.precision}, seed {config.seed}, "
            f"backend {config.backend}",
        ),
    ]


def _corpus(config: Config) -> str:
    """The corpus that was read: a path or a hub name only if it had an effect."""
    data = config.data
    if isinstance(data, Hub):
        return names.shown(data.path or str(data.hub))
    return names.shown(data.path) if isinstance(data, Text | Tokens) and data.path else data.name


def _tokenizer(config: Config) -> str:
    name = config.tokenizer.name
    return "token ids as they are" if name == "none" else f"tokenizer {name}"


def _duration(text: str) -> str:
    """train.duration; a bare number gets its unit."""
    bare = re.fullmatch(r"[\d.e+]+[kKMGBT]?", text)
    return f"{text} steps" if bare else text


def results(summary: Json, records: Records) -> list[tuple[str, str]]:
    """(name, value with its unit) of every result of a run."""
    evals = [record for record in records if record["kind"] == "eval"]
    rows: list[tuple[str, str]] = []
    if evals:
        rows += _validation(evals[-1], summary)
    train = [record for record in records if record["kind"] == "train"]
    if last := last_loss(train):
        rows.append(("training loss", f"{last[0]:.4f}, {last[1]}"))
    rows += [("data", note) for note in summary.get("data_notes") or ()]
    rows.append(("tokens", f"{summary['tokens']:,}"))
    time = f"{summary['seconds']:.1f} s"
    if summary["seconds"] >= 60:
        time = f"{clock(summary['seconds'])} ({time})"
    rows.append(("training time", f"{time}, without compilation and evaluation"))
    if summary.get("tokens_per_second"):
        rows.append(
            ("mean speed", f"{summary['tokens_per_second']:,.0f} tokens/s of training time")
        )
    if summary.get("mfu"):
        rows.append(("model FLOP utilisation", f"{summary['mfu']:.1%}"))
    rows.append(("training FLOPs", flops_words(summary["flops"], summary["flops_exact"])))
    if (summary.get("packed") or 1) > 1:
        together = f"{summary['packed']} runs in one program"
        rows.append(("trained together", f"{together}: time, speed and memory are the program's"))
    peak = f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB"
    rows.append(("peak memory", f"{peak}, of the device (on a CPU, of the process)"))
    return rows


def _validation(last: Json, summary: Json) -> list[tuple[str, str]]:
    def shown(name: str, form: str) -> str:
        return "not finite" if last.get(name) is None else format(last[name], form)

    loss, error = shown("loss", ".4f"), last.get("standard_error")
    within = "" if error is None else f" ± {error:.4f}"
    said = f"{loss}{within} nats per token at step {last['step']:,}"
    rows = [("validation loss", said + " (± standard error)" * (error is not None))]
    best, floor = summary.get("best_val_loss"), summary.get("entropy_floor")
    if best is not None and summary["best_step"] != last["step"]:
        rows.append(("best validation loss", f"{best:.4f} at step {summary['best_step']:,}"))
    if floor is not None and last["loss"] is not None:
        rows.append(("entropy floor", f"{floor:.4f}, the lowest loss that any model can expect"))
        rows.append(("above the floor", f"{last['loss'] - floor:.4f}"))
    rows.append(("perplexity", shown("perplexity", ".3f")))
    if last.get("bits_per_byte") is not None:
        rows.append(("bits per byte", f"{last['bits_per_byte']:.4f}"))
    rows.append(("accuracy", f"{shown('accuracy', '.2%')}, top-5 {shown('top5_accuracy', '.2%')}"))
    rows.append(("mean confidence", shown("confidence", ".2%")))
    return rows


def _figure(figure: Path, folder: Path, records: Records) -> str:
    where = Path(os.path.relpath(figure, folder)).as_posix()
    width = smoothing_width(sum(record["kind"] == "train" for record in records))
    caption = _CAPTIONS.get(figure.stem, figure.stem)
    caption = caption.format(width=width, train=_TRAIN.format(width=width))
    return markdown.figure(figure.stem.replace("_", " "), where, caption)


def _sample(samples: Sequence[str]) -> list[str]:
    if not samples:
        return []
    return ["## A sample", fenced(samples[0].strip("\n"), "text")]
