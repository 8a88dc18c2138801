"""docs/extending.md: every example is applied to a copy of the tree and run."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
EXAMPLES = {
    section.splitlines()[0]: section for section in PAGE.split("\n## ")[1:] if "```diff" in section
}
PRODUCT = ("jaxlm", "torchref", "scaling")
MOST_FILES, MOST_LINES = 3, 30


def hunks(section):
    """(file, lines) of every hunk in the blocks of an example."""
    found = []
    for block in re.findall(r"```diff\n(.*?)```", section, re.S):
        for part in re.split(r"^@@ ", block, flags=re.M)[1:]:
            name, _, lines = part.partition("\n")
            found.append((name, lines.rstrip("\n").splitlines()))
    return found


def applied(text, lines, name):
    """The text of a file with one hunk applied."""
    old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    assert text.count(old) == 1, f"{name} does not have these lines exactly once:\n{old}"
    return text.replace(old, new)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the tree with all examples applied."""
    tree = tmp_path_factory.mktemp("extended")
    for name in (*PRODUCT, "configs", "parity_tests", "docs/scaling_ladder"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tree)
    for section in EXAMPLES.values():
        for name, lines in hunks(section):
            file = tree / name
            file.write_text(applied(file.read_text("utf-8"), lines, name), "utf-8")
    return tree


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_short(title):
    found = hunks(EXAMPLES[title])
    product = {name for name, _ in found if name.startswith(PRODUCT)}
    assert 0 < len(product) <= MOST_FILES
    assert sum(line.startswith("+") for _, lines in found for line in lines) <= MOST_LINES


def test_each_kind_of_extension_has_an_example():
    for word in ("corpus", "optimizer", "schedule", "tracker", "feed-forward", "switch", "law"):
        assert any(word in title for title in EXAMPLES), word


def test_the_code_of_the_examples_is_clean(extended):
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", ROOT / "pyproject.toml"]
        done = subprocess.run([*command, *PRODUCT], cwd=extended, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_does_what_it_says(extended, title):
    (block,) = re.findall(r"```sh\n(.*?)```", EXAMPLES[title], re.S)
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[:2] == ["python", "run.py"]
        command = [sys.executable, *words[1:]]
        done = subprocess.run(command, cwd=extended, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    expected = {"CSV": "runs/csv/csv/train.csv", "Kaplan": "kaplan/report.md"}
    for word, file in expected.items():
        if word in EXAMPLES[title]:
            assert (extended / file).stat().st_size > 0
