"""python run.py [experiment=NAME] [job=JOB] [group=option] [key=value ...]; --help tells more."""

import sys

from jaxlm.cli.main import start

if __name__ == "__main__":
    sys.exit(start())
