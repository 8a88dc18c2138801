"""Threefry-2x32-20, a counter-based random generator (Salmon et al. 2011), as in JAX.

The bits are those of `jax.random` with threefry_partitionable, so that dropout masks and sampled
tokens are the same in both backends. PyTorch has no uint32 arithmetic, but int32 wraps the same
way.
A key is a pair of int32 tensors of any equal shape.
"""

import torch
from torch import Tensor

Key = tuple[Tensor, Tensor]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def as_int32(x: int) -> int:
    """The int32 with the lowest 32 bits of an integer."""
    return (x + 2**31) % 2**32 - 2**31


def random_key(seed: int, device: torch.device | str = "cpu") -> Key:
    """The key for a seed below 2^32, as `jax.random.key`."""
    return (
        torch.zeros((), dtype=torch.int32, device=device),
        torch.tensor(as_int32(seed), dtype=torch.int32, device=device),
    )


def fold_in(key: Key, data: Tensor | int) -> Key:
    """A new key from a key and a number, as `jax.random.fold_in`, for any shape of both."""
    if isinstance(data, int):
        data = torch.full_like(key[0], as_int32(data))
    return threefry(key, torch.zeros_like(data), data)


def random_bits(key: Key, size: int) -> Tensor:
    """`size` random words for each key, int32 (..., size), as `jax.random.bits`."""
    counter = torch.arange(size, dtype=torch.int32, device=key[0].device)
    first, second = threefry(
        (key[0][..., None], key[1][..., None]), torch.zeros_like(counter), counter
    )
    return first ^ second


@torch.library.custom_op("torchref::keep_mask", mutates_args=())
def keep_mask(
    key0: Tensor, key1: Tensor, site: int, rows: Tensor, size: int, rate: float
) -> Tensor:
    """Whether each of `size` elements of each row (B,) is kept at a dropout site: bool (B, size).

    An element is kept if its 32 random bits reach rate * 2^32. The operation is opaque to
    torch.compile, which took minutes with the 20 rounds inlined in its graph.
    """
    keys_B = fold_in(fold_in((key0, key1), site), rows)
    unsigned = random_bits(keys_B, size) ^ as_int32(2**31)  # int32 in the order of unsigned words
    return unsigned >= int(rate * 2**32) - 2**31


@keep_mask.register_fake
def _(key0: Tensor, key1: Tensor, site: int, rows: Tensor, size: int, rate: float) -> Tensor:
    return torch.empty((len(rows), size), dtype=torch.bool, device=rows.device)


def threefry(key: Key, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Twenty rounds over the counter (x0, x1)."""
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x0, x1 = torch.broadcast_tensors(x0 + keys[0], x1 + keys[1])
    x0, x1 = x0.clone(), x1.clone()  # the rounds work in place
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 += x1
            x1 = _rotate_left(x1, rotation).bitwise_xor_(x0)
        x0 += keys[(group + 1) % 3]
        x1 += keys[(group + 2) % 3] + (group + 1)
    return x0, x1


def _rotate_left(x: Tensor, bits: int) -> Tensor:
    """Rotate int32. Its >> copies the sign; those copies are masked out. Overwrites x."""
    low = (x >> (32 - bits)).bitwise_and_((1 << bits) - 1)
    return x.bitwise_left_shift_(bits).bitwise_or_(low)
