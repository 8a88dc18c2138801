"""The kinds of feed-forward layer (model.ffn=...) and of positions (model.position=...).

Both engines implement them in model.py, under the same names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeedForward:
    """down(act(up x)) or, `gated`, down(act(gate x) * up x) (Shazeer 2020)."""

    gated: bool = False

    def width(self, d_model: int) -> int:
        """The usual width: 4 d_model, or 8/3 d_model rounded up to a multiple of 8 if gated."""
        return -(-8 * d_model // 24) * 8 if self.gated else 4 * d_model


FEED_FORWARDS = {
    "swiglu": FeedForward(gated=True),
    "geglu": FeedForward(gated=True),
    "silu": FeedForward(),
    "gelu": FeedForward(),
    "gelu_tanh": FeedForward(),
    "relu": FeedForward(),
    "relu2": FeedForward(),
}


@dataclass(frozen=True)
class Position:
    """How positions are encoded.

    `learned`: a parameter of context_length x d_model. `pairs`: the head width must be even.
    `keys`: the keys of `model` that apply to this kind only.
    """

    learned: bool = False
    pairs: bool = False
    keys: tuple[str, ...] = ()


POSITIONS = {
    "rope": Position(pairs=True, keys=("rope_theta",)),
    "learned": Position(learned=True),
    "sinusoidal": Position(),
    "none": Position(),
}
