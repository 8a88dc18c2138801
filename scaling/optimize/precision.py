"""Double precision for this package, whatever the caller's global setting."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from scaling.errors import ScalingError

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")
Array = jax.Array | np.ndarray
ArrayLike = jax.Array | npt.ArrayLike


def in_float64(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Decorator: run `function` with 64-bit types enabled.

    If the caller has not enabled 64-bit types, results are returned as NumPy arrays. Raises
    ScalingError inside a jit that was traced without 64-bit types: float64 is impossible there.
    """

    @functools.wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        if not _wide():
            for leaf in jax.tree.leaves((args, kwargs)):
                _refuse_traced(leaf, function.__name__)
        with jax.enable_x64(True):
            result = function(*args, **kwargs)
        return result if _wide() else cast(Returned, jax.tree.map(_as_numpy, result))

    return wrapped


def _wide() -> bool:
    return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]  # set at run time


def _as_numpy(leaf: object) -> object:
    # Without 64-bit types, arithmetic on a float64 JAX array would give the caller float32.
    concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return np.asarray(leaf) if concrete else leaf


def _refuse_traced(leaf: object, name: str) -> None:
    # Tracers of vmap and grad wrap an array or an outer tracer and compute at once. Those of jit
    # only record the computation, with the types that were enabled when tracing began.
    while isinstance(leaf, jax.core.Tracer) and type(leaf).__name__ != "DynamicJaxprTracer":
        leaf = getattr(leaf, "val", getattr(leaf, "primal", None))
    if isinstance(leaf, jax.core.Tracer):
        raise ScalingError(
            f"{name} computes in float64, but was called inside a jit traced in float32.\n"
            "Call it outside the jit, or enable 64-bit types: "
            "jax.config.update('jax_enable_x64', True)."
        )


def promote(tree: Any) -> Any:
    """Convert every float and integer leaf to a float64 array; other leaves are unchanged.

    Outside a trace NumPy converts: JAX would compile a program for each shape. `Any`: trees have
    no type.
    """

    def one(leaf: ArrayLike) -> Array:
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if array.dtype.kind not in "fiu" or array.dtype == np.float64:
            return array
        return array.astype(jnp.float64)

    return jax.tree.map(one, tree)


def promoted(values: ArrayLike) -> Array:
    """Convert an array or nested lists of numbers to one float64 array."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))
    return cast(Array, promote(jnp.asarray(values) if traced else np.asarray(values)))
