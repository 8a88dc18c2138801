"""Promises of job=study: a study is data, and is checked, planned and kept together."""

import json
import signal
import sys
import time
import types
from pathlib import Path

import pytest

from jaxlm.cli import main as cli
from jaxlm.compare.texts.specimens import write_specimens
from jaxlm.config import compose
from jaxlm.config.compose import to_yaml
from jaxlm.host.errors import UserError
from jaxlm.store.directory import RunDirectory
from jaxlm.study import job as studies
from jaxlm.study import memory_limit as limit
from jaxlm.study import process
from jaxlm.study import runner as study


class Trained:
    """A process that trains nothing: its runs finish after two polls, with the outcome `said`."""

    said: dict = {}
    running: list = []
    started: list = []
    most = 0

    def __init__(self, runs, errors, slot=0, slots=1):
        self.configs = [compose.compose(list(words)) for words in runs]
        self.looks, self.seconds, self.signals, self.slot = 0, 1.0, [], slot
        self.name = self.configs[0].run.name
        Trained.started.append([config.run.name for config in self.configs])
        Trained.running.append(self)
        Trained.most = max(Trained.most, len(Trained.running))

    def status(self):
        self.looks += 1
        return None if self.looks < 3 and not self.signals else 0

    def signal(self, number):
        self.signals.append(number)

    def end(self):
        Trained.running.remove(self)
        return [self._end(config) for config in self.configs]

    def _end(self, config):
        said = self.said.get(config.run.name, (0, ""))
        status, errors = said(len(self.configs)) if callable(said) else said
        run = RunDirectory(config.run.dir)
        run.check_writable()
        run.write_config(to_yaml(config))
        stopped = "interrupted" if self.signals else "finished"
        if status == 0:
            run.write_summary({"status": stopped, "val_loss": 2.0, "wall_seconds": 36.0, "step": 1})
        return status, errors


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Studies in an empty folder, with stand-ins for processes and the report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "Process", Trained)
    monkeypatch.setattr(study, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(Trained, "said", {})
    monkeypatch.setattr(Trained, "running", [])
    monkeypatch.setattr(Trained, "started", [])
    monkeypatch.setattr(Trained, "most", 0)
    reports = []
    stand_in = types.ModuleType("jaxlm.compare.report")

    def write_report(runs, out, *, specimens):
        reports.append((runs, out))
        specimens_of.append(specimens)
        return out / "report.md"

    specimens_of = []
    stand_in.write_report = write_report
    monkeypatch.setitem(sys.modules, "jaxlm.compare.report", stand_in)
    return types.SimpleNamespace(
        process=Trained, reports=reports, specimens=specimens_of, folder=tmp_path
    )


def run(*words, name="s"):
    return cli.main(["job=study", "scale=smoke", f"run.name={name}", *words])


def rows(name="s"):
    found = json.loads(Path(f"runs/{name}/study.json").read_text("utf-8"))
    return {(row["variant"], row["seed"]): row for row in found["runs"]}


AXIS = "study.axes.optimizer.lr=[1e-3,2e-3]"


@pytest.mark.slow
def test_the_report_measures_as_many_texts_as_requested(trained):
    run(AXIS, "study.specimens=5")
    run(AXIS, "study.specimens=2", name="t")
    run(AXIS, "study.specimens=0", name="u")
    asked = [found and found.keywords for found in trained.specimens]
    assert asked == [{"samples": 3, "measured": 5}, {"samples": 2, "measured": 2}, None]
    assert trained.specimens[0].func is write_specimens


def test_an_unquoted_variant_gets_advice_on_quoting(trained, capsys):
    assert run("study.variants.wide=[model.d_model=9]") == 2
    assert "study.variants.wide=" in capsys.readouterr().err.splitlines()[-1]


# -- what a study is -----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_experiment_of_ten_lines_is_a_study(trained, monkeypatch, capsys):
    folder = trained.folder / "configs"
    for file in compose.config_folder().rglob("*.yaml"):
        place = folder / file.relative_to(compose.config_folder())
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    text = """\
# @package _global_
# Which width?
defaults:
  - override /job: study
study:
  question: Which width?
  variants: {narrow: [model.d_model=16], wide: [model.d_model=32, optimizer=lion]}
  seeds: [0, 1]
"""
    assert len(text.splitlines()) <= 10
    (folder / "experiment" / "widths.yaml").write_text(text)
    monkeypatch.setattr(compose, "config_folder", lambda: folder)
    assert cli.main(["experiment=widths", "scale=smoke", "study.seeds=[0,1]"]) == 0
    found = json.loads(Path("runs/widths/study.json").read_text("utf-8"))
    assert [(row["variant"], row["seed"]) for row in found["runs"]] == [
        ("narrow", 0), ("narrow", 1), ("wide", 0), ("wide", 1),
    ]  # fmt: skip
    definition = found["definition"]
    assert definition["question"] == "Which width?" and definition["baseline"] == "narrow"
    assert definition["experiment"] == "widths" and definition["command"].startswith("python ")
    assert definition["variants"]["wide"] == ["model.d_model=32", "optimizer=lion"]
    wide = compose.from_file(Path("runs/widths/wide/seed1/config.yaml"))
    assert (wide.model.d_model, wide.optimizer.name, wide.seed) == (32, "lion", 1)
    assert wide.study.question == "Which width?" and wide.job.name == "train"
    assert trained.reports == [(Path("runs/widths"), Path("runs/widths"))]
    assert cli.main(["experiment=widths", "scale=smoke", "study.seeds=[0,1]"]) == 0
    assert "4 runs, 4 of them already done" in capsys.readouterr().out
    assert compose.compose(["experiment=widths", "job=train"]).job.name == "train"


def variants(*words):
    config = compose.compose(["job=study", *words])
    return studies.variants_of(config, studies.axes_of(config.study))


def test_axes_multiply_with_the_variants_and_name_them():
    words = ["study.axes={optimizer.lr:[1e-3,3e-05],train.batch_size:[8,16]}"]
    assert list(variants(*words)) == [
        "lr=0.001,batch_size=8", "lr=0.001,batch_size=16",
        "lr=3e-05,batch_size=8", "lr=3e-05,batch_size=16",
    ]  # fmt: skip
    found = variants("study.variants={a:[],b:[model.norm=none]}".replace("=none", "\\=none"), AXIS)
    assert list(found) == ["a,lr=0.001", "a,lr=0.002", "b,lr=0.001", "b,lr=0.002"]
    assert found["b,lr=0.002"] == ["model.norm=none", "optimizer.lr=0.002"]
    found = variants("study.axes={optimizer.betas:[[0.9,0.95],[0.8,0.9]],schedule:[wsd,linear]}")
    assert found["betas=0.8-0.9,schedule=wsd"] == ["optimizer.betas=[0.8,0.9]", "schedule=wsd"]
    assert list(
        variants("study.axes={model.name_of:[1],x.name_of:[2]}".replace("name_of", "n"))
    ) == ["model.n=1,x.n=2"]


@pytest.mark.parametrize(("rule", "lr"), [("none", None), ("sqrt", 2e-3), ("linear", 4e-3)])
def test_the_rate_follows_an_axis_of_batch_sizes_by_the_stated_rule(rule, lr):
    base = ["train.batch_size=4", "optimizer.lr=1e-3", f"study.lr_with_batch={rule}"]
    words = variants(*base, "study.axes.train.batch_size=[4,16]")["batch_size=16"]
    rate = [float(word.partition("=")[2]) for word in words if word.startswith("optimizer.lr")]
    assert rate == ([] if lr is None else [pytest.approx(lr)])
    both = variants(*base, "study.axes={train.batch_size:[16],optimizer.lr:[7e-4]}")
    assert list(both.values()) == [["train.batch_size=16", "optimizer.lr=0.0007"]]


# -- refusals ------------------------------------------------------------------------------------


def of(name, *words):
    quoted = ",".join(f'"{word}"' for word in words)
    return f"study.variants.{name}=[{quoted}]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "neither study.variants nor study.axes"),
        ([AXIS, "study.seeds=[]"], "no seed"),
        ([AXIS, "study.seeds=[1,1]"], "study.seeds lists seed 1 twice"),
        ([of("a", "modle.d_model=16")], "model.d_model"),
        ([of("a", "model.d_model=16"), of("b", "model=quickstar")], "quickstart"),
        ([of("a", "model.d_model=x")], "variant a"),
        ([of("a", "seed=3")], "study.seeds"),
        ([of("a", "experiment=quickstart")], "one base"),
        ([of("a", "study.workers=3")], "vary its own keys"),
        ([of("a", "run.dir=x")], "the study chooses the folder"),
        ([of("a"), of("b", "model.d_model=32")], "a and b are the same configuration"),
        (["study.axes.model.d_model=16"], "Give a list"),
        (["study.axes.train.batch_size=doubling from 8 to 4"], "its end is below its start"),
        ([AXIS, "study.baseline=lr=0.01"], "did you mean 'lr=0.001'"),
        ([AXIS, "study.reported={lr=0.01:{val_loss:1}}".replace("lr=0.01", "x")], "'x'"),
        ([AXIS, "study.claims=[{text:t,better:x,than:y}]"], "better: there is no variant 'x'"),
        ([AXIS, "study.reported={baseline:1}"], "no variant 'baseline'"),
        ([AXIS, "study.quesiton=why"], "study.question"),
        ([AXIS, "study.equal=stpes"], "steps"),
        ([AXIS, "study.workers=0"], "greater than 0"),
        ([AXIS, "study.equal=time", "schedule.warmup=10"], "percent"),
        ([AXIS, "study.equal=tokens", "train.duration=1hours"], "steps, tokens or epochs"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_trains(words, said, trained, capsys):
    assert run(*words) == 2
    message = capsys.readouterr().err
    assert said in message and len(message.splitlines()) <= 3, message
    assert not Path("runs/s/study.json").exists() and trained.process.most == 0


def test_an_unknown_key_of_a_study_in_a_file_is_refused_with_the_nearest():
    from omegaconf import OmegaConf

    with pytest.raises(UserError, match=r"study.quesiton.*study.question"):
        compose.typed(OmegaConf.create({"study": {"quesiton": "why"}}), {}, {})
    with pytest.raises(UserError, match=r"txt: .*'text'"):
        compose.typed(OmegaConf.create({"study": {"claims": [{"txt": "why"}]}}), {}, {})


# -- groups --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_variants_option_replaces_the_one_on_the_command_line(trained):
    """The base's `schedule=wsd` must not remain in the variants as values."""
    assert run("schedule=wsd", of("wsd"), of("linear", "schedule=linear")) == 0
    found = compose.from_file(Path("runs/s/linear/seed0/config.yaml"))
    assert found.schedule.name == "linear" and found.schedule.final_lr == 0.0
    assert found.run.options["schedule"] == "linear" and found.run.options["scale"] == "smoke"
    assert compose.from_file(Path("runs/s/wsd/seed0/config.yaml")).schedule.name == "wsd"


# -- an existing folder --------------------------------------------------------------------------


def test_a_changed_study_says_what_is_reused_new_and_left_over(trained, capsys):
    assert run("study.axes.optimizer.lr=[1e-3,2e-3]") == 0
    assert "changed" not in capsys.readouterr().out
    assert run("study.axes.optimizer.lr=[2e-3,4e-3]") == 0
    shown = capsys.readouterr().out
    assert "reused: lr=0.002/seed0" in shown and "new: lr=0.004/seed0" in shown
    assert "no longer used, kept on disk: lr=0.001/seed0" in shown
    assert shown.index("no longer") < shown.index("lr=0.004, seed 0: finished")
    assert set(rows()) == {("lr=0.002", 0), ("lr=0.004", 0)}
    assert Path("runs/s/lr=0.001/seed0/config.yaml").exists()


@pytest.mark.slow
def test_a_run_of_another_configuration_is_refused_unless_overwritten(trained, capsys):
    assert run(AXIS) == 0
    assert run(AXIS, "train.batch_size=2") == 2
    assert "train.batch_size: 2 here, 4 there" in capsys.readouterr().err
    assert run(AXIS, "train.batch_size=2", "run.overwrite=true") == 0


# -- equal tokens and time -----------------------------------------------------------------------


def test_a_run_and_a_study_do_not_share_a_folder(trained, capsys):
    assert run(AXIS) == 0
    assert cli.main(["job=train", "scale=smoke", "run.name=s"]) == 2
    assert "holds a study" in capsys.readouterr().err
    Path("runs/r").mkdir()
    Path("runs/r/config.yaml").touch()
    assert run(AXIS, name="r") == 2
    assert "holds a run" in capsys.readouterr().err


def test_at_equal_tokens_every_variant_gets_as_many_as_the_base(trained, capsys):
    words = [of("base"), of("big", "train.batch_size=8"), of("longer", "train.duration=60")]
    assert run(*words, "study.equal=tokens") == 0
    assert "longer: skipped" in capsys.readouterr().out
    tokens = {}
    for name, seed in rows():
        config = compose.from_file(Path(f"runs/s/{name}/seed{seed}/config.yaml"))
        tokens[name] = config.train.duration
    assert tokens == {"base": f"{6 * 4 * 32}tokens", "big": f"{6 * 4 * 32}tokens"}


@pytest.mark.slow
def test_at_equal_time_the_baseline_sets_the_clock(trained):
    words = [of("wide", "model.d_model=64"), of("base"), of("deep", "model.n_layers=3")]
    words += ["study.baseline=base", "study.equal=time", "study.seeds=[0,1]", "study.workers=3"]
    assert run(*words) == 0
    durations = {}
    for name, seed in rows():
        config = compose.from_file(Path(f"runs/s/{name}/seed{seed}/config.yaml"))
        durations[name, seed] = config.train.duration
    assert {durations["base", 0], durations["base", 1]} == {"6"}
    assert {durations["wide", 1], durations["deep", 0]} == {"0.01hours"}  # 36 seconds
    assert trained.process.most == 3  # of the four that are not the baseline
    assert run(*words) == 0  # nothing to do, nothing refused
    assert run(*words[:-3], "study.seeds=[0,1]") == 2  # with equal steps, these are different runs


def test_without_the_baselines_time_the_others_do_not_train(trained):
    trained.process.said = {"base-seed0": (2, "error: no")}
    assert run(of("base"), of("deep", "model.n_layers=3"), "study.equal=time") == 1
    assert rows()["deep", 0]["reason"].startswith("the baseline did not finish")
    assert trained.reports == []


# -- several at once -----------------------------------------------------------------------------


def test_workers_train_at_once_and_share_cores_and_memory(trained, monkeypatch):
    assert run("study.axes.optimizer.lr=[1,2,3,4,5]", "study.workers=2") == 0
    assert trained.process.most == 2 and len(rows()) == 5
    monkeypatch.setattr(process.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4})
    assert [process._share(slot, 2)["JAXLM_CORES"] for slot in (0, 1)] == ["0,2,4", "1,3"]
    assert process._share(0, 2)["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.450"
    assert process._share(0, 1) == {} and "JAXLM_CORES" not in process._share(0, 9)


def test_a_signal_reaches_all_workers(trained, monkeypatch, capsys):
    first = Trained.status

    def status(self):
        if self.looks == 1 and self.name.startswith("lr=2"):
            signal.raise_signal(signal.SIGTERM)
        return first(self)

    monkeypatch.setattr(Trained, "status", status)
    assert run("study.axes.optimizer.lr=[1,2,3]", "study.workers=2") == 143
    assert "stopped (SIGTERM), 3 runs left" in capsys.readouterr().out
    found = {name: row["status"] for (name, _), row in rows().items()}
    assert found == {"lr=1": "interrupted", "lr=2": "interrupted", "lr=3": "waiting"}
    assert trained.reports == []


def test_a_run_out_of_memory_suggests_fewer_workers(trained):
    error = "jaxlib.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
    trained.process.said = {"lr=0.001-seed0": (1, error)}
    assert run(AXIS, "study.workers=2") == 1
    assert "RESOURCE_EXHAUSTED" in rows()["lr=0.001", 0]["reason"]
    assert "study.workers=1" in rows()["lr=0.001", 0]["reason"]


# -- in one program ------------------------------------------------------------------------------


def test_the_outcomes_of_a_killed_study_are_not_reused(tmp_path):
    errors = tmp_path / "errors.txt"
    errors.with_suffix(".json").write_text('[[0, ""], [0, ""]]')
    started = process.Process([["seed=0"], ["seed=1"]], errors)
    started.signal(signal.SIGKILL)
    while started.status() is None:
        time.sleep(0.01)
    assert [status for status, _ in started.end()] == [-signal.SIGKILL] * 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_pack_holds_runs_that_differ_only_in_numbers(trained):
    words = ["study.axes.optimizer.lr=[1,2]", "study.variants.a=[]", "study.seeds=[0,1]"]
    words += ['study.variants.wide=["model.d_ff=128"]', "study.pack=true"]
    assert run(*words) == 0
    a = [f"a,lr={lr}-seed{seed}" for lr in (1, 2) for seed in (0, 1)]
    assert trained.process.started == [a, [name.replace("a,", "wide,") for name in a]]
    assert {row["status"] for row in rows().values()} == {"finished"}
    assert {row["process_seconds"] for row in rows().values()} == {0.25}  # their shares


def test_a_variant_that_cannot_be_packed_trains_alone(trained):
    words = ["study.variants.a=[]", 'study.variants.slow=["train.duration=1hours"]']
    assert run(*words, "study.seeds=[0,1]", "study.pack=true") == 0
    assert trained.process.started == [["a-seed0", "a-seed1"], ["slow-seed0"], ["slow-seed1"]]


def test_workers_share_a_pack(trained):
    assert run("study.axes.optimizer.lr=[1,2,3,4,5]", "study.workers=2", "study.pack=true") == 0
    assert [len(names) for names in trained.process.started] == [3, 2]
    assert trained.process.most == 2


@pytest.mark.slow
def test_a_pack_that_exceeds_memory_is_halved(trained, capsys):
    short = lambda packed: (1, "RESOURCE_EXHAUSTED: Out of memory") if packed > 2 else (0, "")  # noqa: E731
    trained.process.said = {f"lr={lr}-seed0": short for lr in (1, 2, 3, 4, 5)}
    assert run("study.axes.optimizer.lr=[1,2,3,4,5]", "study.pack=true") == 0
    assert [len(names) for names in trained.process.started] == [5, 2, 2, 1]
    assert "no memory for 5 runs in one program, trying 2" in capsys.readouterr().out
    assert {row["reason"] for row in rows().values()} == {None}


@pytest.mark.parametrize(
    "word",
    ["backend=torch", "parallel.strategy=pmap", "study.equal=time", "train.duration=1hours",
     "debug.eager=true", "debug.profile=true"],
)  # fmt: skip
def test_settings_that_cannot_be_packed_are_refused(word, trained, capsys):
    assert run(AXIS, "study.pack=true", word) == 2
    assert word.split("=")[0] in capsys.readouterr().err
    assert trained.process.started == []


# -- batches up to the memory --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "errors"),
    [
        (-9, ""),
        (1, "MemoryError"),
        (1, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate"),
    ],
)
def test_batches_double_until_memory_is_short(status, errors, trained, monkeypatch, capsys):
    tried = []

    def attempt(words, folder):
        tried.append(compose.compose(list(words)).train.batch_size)
        return (status, errors) if tried[-1] > 4 else (0, "")

    monkeypatch.setattr(limit, "_attempt", attempt)
    words = ["study.axes.train.batch_size=doubling to 64", "study.baseline=batch_size=4"]
    assert run(*words) == 0
    assert tried == [1, 2, 4, 8]
    assert [name for name, _ in rows()] == ["batch_size=1", "batch_size=2", "batch_size=4"]
    assert run(*words) == 0 and len(tried) == 4  # the limit is remembered
    assert json.loads(Path("runs/s/limit.json").read_text())["fit"] == [1, 2, 4]
    assert not Path("runs/s/.trial").exists()


def test_a_trial_that_fails_for_another_reason_is_an_error(trained, monkeypatch, capsys):
    monkeypatch.setattr(limit, "_attempt", lambda *_: (2, "error: No such file: x"))
    assert run("study.axes.train.batch_size=doubling to 4") == 2
    assert "could not be tested: No such file: x" in capsys.readouterr().err
    monkeypatch.setattr(limit, "_attempt", lambda *_: (-9, ""))
    assert run("study.axes.train.batch_size=doubling to 4") == 2
    assert "Not even" in capsys.readouterr().err


def test_the_plan_is_shown_without_training(trained, capsys):
    assert run(AXIS, "debug=shapes", "study.seeds=[0,1]") == 0
    shown = capsys.readouterr().out
    assert "lr=0.002" in shown and "4 runs, 2 of each variant" in shown
    assert not Path("runs/s").exists()
