"""Token files: a header and a flat array of ids, written once, checked and memory-mapped.

Header of 128 bytes, little-endian: magic, version, bytes per id (2 or 4), number of ids,
vocabulary size, SHA-256 fingerprint of what was encoded (text and tokenizer), SHA-256 of the ids.
"""

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.data.cache import remembered, replacing

_MAGIC = b"JAXLMTOK"
_VERSION = 1
_LAYOUT = struct.Struct("<8sIIQQ32s32s")
_HEADER_BYTES = 128
_CHUNK_BYTES = 1 << 24


class Header(NamedTuple):
    """What the first bytes of a token file say."""

    magic: bytes
    version: int
    item_bytes: int
    count: int
    vocab_size: int
    fingerprint: bytes
    sha256: bytes

    @property
    def dtype(self) -> np.dtype:
        """The type of the ids in the file."""
        return np.dtype("<u2" if self.item_bytes == 2 else "<u4")


def write_tokens(
    path: Path, arrays: Iterable[np.ndarray], vocab_size: int, fingerprint: str
) -> None:
    """Stream arrays of ids into a token file, atomically. Raises UserError on a full disk."""
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    count, sha256 = 0, hashlib.sha256()
    with replacing(path) as file:
        file.write(bytes(_HEADER_BYTES))
        for array in arrays:
            content = array.astype(dtype).tobytes()
            file.write(content)
            sha256.update(content)
            count += len(array)
        header = Header(
            _MAGIC,
            _VERSION,
            dtype.itemsize,
            count,
            vocab_size,
            bytes.fromhex(fingerprint),
            sha256.digest(),
        )
        file.seek(0)
        file.write(_LAYOUT.pack(*header))


def open_tokens(path: Path, vocab_size: int, fingerprint: str, cache: Path) -> np.ndarray | None:
    """The memory-mapped ids of a whole, undamaged token file of this fingerprint, else None.

    The ids' checksum is verified when the file is first seen, and again whenever its size or time
    of modification has changed.
    """
    try:
        with open(path, "rb") as file:
            header = Header(*_LAYOUT.unpack(file.read(_LAYOUT.size)))
        size = path.stat().st_size
    except (OSError, struct.error):
        return None
    expected = (_MAGIC, _VERSION, vocab_size, bytes.fromhex(fingerprint))
    found = (header.magic, header.version, header.vocab_size, header.fingerprint)
    whole = size == _HEADER_BYTES + header.count * header.item_bytes
    if found != expected or header.item_bytes not in (2, 4) or not whole:
        return None
    checked = remembered(cache, [path], "token file", lambda: {"sha256": hash_file(path, True)})
    if checked["sha256"] != header.sha256.hex():
        return None
    if header.count == 0:
        return np.empty(0, header.dtype)
    return np.memmap(path, header.dtype, "r", offset=_HEADER_BYTES, shape=(header.count,))


def hash_file(path: Path, skip_header: bool = False) -> str:
    """SHA-256, in hex, of a file's content (of a token file's ids, if the header is skipped)."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(_HEADER_BYTES if skip_header else 0)
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()
