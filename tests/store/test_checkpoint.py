"""A checkpoint is whole or it is none: saving, damage, kills, pruning, restoring elsewhere."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from examples import few
from hypothesis import example, given
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding

from jaxlm.host.errors import UserError
from jaxlm.store import checkpoint, manifest
from jaxlm.store.checkpoint import Checkpoints, restore
from jaxlm.store.manifest import NoCheckpoint, best_step, whole_steps

ROOT = Path(__file__).resolve().parents[2]


def tree_of(step, size=6):
    """A small state in which every number shows the step it belongs to."""
    weight = np.full((size, 3), step, np.float32)
    return {
        "parameters": {"embed.weight": weight, "blocks.0.attention.query.weight": weight + 0.25},
        "optimizer": {"step": np.int32(step), "mu": {"embed.weight": weight.astype(np.float64)}},
    }


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_is(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, tree, expected)))


def saved(folder, steps, keep=10, best=()):
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, tree_of(step), {"step": step}, best=step in best)
    return folder


def flip(path, offset, bit=0):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def data_file(folder, step):
    """The file of a step that holds its parameters."""
    files = (folder / str(step) / "parameters" / "ocdbt.process_0" / "d").iterdir()
    return max(files, key=lambda path: path.stat().st_size)


# Round trip


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@few
def test_every_type_comes_back_to_the_same_bits(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    types = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.int64]
    types += [np.uint8, np.uint32, np.bool_]

    def drawn(dtype, shape):  # any bits, including NaNs with their payload
        bits = rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        array = np.frombuffer(bits, dtype).reshape(shape)
        return array.view(np.uint8) % 2 == 1 if dtype is np.bool_ else array

    names = {np.dtype(dtype).name: dtype for dtype in types}
    tree = {
        "parameters": {name: drawn(dtype, (5, 3)) for name, dtype in names.items()},
        "optimizer": {
            "moments": {name: drawn(dtype, ()) for name, dtype in names.items()},
            "zeros": np.zeros((2, 2), np.float32),
            "nothing": {},
        },
    }
    metadata = {"loss": float(rng.normal()), "best": float("inf"), "names": ["ä", None], "n": 2**60}
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder, 1) as checkpoints:
        checkpoints.save(7, tree, metadata)
    step, restored, read, skipped = restore(folder)
    assert (step, skipped) == (7, [])
    assert_is(restored, tree)
    assert read == metadata | {"best": None}


def test_jax_arrays_and_python_scalars_are_saved(tmp_path):
    tree = {"parameters": {"w": jnp.arange(3.0)}, "optimizer": {"count": 3, "rate": 0.1}}
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, tree, {})
    _, restored, _, _ = restore(tmp_path)
    assert_is(restored, jax.tree.map(np.asarray, tree))


def test_the_caller_may_overwrite_the_arrays_once_save_returns(tmp_path, held_back):
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    on_device = jax.device_put(tree_of(1)["parameters"])
    on_host = tree_of(1)["optimizer"]
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, {"parameters": on_device, "optimizer": on_host}, {})
        jax.block_until_ready(advance(advance(on_device)))
        on_host["mu"]["embed.weight"][:] = 0
        held_back.set()
    _, restored, _, _ = restore(tmp_path)
    assert_is(restored, jax.tree.map(np.asarray, tree_of(1)))


def test_parameters_without_an_optimizer_are_a_checkpoint(tmp_path):
    tree = {"parameters": tree_of(1)["parameters"], "optimizer": {}}
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, tree, {})
    assert_is(restore(tmp_path)[1], tree)
    assert_is(restore(tmp_path, template=abstract_of(tree))[1], tree)
    with pytest.raises(UserError, match="only in the model: optimizer.mu.embed.weight"):
        restore(tmp_path, template=abstract_of(tree_of(1)))


def test_trees_that_orbax_would_confuse_are_refused(tmp_path):
    with Checkpoints(tmp_path, 1) as checkpoints:
        twice = {"parameters": {}, "optimizer": {"a.b": np.zeros(1), "a": {"b": np.ones(1)}}}
        with pytest.raises(ValueError, match="same dotted name"):
            checkpoints.save(1, twice, {})
        with pytest.raises(ValueError, match="empty"):
            checkpoints.save(1, {"parameters": {"w": np.zeros((0, 3))}, "optimizer": {}}, {})


def test_no_pickle_is_loaded(tmp_path, monkeypatch):
    saved(tmp_path, [1])

    def refuse(*_, **__):
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert restore(tmp_path)[0] == 1


# Asynchronous saving


@pytest.fixture
def held_back(monkeypatch):
    """Orbax does not write until the yielded event is set."""
    event, write = threading.Event(), checkpoint.ocp.save_checkpointables

    def wait_then_write(*arguments, **named):
        assert event.wait(20)
        write(*arguments, **named)

    monkeypatch.setattr(checkpoint.ocp, "save_checkpointables", wait_then_write)
    return event


def test_save_returns_before_it_is_written_and_one_is_in_flight(tmp_path, held_back):
    with Checkpoints(tmp_path, 5) as checkpoints:
        checkpoints.save(1, tree_of(1), {})
        assert checkpoints.steps() == []
        second = threading.Thread(target=checkpoints.save, args=(2, tree_of(2), {}))
        second.start()
        second.join(0.3)
        assert second.is_alive()  # it waits for the first
        held_back.set()
        second.join()
        assert 1 in checkpoints.steps()
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize("surfaces_at", ["save", "wait", "close"])
def test_an_error_in_the_background_surfaces(tmp_path, surfaces_at):
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, 1)
    shutil.rmtree(folder)
    folder.write_text("in the way")
    checkpoints.save(1, tree_of(1), {})
    call = {
        "save": lambda: checkpoints.save(2, tree_of(2), {}),
        "wait": checkpoints.wait,
        "close": checkpoints.close,
    }[surfaces_at]
    with pytest.raises(UserError, match="checkpoint of step 1 could not be written.*Not a dir"):
        call()
    checkpoints.close()  # raised once


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match="cannot write checkpoints to .*File exists"):
        Checkpoints(tmp_path / "checkpoints", 1)


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error_and_harms_nothing(tmp_path):
    """Files of more than 1 MB cannot be written, as if the disk were full."""
    script = """
import resource, signal, sys
import numpy as np
from jaxlm.store.checkpoint import Checkpoints
from jaxlm.host.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
checkpoints = Checkpoints(sys.argv[1], 1)
for step, size in enumerate((10, 1_000_000)):
    parameters = {"w": np.random.default_rng(0).normal(size=size)}
    checkpoints.save(step, {"parameters": parameters, "optimizer": {}}, {})
try: checkpoints.close()
except UserError as error: print(error)
"""
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert "checkpoint of step 1 could not be written" in answer.stdout, answer.stderr
    assert "newest whole step (0)" in answer.stdout
    assert answer.stdout.count("\n") == 2
    assert answer.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


# Damage


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("checkpoints"), [100, 200], best=(200,))


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.slow
@given(data=st.data())
def test_after_any_flipped_bit_the_step_before_is_restored(two_steps, data):
    path = data.draw(st.sampled_from(files_of(two_steps / "200")))
    offset = data.draw(st.integers(0, path.stat().st_size - 1))
    bit = data.draw(st.integers(0, 7))
    flip(path, offset, bit)
    try:
        step, tree, metadata, skipped = restore(two_steps)
        assert step == 100 and metadata == {"step": 100}
        assert_is(tree, jax.tree.map(np.asarray, tree_of(100)))
        assert len(skipped) == 1 and skipped[0].startswith("step 200: ")
        assert path.relative_to(two_steps / "200").as_posix() in skipped[0]
        with pytest.raises(UserError, match="cannot be restored.*step 200: .*\n.*Whole steps"):
            restore(two_steps, 200)
    finally:
        flip(path, offset, bit)
    assert restore(two_steps)[0] == 200


def test_every_bit_of_the_manifest_counts():
    files = {"d/0": {"bytes": 120, "sha256": "0a" * 32}, "e": {"bytes": 0, "sha256": "ff" * 32}}
    good = manifest.sealed({"format_version": 1, "step": 20, "best": True, "files": files})
    assert manifest.unsealed(good)["files"] == files
    for offset in range(len(good)):
        for bit in range(8):
            content = bytearray(good)
            content[offset] ^= 1 << bit
            with pytest.raises(manifest.NotWhole):
                manifest.unsealed(bytes(content))


@pytest.mark.parametrize("how", ["missing", "short", "long", "empty manifest", "other step"])
def test_with_missing_or_resized_files_the_step_before_is_restored(tmp_path, how):
    saved(tmp_path, [1, 2])
    path = data_file(tmp_path, 2)
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "long":
        path.write_bytes(path.read_bytes() + b"\0")
    elif how == "empty manifest":
        (tmp_path / "2" / manifest.NAME).write_text("")
    else:
        shutil.rmtree(tmp_path / "2")
        shutil.copytree(tmp_path / "1", tmp_path / "2")
    assert list(whole_steps(tmp_path)) == [1]
    step, _, _, skipped = restore(tmp_path)
    assert step == 1 and len(skipped) == 1


def test_when_all_are_damaged_each_is_listed_and_nothing_starts_over(tmp_path):
    saved(tmp_path, [1, 2, 3])
    for step in (1, 2, 3):
        flip(data_file(tmp_path, step), 100)
    with pytest.raises(
        UserError, match="step 3: .*step 2: .*step 1: .*\n.*does not replace"
    ) as caught:
        restore(tmp_path)
    assert not isinstance(caught.value, NoCheckpoint)


def test_without_any_checkpoint_the_error_says_to_train_first(tmp_path):
    for which in ("last", "best", 3):
        for folder in (tmp_path, tmp_path / "absent"):
            with pytest.raises(NoCheckpoint, match="no checkpoint in .*train first"):
                restore(folder, which)
    (tmp_path / "10").mkdir()  # a first save that was killed before its manifest
    (tmp_path / "20.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(NoCheckpoint):
        restore(tmp_path)
    assert (tmp_path / "10").exists()


def test_a_step_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT_VERSION", 3)
    saved(tmp_path, [1])
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer version of this program"):
        restore(tmp_path)


# Which step


def test_last_best_or_a_step_by_number(tmp_path):
    saved(tmp_path, [1, 2, 3, 4], best=(1, 3))
    assert restore(tmp_path)[0] == 4
    assert restore(tmp_path, "best")[0] == 3
    step, tree, metadata, _ = restore(tmp_path, 2)
    assert (step, metadata) == (2, {"step": 2})
    assert_is(tree, jax.tree.map(np.asarray, tree_of(2)))
    problem = r"step 7 cannot be restored .*\nWhole steps there: 1, 2, 3, 4"
    with pytest.raises(UserError, match=problem):
        restore(tmp_path, 7)
    flip(data_file(tmp_path, 3), 50)
    step, _, _, skipped = restore(tmp_path, "best")
    assert step == 1 and len(skipped) == 1 and skipped[0].startswith("step 3: ")
    flip(tmp_path / "1" / manifest.NAME, 50)
    with pytest.raises(UserError, match="best checkpoint cannot be restored .*step 3: .*step 1: "):
        restore(tmp_path, "best")


@pytest.mark.slow
@given(
    best=st.lists(st.booleans(), min_size=1, max_size=6),
    keep=st.integers(1, 3),
)
@example(best=[True, False, False, False], keep=1)
@few
def test_the_newest_and_the_best_are_kept(tmp_path_factory, best, keep):
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder, keep) as checkpoints:
        for step, is_best in enumerate(best):
            checkpoints.save(step, tree_of(step), {}, best=is_best)
    newest_best = [step for step, is_best in enumerate(best) if is_best][-1:]
    newest = list(range(len(best)))[-keep:]
    assert checkpoints.steps() == sorted({*newest, *newest_best})
    assert best_step(folder) == (newest_best or [None])[0]
    assert sorted(path.name for path in folder.iterdir()) == sorted(map(str, checkpoints.steps()))


def test_nothing_is_pruned_before_the_new_step_is_whole(tmp_path, monkeypatch):
    saved(tmp_path, [1], keep=1)

    def fail(*_, **__):
        assert list(whole_steps(tmp_path)) == [1]
        raise OSError(28, "No space left on device")

    for module, name in ((checkpoint.ocp, "save_checkpointables"), (manifest, "write")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            checkpoints = Checkpoints(tmp_path, 1)
            checkpoints.save(2, tree_of(2), {})
            with pytest.raises(UserError, match="step 2 .*No space left.*\n.*whole step .1."):
                checkpoints.close()
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        assert restore(tmp_path)[0] == 1


def test_a_whole_step_is_not_written_again_but_may_become_the_best(tmp_path, monkeypatch):
    saved(tmp_path, [1, 2], best=(1,))
    monkeypatch.setattr(checkpoint.ocp, "save_checkpointables", None)
    saved(tmp_path, [2])
    assert best_step(tmp_path) == 1
    saved(tmp_path, [2], best=(2,))
    assert best_step(tmp_path) == 2
    assert restore(tmp_path, "best")[2] == {"step": 2}


def test_training_past_a_damaged_step_replaces_it(tmp_path):
    saved(tmp_path, [10, 20])
    flip(data_file(tmp_path, 20), 30)
    assert restore(tmp_path)[0] == 10
    saved(tmp_path, [15], keep=1)
    assert list(whole_steps(tmp_path)) == [15]
    (tmp_path / "20").mkdir()
    saved(tmp_path, [20], keep=2)
    assert restore(tmp_path)[::3] == (20, [])
    (tmp_path / "20" / manifest.NAME).write_text("")
    saved(tmp_path, [30], keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["15", "30"]


def test_leftovers_are_removed_by_the_next_writer_and_by_no_reader(tmp_path):
    saved(tmp_path, [20])
    leftovers = [tmp_path / name for name in ("10", "30", "15.orbax-checkpoint-tmp")]
    for leftover in leftovers:
        (leftover / "d").mkdir(parents=True)
        (leftover / "d" / "file").write_text("")
    step, _, _, skipped = restore(tmp_path)
    assert step == 20 and skipped == ["step 30: it has no manifest, so its save was never finished"]
    assert all(leftover.exists() for leftover in leftovers)
    Checkpoints(tmp_path, 1).close()
    assert [leftover.exists() for leftover in leftovers] == [False, True, False]


def test_a_reader_continues_when_its_step_is_pruned(tmp_path, monkeypatch):
    saved(tmp_path, [1])
    load = checkpoint.ocp.load_checkpointables

    def prune_then_load(path, *arguments):
        if path.name == "1":
            saved(tmp_path, [2], keep=1)
        return load(path, *arguments)

    monkeypatch.setattr(checkpoint.ocp, "load_checkpointables", prune_then_load)
    step, tree, _, _ = restore(tmp_path)
    assert step == 2
    assert_is(tree, jax.tree.map(np.asarray, tree_of(2)))


def test_a_reader_whose_step_is_pruned_takes_the_newer_one(tmp_path, monkeypatch):
    saved(tmp_path, [1, 2], best=[1], keep=1)
    load = checkpoint.ocp.load_checkpointables

    def prune_then_load(path, *arguments):
        if path.name == "2":
            saved(tmp_path, [3], keep=1)
        return load(path, *arguments)

    monkeypatch.setattr(checkpoint.ocp, "load_checkpointables", prune_then_load)
    assert restore(tmp_path).step == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_readers_never_fail_while_a_writer_saves_and_prunes(tmp_path):
    saved(tmp_path, [0])
    stop, newest = threading.Event(), 0

    def write():
        with Checkpoints(tmp_path, 1) as checkpoints:
            step = 0
            while not stop.is_set():
                step += 1
                checkpoints.save(step, tree_of(step), {"step": step}, best=step % 3 == 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reads = 0
        while newest <= 3 or reads < 30:
            reads += 1
            for which in ("last", "best") if newest > 3 else ("last",):
                step, tree, metadata, _ = restore(tmp_path, which)
                assert metadata == {"step": step} or step == 0
                assert_is(tree, jax.tree.map(np.asarray, tree_of(step)))
                if which == "last":
                    assert step >= newest
                    newest = step
    finally:
        stop.set()
        writer.join()
    assert newest > 3


# Killed


KILLED = """
import os, random, signal, sys, time
from jaxlm.store import checkpoint, manifest
from tests.store.test_checkpoint import tree_of

folder, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)

def train(first, moment):
    '''Saves step after step until the moment of death.'''
    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "before the manifest":
        manifest.write = die
    elif moment == "while pruning":
        manifest.shutil.rmtree = die
    checkpoints = checkpoint.Checkpoints(folder, 1)
    for step in range(first, first + 1000):
        if moment == "between" and step == first + 2:
            die()
        checkpoints.save(step, tree_of(step, size=100_000), {"step": step})

first = 1
def half_written():
    return any("orbax-checkpoint-tmp" in name for name in os.listdir(folder))

def newest():
    return max([s for s in manifest.whole_steps(manifest.Path(folder))], default=0)

moments = ["before the manifest"] + ["between", "half written"] * 3
for moment in moments + ["before the manifest", "while pruning"]:
    child = os.fork()
    if child == 0:
        train(first, moment)
    if moment == "half written":
        while newest() < first or not half_written():
            os.kill(child, signal.SIGCONT)
            time.sleep(rng.uniform(0, 0.002))
            os.kill(child, signal.SIGSTOP)  # so that it is so still when the child dies
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    reader = os.fork()
    if reader == 0:
        before = sorted(os.listdir(folder))
        try:
            step, tree, metadata, skipped = checkpoint.restore(folder)
        except manifest.NoCheckpoint:
            step, tree, metadata, skipped = 0, tree_of(0, 100_000), {"step": 0}, []
        assert metadata == {"step": step}
        assert tree["parameters"]["embed.weight"].tobytes() == (
            tree_of(step, 100_000)["parameters"]["embed.weight"].tobytes())
        assert (tree["optimizer"]["mu"]["embed.weight"] == step).all()
        assert all("never finished" in line for line in skipped), skipped
        assert sorted(os.listdir(folder)) == before
        print(step, moment, before, flush=True)
        os._exit(0)
    if os.waitpid(reader, 0)[1]:
        sys.exit("the reader failed")
    first = newest() + 1
"""


@pytest.mark.slow
def test_after_a_kill_at_any_moment_the_step_before_is_found(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    steps = [int(line.split()[0]) for line in lines]
    assert len(steps) == 9 and steps == sorted(steps)
    assert steps[0] == 0 and steps[-1] > steps[1]
    assert any("orbax-checkpoint-tmp" in line for line in lines)  # some died in the middle
    Checkpoints(tmp_path, 1).close()
    assert not list(tmp_path.glob("*tmp*"))


# Restoring elsewhere, and in part


def test_parameters_alone_do_not_load_the_optimizer(tmp_path, monkeypatch):
    saved(tmp_path, [1])
    load, asked = checkpoint.ocp.load_checkpointables, []

    def listening(path, abstract):
        asked.extend(abstract)
        return load(path, abstract)

    monkeypatch.setattr(checkpoint.ocp, "load_checkpointables", listening)
    _, tree, _, _ = restore(tmp_path, parameters_only=True)
    assert asked == ["parameters"]
    assert_is(tree, {"parameters": tree_of(1)["parameters"]})


def abstract_of(tree, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def test_a_template_places_the_arrays(tmp_path):
    tree = jax.tree.map(np.float32, tree_of(1))
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, tree, {})
    sharding = SingleDeviceSharding(jax.devices()[0])
    template = abstract_of(tree, sharding)
    template["optimizer"] = abstract_of(tree["optimizer"])
    _, restored, _, _ = restore(tmp_path, template=template)
    assert_is(restored, tree)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(restored["parameters"]))
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(restored["optimizer"]))
    _, restored, _, _ = restore(tmp_path, template=template, parameters_only=True)
    assert restored["parameters"]["embed.weight"].sharding == sharding


def test_a_template_that_differs_is_refused_with_names_and_shapes(tmp_path):
    saved(tmp_path, [1])
    template = abstract_of(tree_of(1))
    parameters = template["parameters"]
    parameters["embed.weight"] = jax.ShapeDtypeStruct((6, 4), np.float32)
    parameters["head.weight"] = jax.ShapeDtypeStruct((3, 3), np.float32)
    parameters.pop("blocks.0.attention.query.weight")
    template["optimizer"]["step"] = jax.ShapeDtypeStruct((), np.int64)
    with pytest.raises(UserError) as caught:
        restore(tmp_path, template=template)
    for part in (
        "only in the checkpoint: parameters.blocks.0.attention.query.weight float32(6, 3)",
        "only in the model: parameters.head.weight float32(3, 3)",
        "parameters.embed.weight is float32(6, 3), not float32(6, 4)",
        "optimizer.step is int32(), not int64()",
    ):
        assert part in str(caught.value)


ELSEWHERE = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxlm.store.checkpoint import Checkpoints, restore

jax.config.update("jax_enable_x64", True)
def mesh(n):
    return jax.make_mesh((n,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])
def placed(n):
    return {"parameters": {"w": NamedSharding(mesh(n), P("fsdp"))},
            "optimizer": {"mu": {"w": NamedSharding(mesh(n), P(None, "fsdp"))},
                          "step": NamedSharding(mesh(n), P())}}
w = np.random.default_rng(0).normal(size=(16, 8))
tree = {"parameters": {"w": w}, "optimizer": {"mu": {"w": w * 2}, "step": np.int32(3)}}
assert len(jax.devices()) == 8
with Checkpoints(sys.argv[1], 1) as checkpoints:
    checkpoints.save(1, jax.device_put(tree, placed(8)), {})
for n in (8, 4, 2, 1):
    template = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype, sharding=s),
        tree, placed(n))
    _, there, _, _ = restore(sys.argv[1], template=template)
    assert jax.tree.map(lambda x: x.sharding, there) == placed(n)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes()
               for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(tree)))
np.save(sys.argv[1] + ".npy", w)
"""


@pytest.mark.slow
def test_a_checkpoint_is_restored_onto_another_number_of_devices(tmp_path):
    folder = tmp_path / "checkpoints"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE, str(folder)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    _, tree, _, _ = restore(folder)
    assert same_bits(tree["parameters"]["w"], np.load(str(folder) + ".npy"))


def test_the_manifest_lists_every_file(tmp_path):
    saved(tmp_path, [5], best=(5,))
    body = json.loads((tmp_path / "5" / manifest.NAME).read_text())
    files = {p.relative_to(tmp_path / "5").as_posix(): p for p in (tmp_path / "5").rglob("*")}
    listed = {name for name, path in files.items() if path.is_file()} - {manifest.NAME}
    assert set(body["files"]) == listed
    assert (body["step"], body["best"]) == (5, True)
    assert body["format_version"] == manifest.FORMAT_VERSION
    assert all(files[n].stat().st_size == entry["bytes"] for n, entry in body["files"].items())
