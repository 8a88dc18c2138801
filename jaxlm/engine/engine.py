"""The JAX backend: network, placement, compiled steps, state and checkpoint tree.

The contract is `contract.Engine`. Legend: B rows, L length, M = L + 1, V vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config.schema import Config, resolve_model
from jaxlm.data.batches import loader
from jaxlm.engine import optimizer
from jaxlm.engine.decoding import Decoder
from jaxlm.engine.kernels import choose_kernels
from jaxlm.engine.model import Transformer
from jaxlm.engine.parallel import Placement, configure
from jaxlm.engine.step import Batch, TrainState, cross_entropy, make_eval_step, make_train_step
from jaxlm.engine.tree import flatten, nest
from jaxlm.host import memory
from jaxlm.spec.contract import EvalBatch, StepMetrics
from jaxlm.spec.flops import peak_flops
from jaxlm.spec.parameters import initial_parameters, parameter_shapes
from jaxlm.store import checkpoint
from jaxlm.store.manifest import Restored


class Engine:
    """The network of a configuration on this machine's devices; see `contract.Engine`.

    Parameters are Flax's nested tree, on the devices.
    """

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        cache: Path,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """`devices` to compile for: by default this machine's. They need not be present."""
        devices = jax.devices() if devices is None else devices
        self.config, self.cache = config, cache
        self.activate()
        self.model_config = resolve_model(config.model, vocab_size)
        platform = devices[0].platform
        self.kernels, reason = choose_kernels(config, self.model_config, platform)
        self.dtype = jnp.dtype(config.precision)
        self.parameter_dtype = "float64" if config.precision == "float64" else "float32"
        self.model = Transformer(self.model_config, self.dtype, self.kernels, config.parallel.remat)
        self.placement = Placement(config, devices)
        self.shapes = parameter_shapes(self.model_config)
        devices = self.placement.devices
        self.device_names = [str(device) for device in devices]
        self.where = (
            f"jax on {len(devices)} {devices[0].platform} device(s), "
            f"attention: {self.kernels.attention} ({reason})"
        )
        self.batch_devices = self.placement.batch_devices
        peak = peak_flops(devices[0].device_kind, config.precision)
        self.peak_flops = peak * len(devices) if peak else None
        self._eval_step = jax.jit(make_eval_step(self.model))

    def activate(self) -> None:
        """Apply this engine's settings, which are global in JAX: another engine may differ."""
        configure(self.config, self.cache)

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        values = initial_parameters(self.model_config, self.config.seed, self.parameter_dtype)
        parameters = nest(values)
        moments = optimizer.rule(self.config.optimizer).init(parameters)
        state = jax.tree.map(np.asarray, TrainState(parameters, moments, np.int32(0)))
        return self.placement.put_state(state)

    # -- training ------------------------------------------------------------------------------

    def compile(self, state: TrainState) -> None:
        """Compile the training step ahead of time, for this state and the configured batch."""
        step = make_train_step(
            self.model, self.config.optimizer, self.config.seed, self.placement.axis
        )
        shape = (self.config.train.batch_size, self.model_config.context_length + 1)
        batch = self.place(np.zeros(shape, np.int32), 0.0)
        self._train_step = self.placement.compile(step, state, batch)

    def place(self, tokens_BxM: np.ndarray, lr: float) -> Batch:
        """A host batch, split into accumulation parts, on the devices."""
        parts = self.config.train.grad_accumulation
        rows = np.arange(len(tokens_BxM), dtype=np.int32).reshape(parts, -1)
        tokens = tokens_BxM.reshape(parts, -1, tokens_BxM.shape[1])
        with np.errstate(over="ignore"):  # infinite if beyond float32: the run diverges
            batch = Batch(tokens, rows, np.asarray(lr, self.parameter_dtype))
        return self.placement.put_batch(batch)

    def train_step(
        self, state: TrainState, tokens_BxM: np.ndarray, lr: float
    ) -> tuple[TrainState, StepMetrics]:
        """One step, dispatched; the state is donated."""
        state, metrics = self._train_step(state, self.place(tokens_BxM, lr))
        return state, self.placement.first_copy(metrics)

    def read(self, tree: Any) -> Any:
        return jax.device_get(tree)

    def loader(
        self, tokens_N: np.ndarray, *, start_step: int, stop_step: int, **arguments: Any
    ) -> Iterator[np.ndarray]:
        return loader(tokens_N, start_step=start_step, stop_step=stop_step, **arguments)

    # -- evaluation and generation ---------------------------------------------------------------

    def parameters_of(self, state: TrainState) -> Any:
        return self.placement.first_copy(state.parameters)

    def parameters_from(self, values: dict[str, np.ndarray]) -> Any:
        shardings = self.placement.parameter_shardings(self.shapes)
        return nest({n: jax.device_put(values[n], shardings[n]) for n in self.shapes})

    def canonical(self, parameters: Any) -> dict[str, np.ndarray]:
        return flatten(jax.tree.map(np.asarray, parameters))

    def eval_step(self, parameters: Any, batch: EvalBatch) -> dict[str, Any]:
        return self._eval_step(parameters, self.placement.put_rows(batch))

    @functools.cached_property
    def _forward(self) -> Any:
        """Compiled once for each shape of tokens."""
        return jax.jit(lambda p, tokens_BxL: self.model.apply({"params": p}, tokens_BxL))

    def logits(self, parameters: Any, tokens_BxL: np.ndarray) -> np.ndarray:
        self.activate()
        return np.asarray(self._forward(parameters, tokens_BxL))

    def decoder(self, parameters: Any) -> Decoder:
        return Decoder(self.model, parameters, self.placement.sharding())

    # -- checkpoints -----------------------------------------------------------------------------

    def writer(self, folder: Path, keep: int) -> checkpoint.Checkpoints:
        return checkpoint.Checkpoints(folder, keep)

    def checkpoint_tree(self, state: TrainState) -> dict[str, Any]:
        """A state as the canonical tree that is stored in checkpoints."""
        state = self.placement.first_copy(state)
        moments = optimizer.to_checkpoint(state.moments)
        return {
            "parameters": flatten(state.parameters),
            "optimizer": moments | {"step": state.step},
        }

    def template(self, parameters_only: bool = False) -> dict[str, Any]:
        """Shapes, types and shardings of `checkpoint_tree`, for restoring onto these devices."""
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
        """The inverse of `checkpoint_tree`."""
        saved = dict(tree["optimizer"])
        step = saved.pop("step")
        parameters = nest(tree["parameters"])
        moments = optimizer.from_checkpoint(self.config.optimizer, parameters, saved)
        state = TrainState(parameters, moments, step)
        if self.placement.pmap or isinstance(step, np.ndarray | np.generic):
            return self.placement.put_state(jax.tree.map(np.asarray, state))
        return state

    def restore(self, folder: Path, which: str | int) -> Restored:
        """The state of a checkpoint, on the devices."""
        found = checkpoint.restore(folder, which, template=self.template())
        return found._replace(content=self.state_of(found.content))

    def restore_parameters(self, folder: Path, which: str | int) -> Restored:
        """The nested parameters of a checkpoint, on the devices."""
        found = checkpoint.restore(
            folder, which, template=self.template(True), parameters_only=True
        )
        return found._replace(content=nest(found.content["parameters"]))

    # -- inspection ------------------------------------------------------------------------------

    @functools.cached_property
    def _seen(self) -> Any:
        """Compiled once for each shape of tokens."""
        kernels = self.kernels._replace(attention="plain")
        model = self.model.clone(kernels=kernels)  # other kernels do not expose their scores
        return jax.jit(
            lambda p, tokens: model.apply({"params": p}, tokens, mutable=["components"])[1]
        )

    def components(self, parameters: Any, tokens_BxL: np.ndarray) -> dict[str, np.ndarray]:
        """The output of each part of the network, by dotted name."""
        self.activate()
        seen = self._seen(parameters, tokens_BxL)
        flat = flatten(jax.tree.map(np.asarray, seen["components"]))
        return {name: value[0] for name, value in flat.items()}

    def gradients(
        self, parameters: Any, tokens_BxM: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """(mean loss, its gradient by canonical name)."""
        self.activate()

        def loss(parameters: Any, tokens_BxM: Any) -> jax.Array:
            logits_BxLxV = cast(
                jax.Array, self.model.apply({"params": parameters}, tokens_BxM[:, :-1])
            )
            return cross_entropy(logits_BxLxV, tokens_BxM[:, 1:]).mean()

        value, gradients = jax.jit(jax.value_and_grad(loss))(parameters, tokens_BxM)
        return float(value), flatten(jax.tree.map(np.asarray, gradients))

    def memory_bytes(self) -> int:
        used = [device.memory_stats() for device in jax.local_devices()]
        return sum(s["bytes_in_use"] for s in used) if all(used) else memory.process_bytes()

    def peak_memory_bytes(self) -> int:
        used = [device.memory_stats() for device in jax.local_devices()]
        if all(used):
            return sum(stats["peak_bytes_in_use"] for stats in used)
        return memory.process_peak_bytes()

    def profile(self, folder: Path) -> AbstractContextManager[Any]:
        return jax.profiler.trace(str(folder))
