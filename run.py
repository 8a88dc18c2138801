"""python run.py [experiment=NAME] [job=JOB] [group=option] [key=value ...]; see --help."""

import sys

from jaxlm.cli.main import start

if __name__ == "__main__":
    sys.exit(start())
