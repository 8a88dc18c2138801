"""The command python -m scaling.fit FILE."""

import argparse
import contextlib
import os
import sys

from scaling.errors import ScalingError
from scaling.law.laws import LAWS
from scaling.optimize import compiled
from scaling.records.columns import spelled
from scaling.records.records import read_records
from scaling.report import drawing
from scaling.report.analysis import analyse


def main(words: list[str] | None = None) -> int:
    """Parse the command line, fit and print.

    Returns the exit status: 0 for a successful fit, 1 for an unreliable one, 2 for bad input.
    """
    asked = _parser().parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # an ASCII locale has no ±
            stream.reconfigure(  # type: ignore[union-attr]  # not all streams have it
                errors="backslashreplace"
            )
    source = asked.records[0] if len(asked.records) == 1 else asked.records
    compiled.keep_programs()
    if asked.out:
        drawing.prepare()
    try:
        records = read_records(
            source, count=asked.count, keep=asked.keep, where=asked.where, columns=asked.columns
        )
        records = records.respelled(lambda name: f"--{name} ")
        analysis = analyse(
            records,
            asked.law,
            holdout=asked.holdout,
            budgets=asked.budget,
            delta=None if asked.squares else asked.delta,
            resamples=asked.bootstrap,
            bootstrap_starts=asked.bootstrap_starts,
            fix=asked.fix,
        )
        print(analysis.text(), flush=True)  # before the figures, which take as long again
        if asked.out:
            print(f"\nwritten: {analysis.save(asked.out, tell=print)}")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ScalingError as error:
        print(spelled(str(error), lambda name: f"--{name} "), file=sys.stderr)
        return 2
    return 0 if analysis.fit.success else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scaling.fit",
        description="Fit a scaling law to records of training runs and print the result.",
    )
    parser.add_argument(
        "records", nargs="+", help="CSV, JSON, parquet or npy files, run directories, or folders"
    )
    parser.add_argument("--law", default="chinchilla", help=f"one of {', '.join(LAWS)}")
    parser.add_argument("--delta", type=float, default=1e-3, help="Huber's delta in log loss")
    parser.add_argument("--squares", action="store_true", help="least squares instead of Huber")
    parser.add_argument("--fix", help="fixed parameters: E=1.69, or 'E=1.69, alpha=0.34'")
    parser.add_argument(
        "--bootstrap", type=int, default=4000, help="number of resamples; 0 for no intervals"
    )
    parser.add_argument(
        "--bootstrap-starts", type=int, default=1, help="starting points of each resample"
    )
    parser.add_argument("--count", help="what N counts: non_embedding or total")
    parser.add_argument(
        "--where", help="use only rows with column=value, column<value or column>value"
    )
    parser.add_argument(
        "--keep",
        default="final",
        help="final (last point of each run), best (lowest loss at each N and D) or all",
    )
    parser.add_argument("--columns", help="define columns: 'N=size*1e6, loss=c4_val'")
    parser.add_argument(
        "--holdout",
        help="predict runs above this compute: FLOPs, or 10x for a tenth of the largest",
    )
    parser.add_argument(
        "--budget",
        type=float,
        action="append",
        default=[],
        help="FLOPs to divide between N and D; may be repeated",
    )
    parser.add_argument("--out", help="folder for fit.json, figures and report.md")
    return parser
