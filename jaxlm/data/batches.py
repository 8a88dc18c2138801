"""Batches as a pure function of (tokens, seed, step, batch size, context), and evaluation windows.

Shape suffixes: B batch, L context length, M = L + 1 (inputs and targets overlap), W windows of the
split, N tokens of the split, R rows of an evaluation.

Order of training. Sample g = step * B + row belongs to epoch g // W; within an epoch it is window
permutation(seed, epoch)(g % W). No window repeats before all have been seen, batches may span two
epochs, and neither restarts nor the number of processes changes anything.
"""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlm.config.duration import number_of_windows

if TYPE_CHECKING:
    from jaxlm.data.dataset import Dataset
from jaxlm.host.errors import UserError

_ROUNDS = 6


def steps_per_epoch(
    n_tokens: int, batch_size: int, context_length: int, stride: int | None = None
) -> int:
    """Steps until every window has been seen once (the last step may also start the next epoch)."""
    return -(-number_of_windows(n_tokens, context_length, stride) // batch_size)


def permutation(index: np.ndarray, n: int, *, seed: int, epoch: int) -> np.ndarray:
    """The image of each `index` under a keyed permutation of range(n), in constant memory.

    A generalised Feistel network with cycle walking (Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains", method 3): index = a + left * b with a < left and b < right. Since
    left * right is just above n, values rarely fall outside range(n) and have to walk on.
    """
    left = math.isqrt(n - 1) + 1
    right = -(-n // left)
    keys = _round_keys(seed, epoch)
    place = _feistel(np.asarray(index, np.uint64), keys, left, right)
    while (outside := place >= n).any():
        place[outside] = _feistel(place[outside], keys, left, right)
    return place.astype(np.int64)


def _feistel(index: np.ndarray, keys: np.ndarray, left: int, right: int) -> np.ndarray:
    b, a = np.divmod(index, left)
    for round in range(0, _ROUNDS, 2):
        a = (a + _hash(b + keys[round])) % left
        b = (b + _hash(a + keys[round + 1])) % right
    return a + b * left


def _hash(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014); 63 bits, so that sums cannot wrap."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return (x ^ (x >> 31)) >> 1


@lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> np.ndarray:
    digest = hashlib.blake2b(f"batches {seed} {epoch}".encode(), digest_size=8 * _ROUNDS).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def batch(
    tokens_N: np.ndarray,
    *,
    seed: int,
    step: int,
    batch_size: int,
    context_length: int,
    stride: int | None = None,
    rows: slice = slice(None),
) -> np.ndarray:
    """The batch of one training step: int32 (B, L + 1); inputs are [:, :-1], targets [:, 1:].

    `rows` selects the part of the batch that one process feeds. Raises UserError if the split is
    shorter than one window.
    """
    stride = stride or context_length
    n_windows = number_of_windows(len(tokens_N), context_length, stride)
    sample_B = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
    epoch_B, place_B = np.divmod(sample_B, n_windows)
    window_B = np.empty_like(place_B)
    for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
        here_B = epoch_B == epoch
        window_B[here_B] = permutation(place_B[here_B], n_windows, seed=seed, epoch=epoch)
    tokens_N = np.asarray(tokens_N)
    windows_WxM = np.lib.stride_tricks.as_strided(
        tokens_N,
        shape=(n_windows, context_length + 1),
        strides=(stride * tokens_N.itemsize, tokens_N.itemsize),
        writeable=False,
    )
    return windows_WxM[window_B].astype(np.int32)


def grain_dataset(
    tokens_N: np.ndarray, *, stop_step: int, **arguments: Any
) -> Any:  # grain has no types
    """A grain MapDataset whose element `step` is `batch(tokens_N, step=step, **arguments)`."""
    import grain  # takes a second and imports jax

    return grain.MapDataset.range(stop_step).map(
        lambda step: batch(tokens_N, step=int(step), **arguments)
    )


def loader(
    tokens_N: np.ndarray,
    *,
    seed: int,
    start_step: int,
    stop_step: int,
    batch_size: int,
    context_length: int,
    stride: int | None = None,
    rows: slice = slice(None),
    prefetch: int = 16,
) -> Iterator[np.ndarray]:
    """The batches of steps start_step to stop_step - 1, read ahead by `prefetch` in one thread."""
    import grain

    dataset = grain_dataset(
        tokens_N,
        stop_step=stop_step,
        seed=seed,
        batch_size=batch_size,
        context_length=context_length,
        stride=stride,
        rows=rows,
    )
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    return iter(dataset[start_step:].to_iter_dataset(options))


class EvalBatch(NamedTuple):
    """One fixed-shape piece of an evaluation; weights are 1 for scored targets, 0 for padding.

    `bytes_BxL` are the UTF-8 bytes of the text that belong to the targets, 0 without a tokenizer.
    """

    inputs_BxL: np.ndarray
    targets_BxL: np.ndarray
    weights_BxL: np.ndarray
    bytes_BxL: np.ndarray


def evaluation_batches(
    dataset: "Dataset", batch_size: int, context_length: int, split: str = "validation"
) -> Iterator[EvalBatch]:
    """The whole split of a `Dataset`, every target exactly once, in int32 and float32 (B, L).

    Windows do not overlap. If `dataset.scores_documents`, each document starts a row with
    end_of_text as its first input, and its targets end with end_of_text; a document longer than
    the context continues in further rows. Otherwise the split is one stream; its first token is
    not a target, so its bytes do not count. The bytes of all rows add up to those of the targets'
    text. Raises UserError if the split has nothing to score.
    """
    tokens_N = np.asarray(getattr(dataset, split))
    bytes_N = getattr(dataset, f"{split}_bytes", None)
    if dataset.scores_documents:
        assert dataset.tokenizer is not None and dataset.tokenizer.end_of_text is not None
        end = dataset.tokenizer.end_of_text
        start_R, length_R = _document_rows(tokens_N, end, context_length)
    else:
        end = 0
        start_R = np.arange(1, len(tokens_N), context_length)
        length_R = np.minimum(context_length, len(tokens_N) - start_R)
    if not len(start_R):
        raise UserError(
            f"The {split} split has {len(tokens_N)} tokens, too few to score.\n"
            "Use more text, or a larger data.validation_fraction."
        )
    offset_L = np.arange(context_length)
    for first in range(0, len(start_R), batch_size):
        start_B = start_R[first : first + batch_size]
        weights_BxL = offset_L < length_R[first : first + batch_size, None]
        place_BxL = np.where(weights_BxL, start_B[:, None] + offset_L, 0)
        targets_BxL = tokens_N[place_BxL].astype(np.int32)
        inputs_BxL = np.where(place_BxL > 0, tokens_N[place_BxL - 1], end).astype(np.int32)
        sizes_BxL = weights_BxL * (0 if bytes_N is None else bytes_N[place_BxL])
        missing = ((0, batch_size - len(start_B)), (0, 0))
        yield EvalBatch(
            np.pad(np.where(weights_BxL, inputs_BxL, 0), missing),
            np.pad(np.where(weights_BxL, targets_BxL, 0), missing),
            np.pad(weights_BxL.astype(np.float32), missing),
            np.pad(sizes_BxL.astype(np.float32), missing),
        )


def document_spans(tokens_N: np.ndarray, end_of_text: int) -> tuple[np.ndarray, np.ndarray]:
    """The start and length of each document, including its end_of_text (unless cut off)."""
    stop_D = np.flatnonzero(tokens_N == end_of_text) + 1
    if len(tokens_N) and (not len(stop_D) or stop_D[-1] < len(tokens_N)):
        stop_D = np.append(stop_D, len(tokens_N))
    start_D = np.concatenate([[0], stop_D])[: len(stop_D)]
    return start_D, stop_D - start_D


def _document_rows(
    tokens_N: np.ndarray, end_of_text: int, context_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first target and number of targets of each row: documents cut to the context length."""
    start_D, length_D = document_spans(tokens_N, end_of_text)
    rows_D = -(-length_D // context_length)
    document_R = np.repeat(np.arange(len(start_D)), rows_D)
    part_R = np.arange(len(document_R)) - np.repeat(np.cumsum(rows_D) - rows_D, rows_D)
    start_R = start_D[document_R] + part_R * context_length
    return start_R, np.minimum(context_length, start_D[document_R] + length_D[document_R] - start_R)
