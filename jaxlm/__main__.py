"""`python -m jaxlm ...` is `python run.py ...`, wherever the package is installed."""

import sys

from jaxlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
