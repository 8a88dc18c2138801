"""Settings of all tests: one thread per worker, shared compiled programs, quick or thorough.

`--thorough` (`make test-thorough`) tries more examples of hypothesis and adds the sweeps marked
`thorough`.
"""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

# With two workers on two cores, more than one thread each would only wait for the others.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Programs compiled by one worker, or by a process that a test starts, are shared by all others. The
# folder is new for each run of the suite, so that no result depends on an earlier run.
_PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
_made: list[str] = []
if _PROGRAMS not in os.environ:  # workers inherit it
    _made.append(tempfile.mkdtemp(prefix="jaxlm-tests-xla-"))
    os.environ[_PROGRAMS] = _made[0]
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# No time limit per example: results must not depend on the machine's speed.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=30, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=300, print_blob=True, **_COMMON)
settings.load_profile("quick")


def pytest_addoption(parser):
    parser.addoption(
        "--thorough", action="store_true", help="run all sweeps, with 300 examples of hypothesis"
    )


def pytest_configure(config):
    if config.getoption("thorough"):
        settings.load_profile("thorough")
    _draw_in_marked_tests_only()


def pytest_unconfigure():
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """Without --thorough, sweeps marked `thorough` are deselected, unless named by id."""
    if config.getoption("thorough") or any("::" in word for word in config.args):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]


# -- savings: figures and XLA's optimizations ------------------------------------------------------

_NOT_ABOUT_FIGURES = {"cli", "data", "project", "store", "study", "torchref", "train", "verify"}
_NOT_ABOUT_NUMERICS = _NOT_ABOUT_FIGURES - {"study"} | {"compare", "inference"}
_NOT_DRAWN = b"not drawn: this test is not about figures\n"
_drawing = {"real": True}


def pytest_runtest_setup(item):
    """Before the test's fixtures: choose whether figures are rendered and programs optimized.

    Tests of numerics and of bits compile like a user's run, and so do the processes that they
    start.
    """
    import jax

    room = item.path.relative_to(item.config.rootpath).parts[1]
    _drawing["real"] = room not in _NOT_ABOUT_FIGURES or bool(item.get_closest_marker("draws"))
    quickly = room in _NOT_ABOUT_NUMERICS and not item.get_closest_marker("optimized")
    jax.config.update("jax_disable_most_optimizations", quickly)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(quickly)


def _draw_in_marked_tests_only():
    """A run's figures take longer than its training here. Unless a test is marked `draws`, they
    are made but neither laid out nor rendered. Processes that tests start set run.figures=false."""
    from scaling.report import house

    settle, render = house.settle, house.render

    def settled_where_it_matters(figure):
        if _drawing["real"]:
            settle(figure)

    def rendered_where_it_matters(figure, file, form):
        if _drawing["real"]:
            render(figure, file, form)
        else:
            Path(file).write_bytes(_NOT_DRAWN)

    house.settle, house.render = settled_where_it_matters, rendered_where_it_matters
