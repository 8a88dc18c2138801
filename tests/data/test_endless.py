"""data=stories: counted training tokens, whole validation documents, their exact floor."""

import numpy as np
import pytest
from configured import configured as make

from jaxlm.data import endless, stories
from jaxlm.data.batches import document_spans, evaluation_batches
from jaxlm.data.prepare import prepare
from jaxlm.host.errors import UserError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One folder for all tests, so that the tokenizer is trained once."""
    return tmp_path_factory.mktemp("cache")


def configured(tokenizer="byte", **data):
    keys = {"vocab_size": 300, "training_bytes": "200k"} if tokenizer == "bpe" else {}
    return make("stories", tokenizer, keys, **{"validation_documents": 20, **data})


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_splits_are_the_generators_documents(tokenizer, cache):
    dataset = prepare(configured(tokenizer), cache=cache, train_tokens=20_000)
    end = dataset.tokenizer.end_of_text
    for tokens, first in (
        (dataset.train, stories.TRAIN_START),
        (dataset.validation, stories.VALIDATION_START),
    ):
        starts, lengths = document_spans(tokens, end)
        for i in range(5):
            ids = tokens[starts[i] : starts[i] + lengths[i] - 1]
            assert dataset.tokenizer.decode(ids) == stories.document(0, first + i)
    assert (dataset.validation == end).sum() == 20 and dataset.validation[-1] == end
    assert len(dataset.train) == 20_000


@pytest.mark.slow
def test_the_documents_have_the_requested_choices(cache):
    whole, few = (prepare(configured(choices=c), cache=cache, train_tokens=3000) for c in (None, 4))
    starts, lengths = document_spans(few.validation, few.tokenizer.end_of_text)
    first = few.tokenizer.decode(few.validation[: lengths[0] - 1])
    assert first == stories.document(0, stories.VALIDATION_START, 4)
    assert few.entropy_floor < 0.7 * whole.entropy_floor and few.fingerprint != whole.fingerprint
    assert few.tokenizer.decode(few.train).startswith(stories.document(0, 0, 4))
    with pytest.raises(UserError, match="data.choices=1 must be 2 or more"):
        prepare(configured(choices=1), cache=cache)


def test_the_configured_count_overrides_the_argument(cache):
    config = configured(train_tokens="3k")
    assert len(prepare(config, cache=cache, train_tokens=50_000).train) == 3000
    assert len(prepare(configured(), cache=cache).train) == 0


@pytest.mark.slow
def test_a_shorter_run_reads_the_beginning_of_a_longer_ones_file(cache):
    longer = prepare(configured(seed=1), cache=cache, train_tokens=30_000)
    files = sorted((cache / "tokens").iterdir())
    shorter = prepare(configured(seed=1), cache=cache, train_tokens=10_000)
    np.testing.assert_array_equal(shorter.train, longer.train[:10_000])
    assert sorted((cache / "tokens").iterdir()) == files


@pytest.mark.parametrize("seed, documents", [(0, 20), (3, 20), (3, 21)])
def test_the_floor_is_the_bayes_loss_of_exactly_the_scored_documents(seed, documents, cache):
    config = configured("bpe", seed=seed, validation_documents=documents)
    dataset = prepare(config, cache=cache)
    range_of_documents = range(stories.VALIDATION_START, stories.VALIDATION_START + documents)
    texts = [stories.document(seed, i) for i in range_of_documents]
    starts, lengths = document_spans(dataset.validation, 0)
    assert len(starts) == documents
    assert dataset.tokenizer.decode(dataset.validation[: lengths[0] - 1]) == texts[0]
    scored = sum(int(piece.weights_BxL.sum()) for piece in evaluation_batches(dataset, 4, 256))
    assert scored == len(dataset.validation)  # end_of_text included
    log_probs = [stories.score(text).log_prob for text in texts]
    assert dataset.entropy_floor == pytest.approx(-sum(log_probs) / scored, rel=1e-9)
    assert dataset.scores_documents and dataset.has_documents


def test_the_bpe_is_trained_on_at_most_the_first_megabytes(cache, monkeypatch):
    monkeypatch.setattr(endless, "_TOKENIZER_BYTES", 50_000)
    config = configured("bpe")
    few = prepare(config, cache=cache).tokenizer.fingerprint
    config.tokenizer.training_bytes = "50k"
    assert prepare(config, cache=cache).tokenizer.fingerprint == few
    config.tokenizer.training_bytes = "10k"
    assert prepare(config, cache=cache).tokenizer.fingerprint != few


def test_the_floor_is_attainable_only_if_documents_fit_the_context(cache):
    config = configured()
    dataset = prepare(config, cache=cache)
    longest = document_spans(dataset.validation, 256)[1].max()
    for length, fits in ((longest, True), (longest - 1, False)):
        config.model.context_length = int(length)
        assert prepare(config, cache=cache).floor_attainable is fits


@pytest.mark.slow
def test_fingerprints_follow_seed_size_tokenizer_and_validation(cache):
    changed = [
        prepare(configured(), cache=cache, train_tokens=1000),
        prepare(configured(), cache=cache, train_tokens=1001),
        prepare(configured(seed=2), cache=cache, train_tokens=1000),
        prepare(configured("bpe"), cache=cache, train_tokens=1000),
        prepare(configured(validation_documents=21), cache=cache, train_tokens=1000),
    ]
    assert len({dataset.fingerprint for dataset in changed}) == len(changed)
    again = prepare(configured(), cache=cache, train_tokens=1000)
    assert again.fingerprint == changed[0].fingerprint


def test_bad_counts_are_refused(cache):
    with pytest.raises(UserError, match="data.train_tokens=many"):
        prepare(configured(train_tokens="many"), cache=cache)
    with pytest.raises(UserError, match="data.validation_documents=0"):
        prepare(configured(validation_documents=0), cache=cache)
