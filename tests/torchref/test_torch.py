"""backend=torch: devices, resuming, errors and import limits; parity_tests check its numbers."""

import ast
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments import SINGLE, TRAIN_ALWAYS  # noqa: E402
from real_runs import assert_same_run, finish, start, stopping_at  # noqa: E402
from sweeps import sweep  # noqa: E402

from jaxlm.cli import jobs  # noqa: E402
from jaxlm.cli import main as cli  # noqa: E402
from jaxlm.config.compose import compose  # noqa: E402
from jaxlm.host.errors import UserError  # noqa: E402
from torchref import device as devices  # noqa: E402
from torchref.engine import Engine  # noqa: E402
from torchref.model import Transformer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TORCH = ("backend=torch", "torch.compile=false")


def config_of(*words):
    return compose(["scale=smoke", "backend=torch", *words])


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """train('key=value', ...) -> (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    words = np.random.default_rng(0).choice("the cat sat on a mat and saw it".split(), 4000)
    (tmp_path / "text.txt").write_text(" ".join(words), "utf-8")

    def call(*words):
        base = ["scale=smoke", "data=text", "data.path=text.txt", "run.name=run", "run.samples=0"]
        status = cli.main([*base, f"run.cache={tmp_path / 'cache'}", *words])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


# -- import limits ---------------------------------------------------------------------------------


def imports(file):
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.slow
def test_the_twin_imports_no_jax():
    for file in (ROOT / "torchref").glob("*.py"):
        assert not {"jax", "flax", "optax", "orbax", "grain"} & imports(file), file
    for file in (ROOT / "jaxlm").rglob("*.py"):
        assert "torch" not in imports(file), file
        assert "torchref" not in imports(file) or file.name == "engines.py", file
    code = (
        "import sys, torchref.engine, torchref.decoding, jaxlm.train.loop;"
        "import jaxlm.inference.generate, jaxlm.verify.parity;"
        "assert not {'jax', 'flax', 'optax', 'orbax', 'grain'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_pickle_is_ever_loaded():
    for file in [*(ROOT / "torchref").glob("*.py"), *(ROOT / "jaxlm").rglob("*.py")]:
        text = file.read_text("utf-8")
        assert "import pickle" not in text and "allow_pickle=True" not in text, file
        assert "torch.load(" not in text or file.name == "weights.py", file  # named in an error


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sweep(SINGLE, quick=TRAIN_ALWAYS))
def test_every_experiment_trains_at_smoke_scale(experiment, train, cache):
    words = [f"experiment={experiment}", "job=train", "scale=smoke", *TORCH, "data=stories"]
    assert cli.main([*words, "run.name=run", f"run.cache={cache}", "run.samples=0"]) == 0
    assert json.loads(Path("runs/run/summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_killed_run_resumes_bitwise(tmp_path):
    """It is killed with -9 at the start and later, then stopped with SIGTERM, with dropout on."""
    words = np.random.default_rng(0).choice("the cat sat on a mat and saw it run".split(), 6000)
    (tmp_path / "text.txt").write_text(" ".join(words), "utf-8")
    train = functools.partial(start, tmp_path)
    short = [*TORCH, "train.duration=100", "train.eval_every=25", "train.checkpoint_every=20"]
    status, output = finish(train("reference", *short))
    assert status == 0, output
    for step, number in ((1, signal.SIGKILL), (50, signal.SIGKILL), (70, signal.SIGTERM)):
        process = train("killed", *short, program=stopping_at(step, number))
        status, output = finish(process)
        assert status == (-9 if number == signal.SIGKILL else 143), output
    status, output = finish(train("killed", *short))
    assert status == 0 and "resuming" in output
    assert_same_run(tmp_path / "killed", tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_compiled_training_equals_eager_training(backend, tmp_path, monkeypatch):
    """aot_eager is the backend for MPS."""
    words = ["scale=smoke", "model.n_layers=1", "model.residual_dropout=0.2"]
    words += ["train.grad_accumulation=2"]
    config = compose([*words, "precision=float64", "backend=torch"])
    if backend == "aot_eager":
        compiler = functools.partial(torch.compile, backend=backend)
        monkeypatch.setattr(devices, "compiler", lambda *_: (compiler, backend))
    tokens = np.random.default_rng(0).integers(0, 64, (4, 33)).astype(np.int32)
    losses = []
    for compiled in (True, False):
        engine = Engine(config, 64, tmp_path)
        assert backend in engine.where
        if not compiled:
            engine.compiled = lambda function: function
        state = engine.initial_state()
        engine.compile(state)
        found = []
        for _ in range(5):
            state, metrics = engine.train_step(state, tokens, 1e-2)
            found.append(float(metrics.loss))
        losses.append(found)
    np.testing.assert_allclose(*losses, rtol=1e-12)
    assert losses[0][-1] < losses[0][0]


def test_remat_changes_nothing(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 64, (4, 33)).astype(np.int32)
    losses = []
    for remat in ("true", "false"):
        config = compose(
            ["scale=smoke", "precision=float64", "model.attention_dropout=0.2",
             f"parallel.remat={remat}", *TORCH]
        )  # fmt: skip
        engine = Engine(config, 64, tmp_path)
        state = engine.initial_state()
        engine.compile(state)
        state, _ = engine.train_step(state, tokens, 1e-2)
        losses.append(float(engine.train_step(state, tokens, 1e-2)[1].loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


@pytest.mark.slow
def test_debug_profile_writes_a_trace(train):
    status, _, error = train(*TORCH, "debug=profile", "run.dir=runs/run")
    assert status == 0, error
    assert Path("runs/run/profile/trace.json").stat().st_size > 1000


def test_doctor_tests_the_configured_backend(capsys, tmp_path):
    words = ["job=doctor", *TORCH, f"run.cache={tmp_path}", f"run.dir={tmp_path / 'x'}"]
    assert cli.main(words) == 0
    assert "torch on cpu" in capsys.readouterr().out


@pytest.mark.optimized
@pytest.mark.slow
def test_the_parity_job_prints_and_writes_its_table_and_fails_on_a_fault(train, monkeypatch):
    words = ["job=parity", "job.max_tokens=40", "torch.compile=false", "train.duration=30"]
    words += ["model.n_layers=1"]
    for precision in ("float64", "float32", "bfloat16"):
        status, out, error = train(*words, f"precision={precision}")
        assert status == 0, out + error
        table = json.loads(Path("parity.json").read_text())
        assert all(row["holds"] for row in table["rows"]) and len(table["rows"]) > 12
    assert "losses of 30 steps" in out and "mu after 20 steps" in out  # the run has no more
    for quantity in ("logits", "gradients"):
        assert quantity in out
    from parity_tests.faults import FAULTS

    with FAULTS["rope_layout"].patch():
        status, out, _ = train(*words, "job.part=forward")
    assert status == 1 and "DIFFERENT" in out and "blocks.0.attention.rotated_q" in out


def test_a_step_changes_only_the_state_that_it_receives(tmp_path):
    config = config_of("torch.compile=false", "precision=float64")
    engine, tokens = Engine(config, 64, tmp_path), np.ones((4, 33), np.int32)
    first, second = engine.initial_state(), engine.initial_state()
    with torch.no_grad():
        second.model.embed.weight *= 3
    engine.compile(first)
    before = [state.model.embed.weight.detach().clone() for state in (first, second)]
    expected = engine.gradients(second.model, tokens)[0]
    _, metrics = engine.train_step(second, tokens, 1e-2)
    assert float(metrics.loss) == pytest.approx(expected)
    assert torch.equal(first.model.embed.weight, before[0])
    assert not torch.equal(second.model.embed.weight, before[1])


@pytest.mark.slow
def test_samples_at_the_end_are_drawn_on_the_device_of_the_run(train, monkeypatch):
    chosen, choose = [], devices.choose_device
    monkeypatch.setattr(
        devices, "choose_device", lambda c: chosen.append(c.torch.device) or choose(c)
    )
    assert train(*TORCH, "torch.device=cpu", "run.samples=1")[0] == 0
    assert chosen == ["cpu", "cpu"]


# -- devices ---------------------------------------------------------------------------------------


def test_an_absent_device_is_refused_naming_the_available_ones(train):
    status, _, error = train("backend=torch", "torch.device=mps")
    assert status == 2 and "torch.device=mps is not available" in error and "cpu" in error
    status, _, error = train("backend=torch", "torch.device=gpu")
    assert status == 2 and "not one of auto, cpu, mps, cuda" in error
    status, _, error = train("backend=torch", "parallel.fsdp=2")
    assert status == 2 and "parallel.fsdp=2" in error and "backend=jax" in error


def test_mps_as_far_as_it_can_be_tested_without_one(monkeypatch, tmp_path):
    """It is chosen, compiles with aot_eager, refuses float64, and keeps the matmul precision."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = devices.choose_device(config_of())
    assert chosen.type == "mps"
    assert devices.choose_device(config_of("torch.device=cpu")).type == "cpu"
    with pytest.raises(UserError, match="float64 is not possible on torch.device=mps"):
        devices.choose_device(config_of("precision=float64", "torch.device=mps"))
    assert devices.choose_device(config_of("precision=float64")).type == "cpu"
    assert devices.compiler(config_of(), chosen)[1] == "compiled by aot_eager"

    def never(_):
        raise AssertionError("matmul precision was changed")

    monkeypatch.setattr(torch, "set_float32_matmul_precision", never)
    devices.configure(config_of("parallel.tf32=true", "precision=bfloat16"), chosen, tmp_path)


def test_float32_products_are_exact_unless_tf32_is_configured(tmp_path):
    cpu = torch.device("cpu")
    devices.configure(config_of(), cpu, tmp_path)
    assert torch.get_float32_matmul_precision() == "highest"
    devices.configure(config_of("parallel.tf32=true"), cpu, tmp_path)
    assert torch.get_float32_matmul_precision() == "high"
    devices.configure(config_of(), cpu, tmp_path)


def test_without_a_compiler_training_is_eager_and_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.delenv("CXX", raising=False)
    function, how = devices.compiler(config_of(), torch.device("cpu"))
    assert how == "eager, no C++ compiler was found" and function(len) is len
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert "no C++" in devices.compiler(config_of(), torch.device("cpu"))[1]


def test_a_processor_without_onednn_has_no_fast_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert devices.processor_has_bfloat16() is False


def test_a_backend_that_is_not_installed_names_its_extra(monkeypatch, train):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("torchref")]:
        monkeypatch.delitem(sys.modules, name)
    status, _, error = train("backend=torch")
    assert status == 2 and "jaxlm[torch]" in error
    with pytest.raises(UserError, match="not installed"):
        jobs.engine_class("torch")


# -- weights ---------------------------------------------------------------------------------------


@pytest.fixture
def run(train):
    assert train("train.duration=4")[0] == 0
    return Path("runs/run")


@pytest.mark.slow
def test_safetensors_weights_are_shared_by_both_backends_and_plain_pytorch(run, train):
    import jaxlm

    loaded = jaxlm.load(run)
    loaded.save_weights("weights.safetensors")
    from safetensors.torch import load_file

    module = Transformer(loaded.engine.model_config)
    module.load_state_dict(load_file("weights.safetensors"))
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
    expected = loaded.logits(tokens)
    np.testing.assert_allclose(module(torch.tensor(tokens)).detach(), expected, atol=1e-5)
    for backend in ("jax", "torch"):
        again = jaxlm.load(run, Path("weights.safetensors"), backend=backend)
        assert again.step == loaded.step and again.has_documents == loaded.has_documents
        np.testing.assert_allclose(again.logits(tokens), expected, atol=1e-5)
        words = ["job=evaluate", "job.checkpoint=weights.safetensors", f"backend={backend}"]
        status, out, error = train(*words, "train.duration=4")
        assert status == 0 and "loss" in out, error


def test_any_complete_safetensors_file_is_read_regardless_of_first_byte_and_metadata(tmp_path):
    """A header whose length ends in 0x80 begins like a pickle; other programs write metadata."""
    from safetensors.numpy import save_file

    from jaxlm.store.weights import read_weights, write_weights

    first_bytes, values = set(), {"a.weight": np.ones((2, 3), np.float32)}
    for padding in range(0, 300, 8):
        save_file(values, tmp_path / "x.safetensors", {"format": "p" * padding})
        first_bytes.add((tmp_path / "x.safetensors").read_bytes()[0])
        found, about = read_weights(tmp_path / "x.safetensors", {"a.weight": (2, 3)}, "float32")
        assert (found["a.weight"] == 1).all() and about == {}
    assert 0x80 in first_bytes
    with pytest.raises(UserError, match="Cannot write"):
        write_weights(tmp_path / "none" / "x", values, {"step": 1, "documents": False})


@pytest.mark.slow
def test_a_pickle_offered_as_weights_is_refused_and_not_executed(run, train):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, ("exploded",)

    Path("old.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"embed.weight": torch.zeros(2)}, "new.pt")
    for name in ("old.pt", "new.pt"):
        status, _, error = train("job=evaluate", f"job.checkpoint={name}", "train.duration=4")
        assert status == 2 and "is a pickle" in error and "safetensors" in error
    assert not Path("exploded").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_weights_that_do_not_fit_are_listed_by_name_and_shape(run, train, backend):
    from safetensors.numpy import load_file, save_file

    import jaxlm

    jaxlm.load(run).save_weights("good.safetensors")
    values = load_file("good.safetensors")
    values["embed.weight"] = values["embed.weight"][:, :5].copy()
    values["extra.weight"] = values.pop("blocks.0.attention.query.weight")
    save_file(values, "bad.safetensors")
    status, _, error = train(
        "job=evaluate", "job.checkpoint=bad.safetensors", f"backend={backend}", "train.duration=4"
    )
    assert status == 2
    for part in ("embed.weight is (257, 5), not (257, 32)", "only in the file: extra.weight",
                 "only in the model: blocks.0.attention.query.weight (32, 32)"):  # fmt: skip
        assert part in error
    Path("half.safetensors").write_bytes(Path("good.safetensors").read_bytes()[:200])
    status, _, error = train("job=evaluate", "job.checkpoint=half.safetensors", "train.duration=4")
    assert status == 2 and "not a complete safetensors file" in error
    status, _, error = train("job=evaluate", "job.checkpoint=none.safetensors", "train.duration=4")
    assert status == 2 and "none.safetensors" in error


@pytest.mark.slow
def test_a_configuration_changed_by_hand_is_refused_naming_its_key(run, train):
    """Otherwise the checkpoint would not fit the changed model."""
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("d_model: 32", "d_model: 64"))
    status, _, error = train(*TORCH, "job=evaluate", "train.duration=4", "model.d_model=64")
    assert status == 2 and "model.d_model: 64, not 32" in error
