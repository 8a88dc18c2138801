"""Tokenizers: text to ids and back, with one JSON form for all kinds.

Text never contains control tokens: `<|endoftext|>` written inside a text is encoded as the
characters it is made of. Only the corpus puts the end_of_text id between documents. Decoding shows
it as `<|endoftext|>`. Text that a tokenizer cannot express is an error or, with tokenizer.lossy, a
note: see `lossless`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.data import plain
from jaxlm.data.cache import replacing
from jaxlm.data.lossless import Comparison
from jaxlm.data.spelling import Spelling, StreamDecoder, spelling_of
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.names import expanded, shown

if TYPE_CHECKING:
    from tokenizers import Encoding

END_OF_TEXT = "<|endoftext|>"
_FORMAT = "jaxlm tokenizer 1"


class Tokenizer:
    """What all kinds share; V is vocab_size.

    `end_of_text` is the id between documents, or None. `control_ids` never result from a text,
    except for the unknown id of a library's tokenizer. `cuts_at_words`: cutting a text before a
    space or line break does not change its ids.
    """

    vocab_size: int
    end_of_text: int | None
    control_ids: frozenset[int]
    spelling: Spelling
    cuts_at_words = True
    lossy = False  # tokenizer.lossy, of the run whose tokenizer this is

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of `text`. Raises UserError if they cannot express it, unless `lossy`."""
        [ids] = self.encode_batch([text])
        if not self.lossy:
            comparison = Comparison(self)
            comparison.add(text, ids)
            comparison.refuse("the text")
        return ids

    def encode_batch(
        self, texts: Sequence[str], begins: Sequence[bool] | None = None
    ) -> list[np.ndarray]:
        """The ids of each text, unchecked, on several cores if the library can.

        `begins` says which texts begin a document (None: all) rather than continue one.
        """
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; what is not valid UTF-8 becomes U+FFFD."""
        decoder = StreamDecoder(self)
        return decoder.push(ids) + decoder.finish()

    def bytes_of_tokens(self, text: str, begins: bool = True) -> np.ndarray:
        """int64 (N,): the UTF-8 bytes of `text` that belong to each of its tokens."""
        [ids] = self.encode_batch([text], [begins])
        return self.spelling.lengths_V[ids]

    def to_json(self) -> Json:
        """What `load_tokenizer` reads, `kind` included."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the serialised tokenizer."""
        return hashlib.sha256(self.serialised()).hexdigest()

    def serialised(self) -> bytes:
        """The content of the file that `save` writes."""
        return json.dumps({"format": _FORMAT, **self.to_json()}, ensure_ascii=False).encode()

    def save(self, path: Path) -> None:
        """Write `path`, atomically."""
        with replacing(Path(path)) as file:
            file.write(self.serialised())


class CharTokenizer(Tokenizer):
    """One id per character of a fixed, sorted alphabet, then end_of_text if there are documents."""

    def __init__(self, alphabet: str, documents: bool):
        self.alphabet = alphabet
        self.end_of_text = len(alphabet) if documents else None
        self.vocab_size = len(alphabet) + documents
        self.control_ids = frozenset([len(alphabet)] if documents else [])
        self.spelling = Spelling(
            [c.encode() for c in alphabet] + [END_OF_TEXT.encode()] * documents
        )
        codes = np.array([ord(character) for character in alphabet])
        self._id_of_code = np.full(codes.max() + 1, -1, np.int32)
        self._id_of_code[codes] = np.arange(len(alphabet))

    def encode_batch(
        self, texts: Sequence[str], begins: Sequence[bool] | None = None
    ) -> list[np.ndarray]:
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

    def to_json(self) -> Json:
        documents = self.end_of_text is not None
        return {"kind": "char", "alphabet": self.alphabet, "documents": documents}


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, then end_of_text."""

    def __init__(self) -> None:
        self.end_of_text = 256
        self.vocab_size = 257
        self.control_ids = frozenset([256])
        self.spelling = Spelling([bytes([value]) for value in range(256)] + [END_OF_TEXT.encode()])

    def encode_batch(
        self, texts: Sequence[str], begins: Sequence[bool] | None = None
    ) -> list[np.ndarray]:
        return [np.frombuffer(_utf8(text), np.uint8).astype(np.int32) for text in texts]

    def to_json(self) -> Json:
        return {"kind": "byte"}


class LibraryTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library, from its JSON, whatever its model.

    `specification` is the content of a tokenizer.json. Ids are the library's wherever those decode
    to the text; `plain` lists the differences. If the library puts a space before each text and
    its decoder removes it, the space is put before each document. If the decoder would keep it, no
    space is put there.
    """

    def __init__(self, specification: Json):
        from tokenizers import Tokenizer as Library

        self.specification = specification
        written = plain.canonical(specification)
        library = Library.from_str(json.dumps(written))
        id_of_token = library.get_vocab(with_added_tokens=True)
        self.vocab_size = max(id_of_token.values()) + 1
        self.end_of_text = next((id_of_token[e] for e in plain.ENDS if e in id_of_token), None)
        self.control_ids = frozenset(plain.control_ids(written, id_of_token))
        self.spelling = spelling_of(library, written, self.vocab_size)
        names = {i: token for token, i in id_of_token.items() if i in self.control_ids}
        self._library = Library.from_str(json.dumps(plain.for_plain_text(written, names)))
        self._library.encode_special_tokens = True
        strips = self.spelling.strips_blank
        self._blank_before = strips and plain.prepends_blank(written)
        self._blank_doubled = strips and not self._blank_before
        words = (token["content"] for token in written["added_tokens"] if not token["special"])
        self._words = tuple(word for word in words if not word.startswith(" "))
        self.cuts_at_words = "ByteLevel" in plain.decoder_types(written)

    def encode_batch(
        self, texts: Sequence[str], begins: Sequence[bool] | None = None
    ) -> list[np.ndarray]:
        encodings = self._encodings(self._library.encode_batch_fast, texts, begins)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def bytes_of_tokens(self, text: str, begins: bool = True) -> np.ndarray:
        """int64 (N,): UTF-8 bytes of `text` up to the end of each token, less those before it.

        Dropped text counts for the next token or, at the end of the text, for the last one.
        """
        [encoding] = self._encodings(self._library.encode_batch, [text], [begins])
        before = len(self._begun(text, begins)) - len(text)
        sizes = np.array([len(character.encode()) for character in text], np.int64)
        bytes_to = np.concatenate([[0], np.cumsum(sizes)])
        ends = np.array([end for _, end in encoding.offsets], np.int64) - before
        ends = np.maximum.accumulate(np.clip(ends, 0, len(text)))
        ends[-1:] = len(text)
        return np.diff(bytes_to[ends], prepend=0)

    def _begun(self, text: str, begins: bool) -> str:
        if not begins or not text or text.startswith(self._words):
            return text
        blank = self._blank_before or (self._blank_doubled and text.startswith(" "))
        return " " + text if blank else text

    def _encodings(
        self,
        encode: "Callable[..., list[Encoding]]",
        texts: Sequence[str],
        begins: Sequence[bool] | None,
    ) -> "list[Encoding]":
        begins = [True] * len(texts) if begins is None else begins
        begun = [self._begun(text, first) for text, first in zip(texts, begins, strict=True)]
        try:
            return encode(begun, add_special_tokens=False)
        except TypeError:
            for text in texts:
                _utf8(text)  # names the invalid character
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(
                f"The tokenizer cannot encode the text: {error}.\n"
                "It has no token for unknown text. Use another one, or tokenizer=bpe."
            ) from None

    def to_json(self) -> Json:
        return {"kind": "library", "tokenizer": self.specification}


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text is not valid Unicode: {text[error.start]!r} at character {error.start:,}."
        ) from None


def train_bpe(texts: Iterable[str], vocab_size: int) -> LibraryTokenizer:
    """A byte-level BPE with GPT-2's pre-tokenizer; end_of_text is id 0, then 256 bytes, merges.

    Raises UserError if the text is too small to give exactly `vocab_size` entries.
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
    if not os.path.isfile(file):  # pathlib's is_file raises if a name is too long
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
        return LibraryTokenizer(specification)
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(
            f"{file} is not a tokenizer this program can use: {type(error).__name__}: {error}\n"
            "It must be the JSON of the `tokenizers` library: BPE, Unigram, WordPiece or WordLevel."
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
        raise UserError(f"{path} is missing. Without it, ids cannot be decoded.") from None
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(
            f"{path} is damaged, or not a tokenizer of this program: {error}"
        ) from error
