"""Batches: pure, shifted by one, every window once per epoch; evaluation scores everything once."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.config.duration import number_of_windows
from jaxlm.data.batches import (
    batch,
    evaluation_batches,
    grain_dataset,
    loader,
    permutation,
    steps_per_epoch,
)
from jaxlm.host.errors import UserError

TOKENS = np.arange(10_007, dtype=np.uint16)


@given(st.integers(1, 3000), st.integers(0, 2**31), st.integers(0, 1000))
def test_permutation_is_a_bijection(n, seed, epoch):
    image = permutation(np.arange(n), n, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(np.sort(image), np.arange(n))


def test_permutation_reaches_beyond_32_bits():
    n = 10**13 + 7
    image = permutation(np.arange(0, n, n // 50_000), n, seed=1, epoch=0)
    assert len(np.unique(image)) == len(image)
    assert image.min() >= 0 and image.max() < n
    assert abs(image.mean() / n - 0.5) < 0.01


def test_permutations_differ_between_epochs_and_seeds():
    images = [
        permutation(np.arange(500), 500, seed=seed, epoch=epoch)
        for seed in range(3)
        for epoch in range(3)
    ]
    for i, image in enumerate(images):
        for other in images[:i]:
            assert (image == other).mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 60, 1009])
def test_permutation_looks_uniform(n):
    """Images of the first, a middle and the last index over many epochs: chi-squared on 5 bins."""
    bins = min(n, 5)
    trials = 2000
    for index in (0, n // 2, n - 1):
        places = [permutation(np.array([index]), n, seed=7, epoch=e)[0] for e in range(trials)]
        observed = np.bincount(np.array(places) * bins // n, minlength=bins)
        expected = np.bincount(np.arange(n) * bins // n, minlength=bins) / n * trials
        assert ((observed - expected) ** 2 / expected).sum() < 23.5  # p = 1e-4 at 4 degrees


def test_the_permutation_separates_neighbours():
    n = 5000
    image = permutation(np.arange(n), n, seed=3, epoch=0).astype(float)
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.06
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 0.06


@given(
    n_tokens=st.integers(2, 400),
    batch_size=st.integers(1, 9),
    context_length=st.integers(1, 20),
    stride=st.one_of(st.none(), st.integers(1, 25)),
    seed=st.integers(0, 10),
)
def test_every_window_comes_exactly_once_per_epoch(
    n_tokens, batch_size, context_length, stride, seed
):
    tokens = np.arange(n_tokens, dtype=np.uint16)
    shape = dict(context_length=context_length, stride=stride)
    if n_tokens < context_length + 1:
        with pytest.raises(UserError, match="one window needs"):
            number_of_windows(n_tokens, **shape)
        return
    n_windows = number_of_windows(n_tokens, **shape)
    step = stride or context_length
    starts = [s for s in range(0, n_tokens, step) if s + context_length + 1 <= n_tokens]
    assert n_windows == len(starts)
    rows = np.concatenate(
        [
            batch(tokens, seed=seed, step=i, batch_size=batch_size, **shape)
            for i in range(-(-2 * n_windows // batch_size))
        ]
    )
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(context_length + 1))
    for epoch in (rows[:n_windows], rows[n_windows : 2 * n_windows]):
        assert sorted(epoch[:, 0].tolist()) == starts


def test_batches_have_their_shape_and_are_shifted_by_one():
    result = batch(TOKENS, seed=0, step=3, batch_size=6, context_length=10)
    assert result.shape == (6, 11) and result.dtype == np.int32
    inputs, targets = result[:, :-1], result[:, 1:]
    np.testing.assert_array_equal(targets, inputs + 1)


def test_an_epoch_of_every_start_position_has_the_published_length():
    """Tiny Shakespeare, context 128, batch 64, stride 1: 15,684 steps per epoch."""
    assert number_of_windows(1_003_854, 128, 1) == 1_003_854 - 128
    assert steps_per_epoch(1_003_854, 64, 128, 1) == 15_684
    assert number_of_windows(1_003_854, 128) == (1_003_854 - 1) // 128


def test_a_batch_depends_only_on_seed_and_step():
    arguments = dict(seed=5, batch_size=8, context_length=16)
    first = [batch(TOKENS, step=i, **arguments) for i in range(20)]
    again = [batch(TOKENS.copy(), step=i, **arguments) for i in reversed(range(20))][::-1]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], batch(TOKENS, step=0, **(arguments | {"seed": 6})))
    assert not np.array_equal(first[0], first[1])


def test_the_order_of_batches_never_changes():
    """These values never change, so that a run from before a change resumes after it."""
    result = batch(TOKENS, seed=1, step=2, batch_size=4, context_length=16)
    assert result[:, 0].tolist() == GOLDEN_STARTS


GOLDEN_STARTS = [5264, 1040, 3392, 3712]


def test_each_epoch_has_its_own_order():
    arguments = dict(seed=5, batch_size=625, context_length=16)  # one epoch a step
    starts = [batch(TOKENS, step=epoch, **arguments)[:, 0] for epoch in range(3)]
    for first, second in zip(starts, starts[1:], strict=False):
        assert set(first.tolist()) == set(second.tolist())
        assert (first == second).mean() < 0.02


def test_processes_feed_disjoint_rows_of_one_batch():
    arguments = dict(seed=5, step=77, batch_size=12, context_length=16, stride=3)
    whole = batch(TOKENS, **arguments)
    parts = [batch(TOKENS, rows=slice(i, i + 4), **arguments) for i in (0, 4, 8)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_grain_gives_the_same_batches_by_step_and_in_order():
    arguments = dict(seed=5, batch_size=4, context_length=32, stride=None)
    dataset = grain_dataset(TOKENS, stop_step=200, **arguments)
    expected = [batch(TOKENS, step=i, **arguments) for i in range(200)]
    for step in (0, 199, 77):
        np.testing.assert_array_equal(dataset[step], expected[step])
    steps = loader(TOKENS, start_step=90, stop_step=200, **arguments)
    np.testing.assert_array_equal(list(steps), expected[90:])


def scored(dataset, batch_size, context_length):
    """(input, target) of every scored position, in order; checks the shapes on the way."""
    pairs, rows = [], []
    for piece in evaluation_batches(dataset, batch_size, context_length):
        for array in piece:
            assert array.shape == (batch_size, context_length)
        assert piece.inputs_BxL.dtype == piece.targets_BxL.dtype == np.int32
        assert piece.weights_BxL.dtype == np.float32
        mask = piece.weights_BxL > 0
        rows += mask.any(axis=1).tolist()
        pairs += zip(piece.inputs_BxL[mask].tolist(), piece.targets_BxL[mask].tolist(), strict=True)
        assert not piece.inputs_BxL[~mask].any() and not piece.targets_BxL[~mask].any()
    assert len(rows) - sum(rows) < batch_size  # only the last batch has empty rows
    return pairs


@given(st.integers(2, 300), st.integers(1, 7), st.integers(1, 40))
def test_evaluation_covers_each_target_of_a_stream_once(n_tokens, batch_size, context_length):
    tokens = np.arange(n_tokens, dtype=np.uint16)
    dataset = SimpleNamespace(validation=tokens, scores_documents=False)
    expected = [(i, i + 1) for i in range(n_tokens - 1)]
    assert scored(dataset, batch_size, context_length) == expected


@given(
    st.lists(st.lists(st.integers(1, 50), max_size=30), min_size=1, max_size=12),
    st.integers(1, 7),
    st.integers(1, 20),
    st.booleans(),
)
def test_evaluation_covers_each_target_of_documents_once(
    documents, batch_size, context_length, cut_off
):
    """With `cut_off`, the split ends inside a document, like a training split of counted tokens."""
    documents = [*documents, [1]] if cut_off else documents
    tokens = np.array([token for document in documents for token in [*document, 0]], np.uint16)
    tokens = tokens[:-1] if cut_off else tokens
    dataset = SimpleNamespace(
        validation=tokens, scores_documents=True, tokenizer=SimpleNamespace(end_of_text=0)
    )
    # each document from its first token, including its end
    expected = [pair for d in documents for pair in zip([0, *d], [*d, 0], strict=True)]
    expected = expected[:-1] if cut_off else expected
    assert scored(dataset, batch_size, context_length) == expected
    first_inputs = Counter()
    for piece in evaluation_batches(dataset, batch_size, context_length):
        first_inputs.update(piece.inputs_BxL[:, 0][piece.weights_BxL[:, 0] > 0].tolist())
    assert first_inputs[0] == len(documents)  # every document starts a row


def test_a_split_with_nothing_to_score_is_refused():
    dataset = SimpleNamespace(validation=np.zeros(1, np.uint16), scores_documents=False)
    with pytest.raises(UserError, match="too few to score"):
        next(evaluation_batches(dataset, 2, 4))


@given(
    st.lists(st.lists(st.integers(1, 50), max_size=12), min_size=1, max_size=9),
    st.integers(1, 5),
    st.integers(1, 12),
    st.booleans(),
)
def test_bytes_of_an_evaluation_are_those_of_its_targets(documents, size, context, by_document):
    """For a stream, all except those of its first token, which is not a target."""
    tokens = np.array([token for document in documents for token in [*document, 0]], np.uint16)
    sizes = np.where(tokens == 0, 0, 300 * (tokens % 3)).astype(np.uint16)
    dataset = SimpleNamespace(
        validation=tokens,
        validation_bytes=sizes,
        scores_documents=by_document,
        tokenizer=SimpleNamespace(end_of_text=0),
    )
    if len(tokens) < 2 and not by_document:
        return
    pieces = list(evaluation_batches(dataset, size, context))
    total = sum(int(piece.bytes_BxL.sum()) for piece in pieces)
    assert total == int(sizes[0 if by_document else 1 :].sum())
    for piece in pieces:
        np.testing.assert_array_equal(
            piece.bytes_BxL, 300 * (piece.targets_BxL % 3) * (piece.targets_BxL > 0)
        )
