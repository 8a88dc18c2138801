"""Modules that can be called like the function they are named after.

`from scaling import fit` must give the function, and `python -m scaling.fit` run a module of that
name; whichever of the two Python finds, calling it does the same.
"""

import sys
import types
from typing import Any


class CallableModule(types.ModuleType):
    """A module whose call is that of its function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Let the module `name` (its own `__name__`) be called."""
    sys.modules[name].__class__ = CallableModule
