"""The end of a run: `finished` is noted last, and the same command makes what is missing."""

import json
import shutil
from pathlib import Path

import pytest

from jaxlm.cli import main as cli
from jaxlm.inference import figures as plots
from jaxlm.inference import report
from jaxlm.store.directory import RunDirectory
from jaxlm.train import finish

pytest.importorskip("torch")
WORDS = [
    "scale=smoke", "data=text", "data.path=text.txt", "tokenizer=byte", "run.name=run",
    "run.samples=2", "backend=torch", "torch.compile=false", "model.n_layers=1", "model.d_model=32",
    "model.n_heads=2", "model.context_length=32", "train.batch_size=4", "train.duration=4",
    "train.eval_every=2", "run.cache=cache",
]  # fmt: skip
RUN = Path("runs/run")


class Killed(BaseException):
    """Simulates kill -9: nothing in the program catches it."""


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """train(*words) -> (exit status, output, errors); figures are stand-ins, for speed."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on a mat and saw the dog " * 60, "utf-8")

    def draw(records, summary, folder):
        folder.mkdir(exist_ok=True)
        (folder / "loss.png").write_bytes(b"drawn")
        return [folder / "loss.png"]

    monkeypatch.setattr(plots, "plot_run", draw)

    def call(*words):
        capsys.readouterr()  # left over from a killed call
        status = cli.main([*WORDS, *words])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def summary():
    return json.loads((RUN / "summary.json").read_text("utf-8"))


def records():
    lines = (RUN / "metrics.jsonl").read_text("utf-8").splitlines()
    return [(r["kind"], r["step"]) for r in map(json.loads, lines)]


PLACES = {
    "drawing samples": (finish, "_write_samples"),
    "drawing figures": (plots, "plot_run"),
    "writing the report": (report, "write_run_report"),
}


def test_figures_can_be_left_out_and_made_later(train):
    assert train("run.figures=false")[0] == 0
    assert not (RUN / "plots").exists() and "plots/" not in (RUN / "report.md").read_text("utf-8")
    status, out, _ = train("run.figures=false")
    assert status == 0 and "report.md" not in out.partition("is finished")[0]
    assert not (RUN / "plots").exists()
    assert train()[0] == 0
    assert (RUN / "plots" / "loss.png").read_bytes() == b"drawn"
    assert "(plots/loss.png)" in (RUN / "report.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_run_killed_while_finishing_is_not_finished_until_called_again(train, monkeypatch, place):
    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place], die)
        with pytest.raises(Killed):
            train()
    assert summary()["status"] != "finished"
    before = records()
    status, out, _ = train()
    assert status == 0 and "compiled" not in out
    assert summary()["status"] == "finished" and records() == before
    assert finish.missing(RUN, *_of_run()) == []


def _of_run():
    from jaxlm.inference.guard import stored_config

    return stored_config(RUN), summary()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["drawing figures", "writing the report"])
def test_a_full_disk_at_the_end_is_one_error_and_the_report_is_made_later(
    train, monkeypatch, place
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place], full)
        status, _, error = train()
    assert status == 2 and "No space left on device" in error and "Traceback" not in error
    assert summary()["status"] == "interrupted"
    assert train()[0] == 0
    assert summary()["status"] == "finished" and (RUN / "report.md").exists()


@pytest.mark.slow
def test_a_finished_run_makes_its_missing_files_and_leaves_the_others_unchanged(train):
    assert train()[0] == 0
    made = {name: (RUN / name).read_bytes() for name in ("report.md", "samples.txt")}
    assert "missing" not in train()[1]
    for remove, names in (
        (lambda: (RUN / "report.md").unlink(), "report.md"),
        (lambda: (RUN / "samples.txt").unlink(), "samples.txt"),
        (lambda: shutil.rmtree(RUN / "plots"), "plots/loss.png"),
    ):
        remove()
        status, out, _ = train()
        assert status == 0 and f"wrote what was missing: {names}" in out and "is finished" in out
        assert {name: (RUN / name).read_bytes() for name in made} == made
    assert (RUN / "plots" / "loss.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("left", ["", "# run\n\nfinished"])
def test_an_empty_or_truncated_report_is_made_again(train, left):
    assert train()[0] == 0
    whole = (RUN / "report.md").read_bytes()
    (RUN / "report.md").write_text(left, "utf-8")
    assert "wrote what was missing: report.md" in train()[1]
    assert (RUN / "report.md").read_bytes() == whole


@pytest.mark.slow
def test_an_early_stop_killed_while_it_finishes_takes_no_further_step(train, monkeypatch):
    words = ("optimizer.lr=0", "train.duration=30", "train.eval_every=2", "train.early_stopping=2")

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_summary", _die_at_the_end(RunDirectory.write_summary))
        with pytest.raises(Killed):
            train(*words)
    before = records()
    assert train(*words)[0] == 0
    assert (summary()["status"], summary()["step"]) == ("stopped_early", 6)
    assert records() == before


def _die_at_the_end(write):
    def die(self, content):
        if content["status"] == "stopped_early":
            raise Killed
        write(self, content)

    return die


@pytest.mark.slow
def test_a_diverged_run_makes_its_report_again(train):
    status, _, _ = train("optimizer.lr=1e39", "train.duration=2", "schedule.warmup=0")
    assert status == 1 and summary()["status"] == "diverged"
    (RUN / "report.md").unlink()
    status, out, _ = train("optimizer.lr=1e39", "train.duration=2", "schedule.warmup=0")
    assert status == 1 and (RUN / "report.md").exists()
    assert "wrote what was missing: report.md" in out
