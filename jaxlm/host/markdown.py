"""The parts of Markdown that pages are made of."""

from collections.abc import Iterable, Sequence


def fenced(text: str, language: str) -> str:
    """A fenced block that the text cannot break out of."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {item}" for item in items)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[int]) -> str:
    """A table: `text_columns` are aligned left, all others right; each cell is one line."""
    rule = [":---" if i in text_columns else "---:" for i in range(len(header))]
    return "\n".join([_row(header), f"|{'|'.join(rule)}|", *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    shown = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(shown)} |"


def figure(alt: str, place: str, caption: str) -> str:
    """A figure with its caption below."""
    return f"![{alt}]({place})\n\n*{caption}*"
