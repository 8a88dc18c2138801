"""Weights alone, in a safetensors file with the canonical names; never a pickle."""

import json
import struct
from pathlib import Path

import numpy as np

from jaxlm.errors import UserError

_PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save since 1.6, and before


def is_weights_file(which: str | int) -> bool:
    """Whether job.checkpoint names a file rather than a step."""
    return isinstance(which, str) and which not in ("last", "best") and not which.isdecimal()


def write_weights(path: str | Path, parameters: dict[str, np.ndarray], about: dict) -> None:
    """Parameters by canonical name, and what else a reader should know, as JSON strings."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(value) for name, value in parameters.items()}
    try:
        save_file(arrays, Path(path), {name: json.dumps(value) for name, value in about.items()})
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from None


def read_weights(
    path: str | Path, shapes: dict[str, tuple[int, ...]], dtype: str
) -> tuple[dict[str, np.ndarray], dict]:
    """(parameters as `dtype`, what `write_weights` was told) of a safetensors file.

    Raises UserError where the file is missing or a pickle, which could run any code when it is
    opened, and where its names or shapes are not those of the model.
    """
    path = Path(path).expanduser()
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"job.checkpoint={path}: {error.strerror}.") from None
    if start.startswith(_PICKLES):
        raise UserError(
            f"{path} is a pickle, which can run any code when it is opened; it was not.\n"
            "Where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            "'weights.safetensors')."
        )
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            about = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(path, there, shapes)
            values = {name: file.get_tensor(name).astype(dtype) for name in shapes}
    except (SafetensorError, struct.error, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}.") from None
    return values, about


def _check_shapes(path: Path, there: dict, wanted: dict) -> None:
    lists = {
        "only in the file": [f"{n} {there[n]}" for n in there if n not in wanted],
        "only in the model": [f"{n} {wanted[n]}" for n in wanted if n not in there],
        "different": [
            f"{n} is {there[n]}, not {wanted[n]}"
            for n in there
            if wanted.get(n, there[n]) != there[n]
        ],
    }
    found = [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]
    if found:
        raise UserError(
            f"{path} does not fit the model of the run.\n{'; '.join(found)}.\n"
            "Use the run that it was trained with."
        )
