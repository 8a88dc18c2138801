"""Entry point: python -m scaling.fit FILE in a shell, from scaling import fit in Python."""

from scaling.callable_module import make_callable
from scaling.estimate.fit import Fit, fit
from scaling.estimate.loading import load_fit

__all__ = ["Fit", "fit", "load_fit"]

make_callable(__name__)

if __name__ == "__main__":
    from scaling.report.command import main

    raise SystemExit(main())
