"""job=doctor: this machine's hardware and software, a self-test of training, and advice."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxlm.config.compose import cache_folder
from jaxlm.config.schema import Config, ModelConfig, TrainConfig
from jaxlm.spec.contract import LoadEngine

GIB = 2**30
_LIBRARIES = (
    ("jax", "jax"),
    ("jaxlib", "jaxlib"),
    ("flax", "flax"),
    ("optax", "optax"),
    ("orbax", "orbax-checkpoint"),
    ("grain", "grain"),
    ("numpy", "numpy"),
    ("hydra", "hydra-core"),
    ("tokenizers", "tokenizers"),
    ("matplotlib", "matplotlib"),
    ("torch", "torch"),
    ("tensorboardX", "tensorboardX"),
)
_VOCABULARY, _STEPS = 64, 20


@dataclass
class Device:
    """A device as JAX sees it; `capability` is a CUDA GPU's compute capability."""

    platform: str
    kind: str
    memory_bytes: int | None = None
    capability: float | None = None


@dataclass
class Machine:
    """What the advice depends on. `nvidia_gpus` are the GPUs that nvidia-smi lists."""

    devices: list[Device] = field(default_factory=list)
    nvidia_gpus: list[str] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=dict)
    cores: int = 1
    free_memory_bytes: int = 0
    folders: dict[Path, int | None] = field(default_factory=dict)  # free bytes; None: not writable


def doctor_job(config: Config, load_engine: LoadEngine) -> int:
    """Print devices, versions, resources, a self-test and advice; 1 if the self-test fails."""
    machine = examine(config)
    print("\n".join(report(machine)), flush=True)
    try:
        lines, healthy = self_test(config, load_engine, rows=8 * max(1, len(machine.devices)))
    except Exception as error:  # report any error
        lines, healthy = [f"{type(error).__name__}: {error}".splitlines()[0]], False
    print("\nself-test")
    print("\n".join(f"  {line}" for line in lines))
    print(f"  {'passed' if healthy else 'FAILED: training will not work here'}")
    print("\nadvice")
    print("\n".join(f"  - {line}" for line in advice(machine)))
    return 0 if healthy else 1


# -- the machine ---------------------------------------------------------------------------------


def examine(config: Config) -> Machine:
    """Examine the machine; unknown fields are left empty."""
    import psutil

    folders = [Path(config.run.dir).absolute(), cache_folder(config)]
    return Machine(
        devices=_devices(),
        nvidia_gpus=_nvidia_gpus(),
        versions={name: _version(package) for name, package in _LIBRARIES},
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        free_memory_bytes=psutil.virtual_memory().available,
        folders={folder: _free(folder) for folder in folders},
    )


def _devices() -> list[Device]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError:
        return []
    found = []
    for device in devices:
        memory = (device.memory_stats() or {}).get("bytes_limit")
        capability = re.fullmatch(r"\d+\.\d+", str(getattr(device, "compute_capability", "")))
        capability = float(capability[0]) if capability else None
        found.append(Device(device.platform, device.device_kind, memory, capability))
    return found


def _nvidia_gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _free(folder: Path) -> int | None:
    """Free bytes on the file system of an existing or future folder; None: not writable."""
    while not folder.exists():
        folder = folder.parent
    writable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return shutil.disk_usage(folder).free if writable else None


def report(machine: Machine) -> list[str]:
    """The lines that describe the machine."""
    lines = ["devices"]
    for number, device in enumerate(machine.devices):
        memory = f", {device.memory_bytes / GIB:.1f} GiB for JAX" if device.memory_bytes else ""
        lines.append(f"  {number}: {device.platform}, {device.kind}{memory}")
    if not machine.devices:
        lines.append("  none: JAX could not start a backend")
    lines += ["", f"versions (Python {platform.python_version()}, {platform.platform()})"]
    lines += [f"  {name:<13} {v or 'not installed'}" for name, v in machine.versions.items()]
    lines += ["", "resources", f"  cores         {machine.cores}"]
    lines.append(f"  free memory   {machine.free_memory_bytes / GIB:.1f} GiB")
    for folder, free in machine.folders.items():
        shown = "NOT WRITABLE" if free is None else f"{free / GIB:.1f} GiB"
        lines.append(f"  free disk     {shown} at {folder}")
    return lines


# -- the self-test -------------------------------------------------------------------------------


def self_test(config: Config, load_engine: LoadEngine, rows: int) -> tuple[list[str], bool]:
    """Twenty steps of the real training step on one batch of `rows`; (lines, passed).

    An untrained model's loss is ln V up to the spread of its logits, and the model memorizes one
    batch: both hold on any working machine in any precision.
    """
    import numpy as np

    length, cache = 32, cache_folder(config)
    model = ModelConfig(n_layers=1, d_model=32, n_heads=2, context_length=length)
    tiny = replace(Config(), precision=config.precision, model=model, torch=config.torch)
    tiny.train = TrainConfig(batch_size=rows)
    engine = load_engine()(tiny, _VOCABULARY, cache)
    state = engine.initial_state()
    tokens_BxM = np.random.default_rng(0).integers(0, _VOCABULARY, (rows, length + 1), np.int32)

    started = time.monotonic()
    engine.compile(state)
    compiled = time.monotonic()
    losses = []
    for _ in range(_STEPS):
        state, metrics = engine.train_step(state, tokens_BxM, 1e-2)
        losses.append(metrics.loss)
    losses = [float(loss) for loss in engine.read(losses)]
    elapsed = time.monotonic() - compiled
    lines, passed = judge(losses, _VOCABULARY)
    lines += [
        f"compiled in {compiled - started:.1f} s, {1e3 * elapsed / _STEPS:.1f} ms per step "
        f"({rows * length * _STEPS / elapsed:,.0f} tokens/s for this tiny model)",
        engine.where,
        f"compiled programs are kept in {cache}",
    ]
    return lines, passed


def judge(losses: list[float], vocabulary: int) -> tuple[list[str], bool]:
    """Whether losses on one batch start at ln V and fall by at least 10 %; (lines, passed)."""
    import numpy as np

    expected = float(np.log(vocabulary))
    starts = abs(losses[0] - expected) < 0.05
    falls = bool(np.isfinite(losses).all()) and losses[-1] < 0.9 * losses[0]
    lines = [
        f"{'ok ' if starts else 'BAD'} first loss {losses[0]:.4f}, ln V is {expected:.4f}",
        f"{'ok ' if falls else 'BAD'} loss after {len(losses)} steps on one batch {losses[-1]:.4f}",
    ]
    return lines, starts and falls


# -- advice --------------------------------------------------------------------------------------


def advice(machine: Machine) -> list[str]:
    """One line for each piece of advice, the most important first."""
    lines = _device_advice(machine)
    for folder, free in machine.folders.items():
        if free is None:
            lines.append(f"{folder} cannot be written: choose another with run.dir or run.cache.")
        elif free < 5 * GIB:
            lines.append(
                f"Only {free / GIB:.1f} GiB free at {folder}: a checkpoint takes 12 bytes "
                "per parameter; free some space, or lower train.keep_checkpoints."
            )
    if machine.free_memory_bytes < 4 * GIB:
        free = machine.free_memory_bytes / GIB
        lines.append(
            f"Only {free:.1f} GiB of memory free: keep train.batch_size x context small, "
            "or raise train.grad_accumulation."
        )
    if all(device.platform == "cpu" for device in machine.devices):
        lines.append(
            f"{machine.cores} core(s): train one run at a time, since it uses them all; quickstart "
            "and shakespeare_cpu are sized for CPUs, larger experiments need a GPU."
        )
    if machine.versions.get("torch") is None:
        lines.append("backend=torch and job=parity need: pip install 'jaxlm[torch]'")
    if machine.versions.get("tensorboardX") is None:
        lines.append("tracker=tensorboard needs: pip install 'jaxlm[tensorboard]'")
    return lines


def _device_advice(machine: Machine) -> list[str]:
    gpus = [device for device in machine.devices if device.platform == "gpu"]
    if gpus and all((gpu.capability or 0) >= 8 for gpu in gpus):
        return ["precision=bfloat16 is fastest on this GPU, and lets attention use cuDNN's kernel."]
    if gpus:
        return ["This GPU has no fast bfloat16: stay with precision=float32."]
    if machine.nvidia_gpus:
        hidden = os.environ.get("JAX_PLATFORMS")
        fix = f"unset JAX_PLATFORMS (now {hidden!r})" if hidden else "pip install 'jaxlm[cuda]'"
        return [f"nvidia-smi lists {machine.nvidia_gpus[0]}, but JAX does not use it: {fix}"]
    if not machine.devices:
        return ["JAX could not start: unset JAX_PLATFORMS, or install jaxlib for this machine."]
    return ["precision=float32 (the default) is the best choice on a CPU."]
