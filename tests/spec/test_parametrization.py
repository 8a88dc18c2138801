"""muP: the same bits as standard at the base width, the table's factors elsewhere, and activations
that change equally at every width, unlike those of the standard parametrization."""

import dataclasses
import math

import numpy as np
import pytest

from jaxlm.cli import main as cli
from jaxlm.config import compose
from jaxlm.config.optimizers import OPTIMIZERS, AdamW
from jaxlm.config.schema import (
    Config,
    ModelConfig,
    TorchConfig,
    TrainConfig,
    identity,
    resolve_model,
)
from jaxlm.inference.engines import engine_class
from jaxlm.spec.flops import parameter_counts
from jaxlm.spec.parameters import initial_parameters, parameter_shapes
from jaxlm.spec.parametrization import MUP, lr_factor, role_of, score_divisor, std_factor
from jaxlm.verify.coordinates import coordinates, slopes

MODEL = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_ff=48, context_length=12, init_std=0.1)
EVERYTHING = {"norm": "layernorm", "bias": "all", "position": "learned", "qk_norm": True}
VOCABULARY = 19


def engine(backend, cache, batch_size=4, optimizer=None, precision="float32", **switches):
    if backend == "torch":
        pytest.importorskip("torch")
    config = Config(
        precision=precision,
        model=dataclasses.replace(MODEL, **switches),
        optimizer=optimizer or AdamW(),
        train=TrainConfig(batch_size=batch_size),
        torch=TorchConfig(device="cpu", compile=False),
    )
    return engine_class(backend)(config, VOCABULARY, cache)


def tokens(rows=4, length=13, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length)).astype(np.int32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


# -- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", [{}, EVERYTHING | {"head_bias": True}])
def test_every_parameter_has_a_role(switches):
    names = parameter_shapes(resolve_model(dataclasses.replace(MODEL, **switches), 5))
    roles = {name: role_of(name) for name in names}
    assert set(roles.values()) == set(MUP)
    assert all(names[n] != 2 or role == "vector" for n, role in roles.items() if len(names[n]) == 1)
    assert roles["blocks.1.feedforward.gate.weight"] == "hidden"
    assert roles["final_norm.weight"] == "vector"
    with pytest.raises(KeyError):
        role_of("router.weight")


def test_factors_of_a_model_four_times_its_base():
    wide = resolve_model(
        dataclasses.replace(MODEL, parametrization="mup", base_width=8, **EVERYTHING), 5
    )
    assert wide.base_head_dim == 2
    expected = {"table": (1, 1), "readout": (1, 1), "vector": (1, 1), "hidden": (1 / 2, 1 / 4)}
    for name in parameter_shapes(wide):
        assert (std_factor(wide, name), lr_factor(wide, name)) == expected[role_of(name)]
    assert score_divisor(wide) == pytest.approx(8 / math.sqrt(2))  # K / sqrt(base K)
    values = initial_parameters(wide, 0)
    assert np.std(values["blocks.0.feedforward.up.weight"]) == pytest.approx(0.05, rel=0.06)
    assert np.std(values["position.weight"]) == pytest.approx(0.1, rel=0.1)


def test_scores_fall_with_the_width_of_a_head_and_not_with_the_number_of_heads():
    def divisor(**switches):
        full = dataclasses.replace(MODEL, parametrization="mup", base_width=16, **switches)
        return score_divisor(resolve_model(full))

    assert divisor(n_heads=4, head_dim=8) == math.sqrt(8)  # more heads of the same width
    assert divisor(n_heads=2) == pytest.approx(16 / math.sqrt(8))  # wider heads
    assert divisor(n_heads=8, base_head_dim=2) == pytest.approx(4 / math.sqrt(2))


def test_names_shapes_and_counts_are_those_of_standard():
    plain = resolve_model(MODEL, 5)
    mup = resolve_model(dataclasses.replace(MODEL, parametrization="mup", base_width=8), 5)
    assert parameter_shapes(mup) == parameter_shapes(plain)
    assert parameter_counts(mup) == parameter_counts(plain)


# -- at the base width, and away from it -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision", "switches"),
    [
        ("jax", "float32", EVERYTHING | {"head_bias": True}),
        ("torch", "float32", EVERYTHING | {"head_bias": True}),
        ("torch", "bfloat16", {"tie_embeddings": True, "n_kv_heads": 2}),
    ],
)
def test_at_the_base_width_mup_equals_standard_bit_for_bit(backend, precision, switches, cache):
    """Initial values, logits, and parameters, moments and loss after three steps."""

    def computed(**parametrization):
        made = engine(
            backend, cache, precision=precision, n_layers=1, **switches, **parametrization
        )
        state = made.initial_state()
        made.compile(state)
        start = made.parameters_of(state)
        found = [{n: x.copy() for n, x in made.canonical(start).items()}]
        found.append({"logits": made.logits(start, tokens()[:, :-1])})
        for step in range(3):
            state, metrics = made.train_step(state, tokens(seed=step), 1e-2)
        tree = made.checkpoint_tree(state)
        found += [tree["parameters"], tree["optimizer"]["nu"], {"loss": made.read(metrics.loss)}]
        return [{n: np.asarray(x) for n, x in part.items()} for part in found]

    pairs = zip(computed(), computed(parametrization="mup", base_width=32), strict=True)
    for standard, mup in pairs:
        assert standard.keys() == mup.keys()
        for name in standard:
            np.testing.assert_array_equal(standard[name], mup[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "rule"), [("jax", "adamw"), ("torch", "adamw"), ("torch", "lion")]
)
def test_a_step_of_a_hidden_matrix_falls_with_the_width_and_its_decay_does_not(
    backend, rule, cache
):
    """Each rule first moves nearly every entry by lr x factor, besides its decay of lr x wd."""
    optimizer = OPTIMIZERS[rule](weight_decay=0.5)
    switches = {"n_layers": 1, "parametrization": "mup", "base_width": 8}
    made = engine(backend, cache, optimizer=optimizer, precision="float64", **switches)
    state = made.initial_state()
    made.compile(state)
    before = {n: x.copy() for n, x in made.canonical(made.parameters_of(state)).items()}
    state, _ = made.train_step(state, tokens(), 1e-2)
    for name, after in made.canonical(made.parameters_of(state)).items():
        decay = 1e-2 * 0.5 * before[name] * (after.ndim == 2)
        moved = np.abs(after - before[name] + decay)
        expected = 1e-2 / 4 if role_of(name) == "hidden" else 1e-2
        assert np.median(moved[moved > 1e-9]) == pytest.approx(expected, rel=1e-3), name


# -- the coordinate check --------------------------------------------------------------------------

STEPS = 8


def trained(backend, cache, widths, **switches):
    """Coordinates of a batch that is memorized at each width, with the rate of the first width."""
    rows = []
    for width in widths:
        sizes = {"d_model": width, "d_ff": None, "context_length": 16, "base_width": 64}
        if "head_dim" in switches:
            sizes["n_heads"] = width // switches["head_dim"]
        made = engine(backend, cache, **sizes, **switches)
        rows += coordinates(made, [tokens(length=17)] * STEPS, lr=4e-3, every=STEPS)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "widths", "switches"),
    [
        ("jax", (64, 256, 1024), {"n_layers": 1}),
        ("torch", (64, 128, 256), {"head_dim": 16, "tie_embeddings": True, "norm": "layernorm"}),
    ],
    ids=["jax", "torch, more heads, tied, layernorm"],
)
def test_activations_change_equally_at_every_width_only_under_mup(backend, widths, switches, cache):
    """Exponents of the width, after some steps at one rate. Those of scores start at -1/2, since
    muP divides random products by head_dim, so scores may fall but not grow."""
    rows = trained(backend, cache, widths, parametrization="mup", **switches)
    size = slopes(rows, STEPS, lambda row: row.rms)
    change = slopes(rows, STEPS, lambda row: row.change)
    for name, slope in [*size.items(), *change.items()]:
        lowest = -0.7 if name.endswith("scores") else -0.25
        assert lowest < slope < 0.25, (name, size, change)

    start = [row for row in rows if row.width == 64]  # at its base muP is standard
    rows = start + trained(backend, cache, widths[1:-1], parametrization="standard", **switches)
    change = slopes(rows, STEPS, lambda row: row.change)
    for name in ("blocks.0.attention_output", "blocks.0.after_feedforward"):
        assert change[name] > 0.7, change


# -- the configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.parametrization=mup"], "model.base_width"),
        (["model.parametrization=mup", "model.base_width=0"], "model.base_width=0"),
        (["model.parametrization=mup", "model.base_width=66"], "model.base_head_dim"),
        (["model.parametrization=mu"], "'mup'"),
        (
            ["experiment=scaling_ladder", "model.parametrization=mup", "model.base_width=64"],
            "job.lr_width_exponent=0",
        ),
    ],
)
def test_settings_that_mup_does_not_allow_are_refused(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "debug=shapes"]) == 2
    message = capsys.readouterr().err
    assert said in message and len(message.splitlines()) <= 3


def test_a_run_from_before_the_key_keeps_its_identity(tmp_path):
    """Its config.yaml lacks the keys, which means the standard parametrization."""
    config = compose.compose([])
    lines = compose.to_yaml(config).splitlines()
    new = ("parametrization:", "base_width:", "base_head_dim:")
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(line for line in lines if not line.strip().startswith(new)))
    assert identity(compose.from_file(path)) == identity(config)
    other = compose.compose(["model.parametrization=mup", "model.base_width=48"])
    assert identity(other) != identity(config)


@pytest.mark.slow
def test_a_wider_model_switches_backends_resumes_and_generates(tmp_path, monkeypatch, capsys):
    """Checkpoints and generation know nothing of muP, and either backend continues the run."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    words = ["scale=smoke", "run.samples=0", "model.parametrization=mup", "model.base_width=16"]
    twin = ["backend=torch", "torch.compile=false"]
    assert cli.main([*words, *twin, "run.stop_at=2"]) == 0
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main([*words, *twin, "job=generate", "job.max_tokens=8"]) == 0
    assert capsys.readouterr().out
