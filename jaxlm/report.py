"""A run in words: report.md, and the lines that end a run on the console."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm.config import Config, identity, resolve_model
from jaxlm.console import clock

Records = list[dict[str, Any]]

_CAPTIONS = {
    "loss": "Loss of training and validation against steps, tokens and wall-clock time.",
    "perplexity": "Perplexity, over its whole range.",
    "accuracy": "How often the likeliest token, or one of the five likeliest, is right; mean "
    "probability of the likeliest; bits per byte of text.",
    "optimization": "Learning rate, and norm of the gradient before clipping.",
    "gradient_norms": "Gradient norms of each group of parameters, before clipping.",
    "weight_norms": "Weight norms.",
    "update_norms": "Norms of the steps taken.",
    "update_ratio": "Norm of a step relative to the weights it changes.",
    "activation_rms": "Size of the residual stream after each block.",
    "speed": "Speed between records, evaluation and compilation left out; memory in use.",
}
_PROMPTS = {"stories": "Once", "shakespeare": "ROMEO:"}


def write_run_report(
    path: Path,
    config: Config,
    summary: dict[str, Any],
    records: Records,
    samples: Sequence[str],
    figures: Sequence[Path],
) -> None:
    """Write a run's page, Markdown, to `path`, the run's folder being its parent."""
    again = ["python", "run.py", *overrides(config)]
    going_on = next_commands(config, summary, path.parent, again)
    parts = [
        f"# {config.run.name}",
        _status(summary) + ".",
        "## What was trained",
        _bullets(description(config, summary)),
        "## Result",
        _table(results(summary, records)),
        *(_figure(figure, path.parent) for figure in figures),
        *_sample(samples),
        "## Again, and on",
        "The same model in an empty folder, bit for bit on the machine and versions of "
        "`environment.json`:",
        _fenced(shlex.join(again), "sh"),
        "From here:",
        _fenced("\n".join(f"{command}  # {why}" for command, why in going_on), "sh"),
        "All numbers are in `metrics.jsonl` and `summary.json`, all keys in `config.yaml`.",
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def summary_lines(
    config: Config, summary: dict[str, Any], records: Records, run_path: Path
) -> list[str]:
    """What a run prints when it ends: result, speed, where everything is, what to type next."""
    table = results(summary, records)
    width = max(len(name) for name, _ in table)
    lines = ["", f"{run_path}: {_status(summary)}"]
    lines += [f"  {name:<{width}}  {value}" for name, value in table]
    there = ["report.md", "plots/", "samples.txt", "metrics.jsonl", "checkpoints/"]
    there = [name for name in there if (Path(run_path) / name).exists() or name == "report.md"]
    lines += [f"  {'files':<{width}}  {', '.join(there)} in {run_path}", "", "next:"]
    again = ["python", "run.py", *overrides(config)]
    return lines + [f"  {line}" for line, _ in next_commands(config, summary, run_path, again)]


def _status(summary: dict[str, Any]) -> str:
    words = str(summary["status"]).replace("_", " ")
    reason = f" ({summary['reason']})" if summary.get("reason") else ""
    return f"{words}{reason} at step {summary['step']:,} after {clock(summary['wall_seconds'])}"


def description(config: Config, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, which) of the model, the data and the training."""
    model, train = resolve_model(config.model), config.train
    positions = model.context_length if model.position == "learned" else 0
    vocab_size = summary["embedding_parameters"] // model.d_model - positions
    heads = f"{model.n_heads} heads of {model.head_dim}"
    if model.n_kv_heads != model.n_heads:
        heads += f" ({model.n_kv_heads} for keys and values)"
    norm = "no norm" if model.norm == "none" else f"{model.norm_placement}-{model.norm}"
    tied = "tied" if model.tie_embeddings else "untied"
    warmup = f"warm-up {config.schedule.warmup}"
    text = config.data.path or config.data.name
    return [
        (
            "model",
            f"{model.n_layers} blocks, {model.d_model} wide, {heads}, {model.ffn} {model.d_ff}, "
            f"{norm}, {model.position} positions, {tied} head, context {model.context_length}",
        ),
        (
            "parameters",
            f"{summary['parameters']:,}, of them {summary['non_embedding_parameters']:,} without "
            "embedding and head",
        ),
        ("data", f"{text}; tokenizer {config.tokenizer.name}, vocabulary {vocab_size:,}"),
        (
            "training",
            f"{train.duration} at {train.batch_size} x {model.context_length} tokens a step, "
            f"{config.optimizer.name} {config.optimizer.lr:g}, {config.schedule.name} ({warmup}), "
            f"{config.precision}, seed {config.seed}",
        ),
    ]


def results(summary: dict[str, Any], records: Records) -> list[tuple[str, str]]:
    """(name, value with its unit) of all that is known about a run."""
    evals = [record for record in records if record["kind"] == "eval"]
    rows: list[tuple[str, str]] = []
    if evals:
        rows += _validation(evals[-1], summary)
    rows += [("data", note) for note in summary.get("data_notes") or ()]
    rows.append(("tokens", f"{summary['tokens']:,}"))
    rows.append(("training time", f"{clock(summary['seconds'])} ({summary['seconds']:.1f} s)"))
    if summary.get("tokens_per_second"):
        rows.append(("speed", f"{summary['tokens_per_second']:,.0f} tokens/s"))
    if summary.get("mfu"):
        rows.append(("model FLOP utilisation", f"{summary['mfu']:.1%}"))
    rows.append(("training FLOPs", f"{summary['flops_exact']:.3g}"))
    rows.append(("peak memory", f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB"))
    return rows


def _validation(last: dict[str, Any], summary: dict[str, Any]) -> list[tuple[str, str]]:
    def shown(name: str, form: str) -> str:
        return "not finite" if last.get(name) is None else format(last[name], form)

    loss = shown("loss", ".4f")
    if last.get("standard_error") is not None:
        loss += f" ± {last['standard_error']:.4f}"
    rows = [("validation loss", f"{loss} nats per token at step {last['step']:,}")]
    best, floor = summary.get("best_val_loss"), summary.get("entropy_floor")
    if best is not None and summary["best_step"] != last["step"]:
        rows.append(("best validation loss", f"{best:.4f} at step {summary['best_step']:,}"))
    if floor is not None and last["loss"] is not None:
        rows.append(("entropy floor", f"{floor:.4f}, no model can be below it"))
        rows.append(("above the floor", f"{last['loss'] - floor:.4f}"))
    rows.append(("perplexity", shown("perplexity", ".3f")))
    if last.get("bits_per_byte") is not None:
        rows.append(("bits per byte", f"{last['bits_per_byte']:.4f}"))
    rows.append(("accuracy", f"{shown('accuracy', '.2%')}, top-5 {shown('top5_accuracy', '.2%')}"))
    rows.append(("mean confidence", shown("confidence", ".2%")))
    return rows


def next_commands(
    config: Config, summary: dict[str, Any], run_path: Path, again: Sequence[str]
) -> list[tuple[str, str]]:
    """(command, what for), most wanted first; `again` are the words that train the run."""
    folder = shlex.quote(f"run.dir={run_path}")
    commands = []
    if config.tokenizer.name != "none":
        prompt = shlex.quote(_PROMPTS.get(config.data.name, "The"))
        prompt = prompt if prompt.startswith("'") else f'"{prompt}"'
        commands.append(
            (f"python run.py job=generate {folder} job.prompt={prompt}", "continue a text")
        )
    commands.append(
        (f"python run.py job=evaluate {folder} job.checkpoint=best", "measure the best checkpoint")
    )
    if summary["status"] in ("finished", "stopped_early"):
        seed = config.seed + 1
        rest = [word for word in again if not word.startswith(("seed=", "run.name="))]
        changed = shlex.join([*rest, f"seed={seed}", f"run.name={config.run.name}-seed{seed}"])
        commands.append((changed, "how much is chance? another seed"))
    elif summary["status"] != "diverged":
        commands.append((shlex.join([*again, f"run.dir={run_path}"]), "resume"))
    return commands


def overrides(config: Config) -> list[str]:
    """The shortest command line known that composes to the same identity: from the default
    experiment, or from the run's own.
    """
    from jaxlm.compose import compose, groups

    wanted = _leaves(identity(config))
    names = [n for n in groups()["experiment"] if n == config.run.experiment]
    candidates = []
    for start in [[], *([f"experiment={name}"] for name in names if name != "quickstart")]:
        usual = compose(start)
        there = _leaves(identity(usual))
        differing = [f"{key}={_typed(v)}" for key, v in wanted.items() if there.get(key, v) != v]
        job = [] if usual.job.name == "train" else ["job=train"]  # one run of a study or ladder
        candidates.append((start + job, differing))
    start, differing = min(candidates, key=lambda found: len(found[1]))
    default = start[0].removeprefix("experiment=") if start else "quickstart"
    named = [] if config.run.name in (None, default) else [f"run.name={config.run.name}"]
    return start + differing + named


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _bullets(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {value}" for name, value in pairs)


def _table(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in pairs)])


def _figure(figure: Path, folder: Path) -> str:
    where = Path(os.path.relpath(figure, folder)).as_posix()
    caption = _CAPTIONS.get(figure.stem, figure.stem)
    return f"![{figure.stem.replace('_', ' ')}]({where})\n\n*{caption}*"


def _sample(samples: Sequence[str]) -> list[str]:
    if not samples:
        return []
    return ["## A sample", _fenced(samples[0].strip("\n"), "text")]


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
