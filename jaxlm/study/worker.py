"""What runs in the process of one run of a study, or of several that train together.

python -m jaxlm.study.worker WORDS, or --pack OUTCOMES.json --run WORDS --run WORDS
"""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from pathlib import Path

from jaxlm.config.compose import compose
from jaxlm.host.allocator import restart_with_huge_pages
from jaxlm.host.console import print_anything
from jaxlm.host.errors import UserError
from jaxlm.host.files import atomic_write
from jaxlm.inference.engines import engine_class

CORES = "JAXLM_CORES"
"""The environment variable with the cores to use, as 0,2,4."""
PACK, NEXT = "--pack", "--run"
"""The words before the file of outcomes of a pack, and before the words of each of its runs."""


def _end_with_the_study() -> None:
    """Wait until the study closes the pipe, then ask this process to save and end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _settle_in() -> None:
    """Use only the given cores, and be the first process killed when memory runs out."""
    with contextlib.suppress(OSError, ValueError):
        if CORES in os.environ:
            os.sched_setaffinity(0, map(int, os.environ[CORES].split(",")))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _train_one(words: list[str]) -> int:
    from jaxlm.train.start import train_job

    print_anything()
    try:
        config = compose(words, strict=True)
        return train_job(config, functools.partial(engine_class, config.backend))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _train_together(words: list[str]) -> int:
    from jaxlm.study.pack import train_pack

    outcomes = words[1]
    runs: list[list[str]] = []
    for word in words[2:]:
        if word == NEXT:
            runs.append([])
        else:
            runs[-1].append(word)
    found = train_pack(runs, functools.partial(engine_class, "jax"))
    atomic_write(Path(outcomes), json.dumps(found))
    return 0


def main(words: list[str]) -> int:
    """Train the runs given by the words; the exit status is as in `jaxlm.cli.main`."""
    restart_with_huge_pages("torch" if "backend=torch" in words else "jax")
    return _train_together(words) if words[:1] == [PACK] else _train_one(words)


if __name__ == "__main__":
    _settle_in()
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    sys.argv[0] = "run.py"  # what a person would type, for the run's record of its command
    sys.exit(main(sys.argv[1:]))
