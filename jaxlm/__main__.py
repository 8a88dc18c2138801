"""`python -m jaxlm ...` is `python run.py ...`, wherever the package is installed."""

import sys

from jaxlm.cli.main import start

if __name__ == "__main__":
    sys.exit(start())
