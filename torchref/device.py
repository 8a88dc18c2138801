"""The choice of device and of compilation, and PyTorch's global settings."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from jaxlm.config.schema import Config
from jaxlm.host.errors import UserError

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def available() -> list[str]:
    """The devices of this machine, fastest first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [*(name for name, there in found.items() if there), "cpu"]


def choose_device(config: Config) -> torch.device:
    """The configuration's torch.device. Raises UserError if it is not available."""
    asked, there = config.torch.device, available()
    if asked == "auto" and config.precision == "float64":
        there = [name for name in there if name != "mps"]
    name = there[0] if asked == "auto" else asked
    if name not in there:
        raise UserError(
            f"torch.device={name} is not available to PyTorch on this machine.\n"
            f"Choose from: auto, {', '.join(there)}."
        )
    if name == "mps" and config.precision == "float64":
        raise UserError(
            "precision=float64 is not possible on torch.device=mps.\n"
            "Use precision=float32, or torch.device=cpu."
        )
    return torch.device(name)


def check_parallel(config: Config) -> None:
    """Raises UserError if the configuration uses parallelism that this backend does not support."""
    parallel = config.parallel
    asked = {
        "parallel.strategy": (parallel.strategy, "jit"),
        "parallel.fsdp": (parallel.fsdp, 1),
        "parallel.tensor": (parallel.tensor, 1),
        "parallel.data": (parallel.data or 1, 1),
        "parallel.attention": (parallel.attention, "auto"),
    }
    wrong = [f"{name}={value}" for name, (value, only) in asked.items() if value != only]
    if wrong:
        raise UserError(
            f"backend=torch does not support {', '.join(wrong)}: it uses one device and its own "
            "attention.\nRemove the setting, or use backend=jax."
        )


def configure(config: Config, device: torch.device, cache: Path) -> None:
    """Global settings: exact float32 products, the cache of compiled code and, on CUDA,
    deterministic kernels where they exist (PyTorch warns where they do not)."""
    if device.type != "mps":  # on MPS, a raised precision gives wrong products
        exact = config.precision != "bfloat16" and not config.parallel.tf32
        torch.set_float32_matmul_precision("highest" if exact else "high")
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))


def compiler(config: Config, device: torch.device) -> tuple[Callable, str]:
    """(torch.compile or the identity, its description). Inductor on a CPU needs a C++ compiler."""
    identity = lambda function: function  # noqa: E731
    if config.debug.eager or not config.torch.compile:
        return identity, "eager, as configured"
    if device.type == "cpu" and not any(map(shutil.which, _compilers())):
        return identity, "eager, no C++ compiler was found"
    backend = "aot_eager" if device.type == "mps" else "inductor"
    compile = lambda function: torch.compile(function, backend=backend, dynamic=False)  # noqa: E731
    return compile, f"compiled by {backend}"


def _compilers() -> list[str]:
    return [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]


def processor_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; if not, bfloat16 is slower than float32."""
    there = torch.backends.mkldnn.is_available()
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
