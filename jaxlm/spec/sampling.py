"""How a token is drawn from the logits: the options of both backends."""

from typing import Any, NamedTuple


class Sampling(NamedTuple):
    """The options, applied in the order penalty, temperature, top-k, top-p, min-p.

    `temperature` divides the logits; 0 is greedy. None switches a filter off. Each backend's
    `sampling.filtered_logits` states what a filter keeps.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, options: Any) -> "Sampling":
        """The attributes of these names, for example those of a `GenerateJob`."""
        return cls(*(getattr(options, name) for name in cls._fields))
