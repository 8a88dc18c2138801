"""data=stories: as many training tokens as asked for, and validation documents with their floor."""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxlm.config import Config, DataConfig
from jaxlm.data import stories
from jaxlm.data.batches import document_spans
from jaxlm.data.cache import digest, remembered
from jaxlm.data.corpora import Piece
from jaxlm.data.dataset import Dataset
from jaxlm.data.encoding import cached_tokens, document_end, encode_pieces, make_tokenizer
from jaxlm.data.progress import progress_bar
from jaxlm.data.tokenfile import open_tokens
from jaxlm.data.tokenizer import Tokenizer
from jaxlm.duration import parse_count
from jaxlm.errors import UserError

_TOKENIZER_BYTES = 5_000_000
_ALPHABET_BYTES = 1_000_000
_IDENTIFYING_DOCUMENTS = 1000


def prepare_stories(
    config: Config, cache: Path, train_tokens: int | None, progress: bool
) -> Dataset:
    """The built-in corpus; data.train_tokens goes before `train_tokens`. Raises UserError.

    A BPE is trained on the first 5 MB of training documents, or tokenizer.training_bytes if less.
    """
    data = config.data
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
    train = first_tokens(
        "stories-train",
        lambda: encode_pieces(_training_pieces(data), tokenizer, document_end(tokenizer)),
        train_tokens or 0,
        tokenizer.vocab_size,
        digest("train", identity, tokenizer.fingerprint),
        cache,
        progress,
    )
    validation, log_prob = _validation(config, identity, tokenizer, cache)
    _, length_D = document_spans(np.asarray(validation), document_end(tokenizer))
    return Dataset(
        train,
        validation,
        tokenizer,
        tokenizer.vocab_size,
        digest(identity, tokenizer.fingerprint, len(train), data.validation_documents),
        has_documents=True,
        scores_documents=True,
        entropy_floor=-log_prob / len(validation),
        floor_attainable=int(length_D.max()) <= config.model.context_length,
    )


def _identity(data: DataConfig) -> list:
    """Changes with the seed and, as far as the first documents show it, with the grammar."""
    first = stories.documents(
        data.seed, stories.TRAIN_START, stories.TRAIN_START + _IDENTIFYING_DOCUMENTS, data.choices
    )
    return ["stories", data.seed, digest(list(first))]


def _training_pieces(data: DataConfig) -> Iterator[Piece]:
    """The training documents in order, without end."""
    texts = stories.documents(
        data.seed, stories.TRAIN_START, stories.VALIDATION_START, data.choices
    )
    return (Piece(text, True) for text in texts)


def _alphabet(data: DataConfig, identity: list, cache: Path) -> str:
    """The characters of the first megabyte; all of the few letters occur there."""

    def compute() -> dict:
        characters, left = set(), _ALPHABET_BYTES
        for text, _ in _training_pieces(data):
            characters.update(text)
            left -= len(text)
            if left <= 0:
                return {"alphabet": "".join(sorted(characters))}
        raise AssertionError("the training documents have no end")

    return remembered(cache, [], ["alphabet", identity], compute)["alphabet"]


def first_tokens(
    name: str,
    arrays: Callable[[], Iterator[np.ndarray]],
    count: int,
    vocab_size: int,
    fingerprint: str,
    cache: Path,
    progress: bool,
) -> np.ndarray:
    """The first `count` tokens of endless arrays: from a file of as many or more, else written."""
    if not count:
        return np.empty(0, np.uint16)
    for path in (cache / "tokens").glob(f"{name}-*-{fingerprint[:16]}.tokens"):
        if int(path.name.removeprefix(f"{name}-").split("-")[0]) >= count:
            tokens = open_tokens(path, vocab_size, fingerprint, cache)
            if tokens is not None:
                return tokens[:count]
    with progress_bar(f"writing {name}", count, "tokens", progress) as advance:
        limited = limit(arrays(), count, advance)
        return cached_tokens(f"{name}-{count}", limited, vocab_size, fingerprint, cache)


def limit(
    arrays: Iterator[np.ndarray], count: int, advance: Callable[[float], object] = lambda n: None
) -> Iterator[np.ndarray]:
    """The first `count` tokens of endless arrays."""
    while count > 0:
        part = next(arrays)[:count]
        yield part
        count -= len(part)
        advance(len(part))


def _validation(
    config: Config, identity: list, tokenizer: Tokenizer, cache: Path
) -> tuple[np.ndarray, float]:
    """The tokens of the validation documents, and the sum of their exact log-probabilities."""
    data, start = config.data, stories.VALIDATION_START

    @functools.cache
    def documents() -> list[tuple[str, float]]:
        stop = start + data.validation_documents
        return list(stories.documents_with_log_prob(data.seed, start, stop, data.choices))

    facts = ["stories validation", identity, data.validation_documents]
    known = remembered(
        cache, [], facts, lambda: {"log_prob": math.fsum(log_prob for _, log_prob in documents())}
    )
    pieces = (Piece(text, True) for text, _ in _lazily(documents))
    tokens = cached_tokens(
        "stories-validation",
        encode_pieces(pieces, tokenizer, document_end(tokenizer)),
        tokenizer.vocab_size,
        digest(facts, tokenizer.fingerprint),
        cache,
    )
    return tokens, known["log_prob"]


def _lazily(make: Callable[[], list]) -> Iterator:
    yield from make()
