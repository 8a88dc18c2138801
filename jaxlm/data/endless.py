"""data=stories: as many training tokens as needed, and validation documents with their floor."""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxlm.config.corpora import Stories
from jaxlm.config.duration import parse_count
from jaxlm.config.schema import Config
from jaxlm.data import stories
from jaxlm.data.batches import document_spans
from jaxlm.data.cache import digest, remembered
from jaxlm.data.corpora import Piece
from jaxlm.data.dataset import Dataset
from jaxlm.data.encoding import (
    cached_tokens,
    document_end,
    encode_pieces,
    make_tokenizer,
    note_of_loss,
)
from jaxlm.data.lossless import Comparison
from jaxlm.data.tokenfile import Tokens, open_tokens
from jaxlm.data.tokenizer import Tokenizer
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.progress import progress_bar

_TOKENIZER_BYTES = 5_000_000
_ALPHABET_BYTES = 1_000_000
_IDENTIFYING_DOCUMENTS = 1000


def prepare_stories(
    config: Config, data: Stories, cache: Path, train_tokens: int | None, progress: bool
) -> Dataset:
    """The built-in corpus; data.train_tokens overrides `train_tokens`. Raises UserError.

    A BPE is trained on the first 5 MB of training documents, or tokenizer.training_bytes if less.
    """
    if data.train_tokens is not None:
        train_tokens = parse_count(data.train_tokens, "data.train_tokens")
    if data.validation_documents < 1:
        raise UserError(f"data.validation_documents={data.validation_documents} must be 1 or more.")
    if data.choices is not None and data.choices < 2:
        raise UserError(f"data.choices={data.choices} must be 2 or more; null keeps all.")
    identity = _identity(data)
    tokenizer = make_tokenizer(
        config.tokenizer,
        lambda: _training_pieces(data),
        identity,
        _alphabet(data, identity, cache) if config.tokenizer.name == "char" else "",
        True,
        cache,
        progress,
        most_bytes=_TOKENIZER_BYTES,
    )
    comparison, end = Comparison(tokenizer), document_end(tokenizer)
    train = first_tokens(
        "stories-train",
        lambda: encode_pieces(_training_pieces(data), tokenizer, end, comparison),
        train_tokens or 0,
        tokenizer.vocab_size,
        digest("train", identity, tokenizer.fingerprint),
        cache,
        progress,
        comparison.found,
    )
    notes = note_of_loss(train, "stories-train", config.tokenizer.lossy)
    validation, log_prob = _validation(data, identity, tokenizer, cache)
    notes += note_of_loss(validation, "stories-validation", config.tokenizer.lossy)
    _, length_D = document_spans(np.asarray(validation.ids_N), end)
    return Dataset(
        train.ids_N,
        validation.ids_N,
        tokenizer,
        tokenizer.vocab_size,
        digest(identity, tokenizer.fingerprint, len(train.ids_N), data.validation_documents),
        has_documents=True,
        scores_documents=True,
        entropy_floor=-log_prob / len(validation.ids_N),
        floor_attainable=int(length_D.max()) <= config.model.context_length,
        train_bytes=train.bytes_N,
        validation_bytes=validation.bytes_N,
        notes=tuple(notes),
    )


def _identity(data: Stories) -> list[object]:
    """Changes with the seed and, as far as the first documents show, with the grammar."""
    first = stories.documents(
        data.seed, stories.TRAIN_START, stories.TRAIN_START + _IDENTIFYING_DOCUMENTS, data.choices
    )
    return ["stories", data.seed, digest(list(first))]


def _training_pieces(data: Stories) -> Iterator[Piece]:
    """The training documents in order, without end."""
    texts = stories.documents(
        data.seed, stories.TRAIN_START, stories.VALIDATION_START, data.choices
    )
    return (Piece(text, True) for text in texts)


def _alphabet(data: Stories, identity: list[object], cache: Path) -> str:
    """The characters of the first megabyte, which contains all of the few that are used."""

    def compute() -> Json:
        characters: set[str] = set()
        left = _ALPHABET_BYTES
        for text, _ in _training_pieces(data):
            characters.update(text)
            left -= len(text)
            if left <= 0:
                return {"alphabet": "".join(sorted(characters))}
        raise AssertionError("the training documents have no end")

    return remembered(cache, [], ["alphabet", identity], compute)["alphabet"]


def first_tokens(
    name: str,
    parts: Callable[[], Iterator[np.ndarray | Tokens]],
    count: int,
    vocab_size: int,
    fingerprint: str,
    cache: Path,
    progress: bool,
    about: Callable[[], Json] = dict,
) -> Tokens:
    """The first `count` tokens of endless parts, from a file that holds enough or a new file."""
    if not count:
        return Tokens(np.empty(0, np.uint16))
    for path in (cache / "tokens").glob(f"{name}-*-{fingerprint[:16]}.tokens"):
        if int(path.name.removeprefix(f"{name}-").split("-")[0]) >= count:
            tokens = open_tokens(path, vocab_size, fingerprint, cache)
            if tokens is not None:
                return tokens.head(count)
    with progress_bar(f"writing {name}", count, "tokens", progress) as advance:
        limited = limit(parts(), count, advance)
        return cached_tokens(f"{name}-{count}", limited, vocab_size, fingerprint, cache, about)


def limit(
    parts: Iterator[np.ndarray | Tokens],
    count: int,
    advance: Callable[[float], object] = lambda n: None,
) -> Iterator[Tokens]:
    """The first `count` tokens of endless parts."""
    while count > 0:
        part = next(parts)
        part = (part if isinstance(part, Tokens) else Tokens(part)).head(count)
        yield part
        count -= len(part.ids_N)
        advance(len(part.ids_N))


def _validation(
    data: Stories, identity: list[object], tokenizer: Tokenizer, cache: Path
) -> tuple[Tokens, float]:
    """The tokens of the validation documents, and the sum of their exact log-probabilities."""
    start = stories.VALIDATION_START

    @functools.cache
    def documents() -> list[tuple[str, float]]:
        stop = start + data.validation_documents
        return list(stories.documents_with_log_prob(data.seed, start, stop, data.choices))

    facts = ["stories validation", identity, data.validation_documents]
    known = remembered(
        cache, [], facts, lambda: {"log_prob": math.fsum(log_prob for _, log_prob in documents())}
    )
    pieces = (Piece(text, True) for text, _ in _lazily(documents))
    comparison = Comparison(tokenizer)
    tokens = cached_tokens(
        "stories-validation",
        encode_pieces(pieces, tokenizer, document_end(tokenizer), comparison),
        tokenizer.vocab_size,
        digest(facts, tokenizer.fingerprint),
        cache,
        comparison.found,
    )
    return tokens, known["log_prob"]


def _lazily(make: Callable[[], list[tuple[str, float]]]) -> Iterator[tuple[str, float]]:
    yield from make()
