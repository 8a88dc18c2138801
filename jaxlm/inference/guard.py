"""Checks a run's files against its checkpoint: contradictions are refused, gaps are filled.

Every checkpoint carries the configuration and the tokenizer it was trained with, and the length and
hash of the records so far, all covered by the hashes of its manifest. Without this check, one
flipped bit in config.yaml, tokenizer.json or metrics.jsonl would silently give wrong results.
"""

import functools
import sys
from pathlib import Path

from jaxlm.config.compose import from_file
from jaxlm.config.schema import Config, differences, identity
from jaxlm.data.dataset import Dataset
from jaxlm.data.tokenizer import Tokenizer, load_tokenizer
from jaxlm.host.checked import Damaged, Json, read_bytes, read_json
from jaxlm.host.errors import UserError
from jaxlm.store import manifest
from jaxlm.store.directory import RunDirectory
from jaxlm.store.formats import SEAL
from jaxlm.store.manifest import NotWhole

CONFIG, TOKENIZER, RECORDS = "config.yaml", "tokenizer.json", "records.json"


def stored_config(run_path: Path) -> Config:
    """The configuration a run was trained with.

    This is config.yaml if it agrees with the newest checkpoint's copy. If config.yaml is missing,
    it is that copy, and a line on standard error says so. Raises UserError if the two differ in
    identity (the keys are named) and if neither exists.
    """
    path, copy = run_path / CONFIG, carried(run_path, CONFIG)
    if copy is None:
        return from_file(path)
    trained = from_file(copy)
    if not path.exists():
        _say(f"{path} is missing; using the copy in {copy.parent}")
        return trained
    config = from_file(path)
    check_identity(config, trained, path, copy.parent)
    return config


def check_identity(config: Config, trained: Config, path: Path, step: Path) -> None:
    """Raises UserError, naming the keys, if `path` differs in identity from the checkpoint."""
    differing = differences(identity(config), identity(trained))
    if differing:
        lines = [f"  {name}: {here}, not {there}" for name, (here, there) in differing.items()]
        raise UserError(
            f"{path} is not the configuration that the checkpoint {step} was trained with:\n"
            + "\n".join(lines)
            + "\nRestore the old file, or remove it to use the checkpoint's copy."
        )


def stored_tokenizer(run_path: Path) -> Tokenizer:
    """The tokenizer a run was trained with; like `stored_config`, for tokenizer.json."""
    path, copy = run_path / TOKENIZER, carried(run_path, TOKENIZER)
    if copy is None:
        return load_tokenizer(path)
    content = read_bytes(path)
    if content is None:
        _say(f"{path} is missing; using the copy in {copy.parent}")
        return load_tokenizer(copy)
    if content != copy.read_bytes():
        raise UserError(
            f"{path} is not the tokenizer that the checkpoint {copy.parent} was trained with.\n"
            "Restore the old file, or remove it to use the checkpoint's copy."
        )
    return load_tokenizer(path)


def records_seal(step: Path) -> Json:
    """`RunDirectory.records_seal` as it was when a checkpoint was saved. Raises NotWhole."""
    return read_json(manifest.verified_file(step, RECORDS), SEAL)


def check_records(run: RunDirectory) -> None:
    """Raises Damaged if the records are not those that the newest checkpoint was saved with."""
    copy = carried(run.path, RECORDS)
    if copy is not None and not run.has_records(read_json(copy, SEAL)):
        raise Damaged(
            f"{run.path / 'metrics.jsonl'} does not match the checkpoint {copy.parent}: records "
            "are missing or altered.\nRestore the file, or start over with run.overwrite=true."
        )


def check_summary(run_path: Path, summary: Json, evaluations: list[Json]) -> None:
    """Raises Damaged if the validation losses of summary.json differ from those of the records."""
    losses = {record["step"]: record.get("loss") for record in evaluations}
    told = {"best_step": "best_val_loss"} | (
        {"step": "val_loss"} if summary.get("step") in losses else {}
    )
    for at, name in told.items():
        step, loss = summary.get(at), summary.get(name)
        if step in losses and None not in (loss, losses[step]) and loss != losses[step]:
            raise Damaged(
                f"{run_path / 'summary.json'} says {name} {loss:.6g}, but metrics.jsonl says "
                f"{losses[step]:.6g} at step {step}: one of them was altered.\nRestore the file, "
                "or start over with run.overwrite=true."
            )


def carried(run_path: Path, name: str) -> Path | None:
    """The copy of a file in the newest intact checkpoint, its hash verified; None without one.

    All checkpoints of a run carry the same configuration and tokenizer, because a run never changes
    its identity.
    """
    folder = run_path / "checkpoints"
    for step in reversed(manifest.whole_steps(folder)):
        try:
            return manifest.verified_file(folder / str(step), name)
        except NotWhole:
            continue  # damaged, pruned meanwhile, or a run without a tokenizer
    return None


@functools.cache
def _say(line: str) -> None:
    """Prints a line once, however often a file is opened."""
    print(line, file=sys.stderr)


def check_data(metadata: Json, dataset: Dataset, run_path: Path) -> None:
    """Raises UserError if the data are not those of the checkpoint with this metadata."""
    trained = metadata.get("data_fingerprint")
    if trained is not None and trained != dataset.fingerprint:
        raise UserError(
            f"The text or token file has changed since {run_path} was trained.\n"
            "Restore the old file, or start over with run.overwrite=true."
        )
