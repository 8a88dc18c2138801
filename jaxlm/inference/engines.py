"""The one place that chooses an engine."""

from jaxlm.host.errors import UserError
from jaxlm.spec.contract import Engine


def engine_class(backend: str) -> type[Engine]:
    """The backend's `Engine`. Raises UserError if its library is not installed."""
    if backend == "jax":
        from jaxlm.engine.engine import Engine as JaxEngine

        return JaxEngine
    try:
        from torchref.engine import Engine as TorchEngine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            "backend=torch and job=parity need PyTorch, which is not installed.\n"
            "Install it: pip install 'jaxlm[torch]'."
        ) from None
    return TorchEngine
