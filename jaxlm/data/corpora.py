"""Text corpora: files become documents, streamed in pieces; and the cut between the splits.

A corpus is a sequence of documents. A plain-text file is one document; in a file with fields
(.jsonl, .json, .csv, .tsv, .parquet) each record is one. `<|endoftext|>` written in a text ends a
document, and line breaks next to it are dropped. Documents of white space alone are skipped.
Long documents come in pieces, cut after a letter or digit and before a space or line break. Every
byte-level BPE in use begins a new word there, so a cut does not change the tokens. A stretch of
65,536 characters without such a place is cut anyway. Memory holds a few pieces, whatever the size
of the corpus.
"""

import hashlib
import os
import urllib.error
import urllib.request
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import NamedTuple

from jaxlm.data.cache import remembered, replacing
from jaxlm.data.encodings import decoded, encoding_of
from jaxlm.data.folders import counted, files_in, listed
from jaxlm.data.packed import byte_chunks
from jaxlm.data.tables import is_list_of_texts, parquet_texts, texts
from jaxlm.data.tokenizer import END_OF_TEXT
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.kinds import Kind, hidden_json, kind_of, known_bytes, may_be_list
from jaxlm.host.names import look_up, shown
from jaxlm.host.progress import progress_bar

SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
FORMS = "plain text, .jsonl, .json, .csv, .tsv or .parquet, also as .gz, .bz2, .xz or .zst"
_READ_BYTES = 1 << 20
_PIECE_CHARACTERS = 1 << 16
_HEAD_BYTES = 1 << 12
_MOST_BOUNDARIES = 1 << 16


class Piece(NamedTuple):
    """A stretch of a document, and whether the document ends with it."""

    text: str
    ends_document: bool


@dataclass
class Tally:
    """Counts from reading some files."""

    files: int = 0
    empty: int = 0  # records without text
    without_text: list[str] = field(default_factory=list)  # files


@dataclass(frozen=True)
class TextFiles:
    """The documents of some files, in order: the first `documents` of them, or all.

    `left_out` lists the skipped files of a folder, each with the reason.
    """

    files: list[Path]
    text_field: str
    documents: int | None = None
    left_out: tuple[str, ...] = ()

    def pieces(self, tally: Tally | None = None) -> Iterator[Piece]:
        """All text. Raises UserError, which names the place, if a file cannot be read."""
        left = self.documents
        for piece in self._all_pieces(tally or Tally()):
            yield piece
            if left is not None and piece.ends_document:
                left -= 1
                if not left:
                    return

    def _all_pieces(self, tally: Tally) -> Iterator[Piece]:
        for file in self.files:
            tally.files += 1
            empty = True
            for piece in _file_pieces(file, self.text_field, tally):
                empty = False
                yield piece
            if empty:
                tally.files -= 1
                tally.without_text.append(f"{shown(file.name)} (no text)")


def _file_pieces(file: Path, text_field: str, tally: Tally) -> Iterator[Piece]:
    kind = kind_of(file)
    if kind.form == "refused":
        raise UserError(f"{shown(file)} is {kind.what}, not text.\n{kind.advice}")
    if kind.form == "parquet" and kind.packing:
        raise UserError(
            f"{shown(file)} is a compressed Parquet table.\nDecompress it, and give that file."
        )
    if kind.form in ("text", "unknown"):
        yield from split_documents(_plain_text(file, kind))
        return
    if kind.form == "parquet":
        found = parquet_texts(file, text_field)
    else:
        found = texts(_text_chunks(file, kind), kind.form, text_field, file)
    for text in found:
        if text is None:
            tally.empty += 1
        else:
            yield from split_documents([text])


def _plain_text(file: Path, kind: Kind) -> Iterator[str]:
    """The text of a file. Raises UserError if it is JSON under another name."""
    begun = False
    for chunk in _text_chunks(file, kind):
        suffix = None if begun else hidden_json(chunk)
        if not begun and suffix is None and may_be_list(chunk):
            suffix = ".json" if is_list_of_texts(_text_chunks(file, kind), file) else None
        if suffix:
            suffix += file.suffix if kind.packing else ""
            raise UserError(
                f"{shown(file)} holds JSON, not plain text.\n"
                f"Rename it to {suffix} so that the texts in it are read."
            )
        begun = True
        yield chunk


def text_files(
    path: str, text_field: str, key: str = "data.path", documents: int | None = None
) -> TextFiles:
    """The corpus at `path`: a file, or the text files in a folder and its subfolders."""
    place = look_up(path, key, f"Give a file ({FORMS}) or a folder of them.")
    if not place.is_dir():
        return TextFiles([place], text_field, documents)
    files, left_out = files_in(place)
    if not files:
        raise UserError(
            f"The folder {key}={shown(path)} has no .txt, .jsonl, .gz or other text files"
            f"{listed(left_out)}.\nSupported: {FORMS}."
        )
    return TextFiles(files, text_field, documents, tuple(left_out))


def split_documents(chunks: Iterable[str]) -> Iterator[Piece]:
    """The documents in a text that comes in chunks; the last document ends with the text."""
    buffer = ""
    begun = False  # a piece of the current document has been yielded
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
    """`text` in pieces of nearly 65,536 characters; the last may have fewer."""
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


def _text_chunks(file: Path, kind: Kind) -> Iterator[str]:
    """The text of a file, without a byte order mark. Raises UserError if it is not text."""
    return decoded(_sane(byte_chunks(file, kind.packing, _READ_BYTES), file), file, kind.packing)


def _sane(chunks: Iterator[bytes], file: Path) -> Iterator[bytes]:
    """The chunks of a file. Raises UserError if it begins like a known kind of binary file."""
    head = b""
    for chunk in chunks:
        if len(head) < _HEAD_BYTES:
            head += chunk[:_HEAD_BYTES]
            if encoding_of(head)[1] == 0 and (what := known_bytes(head)):
                raise UserError(
                    f"By its first bytes, {shown(file)} is {what}, not text.\n"
                    "If this kind can be read, give the file its usual suffix; if not, give "
                    "another file."
                )
        yield chunk


@dataclass(frozen=True)
class Survey:
    """What one pass over a corpus finds.

    `sha256` covers the documents (UTF-8, each followed by the byte 0xff, never used in UTF-8).
    The first `cut` characters are the training split (all, if no fraction is held out).
    `files` had text, `without_text` had none; `empty` records had no text and are skipped.
    """

    sha256: str
    characters: int
    documents: int
    alphabet: str
    cut: int
    files: int
    empty: int
    without_text: list[str]

    def line(self, corpus: TextFiles) -> str:
        """What was read of a corpus, and what was skipped."""
        read = f"{counted(self.files, 'file')}, {counted(self.documents, 'document')}"
        empty = f"; skipped {counted(self.empty, 'empty document')}" if self.empty else ""
        left_out = listed([*self.without_text, *corpus.left_out])
        return f"read {read}, {self.characters:,} characters{left_out}{empty}"


def survey(corpus: TextFiles, fraction: float | None, cache: Path, progress: bool = True) -> Survey:
    """Read a corpus once; the result is kept while its files do not change. Raises UserError."""
    names = [file.name for file in corpus.files]  # they determine the kinds
    facts = ["survey", corpus.text_field, fraction, corpus.documents, names]
    found = remembered(cache, corpus.files, facts, lambda: _survey(corpus, fraction, progress))
    return Survey(**found)


def _survey(corpus: TextFiles, fraction: float | None, progress: bool) -> Json:
    sha256, tally = hashlib.sha256(), Tally()
    alphabet: set[str] = set()
    characters, documents = 0, 0
    boundaries = array("q")  # ends of documents; thinned out so that memory stays flat
    spacing = 1
    with progress_bar("reading the text", None, "characters", progress) as advance:
        for text, ends_document in corpus.pieces(tally):
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
        raise UserError(f"There is no text in {', '.join(map(shown, corpus.files[:3]))}.")
    return {
        "sha256": sha256.hexdigest(),
        "characters": characters,
        "documents": documents,
        "alphabet": "".join(sorted(alphabet)),
        "cut": characters if fraction is None else cut_place(characters, boundaries, fraction),
        "files": tally.files,
        "empty": tally.empty,
        "without_text": tally.without_text,
    }


def cut_place(length: int, boundaries: Iterable[int], fraction: float) -> int:
    """Where to cut so that the last `fraction` of `length`, rounded up, is held out.

    If documents end inside the text, the cut is at the nearest end (the earlier of two equally
    near). Raises UserError if a split would be empty.
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
    """The characters from start to stop of a stream of pieces; document ends are kept."""
    place = 0
    for text, ends_document in pieces:
        first, place = place, place + len(text)
        if first >= stop and text:
            return
        if place > start or (first > start and not text):
            part = text[max(0, start - first) : stop - first]
            yield Piece(part, ends_document and place <= stop)


def shared_folder() -> Path:
    """The folder of data shared by checkouts: JAXLM_SHARED, or shared/data beside the project."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("JAXLM_SHARED") or beside)


def shakespeare(path: str | None, cache: Path) -> Path:
    """The file of Tiny Shakespeare, verified: `path`, the shared copy, or a cached download."""
    if path is not None:
        file = text_files(path, "").files[0]
        if _sha256(file) != SHAKESPEARE_SHA256:
            raise UserError(
                f"data.path={shown(path)} is not Tiny Shakespeare (its SHA-256 differs).\n"
                "For a text of your own, use data=text."
            )
        return file
    downloaded = cache / "downloads" / "tinyshakespeare.txt"
    for file in (shared_folder() / "tinyshakespeare.txt", downloaded):
        if file.is_file() and _sha256(file) == SHAKESPEARE_SHA256:
            return file
    _download_shakespeare(downloaded)
    return downloaded


def _sha256(file: Path) -> str:
    return hashlib.sha256(b"".join(byte_chunks(file, None, _READ_BYTES))).hexdigest()


def _download_shakespeare(destination: Path) -> None:
    try:
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=30) as response:
            content = response.read()
        problem = "the SHA-256 of the download differs"
    except (urllib.error.URLError, OSError) as error:
        content, problem = b"", str(getattr(error, "reason", error))
    if hashlib.sha256(content).hexdigest() != SHAKESPEARE_SHA256:
        raise UserError(
            f"Could not download Tiny Shakespeare from {SHAKESPEARE_URL}: {problem}.\n"
            "Run once with internet access, set data.path to your own copy, or put "
            f"tinyshakespeare.txt into {shared_folder()} (JAXLM_SHARED names another folder)."
        )
    with replacing(destination) as file:
        file.write(content)
