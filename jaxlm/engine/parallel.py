"""Where arrays live and how steps are compiled: jit over a device mesh, or pmap over the batch."""

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxlm.config.checks import check_devices
from jaxlm.config.schema import Config
from jaxlm.engine.step import Batch, TrainState
from jaxlm.engine.tree import flatten, nest


def configure(config: Config, cache: Path) -> None:
    """JAX's global settings for this run: 64-bit types, products, compilation cache, eager mode."""
    jax.config.update("jax_enable_x64", config.precision == "float64")
    exact = config.precision != "bfloat16" and not config.parallel.tf32
    jax.config.update("jax_default_matmul_precision", "highest" if exact else None)
    jax.config.update("jax_disable_jit", config.debug.eager)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # keep the user's choice
        folder = cache / "xla" / f"{socket.gethostname()}-jaxlib-{jax.lib.__version__}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Any) -> PartitionSpec:
    """How one parameter is sharded: tensor over heads and width, fsdp over the other axis.

    A sublayer's output matrix is split along its inputs, every other matrix along its outputs
    (Megatron-LM, Shoeybi et al. 2019). An axis that cannot be divided evenly stays whole.
    """
    if len(shape) != 2:
        return PartitionSpec()
    sublayer_output = name.endswith(("attention.output.weight", "feedforward.down.weight"))
    axes = ("fsdp", "tensor") if sublayer_output else ("tensor", "fsdp")
    return PartitionSpec(
        *(
            axis if size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, shape, strict=True)
        )
    )


class Placement:
    """Puts states and batches on the devices and compiles steps for them.

    strategy jit: a mesh with the axes data, fsdp and tensor; XLA places the collectives.
    strategy pmap: every array has a leading axis of devices.
    """

    def __init__(self, config: Config, devices: Sequence[jax.Device]) -> None:
        data = check_devices(config, len(devices))
        parallel = config.parallel
        self.pmap = parallel.strategy == "pmap"
        self.axis = "data" if self.pmap else None
        self.devices = list(devices)[: data * parallel.fsdp * parallel.tensor]
        self.batch_devices = data * parallel.fsdp
        self.mesh = jax.make_mesh(
            (data, parallel.fsdp, parallel.tensor),
            ("data", "fsdp", "tensor"),
            axis_types=(AxisType.Auto,) * 3,
            devices=self.devices,
        )

    def sharding(self, *axes: Any) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def parameter_shardings(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, NamedSharding]:
        """Canonical name -> sharding under jit."""
        return {
            name: NamedSharding(self.mesh, parameter_spec(name, shape, self.mesh))
            for name, shape in shapes.items()
        }

    def state_shardings(self, state: TrainState) -> TrainState:
        """The sharding of each array of a state (or of its shapes); moments follow parameters."""
        shapes = {name: leaf.shape for name, leaf in flatten(state.parameters).items()}
        flat, whole = self.parameter_shardings(shapes), self.sharding()

        def of_moment(path: tuple, leaf: Any) -> NamedSharding:
            """The sharding of the parameter whose name ends the moment's, if the shapes match."""
            names = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
            for start in range(len(names)):
                name = ".".join(names[start:])
                if shapes.get(name) == leaf.shape:
                    return flat[name]
            return whole

        moments = jax.tree_util.tree_map_with_path(of_moment, state.moments)
        return TrainState(nest(flat), moments, whole)

    def put_state(self, state: TrainState) -> TrainState:
        """A host state, copied to where the compiled step expects it."""
        if self.pmap:
            copies = len(self.devices)
            return jax.tree.map(lambda x: np.broadcast_to(x, (copies, *np.shape(x))), state)
        # Copied: a donated buffer must not belong to numpy.
        return jax.tree.map(
            lambda x, s: jax.device_put(np.array(x), s), state, self.state_shardings(state)
        )

    def put_batch(self, batch: Batch) -> Batch:
        """A host batch, split over the devices along its rows."""
        if not self.pmap:
            rows = self.sharding(None, ("data", "fsdp"))
            return jax.device_put(batch, Batch(rows, rows, self.sharding()))
        copies = len(self.devices)

        def split(x: np.ndarray) -> np.ndarray:
            parts, rows = x.shape[:2]
            x = x.reshape(parts, copies, rows // copies, *x.shape[2:])
            return np.ascontiguousarray(np.moveaxis(x, 1, 0))

        lr = np.broadcast_to(batch.lr, (copies,))
        return Batch(split(batch.tokens), split(batch.rows), lr)

    def put_rows(self, tree: Any) -> Any:
        """Evaluation arrays (B, ...), split over the devices along their rows."""
        sharding = self.sharding() if self.pmap else self.sharding(("data", "fsdp"))
        return jax.device_put(tree, sharding)

    def compile(self, step: Callable, state: TrainState, batch: Batch) -> Callable:
        """The step, compiled ahead of time for this state and batch; the state is donated."""
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]  # set at run time
            return step
        if self.pmap:
            return jax.pmap(step, axis_name=self.axis, donate_argnums=0, devices=self.devices)
        shardings = self.state_shardings(state)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, self.sharding()))
        compiled = jitted.lower(state, batch).compile()

        def guarded(state: TrainState, batch: Batch) -> Any:
            with jax.transfer_guard("disallow"):  # an accidental copy raises an error
                return compiled(state, batch)

        guarded.memory_analysis = compiled.memory_analysis  # type: ignore[attr-defined]  # for shapes
        return guarded

    def first_copy(self, tree: Any) -> Any:
        """A state or metrics as seen by one device, without pmap's leading axis."""
        return jax.tree.map(lambda x: x[0], tree) if self.pmap else tree
