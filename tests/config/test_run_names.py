"""Names that become folders are one valid path component, and run.dir belongs to the run alone."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.config.compose import compose
from jaxlm.config.run_names import MOST_BYTES, check_name
from jaxlm.host.errors import UserError
from jaxlm.study.variants import members_of


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "...", ".hidden", "a/b", "/", "/etc", "../x", "a\\b", "a\nb", "a\tb", "a\x00b",
     "\x7f", " ", " a", "a ", "-a", "--help", "a\u2028b", "a\u202eb", "\udcff", "a*", "a?", 'a"b',
     "$HOME", "`ls`", "a|b", "a>b", "x" * (MOST_BYTES + 1), "é" * (MOST_BYTES // 2 + 1)],
)  # fmt: skip
def test_a_name_that_is_not_a_path_component_is_refused(name):
    with pytest.raises(UserError, match="run.name") as refused:
        compose([f"run.name={name}"])
    assert len(str(refused.value).splitlines()) <= 3
    assert "\0" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "name",
    ["a", "heads8", "my run", "lr=0.001,batch_size=16", "betas=[0.9,0.95]", "24x2-3.8e11-seed0",
     "quickstart,optimizer.lr=1e-3", "x" * 200,
     "é", "日本語", "ру́сский", "می‌خواهم", "50%", "a@b+c"],
)  # fmt: skip
def test_usual_names_in_any_script_are_accepted(name):
    assert compose([f"run.name={name}"]).run.dir == f"runs/{name}"


def test_a_null_name_defaults_to_the_experiment():
    assert compose(["run.name=null"]).run.name == "quickstart"


@given(st.text(max_size=250))
def test_an_accepted_name_can_be_created_as_a_single_folder(tmp_path_factory, name):
    try:
        check_name(name, "run.name")
    except UserError:
        return
    folder = tmp_path_factory.mktemp("names", numbered=True)
    (folder / name).mkdir()
    assert (folder / name).parent == folder and os.listdir(folder) == [name]


@pytest.mark.parametrize("variant", ["", "..", "a/b", "a\nb", "-x", "v" * 200])
def test_names_of_variants_are_also_checked(variant):
    with pytest.raises(UserError, match="variant"):
        members_of(compose([]), {variant: ["optimizer.lr=0.1"]}, [0])


@pytest.mark.parametrize("job", ["train", "study", "ladder"])
@pytest.mark.parametrize(
    "folder", ["", " ", "/", ".", "..", "runs", "runs/", "./runs/x/..", "~", ".cache"]
)
def test_run_dir_is_never_a_shared_folder(folder, job):
    experiment = ["experiment=scaling_ladder"] if job == "ladder" else []
    with pytest.raises(UserError, match=r"run\.dir"):
        compose([*experiment, f"job={job}", f"run.dir={folder}", "run.overwrite=true"])


def test_run_dir_neither_is_the_home_nor_contains_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home" / "work")
    os.symlink(tmp_path / "home", tmp_path / "link")
    for folder in (tmp_path / "home", tmp_path, tmp_path / "link", Path("~"), Path("../..")):
        with pytest.raises(UserError, match=r"run\.dir"):
            compose([f"run.dir={folder}"])
    assert compose(["run.dir=~/run"]).run.dir == str(tmp_path / "home" / "run")


def test_a_run_can_be_opened_from_within_its_folder():
    assert compose(["job=evaluate", "run.dir=."]).run.dir == "."
    with pytest.raises(UserError, match="run.dir is empty"):
        compose(["job=evaluate", "run.dir="])


@pytest.mark.parametrize("key", ["run.cache", "data.path", "tokenizer.path"])
def test_paths_that_no_file_can_have_are_refused(key):
    for path in ("a\0b", "x" * 300, "/".join(["abc"] * 2000)):
        with pytest.raises(UserError, match=f"{key}.*not a valid path"):
            compose(["tokenizer=pretrained", f"{key}={path}"])
