"""The bytes of a file, decompressed: gzip, bzip2, xz and, with its library, zstd."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxlm.host.errors import UserError
from jaxlm.host.names import quoted, shown

_OPEN: dict[str | None, Callable[..., Any]] = {
    None: open,
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
}


def byte_chunks(file: Path, packing: str | None, size: int) -> Iterator[bytes]:
    """The content in chunks. Raises UserError if it cannot be read or is incomplete."""
    try:
        if packing == "zstd":
            yield from _zstd_chunks(file, size)
        else:
            with _OPEN[packing](file, "rb") as stream:
                yield from iter(lambda: stream.read(size), b"")
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"Cannot read {shown(file)}: {error.strerror}") from error
        raise UserError(
            f"{shown(file)} is a damaged or truncated {packing} file: {error}"
        ) from error


def _zstd_chunks(file: Path, size: int) -> Iterator[bytes]:
    """Reads frame by frame, since the reader of zstandard does not notice a truncated file."""
    try:
        import zstandard
    except ModuleNotFoundError:
        raise UserError(
            f"Reading {shown(file)} requires zstandard, which is not installed.\n"
            f"Install it (pip install zstandard), or decompress the file: zstd -d {quoted(file)}"
        ) from None
    frame = None
    try:
        with open(file, "rb") as stream:
            while packed := stream.read(size):
                while packed:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    if chunk := frame.decompress(packed):
                        yield chunk
                    packed = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None
    if frame is not None:
        raise EOFError("it ends inside a frame")
