"""The typed schema of the configuration: every key, its default and its meaning.

The files under `configs/` hold differences from these defaults only. Each key is either
*identity* (what is computed) or *operation* (how it is computed: marked `operation=True`).
Identity identifies a run and must not change when it resumes; operation may change at any time.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from jaxlm.config.corpora import CORPORA, DataConfig, Stories
from jaxlm.config.keys import key, keys_of
from jaxlm.config.model_kinds import FEED_FORWARDS, POSITIONS
from jaxlm.config.optimizers import OPTIMIZERS, AdamW, OptimizerConfig
from jaxlm.config.schedules import SCHEDULES, Cosine, ScheduleConfig
from jaxlm.config.tokenizers import BPE, TOKENIZERS, TokenizerConfig
from jaxlm.config.trackers import TRACKERS, NoTracker, TrackerConfig
from jaxlm.host.checked import Json


@dataclass(unsafe_hash=True)
class ModelConfig:
    n_layers: int = key(4, "number of blocks")
    d_model: int = key(128, "width of the residual stream")
    n_heads: int = key(4, "number of query heads")
    n_kv_heads: int | None = key(None, "number of key/value heads; null: n_heads")
    head_dim: int | None = key(None, "width of one head; null: d_model / n_heads")
    d_ff: int | None = key(
        None, "feed-forward width; null: 4 d_model, or 8/3 d_model (up to a multiple of 8) if gated"
    )
    context_length: int = key(
        256, "maximum sequence length in tokens; also the length of training windows"
    )
    vocab_size: int | None = key(
        None, "number of embedding rows; null: the tokenizer's vocabulary size"
    )
    norm: str = key("rmsnorm", "kind of norm", choices=("rmsnorm", "layernorm", "none"))
    norm_placement: str = key(
        "pre",
        "pre: a norm before each sublayer; post: after each residual sum",
        choices=("pre", "post"),
    )
    norm_eps: float = key(1e-5, "epsilon inside the square root of the norms")
    position: str = key(
        "rope",
        "position encoding; learned and sinusoidal are added to the embedding",
        choices=tuple(POSITIONS),
    )
    rope_theta: float = key(10000.0, "base of the wavelengths of rope")
    ffn: str = key(
        "swiglu",
        "feed-forward kind; swiglu and geglu are gated, gelu is the exact erf form",
        choices=tuple(FEED_FORWARDS),
    )
    bias: str = key(
        "none",
        "which linear layers have a bias; all includes the LayerNorms",
        choices=("none", "qkv", "all"),
    )
    head_bias: bool = key(False, "add a bias to the untied output head")
    qk_norm: bool = key(False, "apply RMSNorm to each query and key head before rope")
    tie_embeddings: bool = key(False, "use the token embedding as the output head")
    residual: bool = key(True, "use residual connections")
    attention_dropout: float = key(0.0, "dropout rate of the attention probabilities")
    residual_dropout: float = key(
        0.0, "dropout rate of the embedding and of each sublayer's output"
    )
    init_std: float = key(0.02, "standard deviation of the initial weights")
    scaled_init: bool = key(
        True, "divide the initial std of residual output layers by sqrt(2 n_layers)"
    )
    parametrization: str = key(
        "standard",
        "mup keeps the best learning rate the same at every width (Yang et al. 2022): it scales "
        "hidden matrices' initial std and rate, attention scores and logits",
        choices=("standard", "mup"),
    )
    base_width: int | None = key(
        None,
        "mup: the d_model at which it equals standard: the width the learning rate was tuned at",
    )
    base_head_dim: int | None = key(
        None, "mup: head_dim at base_width; null: head_dim if given, else base_width / n_heads"
    )


@dataclass
class TrainConfig:
    duration: str = key("1000", "length of the run: 2000 (steps), 40Mtokens, 3epochs, 1.5hours")
    batch_size: int = key(
        32, "sequences per optimizer step, over all devices and accumulation steps"
    )
    eval_every: str = key("10%", "interval between evaluations on the validation split")
    early_stopping: int | None = key(
        None, "stop after this many evaluations without a better validation loss"
    )
    overfit: bool = key(
        False, "train on the first batch only, to check that the loss can reach zero"
    )
    grad_accumulation: int = key(
        1, "number of parts that a batch is split into and processed in sequence", operation=True
    )
    checkpoint_every: str = key("10%", "interval between checkpoints", operation=True)
    keep_checkpoints: int = key(
        2, "number of newest checkpoints to keep, besides the best one", operation=True
    )
    log_every: str = key("10", "interval between training records", operation=True)


@dataclass
class ParallelConfig:
    strategy: str = key(
        "jit", "jit over a device mesh, or pmap over the data axis", choices=("jit", "pmap")
    )
    data: int | None = key(
        None, "devices along the batch; null: all devices not used by fsdp and tensor"
    )
    fsdp: int = key(1, "devices over which parameters and the batch are sharded")
    tensor: int = key(1, "devices over which heads and feed-forward width are sharded")
    attention: str = key(
        "auto",
        "attention kernel; auto: cuDNN where the device and types allow it, else blocks on a CPU",
        choices=("auto", "plain", "blocks", "cudnn"),
    )
    remat: bool = key(False, "recompute each block's activations in the backward pass")
    tf32: bool = key(False, "let a GPU round float32 products to TF32")


@dataclass
class TorchConfig:
    device: str = key(
        "auto", "auto: cuda, else mps, else cpu", choices=("auto", "cpu", "mps", "cuda")
    )
    compile: bool = key(True, "use torch.compile if a compiler for the device is available")


@dataclass
class RunConfig:
    name: str | None = key(
        None,
        "the run's name, also its folder name (no slash, no leading dot); null: the experiment's "
        "name; -m adds the swept values",
    )
    experiment: str | None = key(None, "the experiment the run came from; set automatically")
    options: dict[str, str] = key({}, "the group options the run came from; set automatically")
    dir: str = key("runs/${run.name}", "the run's folder")
    overwrite: bool = key(
        False,
        "remove only what a finished or different run wrote to run.dir, then start over",
    )
    accept_records: bool = key(
        False,
        "resume even if metrics.jsonl has lost records that existed when the checkpoint was saved",
    )
    stop_at: int | None = key(None, "stop early at this step, without changing the schedule")
    cache: str = key(".cache", "folder for token files, downloads and compiled programs")
    samples: int = key(3, "number of texts generated into samples.txt when a run finishes; 0: none")
    figures: bool = key(True, "draw the figures of report.md when a run finishes")


@dataclass
class DebugConfig:
    shapes: bool = key(False, "print every component's shapes and parameters, then stop")
    eager: bool = key(False, "run without jit, for print and debuggers")
    profile: bool = key(False, "write a trace of the training loop to run.dir/profile")


@dataclass
class ClaimConfig:
    text: str = key("", "the claim, in the authors' words or ours")
    metric: str = key("val_loss", "the metric it is about, as named in summary.json")
    better: str = key("", "the variant claimed to be better")
    than: str = key("", "the variant it is claimed to beat")
    factor: float | None = key(None, "the factor the authors claimed")


@dataclass
class StudyConfig:
    question: str = key("", "the question of the study; the first line of its report")
    variants: dict[str, list[str]] = key(
        {}, "name -> overrides of the base, as on the command line; [] is the base itself"
    )
    axes: dict[str, Any] = key(
        {},
        "key -> values; all combinations are trained for every variant. train.batch_size may be "
        "`doubling to 1024`: 1, 2, 4, ... as far as memory allows",
    )
    seeds: list[int] = key([0], "train every variant with each of these seeds")
    baseline: str | None = key(None, "the variant that others are compared with; null: the first")
    equal: str = key(
        "steps",
        "what all variants have in common. steps: durations as configured; tokens: the base's "
        "token "
        "count; time: the baseline's wall-clock time",
        choices=("steps", "tokens", "time"),
    )
    workers: int = key(1, "number of runs to train at once, each in its own process")
    pack: bool = key(
        False,
        "train runs that differ only in numbers (seed, learning rate, decay, dropout, ...) as one "
        "vmapped program",
    )
    specimens: int = key(
        8, "generated texts per variant that the report measures; 0: samples.txt only"
    )
    lr_with_batch: str = key(
        "none",
        "how an axis of batch sizes scales optimizer.lr. none: not at all; linear: by the ratio to "
        "the base's batch size; sqrt: by the square root of that ratio",
        choices=("none", "sqrt", "linear"),
    )
    reported: dict[str, Any] = key({}, "variant -> metric -> the value that the authors reported")
    claims: list[ClaimConfig] = key([], "the authors' claims; the report gives a verdict on each")


@dataclass
class Config:
    """The whole configuration. `identity(config)` and `operation(config)` are its two halves."""

    seed: int = key(0, "seed of the initial parameters and of dropout")
    data_seed: int | None = key(None, "seed of the order of batches; null: seed")
    precision: str = key(
        "float32",
        "type for computation; parameters and optimizer state are float32 (float64 with float64)",
        choices=("float64", "float32", "bfloat16"),
    )
    model: ModelConfig = key(ModelConfig, "the network")
    data: DataConfig = key(Stories, "the corpus", kinds=CORPORA)
    tokenizer: TokenizerConfig = key(BPE, "the tokenizer", kinds=TOKENIZERS)
    optimizer: OptimizerConfig = key(AdamW, "the update rule", kinds=OPTIMIZERS)
    schedule: ScheduleConfig = key(
        Cosine, "shape of the learning rate after the warm-up", kinds=SCHEDULES
    )
    train: TrainConfig = key(TrainConfig, "duration, batch size and intervals")
    backend: str = key("jax", "the engine", choices=("jax", "torch"), operation=True)
    parallel: ParallelConfig = key(ParallelConfig, "devices and kernels", operation=True)
    torch: TorchConfig = key(TorchConfig, "settings of backend=torch", operation=True)
    run: RunConfig = key(RunConfig, "the run's name and folders", operation=True)
    tracker: TrackerConfig = key(
        NoTracker, "a second destination for the records", kinds=TRACKERS, operation=True
    )
    debug: DebugConfig = key(DebugConfig, "modes for finding faults", operation=True)
    study: StudyConfig = key(StudyConfig, "the question and variants of job=study", operation=True)
    job: Any = key(None, "the job and its options; see `run.py --help jobs`", operation=True)


SECTIONS = {
    item.name: item.metadata["kinds"]
    for item in dataclasses.fields(Config)
    if item.metadata["kinds"]
}
"""Section name -> registry, for the sections that have kinds."""


def defaults(names: Mapping[str, str]) -> Config:
    """The defaults of all keys. `names` gives the kinds of some sections, such as data -> text."""
    known = {s: kinds[names[s]] for s, kinds in SECTIONS.items() if names.get(s) in kinds}
    return Config(**{section: kind() for section, kind in known.items()})


def kinds_unlike(config: Config, other: Config) -> dict[str, str]:
    """Key -> name, such as data.name -> text, of each section whose kind differs in `other`."""
    found = {}
    for section in SECTIONS:
        name = getattr(config, section).name
        if getattr(other, section).name != name:
            found[f"{section}.name"] = name
    return found


def _half(config: Any, operation: bool, inherited: bool = False) -> dict[str, Any]:
    half = {}
    for item in dataclasses.fields(config):
        value, mine = getattr(config, item.name), inherited or item.metadata["operation"]
        if dataclasses.is_dataclass(value):
            if nested := _half(value, operation, mine):
                half[item.name] = nested
        elif mine == operation:
            half[item.name] = value
    return half


def identity(config: Config) -> dict[str, Any]:
    """What is computed, as a nested dict. It identifies a run and must not change on resuming."""
    half = _half(config, operation=False)
    half["data_seed"] = config.seed if config.data_seed is None else config.data_seed
    return half


def is_identity(key: str) -> bool:
    """Whether a key or section of any kind belongs to the identity."""
    section = Config.__dataclass_fields__.get(key.split(".")[0])
    if section is None or section.metadata["operation"]:
        return False
    return any(
        (name == key or name.startswith(f"{key}.")) and not item.metadata["operation"]
        for name, item in keys_of(Config).items()
    )


def operation(config: Config) -> dict[str, Any]:
    """How it is computed, as a nested dict: it may change at any time."""
    return _half(config, operation=True)


def differences(
    new: Json, old: Json, prefix: str = "", *, one_sided: bool = True
) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (new, old) wherever two nested dicts differ.

    Unless `one_sided`, keys that only one of two kinds of a section has are left out.
    """
    found: dict[str, tuple[Any, Any]] = {}
    same_kind = new.get("name") == old.get("name")
    for name in {**new, **old}:
        a, b = new.get(name), old.get(name)
        if not (one_sided or same_kind or (name in new and name in old)):
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found |= differences(a, b, f"{prefix}{name}.", one_sided=one_sided)
        elif a != b:
            found[prefix + name] = (a, b)
    return found


if TYPE_CHECKING:

    class ResolvedModel(ModelConfig):
        """A model as `resolve_model` gives it: for a type checker, what null stood for is known."""

        n_kv_heads: int
        head_dim: int
        d_ff: int
        vocab_size: int
else:
    ResolvedModel = ModelConfig


def resolve_model(model: ModelConfig, vocab_size: int | None = None) -> ResolvedModel:
    """Fill in every null: key/value heads, head width, feed-forward width, vocabulary size.

    With muP, base_head_dim is filled in as well.
    """
    base_head_dim = model.base_head_dim
    if model.parametrization == "mup":
        base_head_dim = base_head_dim or model.head_dim
        if not base_head_dim and model.base_width is not None:
            base_head_dim = model.base_width // model.n_heads
    found = dataclasses.replace(
        model,
        n_kv_heads=model.n_kv_heads or model.n_heads,
        head_dim=model.head_dim or model.d_model // model.n_heads,
        d_ff=model.d_ff or FEED_FORWARDS[model.ffn].width(model.d_model),
        vocab_size=model.vocab_size or vocab_size,
        base_head_dim=base_head_dim,
    )
    return cast(ResolvedModel, found)
