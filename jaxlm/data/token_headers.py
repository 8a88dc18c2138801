"""Files of token ids: raw, or with a header that describes them; any other kind is refused.

A file with a header must not be mistaken for raw ids, however large the vocabulary is.
"""

import json
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.host.errors import UserError
from jaxlm.host.kinds import LLM_C, known_bytes
from jaxlm.host.names import shown

_HEAD_BYTES = 4096
_TEXT_BYTES = 64  # a file with at least this much text and nothing else holds no ids
_LLM_C_HEADER = 1024
_LLM_C = {  # magic, version: type of the ids (llm.c, dev/data/data_common.py)
    (20240520, 1): "uint16",
    (20240801, 7): "uint32",
}
_INDEX_MAGIC = b"MMIDIDX\x00\x00"
_INDEX_TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
_SAMPLE = 1 << 20
_FEWEST = 64  # among fewer ids, every second could be 0 by chance


class Layout(NamedTuple):
    """A file's ids: their type, number and offset in bytes; `said_by` names the header."""

    dtype: np.dtype
    count: int  # type: ignore[assignment]  # the tuple method `count` is not used
    offset: int = 0
    said_by: str | None = None


def map_ids(file: Path, dtype: str) -> tuple[np.ndarray, str | None]:
    """The (N,) ids of a file, memory-mapped, and the header that states their type, if any.

    `dtype` is the type of raw ids. Raises UserError if a header contradicts it, or if the file is
    truncated or of another kind.
    """
    try:
        with open(file, "rb") as stream:
            head = stream.read(_HEAD_BYTES)
        size = file.stat().st_size
        if head.startswith(b"\x93NUMPY") or file.suffix.lower() == ".npy":
            return _map_npy(file, dtype), "its .npy header"
        layout = _layout(file, head, size, dtype)
        if not layout.count:
            return np.empty(0, layout.dtype), layout.said_by
        if layout.said_by is None:
            _check_raw(file, head)
        shape = (layout.count,)
        return np.memmap(file, layout.dtype, "r", layout.offset, shape), layout.said_by
    except OSError as error:
        raise UserError(f"Cannot read {shown(file)}: {error.strerror or error}") from error


def _layout(file: Path, head: bytes, size: int, dtype: str) -> Layout:
    if len(head) >= _LLM_C_HEADER and int.from_bytes(head[:4], "little") in LLM_C:
        layout = _llm_c(file, head)
    elif index := _megatron_index(file):
        layout = _megatron(file, index)
    else:
        kind = np.dtype(dtype).newbyteorder("<")
        if size % kind.itemsize:
            raise UserError(
                f"{shown(file)} has {size:,} bytes, not a multiple of the {kind.itemsize} bytes "
                f"of one {dtype} id.\nSet data.dtype to the file's type, or check whether the file "
                "was cut off."
            )
        return Layout(kind, size // kind.itemsize)
    expected = layout.offset + layout.count * layout.dtype.itemsize
    if size != expected:
        raise UserError(
            f"{shown(file)} has {size:,} bytes, but {layout.said_by} says {layout.count:,} ids of "
            f"type {layout.dtype}: {expected:,} bytes.\n"
            "Was it cut off, or copied while it was being written?"
        )
    assert layout.said_by is not None  # a header
    _check_type(file, layout.dtype, layout.said_by, dtype)
    return layout


def _check_type(file: Path, found: np.dtype, said_by: str, dtype: str) -> None:
    """Raises UserError if data.dtype, other than its default, contradicts a header."""
    if dtype not in ("uint16", found.name):
        raise UserError(
            f"data.dtype={dtype}, but {said_by} says that {shown(file)} holds {found}.\n"
            "Omit data.dtype: the header states the type."
        )


def _llm_c(file: Path, head: bytes) -> Layout:
    magic, version, count = struct.unpack("<3i", head[:12])
    if (magic, version) not in _LLM_C:
        raise UserError(
            f"{shown(file)} is a file of llm.c (magic {magic}, version {version}), but does not "
            "hold training tokens.\nFiles of training tokens have the magic 20240520 or 20240801."
        )
    dtype = np.dtype(_LLM_C[magic, version]).newbyteorder("<")
    return Layout(dtype, max(count, 0), _LLM_C_HEADER, "llm.c's header")


def _megatron_index(file: Path) -> Path | None:
    """The .idx beside a .bin of Megatron, which has no header of its own."""
    index = file.with_suffix(".idx")
    if file.suffix.lower() != ".bin" or not index.is_file():
        return None
    with open(index, "rb") as stream:
        return index if stream.read(len(_INDEX_MAGIC)) == _INDEX_MAGIC else None


def _megatron(file: Path, index: Path) -> Layout:
    content = np.fromfile(index, np.uint8)
    try:
        code, sequences, _ = struct.unpack_from("<BQQ", content.data, len(_INDEX_MAGIC) + 8)
        start = len(_INDEX_MAGIC) + 8 + struct.calcsize("<BQQ")
        lengths = np.frombuffer(content[start : start + 4 * sequences].tobytes(), "<i4")
    except (struct.error, ValueError):
        code, sequences, lengths = 0, 1, np.empty(0)
    if code not in _INDEX_TYPES or len(lengths) != sequences:
        raise UserError(f"{shown(index)} is damaged, or its type is not one of token ids.")
    dtype = np.dtype(_INDEX_TYPES[code]).newbyteorder("<")
    return Layout(dtype, int(lengths.sum(dtype=np.int64)), 0, f"{shown(index.name)} beside it")


def _map_npy(file: Path, dtype: str) -> np.ndarray:
    with open(file, "rb") as stream:
        if stream.read(2) not in (b"\x93N", b"PK"):
            raise UserError(
                f"{shown(file)} is not a .npy file: it lacks numpy's header.\n"
                "If its ids are raw, give it another suffix, such as .bin."
            )
    try:
        tokens = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{shown(file)} is not a complete .npy file: {problem}") from error
    if not isinstance(tokens, np.ndarray):
        raise UserError(f"{shown(file)} is an archive of arrays (.npz).\nSave one array as .npy.")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError(
            f"{shown(file)} holds {tokens.dtype} of shape {tokens.shape}; token ids must be "
            "integers in one dimension."
        )
    _check_type(file, tokens.dtype, "its .npy header", dtype)
    return tokens


def _check_raw(file: Path, head: bytes) -> None:
    """Raises UserError if a file without a known header is not a raw file of ids."""
    what = known_bytes(head)
    if what and "safetensors" in what and not _is_safetensors(file, head):
        what = None
    if what:
        raise UserError(
            f"By its first bytes, {shown(file)} is {what}, not a flat file of token ids.\n"
            "Give its ids as raw uint16, int32 or uint32, or as .npy."
        )
    letters = head[: len(head) // 4 * 4]  # no character of UTF-8 is longer
    if len(letters) >= _TEXT_BYTES and _is_text(letters):
        raise UserError(
            f"{shown(file)} is text, not a file of token ids.\nUse data=text, without "
            "data.vocab_size."
        )


def _is_safetensors(file: Path, head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    if length > file.stat().st_size - 8:
        return False
    with open(file, "rb") as stream:
        stream.seek(8)
        try:
            return isinstance(json.loads(stream.read(length)), dict)
        except (ValueError, RecursionError):
            return False


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore")
    whole = len(text.encode()) > len(head) - 4  # except for a character that is cut
    return whole and all(c.isprintable() or c in "\t\n\r\f" for c in text)


def check_width(file: Path, tokens: np.ndarray) -> None:
    """Raises UserError if raw ids are wider in the file than data.dtype: every second is 0."""
    sample = np.asarray(tokens[:_SAMPLE])
    if len(sample) < _FEWEST or sample[1::2].any() or not sample[::2].any():
        return
    bits = 16 * tokens.dtype.itemsize
    bits = 64 if bits == 32 and not sample[2::4].any() else bits
    if bits == 32:
        advice = "Set data.dtype=int32 (or uint32)."
    else:
        advice = "Rewrite it as uint16 or int32, or as .npy, whose header states the type."
    raise UserError(
        f"Every second id of {shown(file)}, read as {tokens.dtype}, is 0: it seems to hold "
        f"{bits}-bit ids.\n{advice}"
    )
