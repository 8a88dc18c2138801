"""Text to token files: the tokenizer, its training, and the files kept in the cache.

While a text is encoded, all of it is decoded again and compared, document by document, and its
bytes are counted. The findings are stored with the tokens.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxlm.config.duration import parse_count
from jaxlm.config.tokenizers import BPE, Byte, Char, Pretrained, TokenizerConfig
from jaxlm.data.cache import digest
from jaxlm.data.corpora import Piece
from jaxlm.data.hub import hub_tokenizer
from jaxlm.data.lossless import Comparison, loss_in_words, refuse_loss
from jaxlm.data.tokenfile import Tokens, open_tokens, write_tokens
from jaxlm.data.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    load_pretrained,
    load_tokenizer,
    train_bpe,
)
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.progress import progress_bar

_BATCH_CHARACTERS = 1 << 20
_ENOUGH_CHARACTERS = 1 << 24  # after these, a loss is an error before the rest is encoded


def named_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizers that need no text: byte and pretrained. Raises UserError."""
    if isinstance(config, Byte):
        return ByteTokenizer()
    assert isinstance(config, Pretrained), config.name
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
    identity: list[object],
    alphabet: str,
    documents: bool,
    cache: Path,
    progress: bool,
    most_bytes: int | None = None,
) -> Tokenizer:
    """The tokenizer that `config` names; a BPE is trained once on the training text and kept.

    `identity` identifies the training text; `alphabet` holds its characters and those of the
    validation text. Training uses at most `most_bytes`. Raises UserError.
    """
    if isinstance(config, Char):
        return CharTokenizer(alphabet, documents)
    if not isinstance(config, BPE):
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
    """The id between documents. Raises UserError if the tokenizer has none."""
    if tokenizer.end_of_text is None:
        raise UserError(
            "The corpus has documents, but the tokenizer has no token to end them with (such as "
            "<|endoftext|> or </s>).\nAdd one to the tokenizer.json, or use tokenizer=bpe."
        )
    return tokenizer.end_of_text


def encode_pieces(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    end_of_text: int | None,
    comparison: Comparison | None = None,
    advance: Callable[[float], None] = lambda characters: None,
) -> Iterator[Tokens]:
    """int32 ids of all pieces and their bytes, about a million characters at a time.

    `end_of_text`, unless None, follows each document. `comparison` receives all texts and ids,
    `advance` the number of characters done. If a tokenizer's words may span a cut, the pieces of a
    document within a million characters are joined again.
    """
    comparison = comparison or Comparison(tokenizer)
    begins, carried, last = True, 0, None
    for waiting in _batches(pieces):
        waiting = waiting if tokenizer.cuts_at_words else _joined(waiting)
        starts = [begins, *(piece.ends_document for piece in waiting[:-1])]
        encoded = tokenizer.encode_batch([piece.text for piece in waiting], starts)
        ids, sizes = [], []
        for piece, begins_here, own in zip(waiting, starts, encoded, strict=True):
            same = comparison.add(piece.text, own, piece.ends_document)
            own_sizes = _sizes(piece.text, begins_here, own, same, tokenizer)
            if end_of_text is not None and piece.ends_document:
                own, own_sizes = np.append(own, np.int32(end_of_text)), np.append(own_sizes, 0)
            carried += len(piece.text.encode()) - int(own_sizes.sum())
            if len(own_sizes):
                own_sizes[0] += carried  # earlier text without a token
                carried = 0
            ids.append(own)
            sizes.append(own_sizes.astype(np.int32))
        begins = waiting[-1].ends_document
        advance(sum(len(piece.text) for piece in waiting))
        if last is not None:
            yield last
        last = Tokens(np.concatenate(ids), np.concatenate(sizes))
    comparison.finish()
    if last is not None:
        if carried and last.bytes_N is not None and len(last.bytes_N):
            last.bytes_N[-1] += carried
        yield last


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    waiting, characters = [], 0
    for piece in pieces:
        waiting.append(piece)
        characters += len(piece.text)
        if characters >= _BATCH_CHARACTERS:
            yield waiting
            waiting, characters = [], 0
    if waiting:
        yield waiting


def _joined(pieces: list[Piece]) -> list[Piece]:
    """The pieces of each document joined into one."""
    joined, texts = [], []
    for place, piece in enumerate(pieces):
        texts.append(piece.text)
        if piece.ends_document or place + 1 == len(pieces):
            joined.append(Piece("".join(texts), piece.ends_document))
            texts = []
    return joined


def _sizes(
    text: str, begins: bool, ids: np.ndarray, same: bool, tokenizer: Tokenizer
) -> np.ndarray:
    """int64 (N,): the bytes of `text` that belong to each of its ids; they add up to its bytes.

    `same`: the ids spell the text, so each has the bytes it spells; a space that decoding removes
    from the start of a document does not count for the first id.
    """
    if same:
        sizes = tokenizer.spelling.lengths_V[ids]
        excess = int(sizes.sum()) - len(text.encode())
        if excess == 0:
            return sizes
        if 0 < excess <= sizes[0]:
            sizes[0] -= excess
            return sizes
    return tokenizer.bytes_of_tokens(text, begins)


def cached_tokens(
    name: str,
    parts: Iterable[np.ndarray | Tokens],
    vocab_size: int,
    fingerprint: str,
    cache: Path,
    about: Callable[[], Json] = dict,
) -> Tokens:
    """The memory-mapped tokens of this fingerprint: from the cache, or written from `parts`."""
    path = cache / "tokens" / f"{name}-{fingerprint[:16]}.tokens"
    tokens = open_tokens(path, vocab_size, fingerprint, cache)
    if tokens is None:
        write_tokens(path, parts, vocab_size, fingerprint, about)
        tokens = open_tokens(path, vocab_size, fingerprint, cache)
    if tokens is None:
        raise UserError(f"{path} has changed since it was written.\nIs the disk damaged?")
    return tokens


def refuse_early(
    parts: Iterable[Tokens], comparison: Comparison, name: str, lossy: bool
) -> Iterator[Tokens]:
    """`parts`; raises UserError early if decoding does not restore a text, unless `lossy`."""
    for part in parts:
        if not lossy and comparison.characters >= _ENOUGH_CHARACTERS:
            comparison.refuse(name)
        yield part


def note_of_loss(tokens: Tokens, name: str, lossy: bool) -> list[str]:
    """A note on what encoding lost; none if decoding restores the whole text.

    Raises UserError on a loss, unless `lossy`.
    """
    if not tokens.about.get("loss"):
        return []
    if not lossy:
        refuse_loss(tokens.about, name)
    return [f"tokenizer.lossy=true: in {name}, {loss_in_words(tokens.about)}"]
