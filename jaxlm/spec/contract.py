"""The contract that both engines keep with the rest of the program.

`jaxlm.engine.engine.Engine` is the JAX engine, `torchref.engine.Engine` the PyTorch engine. All
other code (the loop, records, evaluation, generation, parity) sees only this contract, numpy arrays
and the canonical parameter tree, and imports neither framework.

Legend: B rows, L length, M = L + 1, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from jaxlm.config.schema import Config, ResolvedModel
from jaxlm.store.manifest import Restored

if TYPE_CHECKING:
    from jaxlm.store.checkpoint import Checkpoints

# The backend's own types, opaque to all other rooms: an array of JAX or PyTorch (of numpy after
# `Engine.read`), a training state, a network's parameters, a tree of arrays.
Array = Any
State = Any
Parameters = Any
Tree = dict[str, Any]


class EvalBatch(NamedTuple):
    """Inputs, targets and 0/1 weights, each (B, L), and the targets' UTF-8 bytes (B, L)."""

    inputs: Array
    targets: Array
    weights: Array
    bytes: Array


class StepMetrics(NamedTuple):
    """The metrics of one optimizer step, in arrays of the backend or of numpy.

    `loss` is nats per token before the update, `gradient_norm` the global norm before clipping.
    The vectors hold the L2 norm of each of `parameters.parameter_groups`, and the root mean square
    of the residual stream after each block.
    """

    loss: Array
    gradient_norm: Array
    gradient_norms: Array
    weight_norms: Array
    update_norms: Array
    activation_rms: Array


class Engine(Protocol):
    """A configuration's network on this machine's devices.

    `State` is everything that a step changes; `Parameters` is the part of it that evaluation and
    generation need. Both are opaque outside the backend. A state given to `train_step` must not be
    used again.
    """

    config: Config
    model_config: ResolvedModel
    parameter_dtype: str  # float32 or float64
    device_names: list[str]
    where: str  # the device and kernels in a few words
    batch_devices: int  # it divides the size of evaluation batches
    peak_flops: float | None  # FLOP/s of all devices in the compute type, if known

    def __init__(self, config: Config, vocab_size: int, cache: Path) -> None:
        """Raises UserError if the configuration requires something that is not available."""

    def activate(self) -> None:
        """Make this engine's global settings the current ones."""

    # -- training

    def initial_state(self) -> State:
        """The state before the first step."""

    def compile(self, state: State) -> None:
        """Get `train_step` ready for batches of the configuration's shape."""

    def train_step(
        self, state: State, tokens_BxM: np.ndarray, lr: float
    ) -> tuple[State, StepMetrics]:
        """(state after, metrics). Need not wait for the device."""

    def read(self, tree: Any) -> Any:
        """Metrics as numpy arrays; waits for them."""

    def loader(
        self, tokens_N: np.ndarray, *, start_step: int, stop_step: int, **arguments: Any
    ) -> Iterator[np.ndarray]:
        """`data.batches.batch` with these arguments for start_step to stop_step - 1, in order."""

    # -- evaluation and generation

    def parameters_of(self, state: State) -> Parameters:
        """The state's Parameters."""

    def eval_step(self, parameters: Parameters, batch: EvalBatch) -> dict[str, Array]:
        """Sums over each row: see `step.make_eval_step`. Need not wait for the device."""

    def logits(self, parameters: Parameters, tokens_BxL: np.ndarray) -> np.ndarray:
        """Logits (B, L, V) in float32, or in float64 with precision=float64."""

    def decoder(self, parameters: Parameters) -> Callable[..., Iterator[np.ndarray]]:
        """Continues token sequences: see `decoding.Decoder.__call__`."""

    def parameters_from(self, values: dict[str, np.ndarray]) -> Parameters:
        """Parameters from arrays by canonical name."""

    def canonical(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """The inverse of `parameters_from`."""

    # -- checkpoints, in the canonical tree

    def writer(self, folder: Path, keep: int) -> "Checkpoints":
        """The run's `checkpoint.Checkpoints`."""

    def checkpoint_tree(self, state: State) -> Tree:
        """{"parameters": {name: array}, "optimizer": {"step", "count", "mu", "nu"}}."""

    def state_of(self, tree: Tree) -> State:
        """The inverse of `checkpoint_tree`."""

    def restore(self, folder: Path, which: str | int) -> Restored:
        """A checkpoint with a state as its content: see `checkpoint.restore`."""

    def restore_parameters(self, folder: Path, which: str | int) -> Restored:
        """A checkpoint with Parameters as its content: see `checkpoint.restore`."""

    # -- inspection

    def components(self, parameters: Parameters, tokens_BxL: np.ndarray) -> dict[str, np.ndarray]:
        """The output of each part of the network, in the order of the forward pass."""

    def gradients(
        self, parameters: Parameters, tokens_BxM: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """(loss, gradient of each parameter) of the mean loss over a batch, without dropout."""

    def memory_bytes(self) -> int:
        """Memory in use now: on the devices if they report it, else by this process."""

    def peak_memory_bytes(self) -> int:
        """The peak memory so far: on the devices if they report it, else by this process."""

    def profile(self, folder: Path) -> AbstractContextManager[object]:
        """Writes a trace of what runs inside to `folder`."""


# Returns a backend; called only when it is needed, since an import takes a second or more.
LoadEngine = Callable[[], type[Engine]]
