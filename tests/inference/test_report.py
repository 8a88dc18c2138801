"""Promises of a run's report and of the lines that end it."""

import re
import shlex

import pytest
from synthetic import FLOOR, synthetic_run

from jaxlm.config.compose import compose
from jaxlm.config.schema import identity
from jaxlm.inference.commands import overrides
from jaxlm.inference.report import results, summary_lines, write_run_report

COMMANDS = [
    [],
    ["seed=3", "data_seed=4", "precision=bfloat16"],
    ["experiment=shakespeare_cpu", "optimizer.betas=[0.8,0.9]", "optimizer.clip_norm=null"],
    ["data=text", "data.path=my, 'own' =book é.txt", "tokenizer=byte", "model.qk_norm=true"],
    ["experiment=shakespeare_gpt", "run.name=shakespeare_gpt,seed=1", "seed=1"],
    ["schedule=wsd", "train.duration=3epochs", "run.name=another"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_to_reproduce_composes_to_the_same_identity(command):
    config = compose(command)
    words = shlex.split(shlex.join(overrides(config)))
    again = compose(words)
    assert identity(again) == identity(config)
    assert again.run.name == config.run.name
    assert len(words) <= len(command) + 2


def test_the_command_of_a_plain_experiment_is_the_experiment():
    assert overrides(compose([])) == []
    assert overrides(compose(["experiment=shakespeare_cpu"])) == ["experiment=shakespeare_cpu"]
    single = ["experiment=shakespeare_heads", "job=train", "model.n_heads=2"]
    assert overrides(compose(single)) == single  # without job=train it would be the study


def report(tmp_path, records, summary, command=(), samples=("Once there was a cat.",)):
    figures = [tmp_path / "plots" / name for name in ("loss.png", "perplexity.png")]
    path = tmp_path / "report.md"
    write_run_report(path, compose(list(command)), summary, records, samples, figures)
    return path.read_text("utf-8")


def test_a_report_holds_the_result_the_figures_and_a_sample(tmp_path):
    records, summary = synthetic_run()
    text = report(tmp_path, records, summary)
    loss = summary["val_loss"]
    assert f"{loss:.4f} ± 0.0100 nats per token at step 590" in text
    assert f"| entropy floor | {FLOOR:.4f}" in text
    assert f"| above the floor | {loss - FLOOR:.4f} |" in text
    assert "531,168" in text and "22,000 tokens/s" in text and "700 MiB" in text
    assert "60.00%, top-5 85.00%" in text and "utilisation" not in text
    assert "vocabulary 1,024" in text
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == ["plots/loss.png", "plots/perplexity.png"]
    assert "```text\nOnce there was a cat.\n```" in text
    assert "python run.py\n" in text


def test_a_sample_cannot_break_out_of_its_fence(tmp_path):
    text = report(tmp_path, *synthetic_run(), samples=["a\n```\n# not a heading"])
    assert "````text\na\n```\n# not a heading\n````" in text


def test_the_best_evaluation_is_named_where_it_is_not_the_last():
    records, summary = synthetic_run()
    assert "best validation loss" not in dict(results(summary, records))
    better = summary | {"best_step": 290, "best_val_loss": 1.3}
    assert dict(results(better, records))["best validation loss"] == "1.3000 at step 290"


def test_utilisation_is_shown_where_the_devices_peak_is_known():
    records, summary = synthetic_run()
    table = dict(results(summary | {"mfu": 0.413}, records))
    assert table["model FLOP utilisation"] == "41.3%"


def test_unknown_values_are_left_out_or_named(tmp_path):
    records, summary = synthetic_run()
    nothing = summary | {"entropy_floor": None, "tokens_per_second": None, "best_step": None}
    nothing |= {"val_loss": None, "best_val_loss": None}
    assert "validation" not in dict(results(nothing, [])).keys()
    records[-1] |= {"loss": None, "perplexity": None, "standard_error": None, "accuracy": None}
    records[-1] |= {"bits_per_byte": None}
    table = dict(results(summary, records))
    assert table["validation loss"].startswith("not finite nats")
    assert "bits per byte" not in table and "above the floor" not in table
    assert "not finite" in report(tmp_path, records, summary, samples=())


def test_the_last_lines_say_where_things_are_and_what_to_type_next(tmp_path):
    records, summary = synthetic_run()
    folder = tmp_path / "my runs"
    (folder / "plots").mkdir(parents=True)
    lines = summary_lines(compose([]), summary, records, folder)
    text = "\n".join(lines)
    assert f"{summary['val_loss']:.4f} ± 0.0100" in text and "above the floor" in text
    assert f"report.md, plots/ in {folder}" in text and "samples.txt" not in text
    commands = [shlex.split(line) for line in lines if line.startswith("  python run.py")]
    for words in commands:
        compose(words[2:])
    generate, evaluate, again = commands
    assert generate[2:] == ["job=generate", f"run.dir={folder}", "job.prompt=Once"]
    assert "job=evaluate" in evaluate and again[2:] == ["seed=1", "run.name=quickstart-seed1"]


def test_an_interrupted_run_tells_how_to_resume_it(tmp_path):
    records, summary = synthetic_run()
    stopped = summary | {"status": "interrupted", "reason": "SIGTERM"}
    config = compose(["optimizer.lr=1e-4"])
    lines = summary_lines(config, stopped, records, tmp_path)
    assert "interrupted (SIGTERM) at step 590" in lines[1]
    assert lines[-1] == f"  python run.py optimizer.lr=0.0001 run.dir={tmp_path}"
    lines = summary_lines(config, stopped | {"status": "diverged"}, records, tmp_path)
    assert "job=evaluate" in lines[-1]


@pytest.mark.slow
def test_a_run_without_a_tokenizer_is_not_asked_for_text(tmp_path):
    records, summary = synthetic_run()
    config = compose(["data=tokens", "data.path=ids.bin", "data.vocab_size=64", "tokenizer=none"])
    lines = summary_lines(config, summary, records, tmp_path)
    assert not any("generate" in line for line in lines)
