"""Checkpoints: Orbax writes them, a manifest of hashes makes them whole, a reader verifies them.

    checkpoints/STEP/parameters/, optimizer/, _CHECKPOINT_METADATA    Orbax, committed by a rename
    checkpoints/STEP/config.yaml, tokenizer.json                      saved with it (guard.py)
    checkpoints/STEP/manifest.json                                    written last (manifest.py)
    checkpoints.json                                                  which step was completed last

Orbax alone does not notice a flipped bit. Nothing executable is loaded: arrays and JSON only.
"""

import contextlib
import logging
import shutil
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.files import plain
from jaxlm.store import manifest
from jaxlm.store.manifest import (
    NoCheckpoint,
    NotWhole,
    Restored,
    Unfinished,
    step_folders,
    whole_steps,
)

# Orbax logs a traceback for every error that it raises, and Python warns about the coroutines it
# then leaves behind; the error itself is enough.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)

_LOOKS = 5  # attempts, since steps may be pruned while they are read
Tree = dict[str, Any]
"""{"parameters": ..., "optimizer": ...}: nested dicts whose leaves are arrays of any kind."""


class Checkpoints:
    """Writes the checkpoints of one run; only one writer may exist (see `RunDirectory.lock`).

    Saves in the background, one at a time. Keeps the newest `keep` steps and the best one, and
    removes what a killed writer left. An error in the background is raised, as a UserError, by
    the next `save`, `wait` or `close`.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder = Path(folder).absolute()
        self.keep = max(1, keep)
        self._pending: tuple[int, Future[None]] | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self.folder}: {error.strerror}.\n"
                "Check the path and its permissions, or choose another run.dir."
            ) from error
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._executor.shutdown()  # the error being raised is the one to show

    def save(
        self,
        step: int,
        tree: Tree,
        metadata: Json,
        *,
        best: bool = False,
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Saves `tree` ({"parameters": ..., "optimizer": ...}, dicts of arrays) with `metadata`.

        Waits for the previous save and copies the arrays to the host; the rest happens in the
        background, so the caller may donate the arrays at once. Arrays must be addressable by this
        process. A step that is already whole is kept; at most it is marked as the best.
        `metadata` is plain JSON; values that are not finite become null. `files` (name -> content)
        are stored beside the arrays, under the same manifest.
        """
        self.wait()
        for leaf in jax.tree.leaves(tree):
            if hasattr(leaf, "copy_to_host_async"):
                leaf.copy_to_host_async()
        # np.array copies: on a CPU np.asarray would be a view of the buffer that is donated next.
        host_tree = jax.tree.map(np.array, tree)
        _check_names(host_tree)
        future = self._executor.submit(self._write, step, host_tree, plain(metadata), best, files)
        self._pending = (step, future)

    def wait(self) -> None:
        """Returns when the save in flight, if any, is whole. Raises its error."""
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        try:
            future.result()
        except (OSError, ValueError) as error:
            whole = self.steps()
            reason = getattr(error, "strerror", None) or str(error).split(" [tensorstore_spec")[0]
            raise UserError(
                f"the checkpoint of step {step} could not be written to {self.folder}: "
                f"{reason[:300]}.\n"
                "Check the free disk space and the folder's permissions; the same command then "
                f"resumes from the newest whole step ({whole[-1] if whole else 'none'})."
            ) from error

    def close(self) -> None:
        """Waits for the save in flight and ends the background thread. Raises like `wait`."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()

    def steps(self) -> list[int]:
        """The whole steps, newest last: manifest present and all sizes right."""
        return list(whole_steps(self.folder))

    def _write(
        self, step: int, tree: Tree, metadata: Json, best: bool, files: Mapping[str, bytes]
    ) -> None:
        path = self.folder / str(step)
        with contextlib.suppress(NotWhole):
            was_best = manifest.verify(path)["best"]
            if best and not was_best:
                manifest.write(path, step, best=True)
            return  # the step is whole already
        if path.exists():
            manifest.remove(path)
        context = ocp.Context()
        context.array.saving.use_compression = False  # weights are noise: 15 % smaller, 3 x slower
        context.memory.deepcopy_host_arrays = False  # they are our own copies
        context.asynchronous.create_directories_asynchronously = False  # else errors take minutes
        try:
            with context:
                parts = {name: part for name, part in tree.items() if jax.tree.leaves(part)}
                ocp.save_checkpointables(path, parts, custom_metadata=metadata)
            for name, content in files.items():
                (path / name).write_bytes(content)
            manifest.write(path, step, best=best)
            manifest.note_newest(self.folder, step)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._remove_leftovers()
            raise
        self._prune(step)

    def _prune(self, newest: int) -> None:
        """Keeps `newest`, just written and whole, with the other newest ones and the best."""
        manifests = whole_steps(self.folder)
        for later in [step for step in manifests if step > newest]:
            try:
                manifest.verify(self.folder / str(later))
            except NotWhole:  # training resumed from before a damaged step
                del manifests[later]
        steps = list(manifests)
        best = [step for step in steps if manifests[step]["best"]]
        kept = {newest, *best[-1:], *steps[-self.keep :]}
        for step in step_folders(self.folder):
            if step not in kept:
                manifest.remove(self.folder / str(step))

    def _remove_leftovers(self) -> None:
        """Removes what killed writers left: Orbax's temporary folders and unfinished old steps."""
        for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover)
        newest = max(self.steps(), default=-1)
        for step in step_folders(self.folder):
            if step < newest and not (self.folder / str(step) / manifest.NAME).exists():
                shutil.rmtree(self.folder / str(step))


def restore(
    folder: str | Path,
    which: str | int = "last",
    *,
    template: Tree | None = None,
    parameters_only: bool = False,
) -> Restored:
    """The tree of the newest whole step, of the best, or of a given one.

    Every file's size and SHA-256 are compared with the manifest before Orbax reads any. Leaves of
    `template` (jax.ShapeDtypeStruct) that have a sharding become jax arrays with that sharding,
    whatever number of devices they were saved from; all others become numpy arrays. With
    `parameters_only` the optimizer's arrays are not loaded. Takes no lock: a step that is pruned
    while it is being read is passed over for the next.

    Raises NoCheckpoint if nothing was saved yet; UserError if nothing whole is left, if another
    version of this program wrote the step, or if names, shapes or types differ from the template's.
    """
    folder = Path(folder).absolute()
    looks = 0
    while True:
        looks, before = looks + 1, _listing(folder)
        rejected: dict[int, NotWhole] = {}
        for step in reversed(step_folders(folder)):
            path = folder / str(step)
            if which not in ("last", "best") and step != int(which):
                continue
            try:
                if which == "best" and not manifest.verify(path, hashes=False)["best"]:
                    continue
                tree, metadata = _verify_and_load(path, template, parameters_only)
            except NotWhole as why:
                rejected[step] = why
            else:
                if which == "last" and looks < _LOOKS and _pruned(folder, before, rejected):
                    break  # pruned while it was being read: there is a newer one
                skipped = [f"step {s}: {why}" for s, why in rejected.items()]
                return Restored(step, tree, metadata, [*_gone(folder, which, step), *skipped])
        else:
            if _listing(folder) == before:  # else a writer is active, and another look may succeed
                raise _nothing(folder, which, rejected)


def _pruned(folder: Path, before: list[tuple[int, bool]], rejected: Iterable[int]) -> bool:
    """Whether one of these steps was whole and no longer is."""
    whole = {step for step, has_manifest in before if has_manifest}
    return any(s in whole and not (folder / str(s) / manifest.NAME).exists() for s in rejected)


def _gone(folder: Path, which: str | int, step: int) -> list[str]:
    """A line if a step newer than the one restored as the last was completed and is missing."""
    noted = manifest.newest_noted(folder) if which == "last" else None
    if noted is None or noted <= step or (folder / str(noted)).exists():
        return []
    return [f"step {noted}: it is gone"]


def _listing(folder: Path) -> list[tuple[int, bool]]:
    """Each step, and whether it has a manifest."""
    return [(step, (folder / str(step) / manifest.NAME).exists()) for step in step_folders(folder)]


def _nothing(folder: Path, which: str | int, rejected: dict[int, NotWhole]) -> UserError:
    """The error for a folder without the requested step."""
    damaged = {s: why for s, why in rejected.items() if not isinstance(why, Unfinished)}
    reasons = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
    whole = [step for step in whole_steps(folder) if step not in damaged]
    if which != "last" and (damaged or whole):
        what = "the best checkpoint" if which == "best" else f"the checkpoint of step {which}"
        return UserError(
            f"{what} cannot be restored from {folder}{': ' + reasons if reasons else ''}.\n"
            f"Whole steps there: {', '.join(map(str, whole)) or 'none'}; "
            "choose one with job.checkpoint=STEP, or use job.checkpoint=last."
        )
    if damaged:
        return UserError(
            f"no whole checkpoint is left in {folder}: {reasons}.\n"
            "Training does not replace damaged checkpoints: put back good copies of the files, or "
            "start over with run.overwrite=true."
        )
    noted = manifest.newest_noted(folder)
    if noted is not None:
        found = "; ".join(f"step {step}: {why}" for step, why in rejected.items())
        return UserError(
            f"the checkpoints of {folder.parent} are gone: step {noted} was saved in {folder}"
            f"{', where ' + found if found else ''}.\n"
            "Training does not replace lost checkpoints: put the files back, or start over with "
            "run.overwrite=true."
        )
    return NoCheckpoint(
        f"no checkpoint in {folder}; train first: python run.py run.dir={folder.parent}"
    )


def _verify_and_load(path: Path, template: Tree | None, parameters_only: bool) -> tuple[Tree, Json]:
    """Like `_load`, but raises NotWhole unless every file of the step matches its manifest."""
    manifest.verify(path)
    try:
        return _load(path, template, parameters_only)
    except UserError:
        raise
    except Exception:
        manifest.verify(path)  # the step was pruned while Orbax was reading it
        raise


def _load(path: Path, template: Tree | None, parameters_only: bool) -> tuple[Tree, Json]:
    """The arrays and the metadata of a verified step."""
    saved = ocp.checkpointables_metadata(path)
    names = ["parameters"] if parameters_only else ["parameters", "optimizer"]
    abstract = {name: saved.metadata.get(name, {}) for name in names}  # Orbax saves nothing empty
    if template is not None:
        template = {name: template[name] for name in names}
        _check_template(path, abstract, template)
        abstract = jax.tree.map(
            lambda wanted, there: wanted if getattr(wanted, "sharding", None) else there,
            template,
            abstract,
        )
    parts = {name: part for name, part in abstract.items() if jax.tree.leaves(part)}
    return abstract | ocp.load_checkpointables(path, parts), saved.custom_metadata


def _check_template(path: Path, saved: Tree, template: Tree) -> None:
    """Raises UserError, which lists names, shapes and types, if the two trees differ."""
    there, wanted = _describe(saved), _describe(template)
    lists = {
        "only in the checkpoint": [f"{n} {there[n]}" for n in there if n not in wanted],
        "only in the model": [f"{n} {wanted[n]}" for n in wanted if n not in there],
        "different": [
            f"{n} is {there[n]}, not {wanted[n]}"
            for n in there
            if n in wanted and there[n] != wanted[n]
        ],
    }
    found = [
        f"{what}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if names[8:] else ''}"
        for what, names in lists.items()
        if names
    ]
    if found:
        raise UserError(
            f"the checkpoint {path} does not fit the model.\n{'; '.join(found)}.\n"
            "Use the configuration that it was trained with."
        )


def _describe(tree: Tree) -> dict[str, str]:
    """Dotted name of each leaf -> its type and shape, such as `float32(128, 64)`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{tuple(leaf.shape)}"
        for path, leaf in leaves
    }


def _check_names(tree: Tree) -> None:
    """Raises ValueError for trees that Orbax would store wrongly: it joins names with dots."""
    if len(_describe(tree)) != len(jax.tree.leaves(tree)):
        raise ValueError("two arrays of the tree have the same dotted name")
    if any(leaf.size == 0 for leaf in jax.tree.leaves(tree)):
        raise ValueError("an array of the tree is empty")
