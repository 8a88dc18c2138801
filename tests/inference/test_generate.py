"""Generation from a run directory: text, streams, jobs and their errors."""

import dataclasses
import functools
import io
import os
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers_made import tokenizer as made_tokenizer

import jaxlm
from jaxlm.config.compose import to_yaml
from jaxlm.config.corpora import Text, Tokens
from jaxlm.config.job_options import GenerateJob, LogitsJob, TrainJob
from jaxlm.config.schema import (
    Config,
    ModelConfig,
    ParallelConfig,
    RunConfig,
    TrainConfig,
    resolve_model,
)
from jaxlm.config.tokenizers import Byte, NoTokenizer
from jaxlm.data.tokenizer import ByteTokenizer, CharTokenizer
from jaxlm.host.errors import UserError
from jaxlm.inference.engines import engine_class
from jaxlm.inference.generate import Continuation, LoadedRun, generate_job, logits_job
from jaxlm.spec.parameters import initial_parameters
from jaxlm.store.checkpoint import Checkpoints

MODEL = ModelConfig(n_layers=1, d_model=16, n_heads=2, context_length=16, init_std=0.5)
JAX = functools.partial(engine_class, "jax")
LETTERS = CharTokenizer("\n abcdefgh", documents=False)


def write_run(path, tokenizer, *, precision="float32", documents=False, **sections):
    """A run directory with initial parameters at step 3, as trained on 8 devices."""
    config = Config(
        model=MODEL,
        precision=precision,
        tokenizer=NoTokenizer() if tokenizer is None else Byte(),
        train=TrainConfig(batch_size=48, grad_accumulation=3),
        parallel=ParallelConfig(strategy="pmap", data=8),
        run=RunConfig(name="x", cache=str(path / "cache")),
        job=TrainJob(),
        **{"data": Text(path="book.txt"), **sections},
    )
    path.mkdir(exist_ok=True)
    (path / "config.yaml").write_text(to_yaml(config))
    vocabulary = getattr(config.data, "vocab_size", None)
    if tokenizer:
        tokenizer.save(path / "tokenizer.json")
        vocabulary = tokenizer.vocab_size
    dtype = "float64" if precision == "float64" else "float32"
    parameters = initial_parameters(resolve_model(MODEL, vocabulary), 1, dtype)
    with jax.enable_x64(precision == "float64"):
        saver = Checkpoints(path / "checkpoints", keep=2)
        tree = {"parameters": parameters, "optimizer": {"step": np.int32(3)}}
        saver.save(3, tree, {"documents": documents}, best=True)
        saver.close()
    return path


@pytest.fixture(scope="module")
def byte_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("bytes"), ByteTokenizer(), documents=True)


@pytest.fixture(scope="module")
def letters_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("letters"), LETTERS)


@pytest.fixture(scope="module")
def bytes_(byte_run):
    return jaxlm.load(byte_run)


@pytest.fixture(scope="module")
def letters(letters_run):
    return LoadedRun(letters_run, checkpoint="best", load_engine=JAX)


def job_config(run, job):
    return Config(run=RunConfig(name="x", dir=str(run), cache=str(run / "cache")), job=job)


@pytest.mark.slow
def test_text_is_the_prompt_and_its_continuation(letters):
    text = letters.generate("abc", max_tokens=40)
    assert text.startswith("abc") and len(text) == 43
    assert set(text) <= set(LETTERS.alphabet)
    texts = letters.generate("abc", samples=3, max_tokens=40)
    assert texts[0] == text and len(set(texts)) == 3
    assert letters.generate("abc", max_tokens=40, seed=1) != text


@pytest.mark.slow
@pytest.mark.parametrize("stop", [None, "e", ["dddd", "a"]])
def test_a_stream_is_the_text_in_pieces(letters, stop):
    options = {"max_tokens": 50, "temperature": 1.0, "top_p": 0.9, "stop": stop, "seed": 2}
    pieces = list(letters.stream("bad", **options))
    assert pieces[0] == "bad" and len(pieces) > 1
    assert "".join(pieces) == letters.generate("bad", **options)


def test_a_stop_string_ends_the_text_before_it(letters):
    text = letters.generate("", max_tokens=80)
    stop = text[30:33]
    assert letters.generate("", max_tokens=80, stop=stop) == text[: text.index(stop)]
    assert letters.generate("abc", max_tokens=5, stop="abc").startswith("abc")  # only in new text


@pytest.mark.slow
def test_text_is_valid_unicode_whatever_the_bytes(bytes_):
    for text in bytes_.generate("é", samples=4, max_tokens=60, temperature=2.0):
        assert text.startswith("é") and text.encode().decode() == text
    pieces = list(bytes_.stream("é", max_tokens=60, temperature=2.0))
    assert "".join(pieces) == bytes_.generate("é", max_tokens=60, temperature=2.0)


@pytest.mark.slow
def test_text_goes_on_from_its_prompt_whatever_the_tokenizer(tmp_path):
    """No mark of a blank is seen, none is lost after the prompt; `</s>` in a prompt is text."""
    kind = made_tokenizer("unigram always")
    run = jaxlm.load(write_run(tmp_path / "unigram", kind))
    assert kind.end_of_text not in run._start("the </s>cat")[1]
    job = GenerateJob(max_tokens=40, temperature=1.0)
    for prompt in ("the cat", "the cat ", "a</s>"):
        pieces = list(run.stream(prompt, max_tokens=40, temperature=1.0))
        ids = np.concatenate(list(run._decoded(prompt, job, None, None)), axis=1)[0].tolist()
        ids = ids[: ids.index(kind.end_of_text)] if kind.end_of_text in ids else ids
        text = "".join(pieces)
        assert text == run.generate(prompt, max_tokens=40, temperature=1.0)
        assert text == kind.decode([*kind.encode(prompt), *ids])
        assert "▁" not in text
    with pytest.raises(UserError, match="'日' 1 times"):
        run.generate("日")


def cut_by_characters(text, stop):
    """`text` as far as it goes before any stop string has been completed."""
    for end in range(1, len(text) + 1):
        for s in sorted(stop, key=len, reverse=True):
            if text[:end].endswith(s):
                return text[: end - len(s)]
    return text


@given(
    st.text("ab\u00e9", max_size=20),
    st.sampled_from([[], ["ab"], ["ab\u00e9", "b"], ["aab", "aa"], ["b\u00e9ba"]]),
    st.integers(1, 5),
    st.booleans(),
)
@example("ab\u00e9", ["ab\u00e9", "b"], 5, False)  # b is complete first, though abé begins first
def test_the_end_of_a_text_does_not_depend_on_chunks(text, stop, chunk, has_end):
    tokenizer = ByteTokenizer()
    ids = [*tokenizer.encode(text).tolist(), *[tokenizer.end_of_text, 97, 98] * has_end]
    continuation, shown = Continuation(tokenizer, stop), ""
    for start in range(0, len(ids), chunk):
        shown += continuation.push(ids[start : start + chunk])
        assert cut_by_characters(text, stop).startswith(shown)  # nothing is taken back
    assert shown + continuation.finish() == cut_by_characters(text, stop)


def test_texts_start_as_they_did_in_training(bytes_, letters, tmp_path):
    end = bytes_.tokenizer.end_of_text
    assert [ids.tolist() for ids in bytes_._start("a")] == [[end], [97]]
    assert [ids.tolist() for ids in bytes_._start("")] == [[end], []]
    assert [ids.tolist() for ids in letters._start("a")] == [[], [2]]
    assert [ids.tolist() for ids in letters._start("")] == [[0], []]  # a line break
    no_break = SimpleNamespace(has_documents=False, tokenizer=CharTokenizer("xyz", documents=False))
    assert [ids.tolist() for ids in LoadedRun._start(no_break, "")] == [[0], []]


def test_what_stands_before_the_prompt_is_not_penalised(bytes_, letters, monkeypatch):
    calls = []
    spy = lambda ids, **options: calls.append((ids.tolist(), options)) or iter(())  # noqa: E731
    end = bytes_.tokenizer.end_of_text
    for run, prompt, ids, before in [(bytes_, "a", [end, 97], 1), (letters, "a", [2], 0)]:
        monkeypatch.setattr(run, "_decode", spy)
        assert run.generate(prompt, repetition_penalty=2.0) == prompt
        given_ids, options = calls.pop()
        assert given_ids == ids and options["unpenalised"] == before
        assert options["sampling"].repetition_penalty == 2.0


@pytest.mark.slow
def test_logits_are_those_of_the_plain_forward_pass(letters, monkeypatch):
    tokens = np.random.default_rng(0).integers(0, LETTERS.vocab_size, (5, 9))
    expected = letters.engine.model.apply({"params": letters.parameters}, tokens)
    logits = letters.logits(tokens)
    assert logits.shape == (5, 9, LETTERS.vocab_size) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    monkeypatch.setattr("jaxlm.inference.generate._FORWARD_TOKENS", 18)  # two rows at a time
    np.testing.assert_allclose(letters.logits(tokens), logits, atol=2e-5)


def test_greedy_text_follows_the_logits(letters):
    text = letters.generate("abcd", max_tokens=6, temperature=0)
    ids = letters.tokenizer.encode(text)
    chosen = letters.logits(ids[None, :-1])[0].argmax(-1)
    assert chosen[3:].tolist() == ids[4:].tolist()


@pytest.mark.slow
def test_runs_of_two_precisions_are_open_at_once(letters, tmp_path):
    before = letters.generate("abc", max_tokens=10)
    double = LoadedRun(
        write_run(tmp_path / "double", LETTERS, precision="float64"), load_engine=JAX
    )
    text = double.generate("abc", max_tokens=10)
    assert double.parameters["embed"]["weight"].dtype == np.float64
    assert letters.generate("abc", max_tokens=10) == before == text
    assert not jax.config.jax_enable_x64
    assert double.generate("abc", max_tokens=10) == text
    assert jax.config.jax_enable_x64  # else float64 parameters are computed with in float32
    letters.logits(np.array([[1]]))
    assert not jax.config.jax_enable_x64


def test_a_run_of_ids_without_a_tokenizer_gives_logits_but_no_text(tmp_path):
    data = Tokens(path="ids.bin", vocab_size=11)
    run = LoadedRun(write_run(tmp_path / "ids", None, data=data), load_engine=JAX)
    assert run.logits(np.array([[1, 2]])).shape == (1, 2, 11)
    with pytest.raises(UserError, match="without a tokenizer"):
        run.generate("abc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "xyz"}, "'x', 'y', 'z'"),
        ({"temperature": -1.0}, "job.temperature=-1.0"),
        ({"top_k": 0}, "job.top_k=0"),
        ({"top_p": 1.5}, "job.top_p=1.5"),
        ({"stop": ""}, "job.stop is empty"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_before_any_text(letters, options, message):
    with pytest.raises(UserError, match=message):
        letters.generate(**options)
    with pytest.raises(UserError, match=message):
        next(letters.stream(**options))


# -- the jobs ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_job_prints_text_and_nothing_else_on_stdout(letters_run, letters, capsys):
    expected = letters.generate("abc", samples=2, max_tokens=20)
    for stream in (True, False):
        job = GenerateJob(prompt="abc", max_tokens=20, stream=stream)
        assert generate_job(job_config(letters_run, job), JAX) == 0
        out, err = capsys.readouterr()
        assert out == expected[0] + "\n"
        assert err == f"{letters_run} at step 3\n"
    job = GenerateJob(prompt="abc", max_tokens=20, samples=2, checkpoint="3")
    generate_job(job_config(letters_run, job), JAX)
    assert capsys.readouterr().out == "\n---\n".join(expected) + "\n"


def test_a_prompt_comes_from_a_file_or_standard_input(
    letters_run, letters, capsys, tmp_path, monkeypatch
):
    expected = letters.generate("ab\ncd", max_tokens=5) + "\n"
    (tmp_path / "prompt.txt").write_bytes(b"ab\ncd\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"ab\ncd\n")))
    for file in (str(tmp_path / "prompt.txt"), "-"):
        generate_job(job_config(letters_run, GenerateJob(prompt_file=file, max_tokens=5)), JAX)
        assert capsys.readouterr().out == expected


def test_a_closed_pipe_ends_the_job_quietly(letters_run, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert generate_job(job_config(letters_run, GenerateJob(max_tokens=20)), JAX) == 0
        monkeypatch.undo()


def test_prompts_that_cannot_be_read_are_refused(letters_run, tmp_path):
    (tmp_path / "latin1.txt").write_bytes("caf\u00e9".encode("latin1"))
    for job, message in [
        (GenerateJob(prompt="a", prompt_file="b"), "both given"),
        (GenerateJob(prompt_file=str(tmp_path / "none.txt")), "No such file"),
        (GenerateJob(prompt_file=str(tmp_path)), "directory"),
        (
            GenerateJob(prompt_file=str(tmp_path / "latin1.txt")),
            "0xe9.\nConvert it.* latin1",
        ),
        (GenerateJob(prompt="x"), "does not know: 'x'"),
    ]:
        with pytest.raises(UserError, match=message):
            generate_job(job_config(letters_run, job), JAX)


def test_no_run_and_no_checkpoint_are_told_apart(letters_run, tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        generate_job(job_config(tmp_path, GenerateJob()), JAX)
    for name in ("config.yaml", "tokenizer.json"):
        (tmp_path / name).write_bytes((letters_run / name).read_bytes())
    with pytest.raises(UserError, match="checkpoint"):
        generate_job(job_config(tmp_path, GenerateJob()), JAX)
    with pytest.raises(UserError, match="7"):
        generate_job(job_config(letters_run, GenerateJob(checkpoint="7")), JAX)


def test_the_logits_job_writes_what_the_method_returns(letters_run, letters, tmp_path, capsys):
    tokens = np.random.default_rng(0).integers(0, LETTERS.vocab_size, (3, 16), np.uint16)
    np.save(tmp_path / "ids.npy", tokens)
    job = LogitsJob(tokens=str(tmp_path / "ids.npy"), out=str(tmp_path / "out.npy"))
    assert logits_job(job_config(letters_run, job), JAX) == 0
    assert np.array_equal(np.load(tmp_path / "out.npy"), letters.logits(tokens))
    out, err = capsys.readouterr()
    assert out == "" and f"3 x 16 x {LETTERS.vocab_size}" in err and "out.npy" in err


@pytest.mark.slow
def test_the_logits_job_refuses_what_are_not_ids(letters_run, tmp_path):
    beyond = np.zeros((2, 3), int)
    beyond[1, 2] = LETTERS.vocab_size
    good, path, out = np.zeros((2, 3), int), tmp_path / "ids.npy", tmp_path / "out.npy"
    for array, message in [
        (np.zeros((2, 3)), "float64"),
        (np.zeros(4, int), r"shape \(4,\)"),
        (np.zeros((0, 4), int), "neither of them zero"),
        (np.zeros((2, 17), int), "length 17, which exceeds the model's context length of 16"),
        (beyond, f"the id {LETTERS.vocab_size} at row 1, position 2"),
        (-beyond, "the id -"),
        (np.array([{}]), "not an intact .npy file"),
    ]:
        np.save(path, array)
        job = LogitsJob(tokens=str(path), out=str(out))
        with pytest.raises(UserError, match=message):
            logits_job(job_config(letters_run, job), JAX)
    np.save(path, good)
    np.savez(tmp_path / "a.npz", good)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "cut.npy").write_bytes(path.read_bytes()[:-8])
    (tmp_path / "empty.npy").touch()
    for name in (None, "none.npy", "a.npz", "text.npy", "cut.npy", "empty.npy", "."):
        job = LogitsJob(tokens=name and str(tmp_path / name), out=str(out))
        with pytest.raises(UserError, match="job.tokens"):
            logits_job(job_config(letters_run, job), JAX)
    with pytest.raises(UserError, match="job.out"):
        job = LogitsJob(tokens=str(path), out=str(tmp_path / "missing" / "out.npy"))
        logits_job(job_config(letters_run, job), JAX)
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_the_source_of_a_setting_is_the_run_not_the_command(letters_run):
    """Only job, run and operation come from the command line; the model from config.yaml."""
    config = job_config(letters_run, GenerateJob())
    config = dataclasses.replace(config, model=ModelConfig(n_layers=9), precision="bfloat16")
    run = LoadedRun(letters_run, operation=config, load_engine=JAX)
    assert run.config.model == MODEL and run.config.precision == "float32"
    assert run.config.run == config.run
