"""The package: `load(run)` opens a trained run in a notebook."""

__version__ = "0.1.0"


def load(run_dir, checkpoint="last", backend="jax"):
    """Open a trained run: `load("runs/quickstart").generate("Once")`. See `generate.LoadedRun`."""
    from functools import partial

    from jaxlm.inference.engines import engine_class
    from jaxlm.inference.generate import LoadedRun

    return LoadedRun(run_dir, checkpoint, load_engine=partial(engine_class, backend))
