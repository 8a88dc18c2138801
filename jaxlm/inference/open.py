"""Opens the data of a configuration, and the configuration, data and engine of an existing run."""

from pathlib import Path

import numpy as np

from jaxlm.config import checks
from jaxlm.config.compose import cache_folder
from jaxlm.config.duration import tokens_needed
from jaxlm.config.schema import Config
from jaxlm.data.dataset import Dataset
from jaxlm.data.prepare import prepare as encode
from jaxlm.host.errors import UserError
from jaxlm.inference import guard
from jaxlm.spec.contract import Engine, LoadEngine
from jaxlm.spec.parameters import parameter_shapes
from jaxlm.store.directory import RunDirectory
from jaxlm.store.manifest import Restored
from jaxlm.store.weights import read_weights


def prepare(config: Config) -> Dataset:
    """The configuration's dataset, encoded into run.cache unless it is there already."""
    dataset = encode(config, cache=cache_folder(config), train_tokens=tokens_needed(config))
    checks.check_vocabulary(config.model, dataset.vocab_size)
    return dataset


def run_config(config: Config) -> Config:
    """The configuration of the run in run.dir, with this command's operation and job."""
    RunDirectory(config.run.dir).check_format()
    trained = guard.stored_config(Path(config.run.dir))
    trained.job, trained.run, trained.backend = config.job, config.run, config.backend
    trained.parallel, trained.debug, trained.torch = config.parallel, config.debug, config.torch
    return trained


def load_parameters(engine: Engine, run_path: Path, which: str | int) -> Restored:
    """Parameters of a run's checkpoint, or of a file of weights.

    `which` is last, best, a step or a .safetensors file; see `checkpoint.restore`, `read_weights`.
    Raises UserError as they do, and if parameters are not finite.
    """
    if checks.is_weights_file(which):
        shapes = parameter_shapes(engine.model_config)
        values, about = read_weights(str(which), shapes, engine.parameter_dtype)
        _check_finite(values, str(which))
        return Restored(about.get("step"), engine.parameters_from(values), about, [])
    found = engine.restore_parameters(run_path / "checkpoints", which)
    place = f"the checkpoint of step {found.step} of {run_path}"
    _check_finite(engine.canonical(found.content), place)
    return found


def _check_finite(values: dict[str, np.ndarray], place: str) -> None:
    broken = [name for name, value in values.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{place} holds numbers that are not finite, in {', '.join(broken[:3])}"
            f"{f' and {len(broken) - 3} more' if broken[3:] else ''}, so it cannot be used.\n"
            "Choose another checkpoint with job.checkpoint=best or STEP, or train again."
        )


def open_run(config: Config, load_engine: LoadEngine) -> tuple[RunDirectory, Dataset, Engine]:
    """(RunDirectory, Dataset, Engine) of a trained run. Raises UserError if there is none."""
    trained = run_config(config)
    run = RunDirectory(config.run.dir)
    dataset = prepare(trained)
    return run, dataset, load_engine()(trained, dataset.vocab_size, cache_folder(config))
