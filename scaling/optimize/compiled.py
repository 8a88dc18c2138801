"""Where compiled programs are kept, so that the same command is quick the second time."""

import os
import socket
from pathlib import Path

import jax


def keep_programs(folder: str | Path | None = None) -> None:
    """Keep compiled programs in `folder`/xla, or in the user's own cache folder.

    A program is of one machine and one version of the compiler: each pair has a folder. What the
    caller, or JAX_COMPILATION_CACHE_DIR, has set stays as it is. A folder that cannot be written
    costs nothing but the time to compile again.
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
    # Small ones too: a command has dozens of them, and reading one is ten times as fast.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
