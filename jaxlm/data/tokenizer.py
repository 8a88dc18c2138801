"""Tokenizers: text to ids and back, one JSON form for all kinds, and decoding as a stream.

Text never contains control tokens: `<|endoftext|>` written inside a text is encoded as the
characters it is made of. Only the corpus puts the end_of_text id between documents. Decoding shows
it as `<|endoftext|>`.
"""

import codecs
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.cache import replacing
from jaxlm.errors import UserError
from jaxlm.names import expanded, shown

END_OF_TEXT = "<|endoftext|>"
_FORMAT = "jaxlm tokenizer 1"
_REPLACEMENT = "\ufffd".encode()


class Tokenizer:
    """What all kinds share; V is vocab_size.

    `end_of_text` is the id between documents, or None. `token_bytes` holds the UTF-8 bytes that
    each id stands for (control tokens: their name), of which one id may hold part of a character.
    """

    vocab_size: int
    end_of_text: int | None
    control_ids: frozenset[int]
    token_bytes: list[bytes]

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of `text`. Raises UserError for what the vocabulary cannot express."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` for each text; several cores where the library can."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; what is not valid UTF-8 becomes U+FFFD."""
        return self.join(ids).decode("utf-8", "replace")

    def join(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`. An id beyond the vocabulary (a padded embedding's) gives U+FFFD."""
        known = self.vocab_size
        return b"".join(self.token_bytes[i] if i < known else _REPLACEMENT for i in map(int, ids))

    @cached_property
    def bytes_V(self) -> np.ndarray:
        """int64 (V,): UTF-8 bytes of text per id, 0 for control tokens; for bits per byte."""
        lengths = [len(token) for token in self.token_bytes]
        return np.array(
            [0 if i in self.control_ids else n for i, n in enumerate(lengths)], np.int64
        )

    def to_json(self) -> dict[str, Any]:
        """What `load_tokenizer` reads, `kind` included."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the serialised tokenizer."""
        return hashlib.sha256(self._serialised()).hexdigest()

    def _serialised(self) -> bytes:
        return json.dumps({"format": _FORMAT, **self.to_json()}, ensure_ascii=False).encode()

    def save(self, path: Path) -> None:
        """Write `path`, atomically."""
        with replacing(Path(path)) as file:
            file.write(self._serialised())


class CharTokenizer(Tokenizer):
    """One id per character of a fixed, sorted alphabet, then end_of_text if there are documents."""

    def __init__(self, alphabet: str, documents: bool):
        self.alphabet = alphabet
        self.end_of_text = len(alphabet) if documents else None
        self.vocab_size = len(alphabet) + documents
        self.control_ids = frozenset([len(alphabet)] if documents else [])
        self.token_bytes = [c.encode() for c in alphabet] + [END_OF_TEXT.encode()] * documents
        codes = np.array([ord(character) for character in alphabet])
        self._id_of_code = np.full(codes.max() + 1, -1, np.int32)
        self._id_of_code[codes] = np.arange(len(alphabet))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids = self._id_of_code[np.minimum(codes, len(self._id_of_code) - 1)]
        unknown = (ids < 0) | (codes >= len(self._id_of_code))
        if unknown.any():
            characters = sorted({text[i] for i in np.flatnonzero(unknown)})
            shown = ", ".join(map(repr, characters[:10])) + (
                ", ..." if len(characters) > 10 else ""
            )
            raise UserError(
                f"The text has characters that the char tokenizer does not know: {shown}.\n"
                f"It knows {len(self.alphabet)}: {self.alphabet[:100]!r}"
            )
        return ids

    def to_json(self) -> dict[str, Any]:
        documents = self.end_of_text is not None
        return {"kind": "char", "alphabet": self.alphabet, "documents": documents}


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, then end_of_text."""

    def __init__(self):
        self.end_of_text = 256
        self.vocab_size = 257
        self.control_ids = frozenset([256])
        self.token_bytes = [bytes([value]) for value in range(256)] + [END_OF_TEXT.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(_utf8(text), np.uint8).astype(np.int32) for text in texts]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "byte"}


class LibraryTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library, from its JSON: byte-level, or SentencePiece-like.

    `specification` is the content of a tokenizer.json. It must have merges or pieces that join
    into text (model BPE or Unigram).
    """

    _ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")

    def __init__(self, specification: dict[str, Any]):
        from tokenizers import Tokenizer as Library

        self.specification = specification
        self._library = Library.from_str(json.dumps(specification))
        self._library.encode_special_tokens = True  # treat their names in a text as plain text
        self._library.no_truncation()
        self._library.no_padding()
        added = self._library.get_added_tokens_decoder()
        id_of_token = self._library.get_vocab(with_added_tokens=True)
        self.control_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocab_size = max(id_of_token.values()) + 1
        self.end_of_text = next((id_of_token[e] for e in self._ENDS if e in id_of_token), None)
        self._byte_level = _uses(specification.get("decoder"), "ByteLevel")
        token_bytes = _byte_level_bytes if self._byte_level else _sentencepiece_bytes
        self.token_bytes = [b""] * self.vocab_size
        for token, i in id_of_token.items():
            self.token_bytes[i] = token.encode() if i in added else token_bytes(token)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            for text in texts:
                _utf8(text)  # names what is not Unicode
            raise
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        if self._byte_level:
            return super().decode(ids)
        return self._library.decode([int(i) for i in ids], skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "library", "tokenizer": self.specification}


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text is not valid Unicode: {text[error.start]!r} at character {error.start:,}."
        ) from None


def _uses(part: Any, kind: str) -> bool:
    """Whether a part of a tokenizer.json, or one of its components, is of this type."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_uses(value, kind) for value in part.values())
    return isinstance(part, list) and any(_uses(value, kind) for value in part)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (Radford et al. 2019, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    table = {chr(value): value for value in printable}
    return table | {chr(256 + place): value for place, value in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()


def _byte_level_bytes(token: str) -> bytes:
    return bytes(_BYTE_OF_CHARACTER[character] for character in token)


def _sentencepiece_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def train_bpe(texts: Iterable[str], vocab_size: int) -> LibraryTokenizer:
    """A byte-level BPE with GPT-2's pre-tokenizer; end_of_text is id 0, then 256 bytes, merges.

    Raises UserError where the text is too small to give exactly `vocab_size` entries.
    """
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size} is too small: a byte-level BPE holds 256 bytes and "
            f"{END_OF_TEXT}.\nUse 257 or more."
        )
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    if library.get_vocab_size() != vocab_size:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size}, but the training text gives only "
            f"{library.get_vocab_size()} entries.\nUse a smaller tokenizer.vocab_size or more text."
        )
    return LibraryTokenizer(json.loads(library.to_str()))


def load_pretrained(path: str | Path) -> LibraryTokenizer:
    """A tokenizer.json, or a folder that holds one, or GPT-2's vocabulary and merges.

    The folder's files may be called vocab.json and merges.txt or gpt2_vocab.json and
    gpt2_merges.txt. Raises UserError.
    """
    path = expanded(path)
    file = path / "tokenizer.json" if os.path.isdir(path) else path
    if not os.path.isfile(file):  # pathlib's raises on a name that is too long
        for prefix in ("", "gpt2_"):
            vocabulary, merges = path / f"{prefix}vocab.json", path / f"{prefix}merges.txt"
            if os.path.isfile(vocabulary) and os.path.isfile(merges):
                return _from_gpt2_files(vocabulary, merges)
        raise UserError(
            f"No tokenizer at tokenizer.path={shown(path)}.\n"
            "Give a tokenizer.json, or a folder with one or with vocab.json and merges.txt."
        )
    try:
        specification = json.loads(file.read_text("utf-8"))
        if specification["model"]["type"] not in ("BPE", "Unigram"):
            raise ValueError(f"its model is a {specification['model']['type']}, not a BPE")
        return LibraryTokenizer(specification)
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(
            f"{file} is not a tokenizer this program can use: {type(error).__name__}: {error}\n"
            "It must be a BPE or Unigram tokenizer in the `tokenizers` library's JSON."
        ) from error


def _from_gpt2_files(vocabulary: Path, merges: Path) -> LibraryTokenizer:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    try:
        library = Library(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:
        raise UserError(f"Cannot read {vocabulary} and {merges}: {error}") from error
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return LibraryTokenizer(json.loads(library.to_str()))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a run, from the file that `Tokenizer.save` wrote. Raises UserError."""
    try:
        stored = json.loads(Path(path).read_text("utf-8"))
        if stored["format"] != _FORMAT:
            raise ValueError(f"its format is {stored['format']!r}, not {_FORMAT!r}")
        if stored["kind"] == "char":
            return CharTokenizer(stored["alphabet"], stored["documents"])
        return (
            ByteTokenizer() if stored["kind"] == "byte" else LibraryTokenizer(stored["tokenizer"])
        )
    except FileNotFoundError:
        raise UserError(f"{path} is missing: without it ids cannot become text.") from None
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(
            f"{path} is not a tokenizer of this program, or damaged: {error}"
        ) from error


class StreamDecoder:
    """Text from ids as they come: a character cut between two ids waits until it is whole."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """The text that is certain after these further ids."""
        return self._decoder.decode(self._tokenizer.join(ids))

    def finish(self) -> str:
        """What is left: U+FFFD for a character that never became whole, or ''."""
        return self._decoder.decode(b"", final=True)
