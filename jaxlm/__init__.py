"""jaxlm: a laboratory for small language models. `load(run)` opens a trained run in a notebook."""

__version__ = "0.1.0"


def load(run_dir, checkpoint="last"):
    """Open a trained run: `load("runs/quickstart").generate("Once")`. See `generate.LoadedRun`."""
    from jaxlm.generate import LoadedRun

    return LoadedRun(run_dir, checkpoint)
