"""Text to token files: which tokenizer, trained on what, and the files kept in the cache."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxlm.config import TokenizerConfig
from jaxlm.data.cache import digest
from jaxlm.data.corpora import Piece
from jaxlm.data.hub import hub_tokenizer
from jaxlm.data.progress import progress_bar
from jaxlm.data.tokenfile import open_tokens, write_tokens
from jaxlm.data.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    load_pretrained,
    load_tokenizer,
    train_bpe,
)
from jaxlm.duration import parse_count
from jaxlm.errors import UserError

_BATCH_CHARACTERS = 1 << 20


def named_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizers that need no text: byte and pretrained. Raises UserError."""
    if config.name == "byte":
        return ByteTokenizer()
    if config.path is None and config.hub is not None:
        return load_pretrained(hub_tokenizer(config.hub))
    if config.path is None:
        raise UserError(
            "tokenizer=pretrained needs tokenizer.path: a tokenizer.json, or a folder with "
            "vocab.json and merges.txt."
        )
    return load_pretrained(config.path)


def make_tokenizer(
    config: TokenizerConfig,
    training_pieces: Callable[[], Iterable[Piece]],
    identity: list,
    alphabet: str,
    documents: bool,
    cache: Path,
    progress: bool,
    most_bytes: int | None = None,
) -> Tokenizer:
    """The tokenizer that `config` names; a BPE is trained once on the training text and kept.

    `identity` names the training text, `alphabet` its characters and those of the validation
    text; at most `most_bytes` are trained on. Raises UserError.
    """
    if config.name == "char":
        return CharTokenizer(alphabet, documents)
    if config.name != "bpe":
        return named_tokenizer(config)
    n_bytes = parse_count(config.training_bytes, "tokenizer.training_bytes")
    n_bytes = min(n_bytes, most_bytes or n_bytes)
    kept = cache / "tokenizers" / f"bpe-{digest(identity, n_bytes, config.vocab_size)[:16]}.json"
    try:
        return load_tokenizer(kept)
    except UserError:  # missing or damaged
        with progress_bar("training the tokenizer", n_bytes, "bytes", progress) as advance:
            texts = _first_bytes(training_pieces(), n_bytes, advance)
            tokenizer = train_bpe(texts, config.vocab_size)
    tokenizer.save(kept)
    return tokenizer


def _first_bytes(
    pieces: Iterable[Piece], n_bytes: int, advance: Callable[[float], None]
) -> Iterator[str]:
    for text, _ in pieces:
        content = text.encode()[:n_bytes]
        yield content.decode("utf-8", "ignore")
        advance(len(content))
        n_bytes -= len(content)
        if not n_bytes:
            return


def document_end(tokenizer: Tokenizer) -> int:
    """The id between documents. Raises UserError where the tokenizer has none."""
    if tokenizer.end_of_text is None:
        raise UserError(
            "The corpus has documents, but the tokenizer has no token to end them with "
            "(<|endoftext|> or </s>, say).\nAdd one to the tokenizer.json, or use tokenizer=bpe."
        )
    return tokenizer.end_of_text


def encode_pieces(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    end_of_text: int | None,
    advance: Callable[[float], None] = lambda characters: None,
) -> Iterator[np.ndarray]:
    """int32 ids of all pieces, about a million characters at a time.

    `end_of_text`, unless None, follows each document. `advance` hears of the characters done.
    """
    ending = np.array([] if end_of_text is None else [end_of_text], np.int32)
    waiting: list[Piece] = []
    characters = 0

    def encode() -> np.ndarray:
        encoded = tokenizer.encode_batch([piece.text for piece in waiting])
        parts = []
        for ids, piece in zip(encoded, waiting, strict=True):
            parts += [ids, ending] if piece.ends_document else [ids]
        advance(characters)
        return np.concatenate(parts)

    for piece in pieces:
        waiting.append(piece)
        characters += len(piece.text)
        if characters >= _BATCH_CHARACTERS:
            yield encode()
            waiting, characters = [], 0
    if waiting:
        yield encode()


def cached_tokens(
    name: str, arrays: Iterable[np.ndarray], vocab_size: int, fingerprint: str, cache: Path
) -> np.ndarray:
    """The memory-mapped tokens of this fingerprint: from the cache, or written from `arrays`."""
    path = cache / "tokens" / f"{name}-{fingerprint[:16]}.tokens"
    tokens = open_tokens(path, vocab_size, fingerprint, cache)
    if tokens is None:
        write_tokens(path, arrays, vocab_size, fingerprint)
        tokens = open_tokens(path, vocab_size, fingerprint, cache)
    if tokens is None:
        raise UserError(f"{path} does not read back as it was written.\nIs the disk damaged?")
    return tokens
