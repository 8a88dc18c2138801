"""Scaling laws: fit them, measure their uncertainty, and predict with them."""

import importlib
from typing import Any

_HOMES = {
    "minimize": "scaling.optimize.minimize",
    "minimize_many": "scaling.optimize.minimize",
    "least_squares": "scaling.optimize.least_squares",
    "curve_fit": "scaling.optimize.least_squares",
    "fit": "scaling.estimate.fit",
    "Fit": "scaling.estimate.fit",
    "predict": "scaling.estimate.predict",
    "Records": "scaling.records.records",
    "read_records": "scaling.records.records",
    "ScalingError": "scaling.errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # Imported at first use, so that records can be read without loading JAX.
    if name not in _HOMES:
        raise AttributeError(f"module 'scaling' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
