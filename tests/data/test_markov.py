"""data=markov: the chain's probabilities, its exact entropy, and the floor of what is scored."""

import numpy as np
import pytest

from jaxlm.cli import main as cli
from jaxlm.config.compose import compose
from jaxlm.data import markov
from jaxlm.data.batches import evaluation_batches
from jaxlm.data.prepare import prepare
from jaxlm.host.errors import UserError


def configured(*words):
    return compose(["data=markov", "tokenizer=none", "model.context_length=32", *words])


def some(count, vocab_size=16, seed=0, split=0):
    chunks = markov.ids(vocab_size, seed, split)
    return np.concatenate([next(chunks) for _ in range(-(-count // 2**16))])[:count]


@pytest.mark.parametrize("vocab_size", [2, 16, 256])
def test_the_entropy_is_that_of_the_stationary_chain(vocab_size):
    odds = markov.transitions(vocab_size)
    assert odds.sum(-1) == pytest.approx(np.ones(vocab_size), abs=1e-12) and (odds > 0).all()
    later = np.linalg.matrix_power(odds, 4096)  # every row is the stationary distribution
    assert np.ptp(later, axis=0).max() < 1e-9
    rows = -(odds * np.log(odds)).sum(-1)
    assert markov.entropy(vocab_size) == pytest.approx(float(later[0] @ rows), abs=1e-9)
    unigram = -(later[0] * np.log(later[0])).sum()
    assert markov.entropy(vocab_size) < 0.95 * unigram  # the previous id says much about the next


def test_ids_follow_the_transition_probabilities():
    n = 2**20
    ids = some(n + 1)
    odds = markov.transitions(16)
    counts = np.zeros((16, 16))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    expected = counts.sum(-1, keepdims=True) * odds
    z = (counts - expected) / np.sqrt(expected * (1 - odds))
    assert np.mean(z**2) == pytest.approx(1, abs=4 * np.sqrt(2 / z.size))
    surprise = -np.log(odds[ids[:-1], ids[1:]])
    blocks = surprise.reshape(-1, 1024).mean(-1)  # not only for neighbours
    error = blocks.std() / np.sqrt(len(blocks))
    assert abs(surprise.mean() - markov.entropy(16)) < 4 * error < 0.01


def test_the_chain_is_a_function_of_size_seed_and_split():
    first = some(70_000)
    assert (some(70_000) == first).all() and (some(1000) == first[:1000]).all()
    for other in (some(1000, seed=1), some(1000, split=1), some(1000, vocab_size=17)):
        assert (other != first[:1000]).any()


def test_the_floor_is_the_bayes_loss_of_the_ids_that_are_scored(tmp_path):
    dataset = prepare(configured("data.seed=3"), cache=tmp_path, train_tokens=5000)
    assert (dataset.train == some(5000, 256, 3)).all() and dataset.vocab_size == 256
    assert (dataset.validation[:1000] == some(1000, 256, 3, split=1)).all()
    total = scored = 0.0
    odds = markov.transitions(256)
    for piece in evaluation_batches(dataset, 8, 32):
        weights = np.asarray(piece.weights_BxL, float)
        log_p = np.log(odds[np.asarray(piece.inputs_BxL), np.asarray(piece.targets_BxL)])
        total, scored = total - (weights * log_p).sum(), scored + weights.sum()
    assert scored == markov.VALIDATION_TOKENS
    assert dataset.entropy_floor == pytest.approx(total / scored, rel=1e-9)
    assert dataset.entropy_floor == pytest.approx(markov.entropy(256), abs=0.02)
    assert dataset.floor_attainable and dataset.tokenizer is None


@pytest.mark.slow
def test_a_run_on_the_chain_is_evaluated_and_reported_as_textless(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.context_length=16"]
    words = ["data=markov", "tokenizer=none", *small, "train.duration=20", "run.name=r"]
    assert cli.main([*words, "run.cache=cache"]) == 0
    assert "above the floor" in capsys.readouterr().out
    assert cli.main(["job=evaluate", "run.dir=runs/r", "run.cache=cache"]) == 0
    assert "entropy_floor" in capsys.readouterr().out
    assert cli.main(["job=generate", "run.dir=runs/r", "job.prompt=Once"]) == 2
    assert "trained on ids without a tokenizer" in capsys.readouterr().err


@pytest.mark.slow
def test_size_and_seed_change_the_fingerprint(tmp_path):
    words = [(), ("data.seed=1",), ("data.vocab_size=99",), ("data.train_tokens=300",)]
    found = {prepare(configured(*w), cache=tmp_path, train_tokens=200).fingerprint for w in words}
    assert len(found) == len(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokenizer=char"], "add tokenizer=none"),
        (["data.vocab_size=1"], "must be 2 to 4096"),
        (["data.vocab_size=5000"], "must be 2 to 4096"),
        (["data.vocab_size=null"], "must be 2 to 4096"),
        (["train.duration=1hours"], "data=markov to generate"),
    ],
)
def test_an_impossible_chain_is_refused(words, said, tmp_path, capsys):
    words = ["data=markov", "tokenizer=none", f"run.dir={tmp_path / 'run'}", *words]
    assert cli.main([*words, f"run.cache={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="data=stories is text"):
        from jaxlm.config.checks import check

        check(compose(["data=stories", "tokenizer=none"]))
