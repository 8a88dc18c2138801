"""The PyTorch backend: `jaxlm.spec.contract.Engine`, which `backend=torch` selects.

Legend: B rows, L length, M = L + 1, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from jaxlm.config.schema import Config, resolve_model
from jaxlm.data.batches import batch
from jaxlm.host import memory
from jaxlm.spec.contract import EvalBatch, StepMetrics
from jaxlm.spec.flops import peak_flops
from jaxlm.store.manifest import Restored
from torchref import device as devices
from torchref.decoding import Decoder
from torchref.dropout import Dropout
from torchref.layers import at_least_float32
from torchref.model import Transformer
from torchref.optimizer import make_optimizer
from torchref.step import (
    TrainState,
    cross_entropy,
    eval_step,
    has_dropout,
    loss_of,
    make_train_step,
)
from torchref.taps import taps, watched
from torchref.threefry import fold_in, random_key


class Batches(Dataset):
    """The batch of each step, a pure function of its number."""

    def __init__(self, tokens_N: np.ndarray, **arguments: Any) -> None:
        self.tokens_N, self.arguments = tokens_N, arguments

    def __getitem__(self, step: int) -> np.ndarray:
        return batch(self.tokens_N, step=step, **self.arguments)


class Engine:
    """The network of a configuration on one device; see `jaxlm.spec.contract.Engine`.

    Parameters are a `Transformer`.
    """

    batch_devices = 1

    def __init__(self, config: Config, vocab_size: int, cache: Path) -> None:
        devices.check_parallel(config)
        self.config, self.cache = config, cache
        self.device = devices.choose_device(config)
        self.activate()
        self.model_config = resolve_model(config.model, vocab_size)
        self.dtype = devices.DTYPES[config.precision]
        self.parameter_dtype = "float64" if config.precision == "float64" else "float32"
        self.compiled, how = devices.compiler(config, self.device)
        kind = torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type
        self.device_names = [kind]
        slow = config.precision == "bfloat16" and self.device.type == "cpu"
        slow = slow and not devices.processor_has_bfloat16()
        note = ", bfloat16 is emulated here, so float32 is faster" if slow else ""
        self.where = f"torch on {kind}, {how}{note}"
        self.peak_flops = peak_flops(kind, config.precision)

    def activate(self) -> None:
        """Apply this engine's settings, which are global in PyTorch: another engine may differ."""
        devices.configure(self.config, self.device, self.cache)

    def new_model(self) -> Transformer:
        """A module on the device, with parameters not yet set."""
        model = Transformer(self.model_config, self.dtype, self.config.parallel.remat)
        return model.to(self.device, devices.DTYPES[self.parameter_dtype])

    def initial_state(self) -> TrainState:
        model = self.new_model().initialise(self.config.seed)
        return TrainState(model, make_optimizer(model, self.config.optimizer), 0)

    # -- training ------------------------------------------------------------------------------

    def compile(self, state: TrainState) -> None:
        """Make the training step, and compile its loss by running it once on zeros."""
        config, model, parts = self.config, state.model, self.config.train.grad_accumulation
        loss = self.compiled(loss_of)
        self._train_step = make_train_step(
            self.model_config, config.optimizer, config.seed, parts, loss
        )
        rows, length = config.train.batch_size, self.model_config.context_length
        zeros = self._put(np.zeros((rows // parts, length + 1), np.int32))
        key = fold_in(random_key(0, self.device), 0)
        rows_B = torch.arange(rows // parts, dtype=torch.int32, device=self.device)
        dropout = Dropout(key, rows_B) if has_dropout(self.model_config) else None
        loss(model, zeros, dropout, rows * length)[0].backward()
        model.zero_grad()

    def train_step(
        self, state: TrainState, tokens_BxM: np.ndarray, lr: float
    ) -> tuple[TrainState, StepMetrics]:
        return self._train_step(state, self._put(tokens_BxM), lr)

    def _put(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        tensor = tensor.long() if tensor.dtype == torch.int32 else tensor
        return tensor.to(self.device, non_blocking=True)

    def read(self, tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: self.read(value) for name, value in tree.items()}
        if isinstance(tree, StepMetrics):
            return StepMetrics(*(self.read(value) for value in tree))
        if isinstance(tree, list | tuple):
            return [self.read(value) for value in tree]
        return tree.detach().cpu().numpy()

    def loader(
        self, tokens_N: np.ndarray, *, start_step: int, stop_step: int, **arguments: Any
    ) -> Iterator[np.ndarray]:
        """A batch costs a fraction of a millisecond, so no worker reads ahead."""
        steps, keep = range(start_step, stop_step), lambda array: array
        data = Batches(tokens_N, **arguments)
        return iter(DataLoader(data, batch_size=None, sampler=steps, collate_fn=keep))

    # -- evaluation and generation ---------------------------------------------------------------

    def parameters_of(self, state: TrainState) -> Transformer:
        return state.model

    def parameters_from(self, values: dict[str, np.ndarray]) -> Transformer:
        model = self.new_model()
        model.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in values.items()})
        return model

    def canonical(self, parameters: Transformer) -> dict[str, np.ndarray]:
        return {name: p.detach().cpu().numpy() for name, p in parameters.named_parameters()}

    def eval_step(self, parameters: Transformer, batch: EvalBatch) -> dict[str, torch.Tensor]:
        return eval_step(parameters, EvalBatch(*map(self._put, batch)))

    @torch.no_grad()
    def logits(self, parameters: Transformer, tokens_BxL: np.ndarray) -> np.ndarray:
        self.activate()
        return parameters(self._put(tokens_BxL.astype(np.int32))).cpu().numpy()

    def decoder(self, parameters: Transformer) -> Decoder:
        return Decoder(parameters)

    # -- checkpoints (torchref.checkpoint is imported when needed: it takes seconds) ---------------

    def writer(self, folder: Path, keep: int) -> Any:
        from torchref.checkpoint import Checkpoints

        return Checkpoints(folder, keep)

    def checkpoint_tree(self, state: TrainState) -> dict[str, Any]:
        from torchref.checkpoint import tree_of

        return tree_of(state, self.config.optimizer)

    def state_of(self, tree: dict[str, Any]) -> TrainState:
        from torchref.checkpoint import state_of

        return state_of(tree, self.new_model(), self.config.optimizer)

    def restore(self, folder: Path, which: str | int) -> Restored:
        from torchref.checkpoint import read

        found = read(folder, which, self.new_model(), self.config.optimizer)
        return found._replace(content=self.state_of(found.content))

    def restore_parameters(self, folder: Path, which: str | int) -> Restored:
        from torchref.checkpoint import read_parameters

        found = read_parameters(folder, which, self.new_model())
        return found._replace(content=self.parameters_from(found.content["parameters"]))

    # -- inspection ------------------------------------------------------------------------------

    @torch.no_grad()
    def components(self, parameters: Transformer, tokens_BxL: np.ndarray) -> dict[str, np.ndarray]:
        """The output of each part of the network, by dotted name."""
        with watched(parameters) as seen:
            parameters(self._put(tokens_BxL.astype(np.int32)))
        return {
            name: at_least_float32(seen[name]).cpu().numpy()
            for name in taps(parameters)
            if name in seen
        }

    def gradients(
        self, parameters: Transformer, tokens_BxM: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """(mean loss, its gradient by canonical name)."""
        self.activate()
        tokens = self._put(tokens_BxM.astype(np.int32))
        named = dict(parameters.named_parameters())
        loss = cross_entropy(parameters(tokens[:, :-1]), tokens[:, 1:]).mean()
        gradients = torch.autograd.grad(loss, list(named.values()))
        found = zip(named, (g.cpu().numpy() for g in gradients), strict=True)
        return loss.item(), dict(found)

    def memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated()
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return memory.process_bytes()

    def peak_memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return memory.process_peak_bytes()

    @contextmanager
    def profile(self, folder: Path) -> Iterator[None]:
        folder.mkdir(parents=True, exist_ok=True)
        with torch.profiler.profile() as profiler:
            yield
        profiler.export_chrome_trace(str(folder / "trace.json"))
