"""Token files: ids, the text bytes of each, and findings; written once, then memory-mapped.

Header of 128 bytes, little-endian: magic, version, bytes per id (2 or 4), number of ids,
vocabulary size, SHA-256 fingerprint of what was encoded (text and tokenizer), SHA-256 of everything
after the header, bytes per count (1, 2 or 4; 0 without counts), bytes of the JSON.
It is followed by the ids, by the number of UTF-8 bytes of the text that belong to each id, and by a
JSON object.
"""

import hashlib
import json
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.data.cache import remembered, replacing
from jaxlm.host.checked import Json

_MAGIC = b"JAXLMTOK"
_VERSION = 2
_LAYOUT = struct.Struct("<8sIIQQ32s32sII")
_HEADER_BYTES = 128
_CHUNK_BYTES, _COUNTS_BYTES = 1 << 24, 1 << 20


class Header(NamedTuple):
    """The header of a token file."""

    magic: bytes
    version: int
    item_bytes: int
    count: int  # type: ignore[assignment]  # the tuple method `count` is not used
    vocab_size: int
    fingerprint: bytes
    sha256: bytes
    count_bytes: int
    about_bytes: int

    @property
    def dtype(self) -> np.dtype:
        """The type of the ids in the file."""
        return np.dtype(f"<u{self.item_bytes}")

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        each = self.item_bytes + self.count_bytes
        return _HEADER_BYTES + self.count * each + self.about_bytes


class Tokens(NamedTuple):
    """Ids (N,), the number of UTF-8 bytes of the text for each (or None), and findings.

    The bytes add up to those of the text, however the tokenizer spells its ids; tokens that end
    documents have none. `about` is a JSON object, from `Comparison.found` if a text was encoded.
    """

    ids_N: np.ndarray
    bytes_N: np.ndarray | None = None
    about: Json = {}  # never changed

    def head(self, count: int) -> "Tokens":
        """The first `count` ids."""
        sizes = None if self.bytes_N is None else self.bytes_N[:count]
        return Tokens(self.ids_N[:count], sizes, self.about)


def write_tokens(
    path: Path,
    parts: Iterable[np.ndarray | Tokens],
    vocab_size: int,
    fingerprint: str,
    about: Callable[[], Json] = dict,
) -> None:
    """Stream ids, all with their bytes or all without, into a token file, atomically.

    `about` is called after the last part. Raises UserError on a full disk.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    sha256 = hashlib.sha256()
    with replacing(path) as file, tempfile.TemporaryFile(dir=path.parent) as counts:

        def put(content: bytes) -> None:
            file.write(content)
            sha256.update(content)

        file.write(bytes(_HEADER_BYTES))
        count, most = 0, -1
        for part in parts:
            ids, sizes, _ = part if isinstance(part, Tokens) else Tokens(part)
            put(ids.astype(dtype).tobytes())
            count += len(ids)
            if sizes is not None:
                counts.write(sizes.astype("<u4").tobytes())
                most = max(most, int(sizes.max(initial=0)))
        count_bytes = 0 if most < 0 else 1 if most < 1 << 8 else 2 if most < 1 << 16 else 4
        counts.seek(0)
        while content := counts.read(_COUNTS_BYTES):
            put(np.frombuffer(content, "<u4").astype(f"<u{count_bytes}").tobytes())
        content = json.dumps(about()).encode()
        put(content)
        header = Header(
            _MAGIC,
            _VERSION,
            dtype.itemsize,
            count,
            vocab_size,
            bytes.fromhex(fingerprint),
            sha256.digest(),
            count_bytes,
            len(content),
        )
        file.seek(0)
        file.write(_LAYOUT.pack(*header))


def open_tokens(path: Path, vocab_size: int, fingerprint: str, cache: Path) -> Tokens | None:
    """The memory-mapped content of a whole, undamaged token file of this fingerprint, else None.

    The content's checksum is verified when the file is first seen, and again whenever its size or
    modification time has changed.
    """
    try:
        with open(path, "rb") as file:
            header = Header(*_LAYOUT.unpack(file.read(_LAYOUT.size)))
        size = path.stat().st_size
    except (OSError, struct.error):
        return None
    expected = (_MAGIC, _VERSION, vocab_size, bytes.fromhex(fingerprint))
    found = (header.magic, header.version, header.vocab_size, header.fingerprint)
    known_types = header.item_bytes in (2, 4) and header.count_bytes in (0, 1, 2, 4)
    if found != expected or not known_types or size != header.file_bytes:
        return None
    checked = remembered(cache, [path], "token file 2", lambda: {"sha256": hash_file(path, True)})
    if checked["sha256"] != header.sha256.hex():
        return None
    return _mapped(path, header)


def _mapped(path: Path, header: Header) -> Tokens:
    def mapped(dtype: np.dtype, offset: int) -> np.ndarray:
        if header.count == 0:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, "r", offset=offset, shape=(header.count,))

    after_ids = _HEADER_BYTES + header.count * header.item_bytes
    ids_N, bytes_N = mapped(header.dtype, _HEADER_BYTES), None
    if header.count_bytes:
        bytes_N = mapped(np.dtype(f"<u{header.count_bytes}"), after_ids)
    with open(path, "rb") as file:
        file.seek(header.file_bytes - header.about_bytes)
        about = json.loads(file.read())
    return Tokens(ids_N, bytes_N, about)


def hash_file(path: Path, skip_header: bool = False) -> str:
    """SHA-256, in hex, of a file's content (of a token file's, if the header is skipped)."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(_HEADER_BYTES if skip_header else 0)
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()
