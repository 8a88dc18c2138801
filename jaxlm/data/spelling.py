"""The bytes that ids spell, and decoding of ids as they arrive.

A decoder of the `tokenizers` library is read once into the bytes of each id, so that the same code
decodes whole texts and streams.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jaxlm.host.checked import Json

_REPLACEMENT = "\ufffd".encode()


class Strip(NamedTuple):
    """Removes up to `start` of the character `content` from a text's start, `stop` from its end."""

    content: str
    start: int
    stop: int


@dataclass(frozen=True)
class Spelling:
    """The bytes that each id stands for; an id may hold only part of a character.

    `first` and `last` hold the bytes at the beginning and at the end of a text, if they differ.
    `strips` are applied to the text. `whole` decodes if single ids have no bytes of their own.
    """

    bytes_of_id: Sequence[bytes]
    first: Sequence[bytes] | None = None
    last: Sequence[bytes] | None = None
    strips: tuple[Strip, ...] = ()
    whole: Callable[[list[int]], str] | None = None

    @cached_property
    def lengths_V(self) -> np.ndarray:
        """int64 (V,): bytes of each id inside a text."""
        return np.array([len(spelled) for spelled in self.bytes_of_id], np.int64)

    @cached_property
    def first_lengths_V(self) -> np.ndarray:
        """int64 (V,): bytes of each id at the beginning of a text."""
        table = self.bytes_of_id if self.first is None else self.first
        for content, start, _ in self.strips:
            for _ in range(start):
                table = [spelled.removeprefix(content.encode()) for spelled in table]
        return np.array([len(spelled) for spelled in table], np.int64)

    @property
    def strips_blank(self) -> bool:
        """Whether decoding drops a space at the beginning of the ids."""
        return self.first is not None or any(s.content == " " and s.start for s in self.strips)

    def join(self, ids: Sequence[int], table: Sequence[bytes] | None = None) -> bytes:
        """The bytes of `ids`. An id beyond the vocabulary (a padded embedding's) gives U+FFFD."""
        table = self.bytes_of_id if table is None else table
        try:
            return b"".join(map(table.__getitem__, ids))
        except IndexError:
            return b"".join(table[i] if i < len(table) else _REPLACEMENT for i in ids)


class StreamDecoder:
    """Text from ids as they arrive; what later ids may change is held back.

    The pieces together equal `Tokenizer.decode` of all ids. With `after`, they are what the ids add
    to the text of the ids in `after`.
    """

    def __init__(self, tokenizer: Any, after: Iterable[int] = ()):
        self._spelling: Spelling = tokenizer.spelling
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strips = [_Stripping(strip) for strip in self._spelling.strips]
        self._begun = False
        self._waiting: list[int] = []
        self._skip = 0
        if before := [int(i) for i in after]:
            self._skip = len(tokenizer.decode(before))
            self.push(before)

    def push(self, ids: Iterable[int]) -> str:
        """The text that is final after these further ids."""
        ids = [*self._waiting, *map(int, ids)]
        if self._spelling.whole is not None:
            self._waiting = ids
            return ""
        if self._spelling.last is not None:
            ids, self._waiting = ids[:-1], ids[-1:]
        return self._text(self._bytes(ids))

    def finish(self) -> str:
        """The remaining text; U+FFFD for a character that was never completed."""
        spelling, ids = self._spelling, self._waiting
        if spelling.whole is not None:
            return self._new(spelling.whole(ids) if ids else "")
        return self._text(spelling.join(ids, spelling.last) if ids else b"", final=True)

    def _bytes(self, ids: list[int]) -> bytes:
        spelling = self._spelling
        if self._begun or spelling.first is None or not ids:
            self._begun = self._begun or bool(ids)
            return spelling.join(ids)
        self._begun = True
        return spelling.join(ids[:1], spelling.first) + spelling.join(ids[1:])

    def _text(self, content: bytes, final: bool = False) -> str:
        text = self._decoder.decode(content, final)
        for strip in self._strips:
            text = strip.push(text)
        return self._new(text)

    def _new(self, text: str) -> str:
        new, self._skip = text[self._skip :], max(0, self._skip - len(text))
        return new


class _Stripping:
    """A `Strip` of a text that comes in parts; what may be stripped at the end is held back."""

    def __init__(self, strip: Strip):
        self.strip, self.left, self.held = strip, strip.start, ""

    def push(self, text: str) -> str:
        while text and self.left:
            if text[0] == self.strip.content:
                text, self.left = text[1:], self.left - 1
            else:
                self.left = 0
        text, waiting = self.held + text, 0
        while waiting < min(self.strip.stop, len(text)):
            if text[-1 - waiting] != self.strip.content:
                break
            waiting += 1
        self.held = text[len(text) - waiting :]
        return text[: len(text) - waiting]


# -- reading the decoder of a tokenizer.json


def spelling_of(library: Any, specification: Json, vocab_size: int) -> Spelling:
    """The spelling of a `tokenizers.Tokenizer` whose content is `specification`."""
    added = {token["id"] for token in specification["added_tokens"]}
    reader = _Reader(specification["decoder"])
    if not reader.by_token:
        return Spelling(
            [b""] * vocab_size, whole=lambda ids: library.decode(ids, skip_special_tokens=False)
        )
    tokens = [library.id_to_token(i) for i in range(vocab_size)]

    def table(first: bool = False, last: bool = False) -> list[bytes]:
        return [
            b"" if token is None else reader.spell(token, i in added, first, last)
            for i, token in enumerate(tokens)
        ]

    return Spelling(
        table(),
        table(first=True) if reader.has_first else None,
        table(last=True) if reader.has_last else None,
        tuple(reader.strips),
    )


class _Reader:
    """A decoder as steps that each see one token, and strips of the whole text.

    `by_token` is False if some step sees several tokens together.
    """

    _BY_TOKEN = ("Replace", "Strip", "WordPiece", "Metaspace", "BPEDecoder", "ByteFallback")

    def __init__(self, decoder: Json | None):
        steps = _flat(decoder)
        self.joined_by_blank = decoder is None
        fused = [n for n, step in enumerate(steps) if step["type"] in ("Fuse", "ByteLevel")]
        place = fused[0] if fused else len(steps)
        before, after = steps[:place], [s for s in steps[place + 1 :] if s["type"] != "Fuse"]
        self.byte_level = bool(fused) and steps[place]["type"] == "ByteLevel"
        while after and not self.byte_level and _of_one_character(after[0]):
            before.append(after.pop(0))
        self.by_token = all(step["type"] in self._BY_TOKEN for step in before) and all(
            step["type"] == "Strip" for step in after
        )
        self.strips = [Strip(s["content"], s["start"], s["stop"]) for s in after if self.by_token]
        self.steps = [(step, _library_decoder(step)) for step in before]
        self.has_first = self.joined_by_blank or any(
            step["type"] == "WordPiece"
            or (step["type"] == "Metaspace" and step["prepend_scheme"] != "never")
            for step in before
        )
        self.has_last = any(step["type"] == "BPEDecoder" for step in before)

    def spell(self, token: str, added: bool, first: bool, last: bool) -> bytes:
        """The bytes of a token at the beginning, at the end or inside a text."""
        if self.joined_by_blank:
            return (token if first else " " + token).encode()
        for step, decoder in self.steps:
            kind = step["type"]
            if kind == "ByteFallback":
                if (value := _fallback_byte(token)) is not None:
                    return value
            elif kind == "Metaspace":
                # The library drops every space of a first token, though it put only one there.
                mark = step["replacement"]
                if first and step["prepend_scheme"] != "never":
                    token = token.removeprefix(mark)
                token = token.replace(mark, " ")
            elif kind == "BPEDecoder":
                token = token.replace(step["suffix"], "" if last else " ")
            elif token:
                inside = kind == "WordPiece" and not first
                token = decoder.decode(["", token] if inside else [token])
        return _byte_level_bytes(token) if self.byte_level and not added else token.encode()


def _flat(decoder: Json | None) -> list[Json]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _flat(part)]
    return [decoder]


def _of_one_character(step: Json) -> bool:
    """Whether a step on the whole text equals the same step on each token."""
    return step["type"] == "Replace" and len(step["pattern"].get("String", "")) == 1


def _library_decoder(step: Json) -> Any:
    """The library's decoder for one step, which it builds only from a whole tokenizer.json."""
    from tokenizers import Tokenizer, models

    empty = json.loads(Tokenizer(models.BPE()).to_str())
    return Tokenizer.from_str(json.dumps(empty | {"decoder": step})).decoder


def _fallback_byte(token: str) -> bytes | None:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return None
    return None


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (Radford et al. 2019, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    table = {chr(value): value for value in printable}
    return table | {chr(256 + place): value for place, value in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()


def _byte_level_bytes(token: str) -> bytes:
    """A token's bytes; as in the library, a token with any other character is plain text."""
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:
        return token.encode()
