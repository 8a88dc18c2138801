"""data=tokens: flat files of token ids as other trainers write them, used in place."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxlm.config.corpora import Tokens
from jaxlm.config.schema import Config
from jaxlm.data.cache import digest, remembered
from jaxlm.data.corpora import cut_place
from jaxlm.data.dataset import Dataset, SpelledBytes
from jaxlm.data.encoding import named_tokenizer
from jaxlm.data.token_headers import check_width, map_ids
from jaxlm.data.tokenfile import hash_file
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.names import look_up, shown

_CHUNK = 1 << 24
_NEAR = 1 << 20


def prepare_flat(
    config: Config, data: Tokens, cache: Path, train_tokens: int | None, progress: bool
) -> Dataset:
    """The file at data.path, or its last part, mapped into memory and checked. Raises UserError.

    With a tokenizer that has an end_of_text, the split falls on the nearest document end within
    2^20 tokens of data.validation_fraction.
    """
    tokenizer = None if config.tokenizer.name == "none" else named_tokenizer(config.tokenizer)
    vocab_size = data.vocab_size or (tokenizer.vocab_size if tokenizer else 0)  # checked: not 0
    known = min(vocab_size, tokenizer.vocab_size) if tokenizer else vocab_size
    tokens, sha256, note = _open_flat(data.path, "data.path", data.dtype, known, cache)
    notes = [note]
    if data.validation_path is not None:
        train = tokens
        validation, other, note = _open_flat(
            data.validation_path, "data.validation_path", data.dtype, known, cache
        )
        notes.append(f"validation: {note}")
    else:
        cut = _cut(tokens, data.validation_fraction, tokenizer.end_of_text if tokenizer else None)
        train, validation, other = tokens[:cut], tokens[cut:], cut
    fingerprint = digest("tokens", sha256, other, tokenizer.fingerprint if tokenizer else None)
    documents = tokenizer is not None and bool((train[:_NEAR] == tokenizer.end_of_text).any())
    dataset = Dataset(
        train, validation, tokenizer, vocab_size, fingerprint, documents, notes=tuple(notes)
    )
    if tokenizer is None:
        return dataset
    spelled = "data=tokens: bits per byte refer to the bytes that the ids decode to"
    return replace(
        dataset,
        train_bytes=SpelledBytes(train, tokenizer),
        validation_bytes=SpelledBytes(validation, tokenizer),
        notes=(*notes, spelled),
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
) -> tuple[np.ndarray, str, str]:
    """The ids, memory-mapped, the SHA-256 of their file, and a line on what was read.

    Raises UserError unless every id is below vocab_size.
    """
    if path is None:
        raise UserError(f"data=tokens needs {key}: a flat file of token ids, or a .npy file.")
    file = look_up(path, key, "Give a flat file of token ids, or a .npy file.")
    if file.is_dir():
        raise UserError(f"{key}={shown(path)} is a folder.\ndata=tokens reads one file of ids.")
    tokens, said_by = map_ids(file, dtype)
    if not len(tokens):
        raise UserError(f"{shown(file)} holds no tokens.")
    if said_by is None:
        check_width(file, tokens)
    facts = remembered(
        cache,
        [file],
        ["flat", str(tokens.dtype), len(tokens)],
        lambda: _extremes(tokens, hash_file(file)),
    )
    if facts["least"] < 0 or facts["greatest"] >= vocab_size:
        place = _first_outside(tokens, vocab_size)
        problem = (
            f"{shown(file)} holds the id {tokens[place]} at position {place:,}, beyond the "
            f"vocabulary of {vocab_size:,}."
        )
        if said_by is not None:
            raise UserError(f"{problem}\nSet data.vocab_size ({said_by} says {tokens.dtype}).")
        advice = f"Set data.vocab_size, or data.dtype (now {tokens.dtype}) to the file's type."
        if tokens.dtype.itemsize == 4 and tokens[:_NEAR].view("<u2").max() < vocab_size:
            advice = "Read as uint16, all its ids fit: set data.dtype=uint16."
        raise UserError(f"{problem}\n{advice}")
    note = f"read 1 file, {len(tokens):,} tokens of type {tokens.dtype}"
    return tokens, facts["sha256"], f"{note} (according to {said_by})" if said_by else note


def _extremes(tokens: np.ndarray, sha256: str) -> Json:
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
