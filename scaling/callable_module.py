"""Modules that can be called like the function of the same name.

`from scaling import fit` must give a function, but `python -m scaling.fit` needs a module of that
name. Calling the module calls its function, so it does not matter which one an import finds.
"""

import sys
import types
from typing import Any


class CallableModule(types.ModuleType):
    """A module that calls its function of the same name when it is called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Make the module with this `__name__` callable."""
    sys.modules[name].__class__ = CallableModule
