"""Cached decoding on the device, with a window that slides along texts longer than the context.

Legend: B rows (samples), C context length, P tokens of a prefill chunk, V vocabulary, N new tokens,
T tokens of a text so far.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.data.continuation import window_start
from jaxlm.engine.attention import Array, Cache, empty_cache
from jaxlm.engine.model import Transformer
from jaxlm.engine.sampling import Thresholds, draw, filtered_logits, thresholds
from jaxlm.spec.sampling import Sampling

_PREFILL = 128


class Window(NamedTuple):
    """The part of B texts that the model sees: tokens `start` to `start + length`.

    The cache holds all of these tokens except the last. `seen` marks the ids in the whole text.
    """

    tokens_BxC1: Array
    length: Array
    start: Array
    seen_BxV: Array
    ended_B: Array
    cache: Cache


def prefill(
    model: Transformer, parameters: Any, tokens_BxC1: Array, length: Array, cache: Cache
) -> Cache:
    """`cache` filled with the window's first length - 1 tokens, in chunks.

    Entries beyond them are overwritten before any query sees them.
    """
    context = tokens_BxC1.shape[1] - 1
    chunk = min(_PREFILL, context)

    def body(carry):
        start, cache = carry
        at = jnp.minimum(start, context - chunk)
        tokens_BxP = lax.dynamic_slice_in_dim(tokens_BxC1, at, chunk, axis=1)
        _, cache = model.apply({"params": parameters}, tokens_BxP, at, cache)
        return start + chunk, cache

    unfinished = lambda carry: carry[0] < length - 1  # noqa: E731
    return lax.while_loop(unfinished, body, (jnp.int32(0), cache))[1]


def decode(
    model: Transformer,
    parameters: Any,
    window: Window,
    limit: Array,
    sampling: Thresholds,
    seed: Array,
    end_of_text: Array,
) -> Window:
    """Extend every row until the window has `limit` tokens or all rows have ended.

    An ended row continues with end_of_text. If end_of_text is -1, no row ends.
    """
    rows_B = jnp.arange(len(window.ended_B))

    def unfinished(w: Window) -> Array:
        return (w.length < limit) & ~w.ended_B.all()

    def step(w: Window) -> Window:
        last_Bx1 = lax.dynamic_slice_in_dim(w.tokens_BxC1, w.length - 1, 1, axis=1)
        logits_Bx1xV, cache = model.apply({"params": parameters}, last_Bx1, w.length - 1, w.cache)
        x_BxV = filtered_logits(logits_Bx1xV[:, 0], w.seen_BxV, sampling)
        next_B = draw(x_BxV, seed, w.start + w.length)
        next_B = jnp.where(w.ended_B, end_of_text, next_B)
        return Window(
            lax.dynamic_update_slice_in_dim(w.tokens_BxC1, next_B[:, None], w.length, axis=1),
            w.length + 1,
            w.start,
            w.seen_BxV.at[rows_B, next_B].set(True),
            w.ended_B | (next_B == end_of_text),
            cast(Cache, cache),
        )

    return lax.while_loop(unfinished, step, window)


class Decoder:
    """Continues token sequences; prefill and decode are compiled once for each number of rows.

    `sharding` applies to everything except the parameters.
    """

    def __init__(
        self, model: Transformer, parameters: Any, sharding: jax.sharding.Sharding
    ) -> None:
        self.model, self.parameters, self.sharding = model, parameters, sharding
        compiled = functools.partial(jax.jit, out_shardings=sharding)
        self.prefill = compiled(functools.partial(prefill, model), donate_argnums=3)
        self.decode = compiled(functools.partial(decode, model), donate_argnums=1)

    def __call__(
        self,
        prompt_T: np.ndarray,
        *,
        rows: int,
        max_tokens: int,
        sampling: Sampling,
        seed: int,
        end_of_text: int | None = None,
        unpenalised: int = 0,
        chunk: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield new ids (B, N) of `rows` continuations, `chunk` at a time (None: as many as fit).

        Ends after max_tokens, or when every row has produced `end_of_text`. The prompt's first
        `unpenalised` tokens incur no repetition penalty.
        """
        context, vocabulary = self.model.model.context_length, self.model.model.vocab_size
        chosen = thresholds(sampling)
        text_BxT = np.tile(np.asarray(prompt_T, np.int32), (rows, 1))
        seen_BxV = np.zeros((rows, vocabulary), bool)
        seen_BxV[:, text_BxT[0, unpenalised:]] = True
        window = self._open(text_BxT[:1], rows, seen_BxV, np.zeros(rows, bool))
        seed, end = np.uint32(seed % 2**32), np.int32(-1 if end_of_text is None else end_of_text)
        while max_tokens:
            length = int(window.length)
            if length > context:
                window = self._open(text_BxT, rows, window.seen_BxV, window.ended_B)
                length = int(window.length)
            limit = np.int32(min(length + min(max_tokens, chunk or max_tokens), context + 1))
            window = self.decode(self.parameters, window, limit, chosen, seed, end)
            tokens_BxC1, ended_B = jax.device_get((window.tokens_BxC1, window.ended_B))
            new_BxN = tokens_BxC1[:, length : int(window.length)]
            yield new_BxN
            if ended_B.all():
                return
            text_BxT = np.concatenate([text_BxT, new_BxN], axis=1)
            max_tokens -= new_BxN.shape[1]

    def _open(self, text_BxT: np.ndarray, rows: int, seen_BxV: Any, ended_B: Any) -> Window:
        """The prefilled window of `rows` texts; a single text is repeated for all rows."""
        model = self.model.model
        start = window_start(text_BxT.shape[1], model.context_length)
        part = text_BxT[:, start:]
        tokens_BxC1 = np.zeros((len(part), model.context_length + 1), np.int32)
        tokens_BxC1[:, : part.shape[1]] = part
        length = np.int32(part.shape[1])
        cache = empty_cache(model, len(part), self.model.dtype)
        cache = self.prefill(self.parameters, *self._put((tokens_BxC1, length, cache)))
        if len(part) != rows:
            tokens_BxC1 = np.repeat(tokens_BxC1, rows, axis=0)
            cache = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=0), cache)
        return Window(*self._put((tokens_BxC1, length, np.int32(start), seen_BxV, ended_B, cache)))

    def _put(self, tree: Any) -> Any:
        # Copied: these buffers are donated, and numpy's must not be.
        return jax.device_put(tree, self.sharding, may_alias=False)
