"""Weights alone, in a safetensors file with the canonical names; never a pickle."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.files import atomic_write
from jaxlm.host.names import expanded

_ABOUT = ("step", "documents")


def write_weights(path: str | Path, parameters: dict[str, np.ndarray], about: Json) -> None:
    """Parameters by canonical name; `about` holds the step and whether there are documents."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(value) for name, value in parameters.items()}
    content = save(arrays, {name: json.dumps(about[name]) for name in _ABOUT})
    try:
        atomic_write(expanded(path), content)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from None


def read_weights(
    path: str | Path, shapes: dict[str, tuple[int, ...]], dtype: str
) -> tuple[dict[str, np.ndarray], Json]:
    """(parameters as `dtype`, what is known `about` them) of a safetensors file.

    Raises UserError if the file is missing, if it is a pickle, which could run any code when it is
    opened, or if its names or shapes are not those of the model.
    """
    from safetensors import SafetensorError, safe_open

    path = expanded(path)
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            about = {name: json.loads(metadata[name]) for name in _ABOUT if name in metadata}
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(path, there, shapes)
            values = {name: file.get_tensor(name).astype(dtype) for name in shapes}
    except OSError as error:
        raise UserError(f"job.checkpoint={path}: {error.strerror or error}.") from None
    except (SafetensorError, ValueError, TypeError) as error:
        if _is_pickle(start):
            raise UserError(
                f"{path} is a pickle, which can run any code when it is opened; it was not opened."
                "\nIf you trust it, convert it: safetensors.torch.save_file(torch.load(FILE, "
                "weights_only=True), 'weights.safetensors')."
            ) from None
        raise UserError(f"{path} is not a complete safetensors file: {error}.") from None
    return values, about


def _is_pickle(start: bytes) -> bool:
    """Whether a file that is not safetensors begins like one of torch.save, of any version."""
    return start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and 2 <= start[1] <= 5)


def _check_shapes(path: Path, there: Mapping[str, object], wanted: Mapping[str, object]) -> None:
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
