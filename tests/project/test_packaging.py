"""What a new user receives: a wheel that works elsewhere, and documentation that is correct."""

import os
import re
import shlex
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from jaxlm.config.compose import check_override, compose, groups

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(file.relative_to(ROOT)): file.read_text("utf-8")
    for file in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}


@pytest.mark.slow
def test_a_wheel_carries_the_configurations_and_works_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    assert {f"{package}/py.typed" for package in ("jaxlm", "torchref", "scaling")} <= {*packed}
    # The libraries come from this environment, but the package only from the wheel.
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    libraries = [p for p in sys.path if p.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", wheel]
    subprocess.run(install, check=True)
    words = ["scale=smoke", "run.name=away", "train.duration=2", "run.samples=0"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    where = "import jaxlm; print(jaxlm.__file__)"
    found = subprocess.run([python, "-c", where], cwd=tmp_path, capture_output=True, text=True)
    assert str(site) in found.stdout
    done = subprocess.run(
        [python, "-m", "jaxlm", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "away" / "report.md").exists()


def commands():
    """Every `python run.py` in the shell blocks of the README and of docs/.

    The commands in extending.md require its examples; test_extending.py runs them.
    """
    pages = (text for page, text in PAGES.items() if page != "docs/extending.md")
    blocks = re.findall(r"```sh\n(.*?)```", "\n".join(pages), re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("python run.py")))


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_documentation_composes(command):
    words = shlex.split(command)[2:]
    if words and words[0] in ("--help", "-m", "--multirun"):
        for word in words[1:]:
            if "=" in word:
                check_override(word)
    else:
        compose(words)


def test_the_commands_in_the_documentation_are_found():
    assert len(commands()) >= 18
    assert "python run.py" in commands()


def test_the_page_of_experiments_lists_all_of_them():
    for name in groups()["experiment"]:
        assert f"`{name}`" in PAGES["docs/experiments.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists(page):
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page]):
        assert ((ROOT / page).parent / name).exists(), name


def test_measurements_in_the_readme_are_also_in_measured_md():
    rows = [line for line in PAGES["README.md"].splitlines() if "](benchmarks/results/" in line]
    assert len(rows) == 3
    for row in rows:
        assert row.replace("](", "](../") in PAGES["docs/measured.md"]
