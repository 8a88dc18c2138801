"""Both backends agree on generated tokens, filtered distributions and evaluation metrics."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxlm.data.dataset import Dataset
from jaxlm.engine import sampling as engine
from jaxlm.spec.sampling import Sampling
from jaxlm.verify import parity
from parity_tests.conftest import VOCABULARY, assert_rows

torch = pytest.importorskip("torch")

from torchref import sampling as twin  # noqa: E402

SHARP = {"init_std": 0.5, "scaled_init": False}


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"position": "learned", "n_kv_heads": 2},
        {"position": "sinusoidal", "norm": "layernorm", "norm_placement": "post", "bias": "all"},
        {"position": "none", "qk_norm": True, "tie_embeddings": True},
    ],
    ids=["rope", "learned", "sinusoidal", "none"],
)
def test_256_tokens_are_identical_in_float32(pair, switches):
    """Greedy and sampled, over many windows of the context."""
    made = pair("float32", SHARP | switches)
    assert_rows(parity.generation(made, np.array([3, 1, 4], np.int32), 256))


@pytest.mark.slow
def test_generation_in_chunks_with_ends_of_text_agrees(pair):
    made = pair("float32", SHARP)
    options = {"rows": 3, "max_tokens": 60, "sampling": Sampling(1.0), "seed": 3}
    for end in (None, 5, 11):
        decode = lambda engine, p: [  # noqa: E731
            part.tolist()
            for part in engine.decoder(p)(np.array([2, 7]), end_of_text=end, chunk=7, **options)  # noqa: B023
        ]
        a, b = made.each(decode)
        assert a == b and sum(len(part[0]) for part in a) <= 60


LOGITS = st.lists(
    st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=9, max_size=9),
    min_size=1,
    max_size=3,
)


@pytest.mark.slow
@given(
    logits=LOGITS,
    seen=st.lists(st.booleans(), min_size=9, max_size=9),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    top_k=st.sampled_from([None, 1, 2, 5, 9, 20]),
    top_p=st.sampled_from([None, 1e-6, 0.2, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([None, 0.05, 0.5, 1.0]),
    penalty=st.sampled_from([1.0, 1.3, 0.5]),
)
@example([[0.0] * 9], [False] * 9, 1.0, 3, 0.5, None, 1.0)  # ties go to the lower id
def test_filtered_distributions_have_the_same_tokens_and_probabilities(
    logits, seen, temperature, top_k, top_p, min_p, penalty
):
    x, seen = np.array(logits, np.float32), np.tile(seen, (len(logits), 1))
    sampling = Sampling(temperature, top_k, top_p, min_p, penalty)
    thresholds = engine.thresholds(sampling)
    a = np.asarray(engine.filtered_logits(jnp.asarray(x), jnp.asarray(seen), thresholds))
    b = twin.filtered_logits(torch.from_numpy(x), torch.from_numpy(seen), sampling).numpy()
    assert np.array_equal(np.isfinite(a), np.isfinite(b))
    probabilities = [np.exp(y - y.max(-1, keepdims=True)) for y in (a, b)]
    probabilities = [y / y.sum(-1, keepdims=True) for y in probabilities]
    np.testing.assert_allclose(*probabilities, atol=1e-6)


@pytest.mark.slow
def test_draws_give_the_same_tokens():
    x = np.random.default_rng(0).normal(size=(64, VOCABULARY)).astype(np.float32)
    for seed in (0, 12345, 2**32 - 1):
        a = engine.draw(jnp.asarray(x), np.uint32(seed), 17)
        assert np.array_equal(np.asarray(a), twin.draw(torch.from_numpy(x), seed, 17).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_every_metric_of_an_evaluation_agrees(pair, precision):
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 3001).astype(np.uint16)
    dataset = Dataset(ids, ids, None, VOCABULARY, "fingerprint", validation_bytes=ids % 3)
    rows = parity.evaluation(pair(precision, SHARP), dataset)
    assert {row.quantity for row in rows} == {
        f"evaluate: {name}" for name in (
            "loss", "standard_error", "accuracy", "top5_accuracy", "confidence", "perplexity",
            "bits_per_byte", "tokens",
        )
    }  # fmt: skip
    assert_rows(rows)
