"""Sampling: the filters against a plain numpy version, with ties, and the random draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jaxlm.engine.sampling import Thresholds, filtered_logits, thresholds
from jaxlm.engine.sampling import draw as draw_eagerly
from jaxlm.spec.sampling import Sampling

V = 7
filtered, draw = jax.jit(filtered_logits), jax.jit(draw_eagerly)
# Few distinct values, so that ties are common; halves and quarters, so that scaling is exact.
LOGITS = st.lists(st.sampled_from([-4.0, -1.5, -0.0, 0.0, 0.25, 1.5, 3.0]), min_size=V, max_size=V)


def brute_force(logits_V, seen_V, *, temperature, top_k, top_p, min_p, repetition_penalty):
    """({id: logit} of the kept ids, distance of p from the next change in their number)."""
    x = [float(value) for value in np.asarray(logits_V, np.float64)]
    for i in range(len(x)):
        if seen_V[i]:
            x[i] = x[i] / repetition_penalty if x[i] > 0 else x[i] * repetition_penalty
    order = sorted(range(len(x)), key=lambda i: (-x[i], i))
    if temperature == 0:
        return {order[0]: x[order[0]]}, 1.0
    x = [value / temperature for value in x]
    if top_k is not None:
        order = order[:top_k]
    margin = 1.0
    if top_p is not None and top_p < 1:
        mass = np.exp([x[i] - x[order[0]] for i in order])
        reached = np.cumsum(mass / mass.sum())
        size = next(n + 1 for n in range(len(order)) if n + 1 == len(order) or reached[n] >= top_p)
        order, margin = order[:size], np.abs(reached - top_p).min()
    if min_p is not None:
        order = [i for i in order if np.exp(x[i] - x[order[0]]) >= min_p]
    return {i: x[i] for i in order}, margin


@pytest.mark.slow
@given(
    logits=LOGITS,
    seen=st.lists(st.booleans(), min_size=V, max_size=V),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, V + 3),
    top_p=st.none() | st.sampled_from([1e-9, 1.0]) | st.floats(0.01, 1.0),
    min_p=st.none() | st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_filters_agree_with_brute_force(logits, seen, **given_options):
    expected, margin = brute_force(logits, seen, **given_options)
    assume(margin > 1e-6)  # nearer, and rounding decides
    x_V = filtered(jnp.array([logits]), np.array([seen]), thresholds(Sampling(**given_options)))[0]
    kept = np.flatnonzero(np.isfinite(x_V))
    assert kept.tolist() == sorted(expected)
    np.testing.assert_allclose(x_V[kept], [expected[i] for i in kept], rtol=1e-6)


def kept_ids(logits, **given_options):
    x_BxV = filtered(
        jnp.array([logits]), np.zeros((1, len(logits)), bool), thresholds(Sampling(**given_options))
    )
    return np.flatnonzero(np.isfinite(x_BxV[0])).tolist()


@pytest.mark.slow
def test_ties_go_to_the_lower_id():
    equal = [1.0, 1.0, 1.0, 1.0]
    assert kept_ids(equal, temperature=0.0) == [0]
    assert kept_ids(equal, temperature=1.0, top_k=3) == [0, 1, 2]
    assert kept_ids([0.0, *equal], temperature=1.0, top_k=2) == [1, 2]
    assert kept_ids(equal, temperature=1.0, min_p=1.0) == [0, 1, 2, 3]


def test_top_p_includes_the_crossing_token_and_no_more():
    equal = [2.0, 2.0, 2.0, 2.0]  # a quarter each, exactly
    assert kept_ids(equal, temperature=1.0, top_p=0.5) == [0, 1]
    assert kept_ids(equal, temperature=1.0, top_p=0.51) == [0, 1, 2]
    assert kept_ids(equal, temperature=1.0, top_p=1e-12) == [0]


def test_top_p_of_one_keeps_even_a_tail_lost_to_rounding():
    logits = [0.0] * 3 + [-40.0] * 1000
    assert len(kept_ids(logits, temperature=1.0, top_p=1.0, top_k=1002)) == 1002


def test_top_p_counts_only_the_mass_that_top_k_keeps():
    logits = [float(x) for x in np.log([0.4, 0.2, 0.2, 0.2])]
    assert kept_ids(logits, temperature=1.0, top_p=0.6) == [0, 1]
    assert kept_ids(logits, temperature=1.0, top_p=0.6, top_k=2) == [0]


@pytest.mark.slow
def test_a_tiny_temperature_does_not_divide_by_zero():
    logits = [79.0, 80.0, -80.0]
    x_V = filtered(jnp.array([logits]), np.zeros((1, 3), bool), thresholds(Sampling(1e-37)))
    assert draw(x_V, np.uint32(0), np.int32(0)).tolist() == [1]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_new_options_do_not_recompile(temperature):
    compiled = jax.jit(lambda *arguments: filtered_logits(*arguments))
    logits, seen = jnp.zeros((1, V)), np.zeros((1, V), bool)
    compiled(logits, seen, thresholds(Sampling()))
    compiled(logits, seen, thresholds(Sampling(temperature, 3, 0.5, 0.1, 2.0)))
    compiled(logits, seen, thresholds(Sampling(temperature, 10**12)))
    assert compiled._cache_size() == 1


@pytest.mark.slow
def test_float64_logits_stay_float64_and_bfloat16_logits_become_float32():
    with jax.enable_x64(True):
        x = filtered(jnp.zeros((1, V)), np.zeros((1, V), bool), thresholds(Sampling(0.3, 2, 0.9)))
        assert x.dtype == jnp.float64
    low = jnp.zeros((1, V), jnp.bfloat16)
    assert filtered(low, np.zeros((1, V), bool), thresholds(Sampling())).dtype == jnp.float32


@pytest.mark.slow
def test_a_draw_depends_only_on_seed_row_and_position():
    x = jnp.zeros((4, 1000))
    ids = draw(x, np.uint32(3), np.int32(9))
    assert draw(x[:2], np.uint32(3), np.int32(9)).tolist() == ids[:2].tolist()
    assert len(set(ids.tolist())) == 4
    assert draw(x, np.uint32(4), np.int32(9)).tolist() != ids.tolist()
    assert draw(x, np.uint32(3), np.int32(10)).tolist() != ids.tolist()


@pytest.mark.slow
def test_draws_follow_the_probabilities():
    p = np.array([0.5, 0.3, 0.2, 0.0])
    x = jnp.log(jnp.array([p] * 20_000))
    counts = np.bincount(draw(x, np.uint32(0), np.int32(0)), minlength=4)
    assert counts[3] == 0
    errors = (counts - p * 20_000)[:3] / np.sqrt(20_000 * p * (1 - p))[:3]
    assert np.abs(errors).max() < 4


def test_sampling_has_a_neutral_value_for_each_option_that_is_off():
    assert thresholds(Sampling(1.0)) == Thresholds(1.0, 2**31 - 1, 1.0, 0.0, 1.0)
