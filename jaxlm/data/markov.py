"""data=markov: a first-order Markov chain over token ids, whose entropy is known exactly.

The logit of the next id is a sum of products, each of a random factor of the current id and one of
the next; the k-th product has size 1/k. The logit also falls slowly with the next id. A model of
width d can represent d of these products, so its loss approaches the entropy as a power of d and of
how often each id was seen: L = E + A/N^alpha + B/D^beta with a known E. Unlike the loss of a
language, it does not fall in stages.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from jaxlm.config.corpora import Markov
from jaxlm.config.duration import parse_count
from jaxlm.config.schema import Config
from jaxlm.data.cache import digest
from jaxlm.data.dataset import Dataset
from jaxlm.data.encoding import cached_tokens
from jaxlm.data.endless import first_tokens, limit
from jaxlm.host.errors import UserError

VALIDATION_TOKENS = 2**17

_SPREAD, _SKEW = 2.5, 0.5  # standard deviation of the logits; their fall with log(id + 1)
_TRAIN, _VALIDATION = 0, 1
_CHUNK = 1 << 16
_IDENTIFYING_TOKENS = 10_000


def prepare_markov(
    config: Config, data: Markov, cache: Path, train_tokens: int | None, progress: bool
) -> Dataset:
    """The chain's two splits; data.train_tokens overrides `train_tokens`. Raises UserError.

    The floor is the mean of -log p over exactly the ids that an evaluation predicts.
    """
    V = data.vocab_size
    if V is None or not 2 <= V <= 4096:
        raise UserError(f"data.vocab_size={V} must be 2 to 4096 for data.name=markov.")
    if data.train_tokens is not None:
        train_tokens = parse_count(data.train_tokens, "data.train_tokens")
    identity = ["markov", V, data.seed, digest(_some(V, data.seed).tolist())]
    train = first_tokens(
        "markov-train",
        lambda: ids(V, data.seed, _TRAIN),
        train_tokens or 0,
        V,
        digest("train", identity),
        cache,
        progress,
    ).ids_N
    validation = cached_tokens(
        "markov-validation",
        limit(ids(V, data.seed, _VALIDATION), VALIDATION_TOKENS + 1),
        V,
        digest("validation", identity),
        cache,
    ).ids_N
    log_p = np.log(transitions(V)[validation[:-1], validation[1:]])
    return Dataset(
        train,
        validation,
        None,
        V,
        digest(identity, len(train)),
        entropy_floor=-math.fsum(log_p) / VALIDATION_TOKENS,
        floor_attainable=True,
    )


@cache
def transitions(vocab_size: int) -> np.ndarray:
    """(V, V): the probabilities of the next id given the current one; each row sums to one."""
    V = vocab_size
    raw = np.random.Philox(key=V).random_raw(2 * V * V) >> np.uint64(11)
    u_VxK, v_VxK = ndtri((raw + 0.5) * 2.0**-53).reshape(2, V, V)
    size_K = 1 / np.arange(1.0, V + 1)
    size_K *= _SPREAD / math.sqrt((size_K**2).sum())
    logits_VxV = (u_VxK * size_K) @ v_VxK.T - _SKEW * np.log(np.arange(1.0, V + 1))
    odds_VxV = np.exp(logits_VxV - logits_VxV.max(-1, keepdims=True))
    return odds_VxV / odds_VxV.sum(-1, keepdims=True)


@cache
def entropy(vocab_size: int) -> float:
    """The entropy rate in nats per id: the mean over rows, by the stationary distribution."""
    odds = transitions(vocab_size)
    rows = np.vstack([odds.T - np.eye(vocab_size), np.ones(vocab_size)])
    stationary = np.linalg.lstsq(rows, np.append(np.zeros(vocab_size), 1.0))[0]
    return float(-(stationary[:, None] * odds * np.log(odds)).sum())


def ids(vocab_size: int, seed: int, split: int) -> Iterator[np.ndarray]:
    """The chain in chunks, without end; a function of its arguments alone."""
    cumulative = transitions(vocab_size).cumsum(-1)
    cumulative[:, -1] = 1.0  # rounding puts no draw beyond the last id
    rows, now = cumulative.tolist(), 0
    generator = np.random.Philox(key=np.array([seed, split], np.uint64))
    while True:
        uniforms = (generator.random_raw(_CHUNK) >> np.uint64(11)) * 2.0**-53
        chunk = [now := bisect_right(rows[now], uniform) for uniform in uniforms.tolist()]
        yield np.array(chunk, np.uint16)


def _some(vocab_size: int, seed: int) -> np.ndarray:
    """The first training ids, which reveal a change of the chain."""
    return next(limit(ids(vocab_size, seed, _TRAIN), _IDENTIFYING_TOKENS)).ids_N
