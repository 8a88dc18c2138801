"""Token files: written whole or not at all, reused, checked; and other promises of the cache."""

import hashlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from configured import configured as make

from jaxlm.config.tokenizers import BPE
from jaxlm.data import encoding, tokenfile
from jaxlm.data.cache import remembered, replacing
from jaxlm.data.prepare import prepare
from jaxlm.data.tokenfile import Tokens, open_tokens, write_tokens
from jaxlm.host import progress
from jaxlm.host.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FINGERPRINT = "ab" * 32
IDS = np.arange(1000, dtype=np.int32)


def write(path, vocab_size=1000, parts=4):
    write_tokens(path, np.array_split(IDS, parts), vocab_size, FINGERPRINT)


def configured(tmp_path, text="To be, or not to be: that is the question.\n" * 200):
    (tmp_path / "text.txt").write_text(text)
    return make("text", path=tmp_path / "text.txt")


def age(path, seconds=100):
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("vocab_size, dtype", [(65536, "<u2"), (65537, "<u4")])
def test_ids_are_as_small_as_the_vocabulary_allows(tmp_path, vocab_size, dtype):
    write(tmp_path / "x.tokens", vocab_size)
    tokens = open_tokens(tmp_path / "x.tokens", vocab_size, FINGERPRINT, tmp_path)
    assert isinstance(tokens.ids_N, np.memmap) and tokens.ids_N.dtype == dtype
    np.testing.assert_array_equal(tokens.ids_N, IDS)


def test_a_file_of_another_text_or_vocabulary_is_not_reused(tmp_path):
    write(tmp_path / "x.tokens")
    assert open_tokens(tmp_path / "x.tokens", 1000, FINGERPRINT, tmp_path) is not None
    assert open_tokens(tmp_path / "x.tokens", 1001, FINGERPRINT, tmp_path) is None
    assert open_tokens(tmp_path / "x.tokens", 1000, "cd" * 32, tmp_path) is None
    assert open_tokens(tmp_path / "missing.tokens", 1000, FINGERPRINT, tmp_path) is None


@pytest.mark.parametrize("place", [0, 8, 12, 16, 24, 32, 70, 128, 1000, -1])
def test_any_flipped_bit_is_noticed(tmp_path, place):
    path = tmp_path / "x.tokens"
    write(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    assert open_tokens(path, 1000, FINGERPRINT, tmp_path) is None


@pytest.mark.parametrize("most, dtype", [(255, "u1"), (256, "<u2"), (65_536, "<u4")])
def test_bytes_and_findings_are_stored_with_the_ids(tmp_path, most, dtype):
    sizes = IDS % 7
    sizes[5] = most
    parts = [Tokens(IDS[:300], sizes[:300]), Tokens(IDS[300:], sizes[300:])]
    path, about = tmp_path / "x.tokens", {"characters": 3}
    write_tokens(path, parts, 1000, FINGERPRINT, lambda: about)
    tokens = open_tokens(path, 1000, FINGERPRINT, tmp_path)
    assert tokens.about == about and tokens.bytes_N.dtype == dtype
    np.testing.assert_array_equal(tokens.ids_N, IDS)
    np.testing.assert_array_equal(tokens.bytes_N, sizes)
    np.testing.assert_array_equal(tokens.head(9).bytes_N, sizes[:9])
    for place in (96, 100, 2200, -1):  # bytes per count, of the JSON; a count; the JSON
        content = bytearray(path.read_bytes())
        content[place] ^= 4
        (tmp_path / "y.tokens").write_bytes(content)
        assert open_tokens(tmp_path / "y.tokens", 1000, FINGERPRINT, tmp_path) is None


def test_a_file_of_the_first_version_is_rewritten(tmp_path):
    """It holds only ids, some of which are control tokens that a text had named."""
    path = tmp_path / "x.tokens"
    content = IDS.astype("<u2").tobytes()
    facts = (bytes.fromhex(FINGERPRINT), hashlib.sha256(content).digest())
    header = struct.pack("<8sIIQQ32s32s", b"JAXLMTOK", 1, 2, len(IDS), 1000, *facts)
    path.write_bytes(header.ljust(128, b"\0") + content)
    assert open_tokens(path, 1000, FINGERPRINT, tmp_path) is None


def test_prepare_rebuilds_a_damaged_or_truncated_file(tmp_path):
    config = configured(tmp_path)
    expected = np.array(prepare(config, cache=tmp_path).train)
    [path] = (tmp_path / "tokens").glob("text-train-*.tokens")
    for damaged in (
        lambda content: content[:-3],
        lambda content: content[:50],
        lambda content: b"",
        lambda content: content[:500] + b"?" + content[501:],
        lambda content: content + b"more",
    ):
        path.write_bytes(damaged(path.read_bytes()))
        np.testing.assert_array_equal(prepare(config, cache=tmp_path).train, expected)


def test_a_second_start_reads_neither_text_nor_tokens(tmp_path, monkeypatch):
    config = configured(tmp_path)
    config.tokenizer = BPE(vocab_size=270)
    age(tmp_path / "text.txt")
    first = prepare(config, cache=tmp_path)
    for path in (tmp_path / "tokens").iterdir():
        age(path)
    prepare(config, cache=tmp_path)  # verifies the checksums and remembers

    def refuse(*arguments, **named):
        raise AssertionError("work that was done before")

    monkeypatch.setattr("jaxlm.data.corpora._survey", refuse)
    monkeypatch.setattr(tokenfile, "hash_file", refuse)
    monkeypatch.setattr(encoding, "write_tokens", refuse)
    monkeypatch.setattr(encoding, "train_bpe", refuse)
    second = prepare(config, cache=tmp_path)
    np.testing.assert_array_equal(first.train, second.train)
    assert first.fingerprint == second.fingerprint


def test_facts_are_forgotten_when_a_file_changes(tmp_path):
    file = tmp_path / "file"
    calls = []

    def read():
        calls.append(1)
        return {"content": file.read_text()}

    for content in ("one", "two"):
        file.write_text(content)
        remembered(tmp_path, [file], "content", read)  # too recent to be cached
        age(file, 100 + len(calls))
        assert remembered(tmp_path, [file], "content", read) == {"content": content}
        assert remembered(tmp_path, [file], "content", read) == {"content": content}
    assert len(calls) == 4
    remembered(tmp_path, [file], "another fact", read)
    assert len(calls) == 5


def test_a_change_within_the_clocks_resolution_is_not_missed(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    state = file.stat()
    assert remembered(tmp_path, [file], "", lambda: {"content": file.read_text()})
    file.write_text("two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = remembered(tmp_path, [file], "", lambda: {"content": file.read_text()})
    assert found == {"content": "two"}


SLOW_WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from jaxlm.data.tokenfile import write_tokens

def arrays():
    for part in np.array_split(np.arange(1000, dtype=np.int32), 4):
        yield part
        print("part", flush=True)
        time.sleep(float(sys.argv[2]))

write_tokens(Path(sys.argv[1]), arrays(), 1000, "ab" * 32)
"""


def start_writer(path, seconds):
    command = [sys.executable, "-c", SLOW_WRITER, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def test_killed_writers_leave_nothing_that_is_read(tmp_path):
    path = tmp_path / "x.tokens"
    for existing in (False, True):
        writer = start_writer(path, 600)
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(list(tmp_path.glob("*.partial"))) == 1
        assert (open_tokens(path, 1000, FINGERPRINT, tmp_path) is not None) == existing
        write(path)
        assert not list(tmp_path.glob("*.partial"))


def test_two_writers_at_once_both_succeed(tmp_path):
    path = tmp_path / "x.tokens"
    writers = [start_writer(path, seconds) for seconds in (0.1, 0.15)]
    assert [writer.wait(timeout=600) for writer in writers] == [0, 0]
    np.testing.assert_array_equal(open_tokens(path, 1000, FINGERPRINT, tmp_path).ids_N, IDS)
    assert not list(tmp_path.glob("*.partial"))


def test_a_map_of_the_old_file_stays_readable_when_it_is_replaced(tmp_path):
    path = tmp_path / "x.tokens"
    write(path)
    old = open_tokens(path, 1000, FINGERPRINT, tmp_path)
    write_tokens(path, [IDS[::-1]], 1000, FINGERPRINT)
    np.testing.assert_array_equal(old.ids_N, IDS)
    np.testing.assert_array_equal(open_tokens(path, 1000, FINGERPRINT, tmp_path).ids_N, IDS[::-1])


def test_only_abandoned_temporary_files_are_removed(tmp_path):
    here, alive = socket.gethostname(), os.getppid()
    kept = [f"a~{here}~{alive}~.partial", "b~elsewhere~1~.partial", "c.partial", "d.tmp"]
    gone = [f"a~{here}~{2**22 + 1}~.partial", "e~elsewhere~1~.partial"]
    for name in kept + gone:
        (tmp_path / name).touch()
    age(tmp_path / "e~elsewhere~1~.partial", 2 * 24 * 3600)
    with replacing(tmp_path / "new") as file:
        file.write(b"content")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "new"])


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path):
    """A limit on file sizes stands in for the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(UserError, match="disk is full"):
            write(tmp_path / "x.tokens")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_explained(tmp_path):
    config = configured(tmp_path)
    with pytest.raises(UserError, match="Cannot write .*\n.*run.cache"):
        prepare(config, cache=tmp_path / "text.txt" / "cache")


def test_a_failed_writer_leaves_the_old_file(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "x") as file:
        file.write(b"new")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_progress_is_silent_when_quick_and_plain_without_a_terminal(capsys, monkeypatch):
    with progress.progress_bar("encoding", 10, "tokens") as advance:
        advance(10)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.progress_bar("encoding", 10, "tokens") as advance:
        advance(10)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 0)
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0)
    with progress.progress_bar("encoding", 10, "tokens") as advance:
        advance(5)
    out, err = capsys.readouterr()
    assert out == "" and "encoding: 5 of 10 (50%) tokens" in err and "\x1b" not in err
    with progress.progress_bar("encoding", 10, "tokens", enabled=False) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")
