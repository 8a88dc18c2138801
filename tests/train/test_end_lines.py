"""Promises of the commands printed at the end of a run: each works when copied into a shell."""

import io
import shlex

import pytest
from rich.console import Console as RichConsole
from synthetic import synthetic_run

from jaxlm.config.compose import compose
from jaxlm.config.schema import identity, operation
from jaxlm.host.console import Console
from jaxlm.inference.report import summary_lines, write_run_report

RUNS = [
    ["backend=torch", "torch.compile=false", "torch.device=cpu"],
    ["backend=torch", "run.name=mine", "run.cache=/tmp/a cache", "train.log_every=1"],
    ["run.dir=/tmp/my runs/it's $HOME/x", "run.name=x", "tracker=tensorboard"],
    ["experiment=shakespeare_gpt", "scale=smoke", "parallel.data=1", "train.grad_accumulation=2"],
    ["experiment=shakespeare_heads", "job=train", "scale=cpu", "seed=42", "run.name=h-seed42"],
    ["data=text", "data.path=my, 'own' = book é.txt", "tokenizer=byte", "run.samples=0"],
    ["run.name=s_lr=0.001_seed=1", "seed=1", "train.keep_checkpoints=5", "run.stop_at=3"],
    ["data=tokens", "data.path=ids.bin", "data.vocab_size=64", "tokenizer=none", "parallel=pmap"],
]


def commands(config, folder, **changes):
    """The words after `python run.py` of each printed command."""
    records, summary = synthetic_run()
    lines = summary_lines(config, summary | changes, records, folder)
    found = [shlex.split(line) for line in lines[lines.index("next:") + 1 :]]
    assert all(words[:2] == ["python", "run.py"] for words in found)
    return [words[2:] for words in found]


def how(config):
    """Operation without names, folders and keys that belong to a single start."""
    half = operation(config)
    for part in ("job", "study", "debug"):
        half.pop(part, None)
    kept = ("cache", "samples")
    return half | {"run": {name: half["run"][name] for name in kept}}


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS)
def test_every_printed_command_finds_the_run_and_computes_as_the_run_did(words):
    config = compose(words)
    *opening, again = commands(config, config.run.dir)
    for command in opening:
        opened = compose(command)
        assert opened.job.name in ("generate", "evaluate")
        assert opened.run.dir == config.run.dir
        for part in ("backend", "torch", "parallel"):
            assert getattr(opened, part) == getattr(config, part), part
        assert opened.run.cache == config.run.cache
    other = compose(again)
    assert other.job.name == "train" and other.seed == config.seed + 1
    assert identity(other) | {"seed": 0, "data_seed": 0} == identity(config) | {
        "seed": 0, "data_seed": 0,
    }  # fmt: skip
    assert how(other) == how(config)
    assert other.run.dir != config.run.dir and other.run.stop_at is None
    assert f"seed{config.seed}-seed" not in other.run.name


@pytest.mark.parametrize("words", RUNS)
def test_the_resuming_command_describes_the_same_run(words):
    config = compose(words)
    again = compose(commands(config, config.run.dir, status="interrupted")[-1])
    assert identity(again) == identity(config) and how(again) == how(config)
    assert (again.run.dir, again.run.name) == (config.run.dir, config.run.name)
    assert again.run.stop_at is None


@pytest.mark.slow
def test_another_seed_gets_its_own_folder_beside_the_run(tmp_path):
    config = compose([f"run.dir={tmp_path / 'out' / 'x'}", "run.name=x"])
    assert compose(commands(config, config.run.dir)[-1]).run.dir == str(
        tmp_path / "out" / "x-seed1"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_text("{}")  # a study's folder takes no other runs
    assert compose(commands(config, config.run.dir)[-1]).run.dir == "runs/x-seed1"


def test_no_command_is_offered_that_needs_a_missing_checkpoint(tmp_path):
    config, nothing = compose([]), {"best_step": None, "best_val_loss": None}
    found = commands(config, tmp_path, **nothing)
    assert not any("job.checkpoint=best" in words for words in found)
    assert any("job=evaluate" in words for words in found)  # the last one
    records, summary = synthetic_run()
    lines = summary_lines(config, summary | nothing | {"status": "diverged"}, records, tmp_path)
    assert "next:" not in lines


def test_the_report_keeps_how_the_run_was_computed(tmp_path):
    records, summary = synthetic_run()
    config = compose(["backend=torch", "torch.compile=false", f"run.dir={tmp_path}"])
    write_run_report(tmp_path / "report.md", config, summary, records, [], [])
    text = (tmp_path / "report.md").read_text("utf-8")
    blocks = [block.split("```")[0] for block in text.split("```sh\n")[1:]]
    found = [shlex.split(line, comments=True) for b in blocks for line in b.strip().splitlines()]
    assert len(found) == 4
    for words in found:
        again = compose(words[2:])
        assert (again.backend, again.torch.compile) == ("torch", False)


def test_lines_are_not_broken_in_a_narrow_terminal(monkeypatch):
    seen = io.StringIO()
    console, text = (
        Console(),
        "  python run.py " + " ".join(f"model.key{n}=:x:[b]" for n in range(30)),
    )
    terminal = RichConsole(file=seen, width=40, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "terminal", True)
    monkeypatch.setattr("rich.get_console", lambda: terminal)
    console.progress(0.5, {"step": "1/2"})
    console.say(text)
    console.close()
    assert text in seen.getvalue()


def test_the_log_keeps_lines_whole(tmp_path):
    console = Console(tmp_path / "log.txt")
    console.say("a" * 500)
    console.close()
    assert "a" * 500 in (tmp_path / "log.txt").read_text("utf-8")
