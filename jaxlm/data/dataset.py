"""What the data room hands out: two splits of token ids, and what a run must know about them."""

from dataclasses import dataclass

import numpy as np

from jaxlm.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Dataset:
    """Two splits of token ids, and what a run must know about them.

    `train` and `validation` are memory-mapped (N,) arrays of uint16, uint32 or int32.
    `fingerprint` changes with the text, the tokenizer and the split; a resumed run compares it.
    `has_documents`: end_of_text follows each document. `scores_documents`: an evaluation starts
    each document afresh.
    `entropy_floor` is in nats per scored token of the validation split, end_of_text included: no
    model can do better on average. It is None where unknown. `floor_attainable` is False where
    some validation document exceeds the context. `notes` are lines for the person: what was read,
    and what was left out.
    """

    train: np.ndarray
    validation: np.ndarray
    tokenizer: Tokenizer | None
    vocab_size: int
    fingerprint: str
    has_documents: bool = False
    scores_documents: bool = False
    entropy_floor: float | None = None
    floor_attainable: bool = False
    notes: tuple[str, ...] = ()

    @property
    def bytes_V(self) -> np.ndarray | None:
        """int64 (V,): UTF-8 bytes per id (0 for control tokens); None without a tokenizer."""
        return self.tokenizer.bytes_V if self.tokenizer else None
