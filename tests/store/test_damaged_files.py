"""Damaged files of a run: a clear error, and a report that does not stop."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import write_run, write_study

from jaxlm.cli import main as cli
from jaxlm.compare.reading import read_run, read_runs, read_study_file
from jaxlm.config.compose import from_file
from jaxlm.data.cache import remembered
from jaxlm.host.checked import Damaged, Unfit, parse_json, parse_yaml, read_json, record
from jaxlm.host.console import Console
from jaxlm.host.errors import UserError
from jaxlm.store import manifest
from jaxlm.store.directory import RunDirectory, read_study
from jaxlm.store.lock import WriterLock
from jaxlm.store.manifest import NotWhole
from jaxlm.study import process
from jaxlm.study import runner as study

RAW = {
    "empty": b"", "blank": b" \n", "cut": b'{"a": ', "list": b"[]", "null": b"null", "number": b"5",
    "text": b'"x"', "utf-16": "{}".encode("utf-16"), "latin-1": b"\xe9", "zeros": b"\0" * 99,
    "nan": b'{"a": NaN}', "deep": b"[" * 100_000, "deep objects": b'{"a":' * 50_000,
    "twice": b'{"a": 1, "a": 2}', "half a character": b'{"a": "\\ud800"}',
    "long number": b'{"a": ' + b"1" * 10_000 + b"}",
}  # fmt: skip
WRONG = [None, True, -1, 1.5, 10**30, "", "x", [], [1], {}, {"a": 1}, [[1]], [{}], "../../x"]
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.fixture
def run(tmp_path):
    return RunDirectory(write_run(tmp_path / "run"))


def in_words(function, *arguments):
    """The error's lines, or None if the function returned."""
    try:
        function(*arguments)
    except UserError as error:
        assert 0 < len(str(error)) < 1500 and len(str(error).splitlines()) <= 4
        return str(error)
    return None


# -- reading JSON and YAML -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in RAW if k not in ("null", "list", "number", "text")])
def test_only_strict_json_is_accepted(kind):
    with pytest.raises(Unfit):
        parse_json(RAW[kind])


@pytest.mark.parametrize(
    "text",
    ["", "- a", "5", "a: &x [1]\nb: *x", "a: !!python/object/apply:os.system [ls]", "a: !!binary x",
     "a: 1\na: [", "1: 2", "a: b: c", "---\na: 1\n---\nb: 2", "a: " + "[" * 60 + "]" * 60,
     "seed: " + "1" * 5000],
)  # fmt: skip
def test_only_yaml_that_is_a_plain_mapping_is_accepted(text):
    with pytest.raises(Unfit):
        parse_yaml(text.encode())


def test_a_missing_file_is_none_and_a_pipe_or_folder_is_refused(tmp_path):
    assert read_json(tmp_path / "none", record({})) is None
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(Damaged, match=name):
            read_json(tmp_path / name, record({}))


@given(ANY_JSON)
def test_plain_json_reads_back(value):
    assert parse_json(json.dumps(value).encode()) == value


# -- the files of a run ----------------------------------------------------------------------------

READERS = {
    "summary.json": lambda path: RunDirectory(path).read_summary(),
    "environment.json": lambda path: RunDirectory(path).read_environment(),
    "metrics.jsonl": lambda path: RunDirectory(path).records(),
    "config.yaml": lambda path: from_file(path / "config.yaml"),
}


@pytest.mark.parametrize("name", list(READERS))
@pytest.mark.parametrize("kind", list(RAW))
def test_a_damaged_file_is_named_in_one_error(run, name, kind):
    end = b"\n" if name == "metrics.jsonl" else b""
    (run.path / name).write_bytes(RAW[kind] + end)
    said = in_words(READERS[name], run.path)
    assert said is not None and name in said
    assert in_words(read_run, run.path) is not None


@pytest.mark.parametrize("name", ["summary.json", "environment.json", "metrics.jsonl"])
def test_any_field_of_a_wrong_type_is_an_error_or_does_no_harm(run, name):
    path = run.path / name
    lines = path.read_text().splitlines() if name == "metrics.jsonl" else [path.read_text()]
    whole = json.loads(lines[-1])
    for field in whole:
        for number, value in enumerate(WRONG):
            changed = json.dumps(whole | {field: value})
            path.write_text("\n".join([*lines[:-1], changed]) + "\n")
            refused = in_words(READERS[name], run.path)
            if refused is None and number % 3 == 0:
                in_words(read_run, run.path)


@pytest.mark.slow
@given(key=st.sampled_from(["seed", "model", "job", "run", "study", "optimizer"]), value=ANY_JSON)
def test_any_section_of_a_configuration_may_be_anything(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "configured"
    if not path.exists():
        write_run(path)
        (path / "kept").write_bytes((path / "config.yaml").read_bytes())
    import yaml

    tree = yaml.safe_load((path / "kept").read_bytes()) | {key: value}
    (path / "config.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    in_words(from_file, path / "config.yaml")
    in_words(read_run, path)


@pytest.mark.parametrize("kind", list(RAW))
def test_a_damaged_lock_has_no_holder(run, kind):
    (run.path / ".lock").write_bytes(RAW[kind])
    with WriterLock(run.path):
        pass


@pytest.mark.parametrize("field", ["host", "pid", "boot", "token", "process_started"])
def test_a_lock_of_wrong_types_has_its_holder_or_none(run, field):
    for value in WRONG:
        holder = {"host": "h", "pid": 1, "boot": "b", "token": "t", "process_started": "1"}
        (run.path / ".lock").write_text(json.dumps(holder | {field: value}))
        os.utime(run.path / ".lock", (1, 1))
        lock = WriterLock(run.path)
        assert lock._read() is None or lock._read()["pid"] == 1


@pytest.mark.parametrize("body", [{"format_version": "1"}, {"format_version": 1, "files": []},
    {"format_version": 1, "step": 1, "best": True, "files": {"../x": {"bytes": 1, "sha256": ""}}},
    {"format_version": 1, "step": [], "best": 0, "files": {}}])  # fmt: skip
def test_a_sealed_manifest_of_wrong_types_is_not_whole(tmp_path, body):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "manifest.json").write_bytes(manifest.sealed(body))
    with pytest.raises((NotWhole, UserError)):
        manifest.verify(tmp_path / "1")


@pytest.mark.parametrize("kind", list(RAW))
def test_a_damaged_manifest_is_not_whole(tmp_path, kind):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "manifest.json").write_bytes(RAW[kind])
    assert manifest.whole_steps(tmp_path) == {}


@pytest.mark.parametrize("kind", ["pipe", "folder", "gone", "link", "cut"])
def test_a_checkpoint_with_a_file_that_is_not_one_is_not_whole(tmp_path, kind):
    step, file = tmp_path / "1", tmp_path / "1" / "config.yaml"
    step.mkdir()
    file.write_text("a: 1\n")
    manifest.write(step, 1, best=False)
    assert list(manifest.whole_steps(tmp_path)) == [1]
    file.unlink()
    damage = {
        "pipe": lambda: os.mkfifo(file),
        "folder": file.mkdir,
        "gone": lambda: None,
        "link": lambda: file.symlink_to("nowhere"),
        "cut": lambda: file.write_text("a"),
    }
    damage[kind]()
    assert manifest.whole_steps(tmp_path) == {}
    for check in (lambda: manifest.verify(step), lambda: manifest.verified_file(step, file.name)):
        with pytest.raises(NotWhole, match="config.yaml"):
            check()


def test_only_plain_numbers_are_steps(tmp_path):
    for name in ("5", "007", "٣", "1e3", "-1", "1.orbax-checkpoint-tmp", "9" * 30):
        (tmp_path / name).mkdir()
    assert manifest.step_folders(tmp_path) == [5]


@pytest.mark.parametrize("kind", list(RAW))
def test_a_damaged_fact_is_computed_again(tmp_path, kind):
    def known():
        return remembered(tmp_path, [], "facts", lambda: {"sha256": "right"})

    assert known() == known()
    (path,) = (tmp_path / "facts").iterdir()
    for content in (RAW[kind], b'{"sha256": 5}', b"{}"):
        path.write_bytes(content)
        assert known() == {"sha256": "right"}


@pytest.mark.parametrize("kind", list(RAW))
def test_a_damaged_newest_record_is_ignored(run, kind):
    (run.path / "metrics.jsonl").write_bytes(RAW[kind] + b"\n")
    assert process.last_record(run.path) == {}


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_a_log_that_cannot_be_written_is_one_error(tmp_path, kind):
    path = tmp_path / "log.txt"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[
        kind
    ]()
    said = in_words(Console, path)
    assert said.startswith(f"cannot write {path}: ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_is_one_error(tmp_path):
    console = Console(tmp_path / "log.txt")
    console.log.close()
    console.log = open("/dev/full", "w", 1)
    assert in_words(console.say, "a line").startswith("cannot write /dev/full: ")


# -- studies and reports of many -------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(RAW))
def test_a_damaged_study_json_is_one_error_or_is_rewritten(tmp_path, kind):
    write_study(tmp_path / "s", {"a": [2.0], "b": [1.9]})
    (tmp_path / "s" / "study.json").write_bytes(RAW[kind])
    for reader in (read_study, read_study_file, study.finished_runs):
        assert "study.json" in in_words(reader, tmp_path / "s")
    assert study._rows_before(tmp_path / "s") == {}
    (said,) = study._damage(tmp_path / "s")
    assert said.startswith("warning: ") and "study.json" in said


@pytest.mark.parametrize("change", [{"runs": 5}, {"runs": [5]}, {"runs": [{"path": "a"}]},
    {"runs": [{"variant": "a", "path": "../../etc"}]}, {"definition": []},
    {"definition": {"claims": [5]}}, {"definition": {"variants": {"a": 5}}}])  # fmt: skip
def test_a_study_json_of_wrong_types_is_one_error(tmp_path, change):
    write_study(tmp_path / "s", {"a": [2.0]})
    path = tmp_path / "s" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "study.json" in in_words(read_study, tmp_path / "s")


@pytest.mark.parametrize(
    "name", ["summary.json", "environment.json", "metrics.jsonl", "config.yaml"]
)
@pytest.mark.parametrize("kind", ["list", "cut", "deep", "latin-1", "twice"])
def test_one_bad_file_of_one_run_never_stops_a_report_of_many(tmp_path, name, kind):
    paths = [write_run(tmp_path / letter, seed=i) for i, letter in enumerate("abc")]
    (paths[1] / name).write_bytes(RAW[kind] + b"\n")
    runs, left_out = read_runs(paths)
    assert [run.path for run in runs] == [paths[0], paths[2]]
    assert [one.path for one in left_out] == [paths[1]] and left_out[0].reason


def test_the_log_of_many_runs_names_the_bad_one_and_reports_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i, letter in enumerate("abc"):
        write_run(tmp_path / "runs" / letter, seed=i)
    (tmp_path / "runs" / "b" / "summary.json").write_text("[]")
    assert cli.main(["job=report", "job.runs=runs/**"]) == 0
    shown = capsys.readouterr()
    assert "runs/b is skipped" in shown.err and len(shown.err.splitlines()) == 1
    assert "seed 0" in shown.out and "seed 2" in shown.out
