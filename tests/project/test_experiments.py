"""The published experiments: each composes at every scale, and each study really runs.

The studies run at smoke scale in this process, with the same code as `python run.py`, except that
no process is started for a run: importing JAX a hundred times would take minutes. Runs draw no
figures, and a configuration that several studies share is trained once.
"""

import contextlib
import functools
import io
import json
import os
import shutil
import sys
import types
from pathlib import Path

import pytest
from experiments import SINGLE, STUDIES
from sweeps import sweep

from jaxlm.cli import main as cli
from jaxlm.config.compose import compose, groups
from jaxlm.config.schema import identity, resolve_model
from jaxlm.inference.engines import engine_class
from jaxlm.spec.flops import parameter_counts
from jaxlm.study import job as studies
from jaxlm.study import memory_limit as limit
from jaxlm.study import runner as study
from jaxlm.study.pack import train_pack
from jaxlm.study.time_left import cost
from jaxlm.study.variants import members_of
from jaxlm.train import finish

NAMES = """
    ablation_hyperparameters baseline high_lr low_lr large_batch short_sequence small_model
    shakespeare_layers shakespeare_heads tinystories_17m tinystories_17m_low_resource tinystories_lr
    tinystories_batch_size tinystories_vocabulary tinystories_context tinystories_optimizer
    tinystories_no_norm tinystories_post_norm tinystories_nope tinystories_silu
    tinystories_architecture openwebtext_17m openwebtext_leaderboard mup_transfer quickstart
    shakespeare_cpu shakespeare_gpt scaling_70m scaling_130m scaling_300m scaling_ladder
    markov_ladder
""".split()


@pytest.mark.slow
def test_the_files_show_which_experiments_are_studies():
    assert STUDIES == [
        name
        for name in groups()["experiment"]
        if compose([f"experiment={name}"]).job.name == "study"
    ]


def test_every_published_experiment_exists_under_its_name():
    assert set(NAMES) <= set(groups()["experiment"])


def members(name, scale, *words):
    config = compose([f"experiment={name}", f"scale={scale}", *words])
    axes = studies.axes_of(config.study)
    variants = studies.variants_of(config, axes)
    studies.check_names(config.study, variants)
    return config, members_of(config, variants, config.study.seeds[:1])


# -- composing -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["full", "cpu", "smoke"])
@pytest.mark.parametrize("name", SINGLE)
def test_every_experiment_composes_at_every_scale(name, scale):
    config = compose([f"experiment={name}", f"scale={scale}"])
    if scale == "full":
        assert identity(config) == identity(compose([f"experiment={name}"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_composes_as_published(name):
    config, found = members(name, "full")
    assert len(found) >= 2 and config.study.question.rstrip(".)").strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_takes_at_most_twenty_minutes_on_two_cores(name):
    """The limit is 1e14 FLOPs: the head study has 9.1e13 and took 15 minutes with two workers."""
    config, found = members(name, "cpu")
    seeds = len(config.study.seeds)
    assert seeds >= 2 and sum(cost(member.config) for member in found) * seeds < 1e14


def size(*words, vocab_size=65):
    return parameter_counts(resolve_model(compose(list(words)).model, vocab_size))


def test_models_have_the_published_sizes():
    assert size("experiment=shakespeare_heads").total == 3_192_897
    # Embedding, positions, final norm and head are those of the authors. Their layers have a second
    # attention with its norm (263,680 parameters), so each has 1,053,440 parameters.
    for layers, reported in ((2, 2_206_273), (4, 4_313_153), (6, 6_420_033)):
        ours = size("experiment=shakespeare_layers", f"model.n_layers={layers}").total
        assert ours + layers * 263_680 == reported
    tinystories = size("experiment=tinystories_17m", vocab_size=10_000)
    assert 17e6 < tinystories.total - tinystories.embedding < 18e6


def test_runs_have_the_published_length():
    for name, tokens in (
        ("tinystories_17m", 327_680_000),
        ("tinystories_17m_low_resource", 40_960_000),
        ("openwebtext_17m", 327_680_000),
    ):
        config = compose([f"experiment={name}"])
        steps = int(config.train.duration)
        assert steps * config.train.batch_size * config.model.context_length == tokens
    assert compose(["experiment=openwebtext_leaderboard"]).train.duration == "1.5hours"


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["full", "cpu"])
def test_the_single_configurations_are_those_of_the_ablation(scale):
    _, found = members("ablation_hyperparameters", scale)
    for member in found:
        alone = compose([f"experiment={member.variant}", f"scale={scale}"])
        assert identity(alone) == identity(member.config), member.variant


def test_the_ablations_have_the_published_settings():
    _, found = members("ablation_hyperparameters", "full")
    settings = {
        m.variant: (
            m.config.model.d_model, m.config.model.n_heads, m.config.model.n_layers,
            m.config.train.batch_size, m.config.optimizer.lr, m.config.model.context_length,
        )
        for m in found
    }  # fmt: skip
    assert settings == {
        "baseline": (384, 6, 12, 8, 3e-4, 512),
        "high_lr": (384, 6, 12, 8, 1e-3, 512),
        "low_lr": (384, 6, 12, 8, 1e-4, 512),
        "large_batch": (384, 6, 12, 16, 5e-4, 512),
        "short_sequence": (384, 6, 12, 12, 3e-4, 256),
        "small_model": (256, 4, 8, 12, 3e-4, 512),
    }
    heads = compose(["experiment=shakespeare_heads"])
    last = heads.optimizer.lr * heads.schedule.final_lr
    assert (heads.optimizer.lr, heads.study.seeds) == (3e-4, [42])
    assert last == pytest.approx(1e-6, rel=1e-6)


# -- running -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all workers of pytest, so that no program is compiled twice."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "studies"


TRAINED: dict[str, Path] = {}


class InThisProcess:
    """Replaces a process that trains runs: it has the same words, and the same `main` or pack."""

    def __init__(self, runs, errors, slot=0, slots=1):
        self.runs, self.slot, self.seconds = [list(words) for words in runs], slot, 1.0
        self.ended = {}

    def status(self):
        new = []
        for number, words in enumerate(self.runs):
            config = compose(words)
            what = json.dumps(identity(config), sort_keys=True)
            if what in TRAINED and not config.run.overwrite:
                shutil.copytree(TRAINED[what], config.run.dir, dirs_exist_ok=True)
                self.ended[number] = 0, ""
            else:
                new.append((number, what, config))
        words = [self.runs[number] for number, _, _ in new]
        ended = self.pack(words) if len(new) > 1 else map(self.alone, words)
        for (number, what, config), (status, error) in zip(new, ended, strict=True):
            self.ended[number] = status, error
            if status == 0 and not config.run.overwrite:
                TRAINED[what] = Path(config.run.dir).absolute()
        return 0

    def alone(self, words):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            return cli.main(words), said.getvalue()

    def pack(self, runs):
        before = sys.argv
        try:
            sys.argv = ["run.py"]
            return train_pack(runs, functools.partial(engine_class, "jax"))
        finally:
            sys.argv = before

    def end(self):
        return [self.ended[number] for number in range(len(self.runs))]


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "Process", InThisProcess)
    monkeypatch.setattr(limit, "Process", InThisProcess)
    monkeypatch.setattr(finish, "write_report", lambda *_: None)
    report = types.ModuleType("jaxlm.compare.report")
    report.write_report = lambda runs, out, **_: out / "research_report.md"
    monkeypatch.setitem(sys.modules, "jaxlm.compare.report", report)


# Studies of sizes, widths under muP, a missing norm, optimizers, schedules and tokenizers.
RUN_ALWAYS = ("shakespeare_heads", "mup_transfer", "tinystories_no_norm", "tinystories_optimizer",
              "shakespeare_schedules", "tinystories_vocabulary")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(STUDIES, quick=RUN_ALWAYS))
def test_every_study_runs(name, quick, cache):
    words = [f"experiment={name}", "scale=smoke", "data=stories", "data.train_tokens=20000"]
    words += ["train.duration=2", "train.eval_every=100%", "train.checkpoint_every=0"]
    words += [
        "run.samples=0",
        "run.figures=false",
        f"run.cache={cache}",
        "model.n_layers=1",
        "precision=float32",
    ]
    words += ["study.pack=true"]  # compiles half as many programs
    status = cli.main(words)
    found = json.loads(Path(f"runs/{name}/study.json").read_text("utf-8"))
    assert {row["status"] for row in found["runs"]} <= {"finished", "diverged"}, found
    assert status == 0 or any(row["status"] == "diverged" for row in found["runs"])
    variants = {row["variant"] for row in found["runs"]}
    assert len(variants) >= 2 and found["definition"]["baseline"] in variants
    assert all(row["val_loss"] > 0 for row in found["runs"] if row["status"] == "finished")
