"""Cached decoding, with a window that slides along texts longer than the context.

Legend: B rows (samples), C context length, P tokens of a prefill, V vocabulary, N new tokens,
T tokens of a text so far.
"""

from collections.abc import Iterator

import numpy as np
import torch

from jaxlm.data.continuation import window_start
from jaxlm.spec.sampling import Sampling
from torchref.attention import Cache, empty_cache
from torchref.model import Transformer
from torchref.sampling import draw, filtered_logits


class Decoder:
    """Continues token sequences with a Transformer."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.device = model, model.embed.weight.device

    @torch.no_grad()
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

        Ends after max_tokens, or when
        every row has produced `end_of_text`, with which an ended row goes on. The repetition
        penalty passes over the prompt's first `unpenalised` tokens. Without a stop, N differs from
        chunk only at the window's end.
        """
        context, vocabulary = self.model.model.context_length, self.model.model.vocab_size
        text_BxT = torch.from_numpy(np.tile(np.asarray(prompt_T, np.int64), (rows, 1)))
        text_BxT = text_BxT.to(self.device)
        seen_BxV = torch.zeros(rows, vocabulary, dtype=torch.bool, device=self.device)
        seen_BxV[:, text_BxT[0, unpenalised:]] = True
        ended_B = torch.zeros(rows, dtype=torch.bool, device=self.device)
        start, cache = self._open(text_BxT[:1], rows)
        seed %= 2**32
        while max_tokens:
            length = text_BxT.shape[1] - start
            if length > context:
                start, cache = self._open(text_BxT, rows)
                length = text_BxT.shape[1] - start
            new: list[torch.Tensor] = []
            for at in range(
                length, min(length + min(max_tokens, chunk or max_tokens), context + 1)
            ):
                last_Bx1 = new[-1] if new else text_BxT[:, -1:]
                logits_BxV = self.model(last_Bx1, at - 1, cache)[:, 0]
                x_BxV = filtered_logits(logits_BxV, seen_BxV, sampling)
                next_B = draw(x_BxV, seed, start + at)
                if end_of_text is not None:
                    next_B = next_B.masked_fill(ended_B, end_of_text)
                    ended_B = ended_B | (next_B == end_of_text)
                new.append(next_B[:, None])
                seen_BxV.scatter_(1, new[-1], True)
                if end_of_text is not None and ended_B.all():
                    break
            new_BxN = torch.cat(new, dim=1)
            yield new_BxN.cpu().numpy()
            if ended_B.all():
                return
            text_BxT = torch.cat([text_BxT, new_BxN], dim=1)
            max_tokens -= new_BxN.shape[1]

    def _open(self, text_BxT: torch.Tensor, rows: int) -> tuple[int, list[Cache]]:
        """(start, cache) of the texts' window; the cache holds all its tokens except the last.

        A single text is repeated for all `rows`.
        """
        model = self.model.model
        start = window_start(text_BxT.shape[1], model.context_length)
        before_BxP = text_BxT[:, start:-1]
        cache = empty_cache(model, len(before_BxP), self.model.dtype, self.device)
        if before_BxP.shape[1]:
            self.model.residuals(before_BxP, 0, cache)
        if len(before_BxP) != rows:
            cache = [Cache(*(x.repeat(rows, 1, 1, 1) for x in block)) for block in cache]
        return start, cache
