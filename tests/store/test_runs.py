"""The run directory keeps its records whole and its formats known, and has a single writer."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.host.errors import UserError
from jaxlm.host.files import atomic_write, plain
from jaxlm.store import directory as runs
from jaxlm.store import lock
from jaxlm.store.directory import RunDirectory
from jaxlm.store.lock import WriterLock

ROOT = Path(__file__).resolve().parents[2]

HOLDER = """
import sys, time
from pathlib import Path
from jaxlm.host.errors import UserError
from jaxlm.store.lock import WriterLock
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
try:
    with WriterLock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print("refused:", " ".join(str(error).split()), flush=True)
"""


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.check_writable()
    return directory


def start_writer(folder, at=0.0):
    """A process that takes the folder's lock and keeps it until its standard input closes."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(at)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def leave_lock_of_another_host(folder, silent_seconds):
    record = {"host": "elsewhere", "pid": 7, "process_started": "1", "boot": "other", "token": "t"}
    path = folder / ".lock"
    path.write_text(json.dumps(record))
    then = time.time() - silent_seconds
    os.utime(path, (then, then))


def test_import_brings_in_neither_jax_nor_torch():
    code = (
        "import jaxlm.store.directory, jaxlm.store.lock, jaxlm.store.manifest, sys;"
        "print(sorted({'jax', 'torch', 'orbax', 'numpy'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


# Files


def test_atomic_write_replaces_the_file_and_never_writes_into_it(tmp_path):
    path, other_name = tmp_path / "file", tmp_path / "other name"
    atomic_write(path, "old")
    os.link(path, other_name)
    atomic_write(path, b"new")
    assert (path.read_text(), other_name.read_text()) == ("new", "old")
    assert len(list(tmp_path.iterdir())) == 2


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot write to the run directory.*file"):
            RunDirectory(path).check_writable()


def test_an_unwritable_folder_is_a_clear_error(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)
    script = (
        "import os, sys\n"
        "from jaxlm.store.directory import RunDirectory\n"
        "from jaxlm.host.errors import UserError\n"
        "os.getuid() == 0 and os.seteuid(65534)\n"
        "try: RunDirectory(sys.argv[1]).check_writable()\n"
        "except UserError as error: print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert "cannot write to the run directory" in answer.stdout, answer.stderr
    assert "Permission denied" in answer.stdout
    assert answer.stdout.count("\n") <= 3


# Records


@given(st.floats())
def test_floats_read_back_to_the_same_bits_and_not_finite_is_null(value):
    text = json.dumps(plain({"loss": value}), allow_nan=False)
    read = json.loads(text)["loss"]
    if np.isfinite(value):
        assert struct.pack("d", read) == struct.pack("d", value)
    else:
        assert read is None


def test_array_scalars_are_written_as_numbers(run):
    record = {
        "step": np.int64(3),
        "loss": np.float32(0.1),
        "norms": np.array([1.0, np.inf]),
        "finite": np.bool_(True),
    }
    run.append(record)
    assert run.records() == [
        {"step": 3, "loss": float(np.float32(0.1)), "norms": [1.0, None], "finite": True}
    ]


def test_records_are_selected_by_kind(run):
    assert run.records() == []
    run.append({"kind": "train", "step": 1})
    run.append({"kind": "eval", "step": 1})
    assert [record["kind"] for record in run.records()] == ["train", "eval"]
    assert run.records("eval") == [{"kind": "eval", "step": 1}]


@given(written=st.integers(0, 30))
def test_half_written_last_line_is_ignored_and_cut_on_resume(tmp_path_factory, written):
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    run.append({"step": 1, "loss": 2.5})
    last = b'{"step": 2, "loss": 1234567.5}'
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(last[:written])
    assert run.records() == [{"step": 1, "loss": 2.5}]
    run.truncate_after(10)
    run.append({"step": 2, "loss": 2.25})
    assert run.records() == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]


def test_no_step_is_recorded_twice_after_a_resume(run):
    run.truncate_after(4)  # nothing there yet
    for step in range(1, 8):
        run.append({"kind": "train", "step": step})
    run.truncate_after(4)
    for step in range(5, 8):
        run.append({"kind": "train", "step": step})
    assert [record["step"] for record in run.records()] == list(range(1, 8))


def test_a_damaged_record_is_named(run):
    run.append({"step": 1})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b"{'step'\n")
    with pytest.raises(UserError, match="line 2, is not a record"):
        run.records()


@pytest.mark.slow
def test_a_reader_sees_whole_records_while_a_writer_appends(run):
    script = (
        "import sys\n"
        "from jaxlm.store.directory import RunDirectory\n"
        "run, step = RunDirectory(sys.argv[1]), 0\n"
        "for line in sys.stdin:\n"
        "    for step in range(step, step + 1000): run.append({'step': step, 'loss': 0.1 * step})\n"
        "    step += 1\n"
    )
    command = [sys.executable, "-c", script, str(run.path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True) as writer:
        seen = 0
        for round in range(1, 11):
            print("go", file=writer.stdin, flush=True)
            while seen < 1000 * round:
                assert writer.poll() is None
                records = run.records() if (run.path / "metrics.jsonl").exists() else []
                assert [record["step"] for record in records] == list(range(len(records)))
                assert len(records) >= seen
                seen = len(records)
        writer.stdin.close()
    assert seen == 10_000


# Configuration, environment, summary


def test_every_start_is_recorded_with_versions_and_devices(run):
    run.write_environment(["cpu:0"], ["run.py", "train.duration=10", "data.path=a b"])
    run.write_environment(["cpu:0", "cpu:1"], ["run.py"])
    environment = run.read_environment()
    assert environment["format_version"] == runs.FORMAT_VERSION
    assert environment["devices"] == ["cpu:0", "cpu:1"]
    assert [start["command"] for start in environment["starts"]] == [
        "run.py train.duration=10 'data.path=a b'",
        "run.py",
    ]
    assert {"python", "jax", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(
        environment["versions"]
    )


def test_a_newer_format_is_refused_by_every_entrance(run):
    run.write_config("seed: 1\n")
    run.write_text("environment.json", json.dumps({"format_version": runs.FORMAT_VERSION + 1}))
    entrances = (
        run.check_format,
        run.check_writable,
        run.read_config,
        run.read_environment,
        lambda: run.write_environment([]),
    )
    for entrance in entrances:
        with pytest.raises(UserError, match="newer version of this program"):
            entrance()


def test_a_folder_without_a_run_says_so(run):
    with pytest.raises(UserError, match="there is no run in .*config.yaml"):
        run.read_config()
    run.write_config("name: ä\n")
    assert run.read_config() == "name: ä\n"


def test_summary_is_replaced_whole(run):
    assert run.read_summary() is None
    run.write_summary({"status": "running", "val_loss": float("inf")})
    run.write_summary({"status": "finished", "val_loss": 0.1 + 0.2})
    assert run.read_summary() == {"status": "finished", "val_loss": 0.1 + 0.2}
    run.write_text("summary.json", "{")
    with pytest.raises(UserError, match="cannot read .*summary.json"):
        run.read_summary()


def test_git_commit_is_that_of_the_program_and_marks_changes(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    file = tmp_path / "runs.py"
    file.write_text("1")
    monkeypatch.setattr(runs, "__file__", str(file))
    assert runs.git_commit() is None
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "theirs")
    assert runs.git_commit() is None  # installed inside someone else's repository
    git("add", "runs.py")
    git("commit", "-qm", "first")
    assert re.fullmatch("[0-9a-f]{40}", runs.git_commit())
    file.write_text("2")
    assert re.fullmatch("[0-9a-f]{40}-dirty", runs.git_commit())


# One writer at a time


def test_a_second_writer_is_refused_and_told_who_holds_the_run(run):
    first = start_writer(run.path)
    assert first.stdout.readline() == "held\n"
    second = start_writer(run.path)
    refusal = second.communicate()[0]
    assert refusal.startswith("refused:")
    assert f"process {first.pid} on host {lock.socket.gethostname()}" in refusal
    assert f"kill {first.pid}" in refusal and "run.dir" in refusal
    first.communicate()
    with run.lock():
        pass


def test_a_killed_writer_is_replaced_at_once(run, monkeypatch):
    first = start_writer(run.path)
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert json.loads((run.path / ".lock").read_text())["pid"] == first.pid
    monkeypatch.setattr(lock.time, "sleep", lambda _: pytest.fail("it waited"))
    with run.lock():
        with pytest.raises(UserError, match=f"process {os.getpid()}"), run.lock():
            pass


def test_the_heartbeat_of_another_host_decides(run, monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.0)
    leave_lock_of_another_host(run.path, lock.STALE_SECONDS - 5)
    with pytest.raises(UserError, match=r"process 7 on host elsewhere \(last sign of life 5\d s"):
        with run.lock():
            pass
    leave_lock_of_another_host(run.path, lock.STALE_SECONDS + 5)
    with run.lock():
        assert json.loads((run.path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.slow
def test_exactly_one_contender_for_a_stale_lock_wins(run):
    leave_lock_of_another_host(run.path, lock.STALE_SECONDS + 60)
    contenders = [start_writer(run.path, at=time.time() + 1.0) for _ in range(4)]
    answers = [contender.stdout.readline() for contender in contenders]
    for contender in contenders:
        contender.communicate()
    assert answers.count("held\n") == 1
    assert sum(answer.startswith("refused:") for answer in answers) == 3


@pytest.fixture
def without_flock(monkeypatch):
    def unsupported(*_):
        raise OSError(lock.errno.ENOTSUP, "not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)


def test_without_flock_two_hosts_never_both_win(run, without_flock, monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.0)
    leave_lock_of_another_host(run.path, lock.STALE_SECONDS + 60)
    barrier, winners, pwrite = threading.Barrier(2, timeout=300), [], os.pwrite

    def write_when_both_have_looked(*arguments):
        barrier.wait()
        pwrite(*arguments)
        barrier.wait()  # as within the time to settle

    monkeypatch.setattr(os, "pwrite", write_when_both_have_looked)

    def contend(host):
        contender = WriterLock(run.path)
        contender.record |= {"host": host, "boot": host}
        try:
            with contender:
                winners.append(host)
                refused.wait(300)
        except UserError:
            refused.set()

    refused = threading.Event()
    threads = [threading.Thread(target=contend, args=(host,)) for host in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


def test_without_flock_the_process_table_decides(run, without_flock):
    first = start_writer(run.path)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {first.pid}"), run.lock():
        pass
    first.send_signal(signal.SIGKILL)
    first.communicate()
    record = json.loads((run.path / ".lock").read_text())
    reused = record | {"pid": os.getpid(), "process_started": "1"}  # the pid was reused
    for holder in (record, reused):
        (run.path / ".lock").write_text(json.dumps(holder))
        with run.lock():
            pass


def until(condition, seconds=300):
    """Waits for a condition that must come true, however slow the machine is."""
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "it never came"
        time.sleep(0.01)


def test_the_heartbeat_is_refreshed_and_a_loss_is_noticed(run, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    path = run.path / ".lock"
    with run.lock() as held:
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime > 0)
        held.check()
        leave_lock_of_another_host(run.path, 0)
        until(lambda: held._lost)
        with pytest.raises(UserError, match="taken over"):
            held.check()
    assert json.loads(path.read_text())["host"] == "elsewhere"
