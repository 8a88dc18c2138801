"""Maps job names to functions, imported only when called so that help and errors are instant."""

import functools
import importlib
from collections.abc import Iterable
from pathlib import Path

from jaxlm.config.job_options import OPENING
from jaxlm.config.schema import Config, differences, identity
from jaxlm.host.errors import UserError
from jaxlm.inference.engines import engine_class

FUNCTIONS = {
    "train": "jaxlm.train.start:train_job",
    "study": "jaxlm.study.job:study_job",
    "ladder": "jaxlm.predict.ladder:ladder_job",
    "fit": "jaxlm.predict.jobs:fit_job",
    "predict": "jaxlm.predict.jobs:predict_job",
    "report": "jaxlm.compare.report:report_job",
    "evaluate": "jaxlm.inference.evaluate:evaluate_job",
    "generate": "jaxlm.inference.generate:generate_job",
    "logits": "jaxlm.inference.generate:logits_job",
    "parity": "jaxlm.verify.parity:parity_job",
    "doctor": "jaxlm.verify.doctor:doctor_job",
}
SHAPES = "jaxlm.verify.shapes:shapes_job"
"""Runs with debug=shapes instead of training."""


def run(config: Config, given: Iterable[str] = ()) -> int:
    """Run config.job and return the exit status. Raises UserError.

    `given` holds the keys and groups of the command line. A job that opens a trained run refuses
    those that contradict it.
    """
    if config.job.name in OPENING:
        _check_given(config, given)
    shapes = config.job.name == "train" and config.debug.shapes
    module, function = (SHAPES if shapes else FUNCTIONS[config.job.name]).split(":")
    carry_out = getattr(importlib.import_module(module), function)
    return carry_out(config, functools.partial(engine_class, config.backend))


def _check_given(config: Config, given: Iterable[str]) -> None:
    """Raise UserError if the command line sets identity keys that differ from the run's."""
    from jaxlm.inference.guard import stored_config

    path = Path(config.run.dir)
    differing = differences(identity(config), identity(stored_config(path)))
    named = {
        name: values
        for name, values in differing.items()
        if any(name == key or name.startswith(f"{key}.") for key in given)
    }
    if named:
        lines = [f"  {name}: {new} here, {old} there" for name, (new, old) in named.items()]
        raise UserError(
            f"job={config.job.name} uses the configuration of {path}, which differs:\n"
            + "\n".join(lines)
            + "\nOmit these keys, or choose another run with run.name=NAME."
        )
