"""Keeps compiled programs on disk, so that the same command is faster the second time."""

import os
import socket
from pathlib import Path

import jax


def keep_programs(folder: str | Path | None = None) -> None:
    """Keep compiled programs in `folder`/xla; without `folder`, in the user's cache folder.

    A program is valid for one machine and one compiler version, so each pair has its own
    subfolder. A cache folder set by the caller or by JAX_COMPILATION_CACHE_DIR is left unchanged.
    If the folder cannot be written, programs are compiled again each time.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]  # set at run time
        return
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if not os.path.isabs(home):  # no home is known
            return
        folder = Path(home) / "scaling"
    place = Path(folder) / "xla" / f"{socket.gethostname()}-jaxlib-{jax.lib.__version__}"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(place, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(place.absolute()))
    # Keep small ones too: a command has dozens, and reading one is ten times as fast as compiling.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
