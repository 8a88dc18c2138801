"""Bytes to text: UTF-8, or UTF-16 and UTF-32 with their mark; advice for other encodings."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxlm.host.errors import UserError
from jaxlm.host.kinds import PACKED
from jaxlm.host.names import quoted, shown

_MARKS = (  # UTF-32 before UTF-16, whose mark it begins with
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 16
_FEW = 3  # so few letters beyond ASCII do not suggest another alphabet
_STRAY_ZEROS = 16  # zero characters that a text may hold; more suggest a binary file
_TO_TEXT = {"gzip": "gzip -dc", "bzip2": "bzip2 -dc", "xz": "xz -dc", "zstd": "zstd -dc"}


def encoding_of(head: bytes) -> tuple[str, int]:
    """(encoding, length of its mark) of a file that begins with `head`; UTF-8 without a mark."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    return "utf-8", 0


def decoded(chunks: Iterable[bytes], file: Path, packing: str | None = None) -> Iterator[str]:
    """The text of a file that comes in chunks of bytes, without its byte order mark.

    Raises UserError, with the place and a command that converts it, if it is not such text.
    """
    chunks, head = iter(chunks), b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4:
            break
    encoding, offset = encoding_of(head)
    decoder = codecs.getincrementaldecoder(encoding)()
    chunk, plain = head[offset:], True
    while True:
        waiting = decoder.getstate()[0]
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            place = offset - len(waiting) + error.start
            raise _not_text(file, packing, encoding, place, error) from None
        if text.count("\0") >= max(_STRAY_ZEROS, len(text) // 1000):
            raise _binary(file, packing, encoding, chunk)
        if text:
            plain = plain and text.isascii()
            yield text
        offset += len(chunk)
        chunk = next(chunks, None)
        if chunk is None:
            break
    waiting = decoder.getstate()[0]
    if waiting:
        what = _at(file, encoding, waiting[0], offset - len(waiting))
        if plain and len(waiting) == 1 and encoding == "utf-8":  # its only letter beyond ASCII
            raise UserError(f"{what}\n{advice(text.encode() + waiting, file, packing)}")
        raise UserError(f"{what}\nThe file ends within a character: was it cut off?")


def _at(file: Path, encoding: str, value: int, place: int) -> str:
    return f"{shown(file)} is not {encoding.upper()} text: byte 0x{value:02x} at offset {place:,}."


def _not_text(
    file: Path, packing: str | None, encoding: str, place: int, error: UnicodeDecodeError
) -> UserError:
    value = error.object[error.start]
    what = f"{shown(file)} is not {encoding.upper()} text: byte 0x{value:02x} at offset {place:,}."
    if encoding != "utf-8":
        return UserError(
            f"{what}\nThe file is damaged: its byte order mark says {encoding.upper()}."
        )
    sample = error.object[max(0, error.start - _SAMPLE // 2) // 4 * 4 :][:_SAMPLE]
    if wide := _without_mark(sample):
        return _unmarked(file, packing, wide)
    return UserError(f"{what}\n{advice(sample, file, packing)}")


def advice(sample: bytes, file: Path, packing: str | None = None) -> str:
    """One line on how to convert a file to UTF-8; `sample` is a part of it."""
    if sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in sample) * 20 > len(sample):
        return "It seems to be binary. Give a text file."
    high = [byte for byte in sample if byte >= 0x80]
    whole = [c for c in sample.decode("utf-8", "ignore") if c >= "\x80"]
    if len("".join(whole).encode()) * 2 > len(high):  # UTF-8, except in some places
        command = _convert(file, packing, "utf-8", "-c ")
        return f"Most of it is UTF-8. To drop the rest: {command}"
    letters = sum(byte < 0x80 and chr(byte).isalpha() for byte in sample)
    few = len(high) == 1 or (letters and len(high) <= _FEW)  # a word such as \xe9t\xe9
    if len(high) > letters and not few:
        command = _convert(file, packing, "ENCODING")
        return f"Is it cp1251, gb18030, shift_jis, euc-kr, ...? Convert it: {command}"
    likely = "cp1252" if any(0x80 <= byte < 0xA0 for byte in high) else "latin1"
    return f"Convert it, for example with: {_convert(file, packing, likely)}"


def _binary(file: Path, packing: str | None, encoding: str, chunk: bytes) -> UserError:
    if encoding == "utf-8" and (wide := _without_mark(chunk[:_SAMPLE])):
        return _unmarked(file, packing, wide)
    return UserError(
        f"{shown(file)} is not text: it is full of zero bytes.\n"
        "Give a text file. For token ids, use data=tokens data.vocab_size=N."
    )


def _unmarked(file: Path, packing: str | None, encoding: str) -> UserError:
    return UserError(
        f"{shown(file)} is not UTF-8 text but {encoding.upper()} without a byte order mark.\n"
        f"Convert it: {_convert(file, packing, encoding)}"
    )


def _without_mark(sample: bytes) -> str | None:
    """The kind of UTF-16 or UTF-32 if zeros lie as in mostly Latin text, else None."""
    n = len(sample) // 4
    if not n:
        return None
    zeros = [sample[i::4][:n].count(0) / n for i in range(4)]
    for name, high in (
        ("utf-32le", (0, 1, 1, 1)),
        ("utf-32be", (1, 1, 1, 0)),
        ("utf-16le", (0, 1, 0, 1)),
        ("utf-16be", (1, 0, 1, 0)),
    ):
        if all(
            share > 0.7 if zero else share < 0.05 for share, zero in zip(zeros, high, strict=True)
        ):
            return name
    return None


def _convert(file: Path, packing: str | None, encoding: str, flags: str = "") -> str:
    target = _target(file)
    if packing:
        return f"{_source(file, packing)} | iconv {flags}-f {encoding} -t utf-8 > {target}"
    return f"iconv {flags}-f {encoding} -t utf-8 {quoted(file)} > {target}"


def _source(file: Path, packing: str | None) -> str:
    return f"{_TO_TEXT[packing] if packing else 'cat'} {quoted(file)}"


def _target(file: Path) -> str:
    name = file.stem if file.suffix.lower() in PACKED else file.name
    stem, dot, suffix = name.rpartition(".")
    return quoted(f"{stem}.utf8.{suffix}" if dot and stem else f"{name}.utf8.txt")
