"""Whatever the name of a file or folder, the program works or reports the problem in a line."""

import io
import os
import shlex
import subprocess
import sys

import pytest
from configured import configured
from synthetic import synthetic_run

from jaxlm.cli import main as cli
from jaxlm.config.compose import cache_folder, compose, from_file, to_yaml
from jaxlm.data.cache import remembered, replacing
from jaxlm.data.prepare import prepare
from jaxlm.host import names
from jaxlm.host.console import Console, print_anything
from jaxlm.host.errors import UserError
from jaxlm.inference.commands import next_commands
from jaxlm.inference.report import write_run_report
from jaxlm.store.directory import RunDirectory

LATIN1 = os.fsdecode(b"caf\xe9.txt")
NAMES = [
    LATIN1,
    "caf\u00e9.txt",
    "cafe\u0301.txt",
    "\U0001f98a.txt",
    "two\nlines.txt",
    "-x.txt",
    "~nobody-of-this-name",
    "${oc.env:HOME}.txt",
    "${unclosed",
    "back\\${slash}\\.txt",
    "100%d {0} 'q' \"r\" $(x) `y`.txt",
    " blank ",
    "\x1b[31mred.txt",
    "line\u2028separator",
    "a'\\" + LATIN1,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_kept_as_typed(tmp_path, name):
    config = compose([f"data.path={name}"])
    assert config.data.path == name
    (tmp_path / "config.yaml").write_bytes(to_yaml(config).encode())
    assert from_file(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_corpus_is_read_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_text("a text, and more of it")
    for path in (tmp_path / name, tmp_path):
        dataset = prepare(configured("text", path=path), cache=tmp_path / ".cache")
        assert len(dataset.train) + len(dataset.validation) == 22
        assert "read 1 file" in dataset.notes[0]


@pytest.mark.parametrize("name", [*NAMES, "next\x85line"], ids=ascii)
def test_a_name_is_shown_on_one_line_and_quoted_for_a_shell(name):
    line = names.shown(name)
    assert len(line.splitlines()) == 1 and line.encode() and "\x1b" not in line
    command = f"printf %s {names.quoted(name)}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert found == os.fsencode(f"./{name}" if name.startswith("-") else name)
    if name == line and not name.startswith("-"):
        assert shlex.split(names.quoted(name)) == [name]


def test_paths_that_cannot_be_read_are_named_in_a_line_or_two(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "file").write_text("x")
    monkeypatch.delenv("HOME", raising=False)
    for path, problem in (
        ("~nobody-of-this-name/x.txt", "No such file"),
        (tmp_path / "gone.txt", "No such file"),
        (tmp_path / "file" / "x.txt", "No such file"),
        (tmp_path / ("x" * 300), "too long"),
        (tmp_path / "pipe.txt", "a device or a pipe; .* is read more than once"),
        ("/dev/null", "a device or a pipe; .* is read more than once"),
        (tmp_path / "dangling.txt", "a link to nowhere, which does not exist"),
        (tmp_path / "loop.txt", "symbolic links"),
        ("nul\0.txt", "null byte"),
        ("", "empty"),
        (tmp_path / f"two\nlines{LATIN1}", r"two\\nlinescaf\\xe9.txt"),
    ):
        for corpus, tokenizer in (("text", "byte"), ("tokens", "none")):
            ids = {"vocab_size": 300} if corpus == "tokens" else {}
            config = configured(corpus, tokenizer, path=str(path), **ids)
            with pytest.raises(UserError, match=problem) as error:
                prepare(config, cache=tmp_path / ".cache")
            assert len(str(error.value).splitlines()) <= 3


def test_a_folder_of_undecodable_names_says_what_it_skips(tmp_path):
    (tmp_path / LATIN1).write_text("text")
    (tmp_path / os.fsdecode(b"f\xe9.png")).write_text("")
    notes = prepare(configured("text", path=tmp_path), cache=tmp_path / ".cache").notes
    assert "skipped 1 file: f\\xe9.png (an image)" in notes[0]


@pytest.mark.parametrize("encoding", ["ascii", "latin1", "utf-8"])
def test_everything_can_be_printed(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    print_anything()
    for name in NAMES:
        print(name, "2.94 ± 0.01 → ×")
    monkeypatch.undo()
    assert stream.buffer.getvalue().count(b"2.94") == len(NAMES)


def test_errors_can_be_printed_and_notes_logged(tmp_path, capsys):
    assert cli.main([f"data.path={tmp_path / LATIN1}", f"run.dir={tmp_path / 'run'}"]) == 2
    assert "caf\\xe9.txt" in capsys.readouterr().err
    console = Console(tmp_path / "log.txt")
    print_anything()
    console.say(LATIN1)
    console.close()
    assert "caf" in (tmp_path / "log.txt").read_text("utf-8")


def test_a_report_names_an_undecodable_file(tmp_path):
    config = compose([f"data.path={LATIN1}", "tokenizer=byte", "train.duration=2"])
    records, summary = synthetic_run()
    write_run_report(tmp_path / "report.md", config, summary, records, [LATIN1], [])
    RunDirectory(tmp_path).write_text("samples.txt", LATIN1)
    report = (tmp_path / "report.md").read_text("utf-8")
    assert "- **data**: caf\\xe9.txt;" in report
    assert "caf" in (tmp_path / "samples.txt").read_text("utf-8")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_printed_command_reaches_the_program_unchanged(tmp_path, name, monkeypatch):
    config = compose([f"data.path={name}", "tokenizer=byte", "train.duration=2"])
    records, summary = synthetic_run()
    summary["status"] = "interrupted"
    commands = [line for line, _ in next_commands(config, summary, tmp_path)]
    monkeypatch.setattr(sys, "argv", ["run.py", f"data.path={name}"])
    RunDirectory(tmp_path).write_environment([])
    commands.append("python " + RunDirectory(tmp_path).read_environment()["starts"][0]["command"])
    for line in commands:
        assert len(line.splitlines()) == 1 and line.encode()
        script = f"python() {{ printf '%s\\0' \"$@\"; }}; {line}"
        found = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
        words = [word for word in found.split(b"\0") if word.startswith(b"data.path=")]
        assert words in ([], [b"data.path=" + os.fsencode(name)])
    assert words and any("data.path" in line for line in commands[:-1])


def test_a_folder_that_libraries_cannot_name_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"run.dir=.*caf\\xe9.* not UTF-8.*\nSet run.dir"):
        RunDirectory(folder).check_writable()
    assert not folder.exists()
    with pytest.raises(UserError, match=r"run.cache=.*caf\\xe9.* not UTF-8"):
        cache_folder(compose([f"run.cache={folder}"]))


def test_a_cache_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "x", tmp_path / ("y" * 300) / "x", tmp_path / ("z" * 300)):
        with pytest.raises(UserError, match="Cannot write .*\nSet run.cache"), replacing(place):
            pass


def test_cached_facts_are_trusted_only_if_whole(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("text")
    os.utime(file, (1, 1))
    answers = iter([{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}, {"a": 5}])

    def ask():
        return remembered(tmp_path, [file], "facts", lambda: next(answers))

    assert ask() == ask() == {"a": 1}
    [kept] = (tmp_path / "facts").iterdir()
    for number, content in enumerate(("[]", "3", "{}", '{"result": {"a": 9}, "sha256": ""}'), 2):
        kept.write_text(content)
        assert ask() == ask() == {"a": number}


def test_a_comparison_reads_runs_of_undecodable_corpora(tmp_path):
    from jaxlm.compare.reading import _keys

    config = compose([f"data.path={LATIN1}", "tokenizer=byte"])
    RunDirectory(tmp_path).write_config(to_yaml(config))
    keys, _ = _keys(tmp_path)
    assert keys["data.path"] == LATIN1


def test_a_working_folder_that_was_deleted_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["data.path=x.txt"]) == 2
    assert "working folder" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["run.dir", "run.cache"])
def test_a_folder_of_an_impossible_name_is_one_error(tmp_path, key, capsys):
    (tmp_path / "loop").symlink_to("loop")
    for name, problem in (("x" * 300, "too long"), (tmp_path / "loop" / "y", "links"), ("", "")):
        assert cli.main([f"{key}={name}"]) == 2
        said = capsys.readouterr().err
        assert key in said and problem in said and len(said.splitlines()) <= 3


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name/x", LATIN1, "two\nlines"])
def test_what_a_job_cannot_find_is_one_error(tmp_path, name, capsys):
    for words in (
        ["job=report", f"job.runs={name}"],
        ["job=evaluate", f"job.checkpoint={name}"],
        ["tokenizer=pretrained", f"tokenizer.path={name}", f"run.cache={tmp_path / 'cache'}"],
    ):
        assert cli.main([*words, f"run.dir={tmp_path / 'run'}"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and len(said.splitlines()) <= 4
