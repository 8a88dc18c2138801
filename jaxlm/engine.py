"""What training, evaluation and generation share: model, placement, state, checkpoint tree."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import checkpoint, checks, data, optimizer
from jaxlm.compose import cache_folder, from_file
from jaxlm.config import Config, resolve_model
from jaxlm.data import Dataset
from jaxlm.duration import tokens_needed
from jaxlm.initial import initial_parameters, parameter_shapes
from jaxlm.model import Transformer, flatten, nest
from jaxlm.parallel import Placement, attention_kernel, configure
from jaxlm.runs import RunDirectory
from jaxlm.step import TrainState


class Engine:
    """A configuration's network on this machine's devices."""

    def __init__(self, config: Config, vocab_size: int, cache: Path) -> None:
        configure(config, cache)
        self.config = config
        self.model_config = resolve_model(config.model, vocab_size)
        self.kernel, self.kernel_reason = attention_kernel(config, self.model_config)
        self.dtype = jnp.dtype(config.precision)
        self.parameter_dtype = "float64" if config.precision == "float64" else "float32"
        self.model = Transformer(self.model_config, self.dtype, self.kernel, config.parallel.remat)
        self.placement = Placement(config)
        self.shapes = parameter_shapes(self.model_config)

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        values = initial_parameters(self.model_config, self.config.seed, self.parameter_dtype)
        parameters = nest(values)
        moments = optimizer.rule(self.config.optimizer).init(parameters)
        state = jax.tree.map(np.asarray, TrainState(parameters, moments, np.int32(0)))
        return self.placement.put_state(state)

    def checkpoint_tree(self, state: TrainState) -> dict[str, Any]:
        """A state as the canonical tree that checkpoints hold."""
        state = self.placement.first_copy(state)
        moments = optimizer.to_checkpoint(state.moments)
        return {
            "parameters": flatten(state.parameters),
            "optimizer": moments | {"step": state.step},
        }

    def template(self, parameters_only: bool = False) -> dict[str, Any]:
        """Shapes, types and shardings of `checkpoint_tree`, for a restore onto these devices."""
        dtype = np.dtype(self.parameter_dtype)
        abstract = nest({n: jax.ShapeDtypeStruct(s, dtype) for n, s in self.shapes.items()})
        moments = jax.eval_shape(optimizer.rule(self.config.optimizer).init, abstract)
        state = TrainState(abstract, moments, jax.ShapeDtypeStruct((), np.int32))
        whole = jax.tree.map(lambda _: self.placement.sharding(), state)
        shardings = whole if self.placement.pmap else self.placement.state_shardings(state)
        state = jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
            state,
            shardings,
        )
        moments = optimizer.to_checkpoint(state.moments) | {"step": state.step}
        tree = {"parameters": flatten(state.parameters), "optimizer": moments}
        return {"parameters": tree["parameters"]} if parameters_only else tree

    def state_of(self, tree: dict[str, Any]) -> TrainState:
        """The state that `checkpoint_tree` was made of."""
        saved = dict(tree["optimizer"])
        step = saved.pop("step")
        parameters = nest(tree["parameters"])
        moments = optimizer.from_checkpoint(self.config.optimizer, parameters, saved)
        state = TrainState(parameters, moments, step)
        if self.placement.pmap:
            return self.placement.put_state(jax.tree.map(np.asarray, state))
        return state

    def restore_parameters(
        self, run_dir: Path, which: str | int
    ) -> tuple[int, Any, dict[str, Any], list[str]]:
        """(step, nested parameters on the devices, metadata, skipped checkpoints) of a run."""
        step, tree, metadata, skipped = checkpoint.restore(
            run_dir / "checkpoints", which, template=self.template(True), parameters_only=True
        )
        return step, nest(tree["parameters"]), metadata, skipped


def prepare(config: Config) -> Dataset:
    """The configuration's dataset, encoded into run.cache where it is not there yet."""
    dataset = data.prepare(config, cache=cache_folder(config), train_tokens=tokens_needed(config))
    checks.check_vocabulary(config.model, dataset.vocab_size)
    return dataset


def run_config(config: Config) -> Config:
    """The configuration of the run that run.dir holds, with this command's operation and job."""
    RunDirectory(config.run.dir).check_format()
    trained = from_file(Path(config.run.dir) / "config.yaml")
    trained.job, trained.run, trained.backend = config.job, config.run, config.backend
    trained.parallel, trained.debug = config.parallel, config.debug
    return trained


def open_run(config: Config) -> tuple[RunDirectory, Dataset, Engine]:
    """(RunDirectory, Dataset, Engine) of a trained run. Raises UserError where there is none."""
    trained = run_config(config)
    run = RunDirectory(config.run.dir)
    dataset = prepare(trained)
    return run, dataset, Engine(trained, dataset.vocab_size, cache_folder(config))
