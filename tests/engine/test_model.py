"""The network: for every switch counted, causal, differentiable, and equal with and without jit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config.schema import ModelConfig, resolve_model
from jaxlm.engine.attention import empty_cache
from jaxlm.engine.dropout import Dropout, Rate, Rates, drop
from jaxlm.engine.model import Transformer
from jaxlm.engine.tree import flatten, nest
from jaxlm.spec.flops import parameter_counts
from jaxlm.spec.parameters import initial_parameter, initial_parameters, normal, parameter_shapes

BASE = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_ff=48, context_length=16, init_std=0.1)
SWITCHES = {
    "llama": {},
    "layernorm": {"norm": "layernorm"},
    "layernorm_bias": {"norm": "layernorm", "bias": "all"},
    "no_norm": {"norm": "none"},
    "post_norm": {"norm_placement": "post"},
    "post_layernorm": {"norm": "layernorm", "norm_placement": "post", "bias": "all"},
    "learned": {"position": "learned"},
    "sinusoidal": {"position": "sinusoidal"},
    "nope": {"position": "none"},
    "rope_theta": {"rope_theta": 500.0},
    **{kind: {"ffn": kind} for kind in ("geglu", "silu", "gelu", "gelu_tanh", "relu", "relu2")},
    "grouped": {"n_kv_heads": 2},
    "multi_query": {"n_kv_heads": 1},
    "wide_heads": {"head_dim": 16},
    "qkv_bias": {"bias": "qkv"},
    "all_bias": {"bias": "all", "head_bias": True},
    "qk_norm": {"qk_norm": True},
    "tied": {"tie_embeddings": True},
    "no_residual": {"residual": False},
    "dropout": {"attention_dropout": 0.2, "residual_dropout": 0.3},
    "plain_init": {"scaled_init": False},
}
VOCABULARY = 23


def make(dtype=jnp.float32, **switches):
    model = resolve_model(dataclasses.replace(BASE, **switches), VOCABULARY)
    name = "float64" if dtype == jnp.float64 else "float32"
    parameters = initial_parameters(model, seed=1, dtype=name)
    for leaf, value in parameters.items():
        if value.ndim == 1:  # norm weights of one and biases of zero would hide faults
            value += (0.3 * normal(2, leaf, 0, value.size)).astype(value.dtype)
    return Transformer(model, dtype), {"params": jax.tree.map(jnp.asarray, nest(parameters))}


def tokens(rows=2, length=16, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length)))


@functools.cache
def compiled(name):
    """(network, variables, forward, pullback) of a switch, compiled once for all tests.

    pullback(variables, rows, cotangent) is the gradient of sum(logits * cotangent).
    """
    network, variables = make(**SWITCHES[name])
    rates = Rates.of(network.model)
    dropout = Dropout(jax.random.key(0), jnp.arange(2), rates) if name == "dropout" else None

    def pullback(variables, rows, cotangent):
        logits = functools.partial(network.apply, tokens_BxL=rows, dropout=dropout)
        return jax.vjp(logits, variables)[1](cotangent)[0]["params"]

    return network, variables, jax.jit(network.apply), jax.jit(pullback)


@pytest.fixture(params=SWITCHES)
def name(request):
    return request.param


def closed_form(m):
    """(embedding, head, all others): the counts by formula, without visiting the shapes."""
    width, queries, keys = m.d_model, m.n_heads * m.head_dim, m.n_kv_heads * m.head_dim
    every, gated = m.bias == "all", m.ffn in ("swiglu", "geglu")
    attention = 2 * width * queries + 2 * width * keys + width * every
    attention += (queries + 2 * keys) * (m.bias in ("qkv", "all")) + 2 * m.head_dim * m.qk_norm
    feedforward = (2 + gated) * width * m.d_ff + ((1 + gated) * m.d_ff + width) * every
    norm = width * (m.norm != "none") + width * (m.norm == "layernorm" and every)
    embedding = (m.vocab_size + m.context_length * (m.position == "learned")) * width
    head = m.vocab_size * (width + m.head_bias) * (not m.tie_embeddings)
    return embedding, head, m.n_layers * (attention + feedforward + 2 * norm) + norm


def test_the_parameter_tree_is_canonical_and_its_counts_match_the_closed_form(name):
    network, _ = make(**SWITCHES[name])
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens())["params"]
    ours = {name: leaf.shape for name, leaf in flatten(shapes).items()}
    assert ours == parameter_shapes(network.model)
    counts = parameter_counts(network.model)
    assert counts.total == sum(int(np.prod(shape)) for shape in ours.values())
    assert (counts.embedding, counts.head, counts.non_embedding) == closed_form(network.model)


@pytest.mark.slow
def test_decoder_of_2017_has_the_published_number_of_parameters():
    from jaxlm.config.compose import compose

    for heads in (1, 2, 4, 8):
        model = compose(["model=decoder_2017", f"model.n_heads={heads}"]).model
        assert parameter_counts(resolve_model(model, 65)).total == 3_192_897


@pytest.mark.slow
def test_logits_before_a_changed_token_do_not_move(name):
    _, variables, forward, _ = compiled(name)
    before = tokens()
    for position in (0, 7, 15):
        after = before.at[:, position].set((before[:, position] + 1) % VOCABULARY)
        a, b = (forward(variables, x) for x in (before, after))
        np.testing.assert_array_equal(a[:, :position], b[:, :position])
        assert not np.allclose(a[:, position], b[:, position])


@pytest.mark.slow
def test_later_tokens_have_no_gradient_at_earlier_logits(name):
    """Causality through the gradient of the embedding: token 20 appears only at the end."""
    _, variables, _, pullback = compiled(name)
    rows = (tokens() % 19).at[:, -1].set(20)
    # Only logits before the last place, without those of token 20, which a tied head would reach.
    cotangent = jnp.ones((2, 16, VOCABULARY)).at[:, -1].set(0).at[..., 20].set(0)
    gradient = pullback(variables, rows, cotangent)["embed"]["weight"]
    assert not gradient[20].any()
    assert gradient[int(rows[0, 0])].any()


@pytest.mark.slow
def test_gradients_are_finite_and_reach_every_parameter(name):
    _, variables, _, pullback = compiled(name)
    cotangent = jax.random.normal(jax.random.key(5), (2, 16, VOCABULARY))
    for leaf, gradient in flatten(pullback(variables, tokens(), cotangent)).items():
        assert np.isfinite(gradient).all(), leaf
        # A key's bias shifts every score of a query equally, so its gradient is only rounding,
        # unless a norm or a rotation follows.
        assert leaf.endswith("key.bias") or np.abs(gradient).max() > 1e-6, leaf


@pytest.mark.slow
def test_jit_changes_nothing_but_rounding(name):
    network, variables, forward, _ = compiled(name)
    with jax.disable_jit():
        plain = network.apply(variables, tokens())
    np.testing.assert_allclose(plain, forward(variables, tokens()), atol=1e-5)


@pytest.mark.slow
def test_cached_decoding_gives_the_same_logits(name):
    network, variables, forward, _ = compiled(name)
    rows, decode = tokens(), jax.jit(network.apply)
    cache, seen = empty_cache(network.model, 2, jnp.float32), []
    for place in range(16):
        logits, cache = decode(variables, rows[:, place : place + 1], jnp.int32(place), cache)
        seen.append(logits)
    np.testing.assert_allclose(jnp.concatenate(seen, 1), forward(variables, rows), atol=2e-5)


def test_each_switch_changes_the_function():
    """A switch that nothing reads would leave the logits of the base model unchanged."""
    _, variables, forward, _ = compiled("llama")
    reference = forward(variables, tokens())
    for name in SWITCHES:
        _, variables, forward, _ = compiled(name)
        changed = not np.allclose(forward(variables, tokens()), reference, atol=1e-6)
        assert changed != (name in ("llama", "dropout")), name


@pytest.mark.slow
def test_float64_model_agrees_with_float32():
    with jax.enable_x64(True):
        network, variables = make(jnp.float64)
        exact = network.apply(variables, tokens())
        assert exact.dtype == jnp.float64
    network, variables = make()
    np.testing.assert_allclose(network.apply(variables, tokens()), exact, atol=2e-5)


@pytest.mark.slow
def test_bfloat16_model_has_float32_logits_close_to_those_of_float32():
    network, variables = make(jnp.bfloat16)
    logits = network.apply(variables, tokens())
    assert logits.dtype == jnp.float32
    reference = make()[0].apply(variables, tokens())
    assert np.abs(logits - reference).max() < 0.05 * np.abs(reference).max()


@pytest.mark.slow
def test_dropout_is_keyed_by_the_global_row():
    """The same rows drop the same units, regardless of the other rows in the batch."""
    network, variables = make(attention_dropout=0.5, residual_dropout=0.5)
    key, rows, rates = jax.random.key(3), tokens(4), Rates.of(network.model)
    whole = network.apply(variables, rows, dropout=Dropout(key, jnp.arange(4), rates))
    part = network.apply(variables, rows[2:], dropout=Dropout(key, jnp.arange(2, 4), rates))
    np.testing.assert_allclose(whole[2:], part, atol=1e-5)
    other = Dropout(jax.random.key(4), jnp.arange(4), rates)
    other = network.apply(variables, rows, dropout=other)
    assert not np.allclose(whole, other)


@pytest.mark.slow
def test_dropout_keeps_the_mean():
    x = jnp.ones((64, 8, 32))
    rates = Rates(attention=None, residual=Rate.of(0.3))
    dropout = Dropout(jax.random.key(0), jnp.arange(64), rates)
    assert drop(x, dropout, "attention", site=5) is x
    dropped = drop(x, dropout, "residual", site=5)
    assert set(np.unique(dropped).round(4)) == {0.0, np.float32(1 / 0.7).round(4)}
    assert abs(float(dropped.mean()) - 1.0) < 4 * np.sqrt(0.3 / 0.7 / dropped.size)


def test_initial_values_can_be_drawn_in_slices():
    model = resolve_model(BASE, VOCABULARY)
    for name in ("embed.weight", "blocks.1.attention.query.weight"):
        whole = initial_parameter(model, 5, name)
        parts = [initial_parameter(model, 5, name, rows=slice(i, i + 7)) for i in range(0, 35, 7)]
        np.testing.assert_array_equal(whole, np.concatenate(parts)[: len(whole)])


def test_initial_values_are_normal_and_differ_by_name_and_seed():
    from scipy import stats

    values = normal(0, "a", 0, 200_000)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    for other in (normal(0, "b", 0, 200_000), normal(1, "a", 0, 200_000)):
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.01


def test_initial_values_have_the_configured_scale():
    model = resolve_model(dataclasses.replace(BASE, n_layers=8, d_model=128), 512)
    values = initial_parameters(model, seed=0)
    assert np.std(values["embed.weight"]) == pytest.approx(0.1, rel=0.02)
    for name in ("attention.output", "feedforward.down"):
        assert np.std(values[f"blocks.3.{name}.weight"]) == pytest.approx(0.1 / 4, rel=0.03)
    assert (values["final_norm.weight"] == 1).all()


@pytest.mark.slow
def test_logits_agree_with_hugging_face_llama():
    """An independent reference: the same weights in the Llama of transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=1e4,
        max_position_embeddings=16, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    names = {
        "embed.": "model.embed_tokens.", "final_norm.": "model.norm.", "head.": "lm_head.",
        "blocks.": "model.layers.", "attention_norm": "input_layernorm",
        "feedforward_norm": "post_attention_layernorm", "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj", "feedforward.gate": "mlp.gate_proj",
        "feedforward.up": "mlp.up_proj", "feedforward.down": "mlp.down_proj",
    }  # fmt: skip
    weights = {}
    with jax.enable_x64(True):
        network, variables = make(jnp.float64, n_kv_heads=2)
        ours = network.apply(variables, tokens())
    for name, value in flatten(variables["params"]).items():
        for old, new in names.items():
            name = name.replace(old, new)
        weights[name] = torch.from_numpy(np.array(value))
    theirs.load_state_dict(weights)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.asarray(tokens(), np.int64))).logits.numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-6)
