"""The style of all figures: colours, matplotlib settings, new figures and their files.

The colours are those of Okabe and Ito (2008). matplotlib is imported only when something is drawn.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
BLACK, GREY = "#222222", "#8C8C8C"
MARKERS = "osD^vPX<>hp*"
ROUND = [1, 2, 2.5, 5, 10]
"""Mantissas of the steps between round ticks."""

Words = ParamSpec("Words")
Returned = TypeVar("Returned")


@functools.cache
def _settings() -> dict[Any, Any]:
    """matplotlib's defaults, overridden by house.mplstyle; the backend is unchanged."""
    from matplotlib import rc_params_from_file, rcParamsDefault

    file = Path(__file__).with_name("house.mplstyle")
    kept = {key: x for key, x in rcParamsDefault.items() if not key.startswith("backend")}
    return kept | dict(rc_params_from_file(file, use_default_template=False))


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the style until the block ends; draw and save inside it."""
    from matplotlib import rc_context

    with rc_context(_settings()):
        yield


def styled(function: Callable[Words, Returned]) -> Callable[Words, Returned]:
    """Decorator: run the function inside the house style."""

    @functools.wraps(function)
    def inside(*arguments: Words.args, **options: Words.kwargs) -> Returned:
        with house_style():
            return function(*arguments, **options)

    return inside


def new_figure(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple["Figure", list["Axes"]]:
    """A new figure without pyplot's global state, and its axes in reading order.

    Width and height are in inches; `options` are those of matplotlib's `subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).ravel())


def save(figure: "Figure", path: str | Path, svg: bool = True) -> Path:
    """Write `path`.png and, with `svg`, `path`.svg. Returns the path of the PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    settle(figure)
    png = path.with_name(f"{path.name}.png")
    render(figure, png, "png")
    if svg:
        render(figure, path.with_name(f"{path.name}.svg"), "svg")
    return png


def render(figure: "Figure", file: Path, form: str) -> None:
    """Write one file, faster than `Figure.savefig`, which would draw and lay out twice more."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    if form == "png":
        FigureCanvasAgg(figure).print_png(file)
    else:
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})


def settle(figure: "Figure") -> None:
    """Lay the figure out now and keep its axes in place from then on."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
