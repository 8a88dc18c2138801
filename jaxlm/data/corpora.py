"""Corpora of text: files to documents, streamed in pieces, and the place where they are split.

A corpus is a sequence of documents. Each file and each line of a .jsonl file is one, and
`<|endoftext|>` written in a text ends one; line breaks next to it go with it, and documents of
white space alone are left out. Long documents come in pieces that are cut after a letter or digit
and before a blank or line break, where every byte-level BPE in use begins a new word, so that
tokenisation does not notice; a stretch of 65,536 characters without such a place is cut anyway.
Memory holds a few pieces, whatever the size of the corpus.
"""

import codecs
import gzip
import hashlib
import json
import os
import urllib.error
import urllib.request
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import NamedTuple

from jaxlm.data.cache import remembered, replacing
from jaxlm.data.progress import progress_bar
from jaxlm.data.tokenizer import END_OF_TEXT
from jaxlm.errors import UserError

SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_SUFFIXES = (".txt", ".jsonl", ".gz")
_READ_BYTES = 1 << 20
_PIECE_CHARACTERS = 1 << 16
_MOST_BOUNDARIES = 1 << 16


class Piece(NamedTuple):
    """A stretch of a document, and whether the document ends with it."""

    text: str
    ends_document: bool


@dataclass(frozen=True)
class TextFiles:
    """The documents of some UTF-8 files, in order; the first `documents` of them, or all."""

    files: list[Path]
    text_field: str
    documents: int | None = None

    def pieces(self) -> Iterator[Piece]:
        """All text. Raises UserError where a file cannot be read, with the place."""
        left = self.documents
        for piece in self._all_pieces():
            yield piece
            if left is not None and piece.ends_document:
                left -= 1
                if not left:
                    return

    def _all_pieces(self) -> Iterator[Piece]:
        for file in self.files:
            if file.name.removesuffix(".gz").endswith(".jsonl"):
                for text in _json_texts(file, self.text_field):
                    yield from split_documents([text])
            else:
                yield from split_documents(_text_chunks(file))


def text_files(
    path: str, text_field: str, key: str = "data.path", documents: int | None = None
) -> TextFiles:
    """The corpus at `path`: a file, or the .txt, .jsonl and .gz files of a folder by name."""
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix in _SUFFIXES and p.is_file())
        if not files:
            raise UserError(f"The folder {key}={path} has no .txt, .jsonl or .gz files.")
        return TextFiles(files, text_field, documents)
    if not place.is_file():
        raise UserError(
            f"No such file: {key}={path} (from {Path.cwd()}).\nGive a .txt, .jsonl or .gz file, or "
            "a folder of them."
        )
    return TextFiles([place], text_field, documents)


def split_documents(chunks: Iterable[str]) -> Iterator[Piece]:
    """The documents in a stretch of text that comes in chunks; the last one ends with it."""
    buffer = ""
    begun = False  # a piece of the current document is out already
    after_mark = False
    for chunk in chunks:
        *whole, buffer = (buffer + chunk).split(END_OF_TEXT)
        for text in whole:
            text = (text.lstrip("\r\n") if after_mark and not begun else text).rstrip("\r\n")
            if begun or text.strip():
                *heads, text = _cut(text)
                yield from (Piece(head, False) for head in heads)
                yield Piece(text, True)
            begun, after_mark = False, True
        if after_mark and not begun:
            buffer = buffer.lstrip("\r\n")
        *heads, buffer = _cut(buffer)
        yield from (Piece(head, False) for head in heads)
        begun = begun or bool(heads)
    if begun or buffer.strip():
        yield Piece(buffer, True)


def _cut(text: str) -> list[str]:
    """`text` in pieces: all but the last near 65,536 characters, the last at most that long."""
    pieces, start = [], 0
    while len(text) - start > _PIECE_CHARACTERS:
        stop = _cut_place(text, start, start + _PIECE_CHARACTERS)
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


def _cut_place(text: str, start: int, stop: int) -> int:
    """The last place in (start, stop) before white space and after a letter or digit."""
    place = stop
    while place > start + 1:
        place = max(text.rfind(" ", start + 1, place), text.rfind("\n", start + 1, place))
        if place > 0 and text[place - 1].isalnum():
            return place
    return stop - len(END_OF_TEXT)  # an end mark may be half read


def _open(file: Path):
    return gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb")


def _byte_chunks(file: Path, by_line: bool = False) -> Iterator[bytes]:
    try:
        with _open(file) as stream:
            yield from stream if by_line else iter(lambda: stream.read(_READ_BYTES), b"")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file} is a damaged or truncated gzip file: {error}") from error
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror or error}") from error


def _not_utf8(file: Path, offset: int, value: int) -> UserError:
    return UserError(
        f"{file} is not UTF-8 text: byte 0x{value:02x} at offset {offset:,}.\n"
        "Convert it, for example with: iconv -f latin1 -t utf-8"
    )


def _text_chunks(file: Path) -> Iterator[str]:
    """The text of a file, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for chunk in _byte_chunks(file):
        waiting = len(decoder.getstate()[0])
        yield _decode(decoder, chunk, file, offset - waiting).removeprefix(
            "\ufeff" if offset == 0 else ""
        )
        offset += len(chunk)
    _decode(decoder, b"", file, offset - len(decoder.getstate()[0]), final=True)


def _decode(decoder, chunk: bytes, file: Path, offset: int, final: bool = False) -> str:
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise _not_utf8(file, place, error.object[error.start]) from None


def _json_texts(file: Path, field: str) -> Iterator[str]:
    """The text of each line of a .jsonl file; empty lines are skipped."""
    offset = 0
    for number, line in enumerate(_byte_chunks(file, by_line=True), 1):
        if line.strip():
            yield _json_text(file, field, number, line, offset)
        offset += len(line)


def _json_text(file: Path, field: str, number: int, line: bytes, offset: int) -> str:
    try:
        text = json.loads(line.decode())[field]
        text.encode()
        return text
    except UnicodeDecodeError as error:
        raise _not_utf8(file, offset + error.start, line[error.start]) from None
    except ValueError as error:
        raise UserError(f"{file}, line {number} is not valid JSON: {error}") from None
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{file}, line {number} has no text in the field {field!r}.\n"
            "Set data.text_field to the field that holds the text."
        ) from None


@dataclass(frozen=True)
class Survey:
    """What one pass over a corpus finds out.

    `sha256` is of the documents (UTF-8, each followed by the byte 0xff, which UTF-8 never holds).
    The first `cut` characters are the training split (all, where no fraction is held out).
    """

    sha256: str
    characters: int
    documents: int
    alphabet: str
    cut: int


def survey(corpus: TextFiles, fraction: float | None, cache: Path, progress: bool = True) -> Survey:
    """Read a corpus once; the result is kept while its files do not change. Raises UserError."""
    facts = ["survey", corpus.text_field, fraction]
    facts += [] if corpus.documents is None else [corpus.documents]
    found = remembered(cache, corpus.files, facts, lambda: _survey(corpus, fraction, progress))
    return Survey(**found)


def _survey(corpus: TextFiles, fraction: float | None, progress: bool) -> dict:
    sha256, alphabet = hashlib.sha256(), set()
    characters, documents = 0, 0
    boundaries = array("q")  # ends of documents; thinned out so that memory stays flat
    spacing = 1
    with progress_bar("reading the text", None, "characters", progress) as advance:
        for text, ends_document in corpus.pieces():
            sha256.update(text.encode())
            alphabet.update(text)
            characters += len(text)
            advance(len(text))
            if ends_document:
                sha256.update(b"\xff")
                documents += 1
                if documents % spacing == 0:
                    boundaries.append(characters)
                if len(boundaries) == _MOST_BOUNDARIES:
                    boundaries, spacing = boundaries[1::2], spacing * 2
    if not characters:
        raise UserError(f"There is no text in {', '.join(map(str, corpus.files[:3]))}.")
    return {
        "sha256": sha256.hexdigest(),
        "characters": characters,
        "documents": documents,
        "alphabet": "".join(sorted(alphabet)),
        "cut": characters if fraction is None else cut_place(characters, boundaries, fraction),
    }


def cut_place(length: int, boundaries: Iterable[int], fraction: float) -> int:
    """Where to cut so that the last `fraction` of `length`, rounded up, is held out.

    With ends of documents inside the text, the nearest of these (the earlier of two equally near).
    Raises UserError where a split would be empty.
    """
    target = length - ceil(length * Fraction(str(fraction)))
    if not 0 < target < length:
        raise UserError(
            f"data.validation_fraction={fraction} leaves one of the splits of {length:,} "
            "characters or tokens empty.\nUse a fraction between 0 and 1, or data.validation_path."
        )
    inside = (place for place in boundaries if 0 < place < length)
    return min(inside, key=lambda place: (abs(place - target), place), default=target)


def between(pieces: Iterable[Piece], start: int, stop: int) -> Iterator[Piece]:
    """The characters from start to stop of a stream of pieces, with the ends of their documents."""
    place = 0
    for text, ends_document in pieces:
        first, place = place, place + len(text)
        if first >= stop and text:
            return
        if place > start or (first > start and not text):
            part = text[max(0, start - first) : stop - first]
            yield Piece(part, ends_document and place <= stop)


def shared_folder() -> Path:
    """Where data shared between checkouts lies: JAXLM_SHARED, or shared/data beside the project."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("JAXLM_SHARED") or beside)


def shakespeare(path: str | None, cache: Path) -> Path:
    """Tiny Shakespeare's file, checked: `path`, the shared folder's, or downloaded once."""
    if path is not None:
        file = text_files(path, "").files[0]
        if _sha256(file) != SHAKESPEARE_SHA256:
            raise UserError(
                f"data.path={path} is not Tiny Shakespeare (its SHA-256 differs).\n"
                "For a text of your own use data=text."
            )
        return file
    downloaded = cache / "downloads" / "tinyshakespeare.txt"
    for file in (shared_folder() / "tinyshakespeare.txt", downloaded):
        if file.is_file() and _sha256(file) == SHAKESPEARE_SHA256:
            return file
    _download_shakespeare(downloaded)
    return downloaded


def _sha256(file: Path) -> str:
    return hashlib.sha256(b"".join(_byte_chunks(file))).hexdigest()


def _download_shakespeare(destination: Path) -> None:
    try:
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=30) as response:
            content = response.read()
        problem = "what came has another SHA-256"
    except (urllib.error.URLError, OSError) as error:
        content, problem = b"", str(getattr(error, "reason", error))
    if hashlib.sha256(content).hexdigest() != SHAKESPEARE_SHA256:
        raise UserError(
            f"Could not download Tiny Shakespeare from {SHAKESPEARE_URL}: {problem}.\n"
            "Three ways: run once with internet; data.path=FILE for a copy of your own; or put "
            f"tinyshakespeare.txt into {shared_folder()} (JAXLM_SHARED names another folder)."
        )
    with replacing(destination) as file:
        file.write(content)
