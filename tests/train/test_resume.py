"""Real processes, really killed: the same command resumes, and only time is lost."""

import json
import signal
import time

import numpy as np
import pytest
from real_runs import STEPS, assert_same_run, finish, records, start, stopping_at

from jaxlm.store.checkpoint import whole_steps

pytestmark = pytest.mark.optimized  # the bits of the programs that users run
WORDS = "the cat sat on a mat and saw the dog run over the hill to find a red ball".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small text, and a cache shared by all runs of this file."""
    folder = tmp_path_factory.mktemp("resume")
    words = np.random.default_rng(0).choice(WORDS, 6000)
    (folder / "text.txt").write_text(" ".join(words), "utf-8")
    return folder


@pytest.fixture(scope="module")
def reference(place):
    status, output = finish(start(place, "reference"))
    assert status == 0, output
    return place / "reference"


def lines(run):
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def without_manifest(run):
    folders = (run / "checkpoints").glob("[0-9]*")
    return any(f.is_dir() and not (f / "manifest.json").exists() for f in folders)


MOMENTS = {
    "before the first step": lambda run: (run / "config.yaml").exists(),
    "before the first checkpoint": lambda run: lines(run) >= 3,
    "while a checkpoint is written": lambda run: any(
        (run / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    ),
    "between commit and manifest": lambda run: lines(run) > 90 and without_manifest(run),
    "around an evaluation": lambda run: lines(run) >= 202,
    "near the end": lambda run: lines(run) >= STEPS - 5,
    "while the figures are drawn": lambda run: (run / "plots").exists(),
}


@pytest.mark.slow
def test_resume_is_bitwise_after_kill_9_at_any_moment(place, reference):
    run, hit = place / "killed", []
    for name, moment in MOMENTS.items():
        process = start(place, "killed", "run.figures=true")
        while process.poll() is None:
            if moment(run):
                process.send_signal(signal.SIGSTOP)
                if moment(run):  # still true, and remains so until the process dies
                    process.kill()
                    hit.append(name)
                    break
                process.send_signal(signal.SIGCONT)
            time.sleep(0.0005)
        status, output = finish(process)
        assert status in (0, -signal.SIGKILL), output
    assert set(MOMENTS) - set(hit) <= {"between commit and manifest"}, hit  # that one lasts 1 ms
    status, output = finish(start(place, "killed", "run.figures=true"))
    assert status == 0, output
    assert_same_run(run, reference)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("finished", STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_first_and_the_rest_is_bitwise(place, reference, number, code):
    run = place / number.name
    status, output = finish(start(place, number.name, program=stopping_at(57, number)))
    assert status == code, output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "interrupted" and summary["reason"] == number.name
    assert max(whole_steps(run / "checkpoints")) == summary["step"] >= 57
    status, output = finish(start(place, number.name))
    assert status == 0 and f"resuming {run} at step {summary['step']}" in output
    assert_same_run(run, reference)


@pytest.mark.slow
def test_stop_at_leaves_early_without_changing_the_schedule(place, reference):
    run = place / "stopped"
    status, output = finish(start(place, "stopped", "run.stop_at=123"))
    assert status == 0 and json.loads((run / "summary.json").read_text())["step"] == 123, output
    status, output = finish(start(place, "stopped"))
    assert status == 0, output
    assert_same_run(run, reference)


@pytest.mark.slow
def test_a_run_on_eight_devices_resumes_on_one(place, monkeypatch):
    words = ("train.batch_size=8", "train.duration=60", "train.checkpoint_every=30")
    assert finish(start(place, "one", *words))[0] == 0
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    many = ("parallel.fsdp=2", "parallel.tensor=2", "run.stop_at=30")
    status, output = finish(start(place, "many", *words, *many))
    assert status == 0 and "8 cpu device(s)" in output, output
    monkeypatch.delenv("XLA_FLAGS")
    status, output = finish(start(place, "many", *words))
    assert status == 0 and "resuming" in output and "1 cpu device(s)" in output, output
    ours, theirs = ([r["loss"] for r in records(place / n)] for n in ("many", "one"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_skipped_with_its_reason(place, reference):
    import shutil

    run = place / "damaged"
    shutil.copytree(reference, run)
    (run / "summary.json").unlink()
    newest = max(whole_steps(run / "checkpoints"))
    victim = max((run / "checkpoints" / str(newest)).rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    status, output = finish(start(place, "damaged"))
    assert status == 0, output
    assert f"skipped step {newest}" in output and "SHA-256" in output
    assert_same_run(run, reference)


@pytest.mark.slow
def test_a_finished_run_says_so_and_another_configuration_is_refused(place, reference):
    status, output = finish(start(place, "reference"))
    assert status == 0 and "is finished" in output
    status, output = finish(start(place, "reference", "optimizer.lr=0.5", "model.n_heads=1"))
    assert status == 2
    assert "optimizer.lr: 0.5 here" in output and "model.n_heads: 1 here, 2 there" in output
    status, output = finish(start(place, "reference", "train.log_every=7", "run.stop_at=5"))
    assert status == 0 and "is finished" in output  # operation may change


@pytest.mark.slow
def test_a_text_that_changed_since_the_run_began_is_refused(place):
    status, output = finish(start(place, "changed", "run.stop_at=60"))
    assert status == 0, output
    text = place / "text.txt"
    before = text.read_text("utf-8")
    try:
        text.write_text(before.replace("dog", "cow"), "utf-8")
        status, output = finish(start(place, "changed"))
    finally:
        text.write_text(before, "utf-8")
    assert status == 2 and "changed" in output and "Traceback" not in output
