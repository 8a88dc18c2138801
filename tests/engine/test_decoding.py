"""Decoding gives the same tokens with and without the cache, and compiles once for all prompts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.config.schema import ModelConfig, resolve_model
from jaxlm.data.continuation import window_start
from jaxlm.engine import decoding
from jaxlm.engine.decoding import Decoder
from jaxlm.engine.model import Transformer
from jaxlm.engine.sampling import draw, filtered_logits, thresholds
from jaxlm.engine.tree import nest
from jaxlm.spec.parameters import initial_parameters
from jaxlm.spec.sampling import Sampling

BASE = ModelConfig(
    n_layers=2, d_model=32, n_heads=4, d_ff=48, context_length=12, init_std=0.4, scaled_init=False
)
VOCABULARY = 31
GREEDY = Sampling(temperature=0.0)


def make(dtype="float32", **switches):
    model = resolve_model(dataclasses.replace(BASE, **switches), VOCABULARY)
    values = initial_parameters(model, 1, "float64" if dtype == "float64" else "float32")
    return Transformer(model, jnp.dtype(dtype)), jax.tree.map(jnp.asarray, nest(values))


def make_decoder(*made):
    return Decoder(*made, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


@functools.cache
def shared_decoder():
    return make_decoder(*make())


def generate(decoder, prompt, rows=1, sampling=GREEDY, seed=0, **given_options):
    """(rows, N) new ids."""
    decoded = decoder(np.asarray(prompt), rows=rows, sampling=sampling, seed=seed, **given_options)
    return np.concatenate(list(decoded), axis=1)


def uncached(forward, context, prompt, max_tokens, sampling):
    """Ids from a plain forward pass over the window for each token."""
    text = list(prompt)
    for _ in range(max_tokens):
        window = text[window_start(len(text), context) :]
        assert 1 <= len(window) <= context
        padded = np.zeros((1, context), np.int32)
        padded[0, : len(window)] = window
        logits = forward(padded)[:, len(window) - 1]
        text.append(int(next_token(logits, thresholds(sampling), len(text))[0]))
    return text[len(prompt) :]


@jax.jit
def next_token(logits_BxV, chosen, position):
    seen = jnp.zeros(logits_BxV.shape, bool)
    return draw(filtered_logits(logits_BxV, seen, chosen), np.uint32(0), position)


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"position": "learned", "context_length": 7, "dtype": "float64"},
        {"position": "sinusoidal", "norm": "layernorm", "bias": "all", "norm_placement": "post"},
        {"position": "none", "dtype": "bfloat16"},
        {"n_kv_heads": 2, "qk_norm": True, "tie_embeddings": True},
        {"context_length": 1, "n_layers": 1, "n_kv_heads": 1},
    ],
    ids=str,
)
def test_cached_and_uncached_decoding_give_the_same_greedy_tokens(switches):
    with jax.enable_x64(switches.get("dtype") == "float64"):
        network, parameters = make(**switches)
        forward = jax.jit(lambda tokens: network.apply({"params": parameters}, tokens))
        context = network.model.context_length
        prompt = np.random.default_rng(0).integers(0, VOCABULARY, 2 * context + 3)
        decoder = make_decoder(network, parameters)
        # Greedy texts of random models soon repeat themselves, drawn ones do not. (In bfloat16 the
        # logits differ by rounding, which a draw can show.)
        samplings = [GREEDY] if "bfloat16" in switches.values() else [GREEDY, Sampling(1.0)]
        count = 2 * context + 5
        for length in (1, min(5, context), context, len(prompt)):
            for sampling in samplings:
                part = prompt[:length].tolist()
                expected = uncached(forward, context, part, count, sampling)
                got = generate(decoder, part, max_tokens=count, sampling=sampling)
                assert got.tolist() == [expected]
        assert context == 1 or len(set(expected)) > 3  # a constant text would prove little


@given(st.integers(1, 300), st.integers(1, 40))
def test_window_holds_the_end_of_the_text_and_moves_by_half_a_context(length, context):
    start = window_start(length, context)
    assert 1 <= length - start <= context
    assert start % max(1, context // 2) == 0
    assert start == 0 or length - start > context - max(1, context // 2)


@pytest.mark.slow
def test_prefill_in_chunks_fills_the_cache_like_a_single_pass(monkeypatch):
    decoder = shared_decoder()
    tokens = jnp.arange(13)[None]
    monkeypatch.setattr(
        "jaxlm.engine.decoding._PREFILL", 5
    )  # the last chunk overlaps: 12 = 5 + 5 + 2
    cache = decoding.empty_cache(decoder.model.model, 1, "float32")
    _, whole = decoder.model.apply({"params": decoder.parameters}, tokens[:, :12], 0, cache)
    chunks = decoding.prefill(decoder.model, decoder.parameters, tokens, jnp.int32(13), cache)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), chunks, whole)


@pytest.mark.slow
def test_prefill_and_decode_compile_once():
    decoder = make_decoder(*make())
    for prompt, sampling in [
        ([1], GREEDY),
        (range(12), Sampling(0.7, top_k=3)),
        (range(30), Sampling(1.0, top_p=0.5, min_p=0.1, repetition_penalty=1.3)),
    ]:
        for chunk in (None, 3):
            generate(
                decoder, prompt, sampling=sampling, max_tokens=25, seed=chunk or 7, chunk=chunk
            )
    assert decoder.prefill._cache_size() == decoder.decode._cache_size() == 1


@pytest.mark.slow
def test_tokens_of_a_chunk_are_decoded_on_the_device():
    """One dispatch makes many tokens: the host acts only once per window."""
    decoder = shared_decoder()
    calls, decode = [], decoder.decode
    counting = make_decoder(decoder.model, decoder.parameters)
    counting.prefill = decoder.prefill
    counting.decode = lambda *args: calls.append(1) or decode(*args)
    generate(counting, [1], max_tokens=12)
    assert len(calls) == 1


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_chunks_do_not_change_the_text(chunk):
    arguments = {"max_tokens": 40, "sampling": Sampling(0.9, top_k=20), "seed": 5}
    whole = generate(shared_decoder(), [3, 4], **arguments)
    pieces = list(shared_decoder()([3, 4], rows=1, chunk=chunk, **arguments))
    assert np.concatenate(pieces, axis=1).tolist() == whole.tolist()
    # A full window cuts a chunk short: after 2 + 11 tokens, then after 7 + 6 tokens each time.
    assert len(pieces) == {1: 40, 4: 3 + 4 * 2 + 2, 1000: 1 + 5}[chunk]


@pytest.mark.slow
def test_the_number_of_samples_does_not_change_a_sample():
    arguments = {"max_tokens": 40, "sampling": Sampling(1.0), "seed": 5}
    one, three = (generate(shared_decoder(), [3, 4], n, **arguments) for n in (1, 3))
    assert three[:1].tolist() == one.tolist()
    assert len({tuple(row) for row in three.tolist()}) == 3
    other = generate(shared_decoder(), [3, 4], 1, **{**arguments, "seed": 6})
    assert other.tolist() != one.tolist()


@pytest.mark.slow
def test_decoding_stops_when_every_row_has_ended():
    arguments = {"max_tokens": 200, "sampling": Sampling(1.5), "seed": 1}
    free = generate(shared_decoder(), [3], 3, **arguments).tolist()
    end = free[0][20]
    ended = generate(shared_decoder(), [3], 3, end_of_text=end, **arguments).tolist()
    lengths = [row.index(end) + 1 for row in free]
    assert len(ended[0]) == max(lengths) < 200
    for row, before, length in zip(ended, free, lengths, strict=True):
        assert row[:length] == before[:length]
        assert set(row[length:]) <= {end}


def test_repetition_penalty_sees_the_whole_text_but_not_what_stands_before_the_prompt():
    forbidding = Sampling(temperature=0.0, repetition_penalty=1e9)
    decoder = shared_decoder()
    # The head has no bias, so logits of seen tokens shrink to about 0 or fall to -1e9. While unseen
    # tokens have positive logits, no token comes twice, not even beyond the window.
    new = generate(decoder, [7, 8, 9], sampling=forbidding, max_tokens=8)[0].tolist()
    assert len({7, 8, 9, *new}) == 3 + len(new)
    first = generate(decoder, [7], max_tokens=1)[0, 0]
    free = generate(decoder, [7, first], sampling=forbidding, max_tokens=9, unpenalised=2)[0]
    kept = generate(decoder, [7, first], sampling=forbidding, max_tokens=9, unpenalised=0)[0]
    assert free.tolist() != kept.tolist()
