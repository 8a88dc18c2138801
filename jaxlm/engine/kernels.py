"""The choice of a network's kernels, made once for the devices it is compiled for."""

from typing import NamedTuple

from jaxlm.config.schema import Config, ResolvedModel
from jaxlm.host.errors import UserError


class Kernels(NamedTuple):
    """`platform` is cpu or gpu; `attention` is plain, blocks or cudnn."""

    platform: str = "cpu"
    attention: str = "plain"


def choose_kernels(config: Config, model: ResolvedModel, platform: str) -> tuple[Kernels, str]:
    """The kernels for a platform, and the reason for the choice of attention.

    Attention is cuDNN's fused kernel if device and types allow it; otherwise blocks of queries on a
    CPU and the plain form on a GPU. Raises UserError if cuDNN is requested but not possible.
    """
    asked = config.parallel.attention
    reasons = {
        f"the device is a {platform}": platform != "gpu",
        f"precision is {config.precision}, not 16 bits": config.precision != "bfloat16",
        f"the head width {model.head_dim} is not a multiple of 8 up to 256": (
            model.head_dim % 8 != 0 or model.head_dim > 256
        ),
        "attention dropout needs the probabilities": model.attention_dropout > 0,
    }
    hindrances = [reason for reason, holds in reasons.items() if holds]
    if asked == "cudnn" and hindrances:
        raise UserError(
            f"parallel.attention=cudnn is not possible: {'; '.join(hindrances)}.\n"
            "Set parallel.attention=auto."
        )
    if asked != "auto":
        return Kernels(platform, asked), "as configured"
    if not hindrances:
        return Kernels(platform, "cudnn"), "device and types allow it"
    return Kernels(platform, "blocks" if platform == "cpu" else "plain"), hindrances[0]
