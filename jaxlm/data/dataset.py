"""The result of the data room: two splits of token ids, and what a run must know about them."""

from dataclasses import dataclass

import numpy as np

from jaxlm.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Dataset:
    """Two splits of token ids, and what a run must know about them.

    `train` and `validation` are memory-mapped (N,) arrays of uint16, uint32 or int32.
    `fingerprint` changes with the text, the tokenizer and the split; a resumed run compares it.
    `has_documents`: end_of_text follows each document. `scores_documents`: an evaluation starts
    each document with an empty context.
    `entropy_floor` is in nats per scored token of the validation split, including end_of_text: no
    model can do better on average. It is None if unknown. `floor_attainable` is False if some
    validation document exceeds the context.
    `train_bytes` and `validation_bytes`, indexed like the splits, hold the number of UTF-8 bytes
    of the text for each token, counted when the text was encoded; end_of_text has none. They are
    None without a tokenizer. With data=tokens there is no text: the bytes are those that the ids
    decode to. `notes` are lines for the user: what was read, what was skipped, and what encoding
    lost.
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
    train_bytes: "np.ndarray | SpelledBytes | None" = None
    validation_bytes: "np.ndarray | SpelledBytes | None" = None
    notes: tuple[str, ...] = ()


class SpelledBytes:
    """The bytes that ids decode to, computed on demand, for ids without a text.

    Control tokens have none. A space that decoding removes from the start of a document does not
    count for its first token.
    """

    def __init__(self, ids_N: np.ndarray, tokenizer: Tokenizer) -> None:
        self.ids_N, self.end_of_text = ids_N, tokenizer.end_of_text
        self.inside_V, self.first_V = (
            np.append(lengths_V, len("\ufffd".encode()))
            for lengths_V in (tokenizer.spelling.lengths_V, tokenizer.spelling.first_lengths_V)
        )
        for lengths_V in (self.inside_V, self.first_V):
            lengths_V[list(tokenizer.control_ids)] = 0

    def __getitem__(self, place: np.ndarray) -> np.ndarray:
        """The number of bytes (int64) of the tokens at these positions."""
        known = len(self.inside_V) - 1
        ids = np.minimum(self.ids_N[place].astype(np.int64), known)
        begins = place == 0
        if self.end_of_text is not None:
            begins = begins | (self.ids_N[place - 1] == self.end_of_text)
        return np.where(begins, self.first_V[ids], self.inside_V[ids])
