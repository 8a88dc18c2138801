"""Runs in their own processes, and the comparison of two runs bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxlm.store.checkpoint import restore

ROOT = Path(__file__).resolve().parents[2]
TIMINGS = {"seconds", "wall_seconds", "tokens_per_second", "memory_bytes"}
STEPS = 400


STOPS_ITSELF = """
import os, sys
from jaxlm.cli.main import main
from jaxlm.store.directory import RunDirectory

def append(self, record, write=RunDirectory.append):
    write(self, record)
    if record["kind"] == "train" and record["step"] == {step}:
        os.kill(os.getpid(), {number})

RunDirectory.append = append
sys.exit(main(sys.argv[1:]))
"""


def stopping_at(step, number):
    """For `start`: a run that receives the signal once it has recorded the step, at any speed."""
    return ["-c", STOPS_ITSELF.format(step=step, number=int(number))]


def start(place, name, *words, program=(str(ROOT / "run.py"),)):
    command = [
        sys.executable, *program, "scale=smoke", "data=text",
        f"data.path={place / 'text.txt'}", f"run.dir={place / name}",
        f"run.cache={place / 'cache'}",
        f"train.duration={STEPS}", "train.eval_every=100", "train.checkpoint_every=40",
        "train.log_every=1", "model.residual_dropout=0.1", "run.samples=0",
        "run.figures=false", *words,
    ]  # fmt: skip
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=place, env=environment, **pipes)


def finish(process):
    output, _ = process.communicate(timeout=1200)
    return process.returncode, output


def records(run):
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in found]


def final_arrays(run):
    step, tree, _, skipped = restore(run / "checkpoints")
    assert not skipped
    return step, tree


def assert_same_run(run, reference):
    """All records except timings, and the final state, are equal bit for bit."""
    assert records(run) == records(reference)
    (step, ours), (expected, theirs) = final_arrays(run), final_arrays(reference)
    assert step == expected
    for half in ("parameters", "optimizer"):
        flat, other = _leaves(ours[half]), _leaves(theirs[half])
        assert flat.keys() == other.keys()
        for name in flat:
            np.testing.assert_array_equal(flat[name], other[name], err_msg=name)


def _leaves(tree, prefix=""):
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{prefix}{name}/")
        else:
            found[prefix + name] = np.asarray(value)
    return found
