"""The output of each part of the network, under the names that the JAX engine uses.

Hooks on the modules read a part's output, or the input of the next part.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchref.model import Block, Transformer


class Tap(NamedTuple):
    """A module to read: its output or, with `before`, its first input."""

    module: nn.Module
    before: bool = False


def blocks_of(model: Transformer) -> list[Block]:
    return [cast(Block, block) for block in model.blocks]


def taps(model: Transformer) -> dict[str, Tap]:
    """Dotted name -> where to read it, in the order of the forward pass."""
    found = {"embedding": Tap(model.blocks[0], before=True)}
    for layer, block in enumerate(blocks_of(model)):
        found |= {f"blocks.{layer}.{name}": tap for name, tap in _of_block(block).items()}
    return found | {"normed": Tap(model.final_norm), "logits": Tap(model)}


def _of_block(block: Block) -> dict[str, Tap]:
    attention, feedforward = block.attention, block.feedforward
    normed, pre = block.model.qk_norm, block.model.norm_placement == "pre"
    return {
        "attention_input": Tap(attention, before=True),
        "attention.q": Tap(attention.query_norm if normed else attention.query),
        "attention.k": Tap(attention.key_norm if normed else attention.key),
        "attention.v": Tap(attention.value),
        "attention.rotated_q": Tap(attention.rotated_q),
        "attention.rotated_k": Tap(attention.rotated_k),
        "attention.scores": Tap(attention.scores),
        "attention.mixed": Tap(attention.output, before=True),
        "attention_output": Tap(attention),
        "after_attention": Tap(block.feedforward_norm if pre else feedforward, before=True),
        "feedforward_input": Tap(feedforward, before=True),
        "feedforward.hidden": Tap(feedforward.down, before=True),
        "feedforward_output": Tap(feedforward),
        "after_feedforward": Tap(block),
    }


@contextmanager
def watched(model: Transformer) -> Iterator[dict[str, Tensor]]:
    """A mapping from names to values, filled by a forward pass inside the context.

    Attention uses the plain form, which exposes its scores.
    """
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for block in blocks_of(model):
            block.attention.fused = False
            stack.callback(setattr, block.attention, "fused", True)
        for name, tap in taps(model).items():
            stack.enter_context(_hook(name, tap, seen))
        yield seen


def _hook(name: str, tap: Tap, seen: dict[str, Tensor]) -> RemovableHandle:
    """The handle of a hook that records a value; as a context manager, it removes the hook."""
    if tap.before:
        return tap.module.register_forward_pre_hook(lambda _, given: seen.update({name: given[0]}))
    return tap.module.register_forward_hook(lambda _, __, out: seen.update({name: out}))
