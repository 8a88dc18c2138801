"""run.overwrite=true removes what a run wrote, all of it or nothing, and nothing else."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_study import write_run

from jaxlm.cli import main as cli
from jaxlm.host.errors import UserError
from jaxlm.store import overwrite
from jaxlm.store.directory import RunDirectory
from jaxlm.store.overwrite import MARK, finish_removal, refuse_runs_inside, start_over

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    """A run directory with a file of each kind that a run writes."""
    path = write_run(tmp_path / "runs" / "run", samples=["once"])
    for name in (
        "checkpoints/2/manifest.json", "checkpoints/2/parameters/d/x", "checkpoints.json",
        "checkpoints/4.orbax-checkpoint-tmp/a", "plots/loss.png", "plots/speed.png", "report.md",
        "log.txt", "tokenizer.json", "evaluation.json", ".summary.json.77.tmp", ".lock",
        "profile/plugins/profile/x/t.pb", "tensorboard/events.out.tfevents.1.host.0001",
    ):  # fmt: skip
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("")
    return RunDirectory(path)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def refused(run, *said):
    before = files(run.path.parent)
    with pytest.raises(UserError) as error:
        start_over(run)
    assert files(run.path.parent) == before
    for word in said:
        assert word in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_an_unset_shell_variable_deletes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name)
    before = files(tmp_path)
    assert cli.main(["run.name=", "run.overwrite=true"]) == 2
    assert "run.name is empty" in capsys.readouterr().err
    for folder in ("runs/", ".", ""):
        assert cli.main([f"run.dir={folder}", "run.overwrite=true"]) == 2
    assert files(tmp_path) == before


def test_what_a_run_wrote_is_removed(run):
    start_over(run)
    assert files(run.path) == [".lock"]
    start_over(run)  # nothing to do


def test_a_missing_or_empty_folder_is_fine(tmp_path):
    start_over(RunDirectory(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    start_over(RunDirectory(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["thesis.txt", "sub/notes.md", "plots/mine.png", "checkpoints/notes.txt", ".env", "data.csv",
     "checkpoints/best/x", "tensorboard/other", "profile/mine.py", "summary.json.bak"],
)  # fmt: skip
def test_anything_unknown_is_named_and_nothing_removed(run, name):
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text("years of work")
    refused(run, name.split("/")[-1] if name.startswith("checkpoints/notes") else name)


def test_other_runs_inside_are_named_and_nothing_removed(run):
    write_run(run.path / "b")
    refused(run, "holds other runs (b)")


def test_a_link_is_refused_as_the_folder_and_inside(run, tmp_path):
    link = tmp_path / "runs" / "link"
    os.symlink(run.path, link)
    refused(RunDirectory(link), "is a link")
    os.symlink(tmp_path, run.path / "plots" / "loss2.png")
    refused(run, "the link plots/loss2.png")


def test_a_linked_checkpoints_folder_is_refused(run, tmp_path):
    (run.path / "checkpoints").rename(tmp_path / "big_disk")
    os.symlink(tmp_path / "big_disk", run.path / "checkpoints")
    refused(run, "the link checkpoints")


def test_the_folder_of_another_program_is_not_a_run(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "config.yaml").write_text("port: 80\n")
    (folder / "report.md").write_text("ours")
    refused(RunDirectory(folder), "is not a run")


def test_a_run_without_its_config_can_be_started_over(run):
    (run.path / "config.yaml").unlink()
    start_over(run)
    assert files(run.path) == [".lock"]


@pytest.mark.parametrize("name", ["summary.json", "environment.json", "config.yaml"])
def test_a_run_with_a_damaged_file_can_be_started_over(run, name):
    (run.path / name).write_bytes(b"\xff{[")
    start_over(run)
    assert files(run.path) == [".lock"]


def test_a_run_whose_start_failed_can_be_started_over(tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", "log.txt"):
        (tmp_path / "run" / name).write_text("")
    start_over(RunDirectory(tmp_path / "run"))


def test_a_live_writer_is_refused(run):
    script = (
        "import sys; from pathlib import Path; from jaxlm.store.lock import WriterLock\n"
        "with WriterLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(run.path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline() == b"held\n"
    refused(run, f"process {holder.pid}")
    holder.communicate()
    assert holder.wait() == 0


@pytest.mark.parametrize("after", range(1, 9))
def test_a_removal_killed_anywhere_is_finished_by_the_next_start(run, monkeypatch, after):
    calls = iter(range(100))

    def mortal(function):
        def call(*arguments, **named):
            if next(calls) >= after:
                raise KeyboardInterrupt
            return function(*arguments, **named)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(overwrite.shutil, "rmtree", mortal(overwrite.shutil.rmtree))
        patched.setattr(Path, "unlink", mortal(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            start_over(run)
    assert (run.path / MARK).exists() and not (run.path / "config.yaml").exists()
    finish_removal(run)
    assert files(run.path) == [".lock"]


def test_a_run_is_untouched_where_no_removal_had_begun(run):
    before = files(run.path)
    finish_removal(run)
    assert files(run.path) == before


def test_a_new_run_cannot_contain_others(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "all" / name)
    with pytest.raises(UserError, match=r"holds other runs \(a, b\)"):
        refuse_runs_inside(tmp_path / "all")
    refuse_runs_inside(tmp_path / "all" / "a")
    refuse_runs_inside(tmp_path / "none")


@pytest.mark.slow
def test_every_file_that_training_leaves_is_known(tmp_path, monkeypatch):
    """What a run writes must be in overwrite's lists; otherwise the run cannot be started over."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the cat sat on the mat and saw the dog. " * 200)
    words = ["scale=smoke", "data=text", "data.path=text.txt", "run.name=run", "backend=torch",
             "torch.compile=false", "model.n_layers=1", "train.duration=2", "train.eval_every=1",
             "run.samples=1", "tokenizer=byte"]  # fmt: skip
    assert cli.main(words) == 0
    assert cli.main([*words, "job=evaluate", "job.max_batches=1"]) == 0
    start = json.loads((tmp_path / "runs/run/environment.json").read_text())["starts"][0]["time"]
    assert start
    assert cli.main([*words, "seed=1", "run.overwrite=true"]) == 0
    assert not (tmp_path / "runs/run/evaluation.json").exists()
    assert len(json.loads((tmp_path / "runs/run/environment.json").read_text())["starts"]) == 1


def test_a_killed_process_leaves_a_folder_that_the_same_command_starts_over(run, tmp_path):
    script = (
        "import os, signal, sys\n"
        "from jaxlm.store import overwrite\n"
        "from jaxlm.store.directory import RunDirectory\n"
        "overwrite.shutil.rmtree = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "overwrite.start_over(RunDirectory(sys.argv[1]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(run.path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert not (run.path / "config.yaml").exists()
    start_over(run)
    assert files(run.path) == [".lock"]
