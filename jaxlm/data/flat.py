"""data=tokens: flat files of token ids as other trainers write them, used in place."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxlm.config import Config
from jaxlm.data.cache import digest, remembered
from jaxlm.data.corpora import cut_place
from jaxlm.data.dataset import Dataset, SpelledBytes
from jaxlm.data.encoding import named_tokenizer
from jaxlm.data.tokenfile import hash_file
from jaxlm.errors import UserError

_CHUNK = 1 << 24
_NEAR = 1 << 20


def prepare_flat(config: Config, cache: Path) -> Dataset:
    """The file at data.path, or its last part, mapped into memory and checked. Raises UserError.

    With a tokenizer that has an end_of_text, the split falls on the nearest document end within
    2^20 tokens of data.validation_fraction.
    """
    data = config.data
    if config.tokenizer.name in ("char", "bpe"):
        raise UserError(
            f"tokenizer.name={config.tokenizer.name} cannot be trained on ids (data.name=tokens).\n"
            "Use tokenizer=none with data.vocab_size, or tokenizer=pretrained or byte."
        )
    tokenizer = None if config.tokenizer.name == "none" else named_tokenizer(config.tokenizer)
    vocab_size = data.vocab_size or (tokenizer.vocab_size if tokenizer else None)
    if vocab_size is None:
        raise UserError("data=tokens needs data.vocab_size (the ids in the file are below it).")
    tokens, sha256 = _open_flat(data.path, "data.path", data.dtype, vocab_size, cache)
    if data.validation_path is not None:
        train = tokens
        validation, other = _open_flat(
            data.validation_path, "data.validation_path", data.dtype, vocab_size, cache
        )
    else:
        cut = _cut(tokens, data.validation_fraction, tokenizer.end_of_text if tokenizer else None)
        train, validation, other = tokens[:cut], tokens[cut:], cut
    fingerprint = digest("tokens", sha256, other, tokenizer.fingerprint if tokenizer else None)
    documents = tokenizer is not None and bool((train[:_NEAR] == tokenizer.end_of_text).any())
    dataset = Dataset(train, validation, tokenizer, vocab_size, fingerprint, documents)
    if tokenizer is None:
        return dataset
    return replace(
        dataset,
        train_bytes=SpelledBytes(train, tokenizer),
        validation_bytes=SpelledBytes(validation, tokenizer),
        notes=("data=tokens: bits per byte are over the bytes that the ids decode to",),
    )


def _cut(tokens: np.ndarray, fraction: float, end_of_text: int | None) -> int:
    target = cut_place(len(tokens), [], fraction)
    if end_of_text is None:
        return target
    first = max(0, target - _NEAR)
    ends = np.flatnonzero(tokens[first : target + _NEAR] == end_of_text) + first + 1
    return cut_place(len(tokens), ends.tolist(), fraction)


def _open_flat(
    path: str | None, key: str, dtype: str, vocab_size: int, cache: Path
) -> tuple[np.ndarray, str]:
    """The ids, memory-mapped, and the SHA-256 of their file; every id is below vocab_size."""
    if path is None:
        raise UserError(f"data=tokens needs {key}: a flat file of token ids, or a .npy file.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"No such file: {key}={path} (from {Path.cwd()}).")
    tokens = _map_npy(file) if file.suffix == ".npy" else _map_raw(file, np.dtype(dtype))
    if not len(tokens):
        raise UserError(f"{file} holds no tokens.")
    facts = remembered(
        cache, [file], ["flat", str(tokens.dtype)], lambda: _extremes(tokens, hash_file(file))
    )
    if facts["least"] < 0 or facts["greatest"] >= vocab_size:
        place = _first_outside(tokens, vocab_size)
        raise UserError(
            f"{file} holds the id {tokens[place]} at position {place:,}, beyond the vocabulary of "
            f"{vocab_size:,}.\nSet data.vocab_size, or data.dtype (now {tokens.dtype}) to the "
            "file's type."
        )
    return tokens, facts["sha256"]


def _map_raw(file: Path, dtype: np.dtype) -> np.ndarray:
    size = file.stat().st_size
    if size % dtype.itemsize:
        raise UserError(
            f"{file} has {size:,} bytes, which is no multiple of the {dtype.itemsize} bytes of one "
            f"{dtype} id.\nSet data.dtype to the file's type; perhaps the file was cut off."
        )
    if not size:
        return np.empty(0, dtype)
    return np.memmap(file, dtype.newbyteorder("<"), "r")


def _map_npy(file: Path) -> np.ndarray:
    try:
        tokens = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file} is not a whole .npy file: {error}") from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError(
            f"{file} holds {tokens.dtype} of shape {tokens.shape}; token ids are integers in one "
            "dimension."
        )
    return tokens


def _extremes(tokens: np.ndarray, sha256: str) -> dict:
    chunks = [tokens[first : first + _CHUNK] for first in range(0, len(tokens), _CHUNK)]
    return {
        "sha256": sha256,
        "least": min(int(chunk.min()) for chunk in chunks),
        "greatest": max(int(chunk.max()) for chunk in chunks),
    }


def _first_outside(tokens: np.ndarray, vocab_size: int) -> int:
    for first in range(0, len(tokens), _CHUNK):
        chunk = tokens[first : first + _CHUNK]
        outside = np.flatnonzero((chunk < 0) | (chunk >= vocab_size))
        if len(outside):
            return first + int(outside[0])
    raise AssertionError("every id is within the vocabulary")
