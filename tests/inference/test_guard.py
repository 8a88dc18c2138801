"""A run's files against its checkpoint: what contradicts it is refused, what is missing is filled.

One small run, trained once in PyTorch (the engine does not matter here), is damaged in many ways.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxlm.cli import main as cli
from jaxlm.compare.reading import read_run
from jaxlm.host.errors import UserError
from jaxlm.inference import guard
from jaxlm.train import finish

pytest.importorskip("torch")
WORDS = "the cat sat on a mat and saw the dog run over the hill to find a red ball".split()
BASE = [
    "scale=smoke", "data=text", "data.path=text.txt", "tokenizer=char", "run.name=run",
    "run.cache=cache", "run.samples=0", "backend=torch", "torch.compile=false", "model.n_layers=1",
    "model.d_model=32", "model.n_heads=2", "model.context_length=32", "train.batch_size=4",
    "train.duration=8", "train.eval_every=2", "train.checkpoint_every=2", "train.log_every=1",
]  # fmt: skip
OPEN = ["run.name=run", "run.cache=cache", "backend=torch"]
EVALUATE = [*OPEN, "job=evaluate"]
GENERATE = [*OPEN, "job=generate", "job.prompt=the", "job.max_tokens=8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a text, its cache, and a run that was stopped at step 4 of 8."""
    folder = tmp_path_factory.mktemp("guard")
    words = np.random.default_rng(0).choice(WORDS, 1500)
    (folder / "text.txt").write_text(" ".join(words), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(finish, "write_report", lambda *_: None)
        assert cli.main([*BASE, "run.stop_at=4"]) == 0
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A copy of it, the working folder."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    guard._say.cache_clear()
    return folder


@pytest.fixture
def call(place, capsys, monkeypatch):
    """call(words) -> (exit status, standard output, standard error); no figures, which are slow."""
    monkeypatch.setattr(finish, "write_report", lambda *_: None)

    def run(words):
        status = cli.main(words)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def records():
    lines = Path("runs/run/metrics.jsonl").read_text("utf-8").splitlines()
    return [(r["kind"], r["step"]) for r in map(json.loads, lines)]


def replaced(path, old, new):
    text = Path(path).read_text("utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new), "utf-8")


RUN = Path("runs/run")
LOST = {
    "the folder": lambda: shutil.rmtree(RUN / "checkpoints"),
    "all manifests": lambda: [p.unlink() for p in RUN.glob("checkpoints/*/manifest.json")],
    "all steps": lambda: [shutil.rmtree(p) for p in RUN.glob("checkpoints/*")],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LOST)
def test_lost_checkpoints_are_never_a_fresh_start(call, what):
    before = records()
    LOST[what]()
    for words in (BASE, EVALUATE, GENERATE):
        status, _, error = call(words)
        assert status == 2 and "step 4 was saved" in error and "run.overwrite=true" in error
    assert records() == before


@pytest.mark.slow
def test_a_lost_newest_checkpoint_is_said_and_the_one_before_taken(call):
    shutil.rmtree(RUN / "checkpoints" / "4")
    status, out, _ = call(BASE)
    assert status == 0
    assert "skipped step 4: it is gone" in out and "resuming runs/run at step 2" in out
    assert records() == [(kind, step) for step in range(1, 9) for kind in ("train", "eval")
                         if kind == "train" or step % 2 == 0]  # fmt: skip


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_says_that_it_begins_again(call):
    shutil.rmtree(RUN / "checkpoints")
    (RUN / "checkpoints.json").unlink()
    status, out, _ = call(BASE)
    assert status == 0 and "before its first checkpoint" in out and "restarting from step 1" in out
    assert [step for kind, step in records() if kind == "train"] == list(range(1, 9))


@pytest.mark.parametrize("content", ["", "[]", '{"newest": "4"}', "{", "\xff"])
def test_a_damaged_note_of_the_newest_checkpoint_is_named(call, content):
    (RUN / "checkpoints.json").write_text(content, "latin-1")
    status, _, error = call(BASE)
    assert status == 2 and "checkpoints.json" in error and error.count("\n") <= 3


ALTERED = {
    "emptied": lambda lines: [],
    "halved": lambda lines: lines[: len(lines) // 2],
    "one missing": lambda lines: lines[:2] + lines[3:],
    "one altered": lambda lines: [lines[0].replace(b'"step": 1', b'"step": 2'), *lines[1:]],
    "one bit flipped": lambda lines: [bytes([lines[0][0] ^ 1]) + lines[0][1:], *lines[1:]],
    "swapped": lambda lines: [lines[1], lines[0], *lines[2:]],
}


@pytest.mark.parametrize("how", [*ALTERED, "gone"])
def test_altered_records_are_refused(call, how):
    path = RUN / "metrics.jsonl"
    if how == "gone":
        path.unlink()
    else:
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(ALTERED[how](lines)))
    content = path.read_bytes() if path.exists() else None
    status, _, error = call(BASE)
    assert status == 2 and "metrics.jsonl" in error and "run.accept_records=true" in error
    assert (path.read_bytes() if path.exists() else None) == content


def test_lost_records_can_be_accepted(call):
    (RUN / "metrics.jsonl").unlink()
    status, out, _ = call([*BASE, "run.accept_records=true"])
    assert status == 0 and "accepted as it is" in out
    assert [step for kind, step in records() if kind == "train"] == [5, 6, 7, 8]


@pytest.mark.slow
def test_records_beyond_the_checkpoint_are_cut_also_when_they_are_garbled(call):
    whole = records()
    with open(RUN / "metrics.jsonl", "ab") as file:
        file.write(b'{"kind": "train", "step": 5, "wall_seconds": 1.0}\n\x00\x00garbled\n{"ki')
    status, _, _ = call(BASE)
    assert status == 0
    assert records()[: len(whole)] == whole
    assert [step for kind, step in records() if kind == "train"] == list(range(1, 9))


def test_a_flipped_configuration_is_refused_by_every_reader(call):
    replaced(RUN / "config.yaml", "norm_eps: 1.0e-05", "norm_eps: 1.0e-01")
    for words in (BASE, EVALUATE, GENERATE):
        status, _, error = call(words)
        assert status == 2 and "model.norm_eps: 0.1, not 1e-05" in error


@pytest.mark.slow
def test_a_missing_configuration_is_the_checkpoints(call):
    expected = call(EVALUATE)[1]
    (RUN / "config.yaml").unlink()
    status, out, error = call(EVALUATE)
    assert status == 0 and out == expected
    assert error.count("config.yaml is missing") == 1
    status, _, error = call([*BASE, "optimizer.lr=1e-4"])  # another one is not resumed
    assert status == 2 and "optimizer.lr" in error
    assert call(BASE)[0] == 0 and (RUN / "config.yaml").exists()


def test_a_flipped_tokenizer_is_refused_and_a_missing_one_is_the_checkpoints(call):
    expected = call(GENERATE)[1]
    path = RUN / "tokenizer.json"
    content = path.read_text("utf-8")
    path.write_text(content.replace("abc", "acb"), "utf-8")
    status, out, error = call(GENERATE)
    assert status == 2 and not out and "is not the tokenizer" in error
    path.unlink()
    status, out, error = call(GENERATE)
    assert (status, out) == (0, expected) and "tokenizer.json is missing" in error


def test_evaluation_on_a_changed_text_is_refused(call):
    text = Path("text.txt").read_text("utf-8")
    Path("text.txt").write_text(text.swapcase().swapcase()[::-1], "utf-8")
    status, out, error = call(EVALUATE)
    assert status == 2 and not out and "has changed since" in error


@pytest.fixture
def finished(call):
    assert call(BASE)[0] == 0
    return call


@pytest.mark.slow
@pytest.mark.parametrize("how", ["emptied", "halved", "one altered"])
def test_altered_records_of_a_finished_run_are_refused(finished, how):
    path = RUN / "metrics.jsonl"
    path.write_bytes(b"".join(ALTERED[how](path.read_bytes().splitlines(keepends=True))))
    status, _, error = finished(BASE)
    assert status == 2 and "missing or altered" in error
    with pytest.raises(UserError):
        read_run(RUN)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["val_loss", "best_val_loss"])
def test_a_summary_that_contradicts_the_records_is_refused(finished, name):
    read_run(RUN)
    path = RUN / "summary.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(content | {name: content[name] - 1}), "utf-8")
    status, _, error = finished(BASE)
    assert status == 2 and f"says {name}" in error
    with pytest.raises(UserError, match="altered"):
        read_run(RUN)


@pytest.mark.slow
def test_a_lost_last_checkpoint_is_said_by_every_reader(finished):
    shutil.rmtree(RUN / "checkpoints" / "8")
    for words in (EVALUATE, GENERATE):
        status, out, error = finished(words)
        assert status == 0 and "skipped step 8: it is gone" in out + error


@pytest.mark.slow
def test_a_finished_run_without_checkpoints_says_so(finished):
    LOST["all manifests"]()
    status, out, _ = finished(BASE)
    assert status == 0 and "checkpoints are gone" in out


@pytest.mark.slow
def test_overwriting_by_a_command_that_cannot_start_removes_nothing(finished, place):
    before = {
        p: p.read_bytes() for p in sorted(RUN.rglob("*")) if p.is_file() and p.name != ".lock"
    }
    for wrong in ("data.path=missing.txt", "tokenizer=bpe", "train.eval_every=x"):
        assert finished([*BASE, "run.overwrite=true", wrong])[0] == 2
    after = {p: p.read_bytes() for p in sorted(RUN.rglob("*")) if p.is_file() and p.name != ".lock"}
    assert after == before


@pytest.mark.slow
def test_damage_to_what_a_checkpoint_carries_is_damage_to_the_checkpoint(call):
    path = RUN / "checkpoints" / "4" / "config.yaml"
    path.write_bytes(path.read_bytes().replace(b"seed: 0", b"seed: 1"))
    status, out, _ = call(BASE)
    assert status == 0 and "skipped step 4: config.yaml is damaged" in out


def test_weights_that_are_not_finite_are_refused(call, place):
    from jaxlm import load

    run = load("runs/run", backend="torch")
    parameters = run.engine.canonical(run.parameters)
    parameters["embed.weight"][0, 0] = np.inf
    from jaxlm.store.weights import write_weights

    write_weights("broken.safetensors", parameters, {"step": 4, "documents": False})
    for words in (EVALUATE, GENERATE):
        status, out, error = call([*words, "job.checkpoint=broken.safetensors"])
        assert status == 2 and not out and "not finite, in embed.weight" in error


def test_a_run_that_carries_nothing_else_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        guard.stored_config(tmp_path)
