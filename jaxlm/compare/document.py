"""A page as a list of blocks, rendered as Markdown and as one self-contained HTML file.

In texts, `code` and **bold** are marked as in Markdown; everything else is taken literally.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxlm.host.markdown import bullets, fenced, figure, table

Block = Any


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    kind: str = ""  # "answer" and "warning" stand out


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A cell with the number by which its column is sorted."""

    text: str
    order: float | str | None = None


@dataclass(frozen=True)
class Table:
    """Columns numbered in `text_columns` are aligned to the left, all others to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    text_columns: Sequence[int] = (0,)
    sortable: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure: `path` without its suffix; both `.png` and `.svg` exist."""

    path: Path
    alt: str
    caption: str


@dataclass(frozen=True)
class Code:
    text: str
    language: str = ""


@dataclass(frozen=True)
class Columns:
    """Texts side by side: (title, texts) of each column."""

    columns: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded until the reader opens them."""

    summary: str
    blocks: Sequence[Block] = field(default_factory=tuple)


# -- Markdown ------------------------------------------------------------------------------------


def markdown(blocks: Sequence[Block], folder: Path) -> str:
    """The page as Markdown, its figures linked relative to `folder`."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text, kind):
            return f"> **Note:** {text}" if kind == "warning" else text
        case Bullets(items):
            return bullets(items)
        case Table():
            rows = [[_text(cell) for cell in cells] for cells in block.rows]
            return table(block.header, rows, block.text_columns)
        case Figure(path, alt, caption):
            where = path.relative_to(folder).as_posix()
            return f"{figure(alt, f'{where}.png', caption)} ([SVG]({where}.svg))"
        case Code(text, language):
            return fenced(text, language)
        case Columns(columns):
            parts = []
            for title, texts in columns:
                parts += [f"**{title}**", *(fenced(text, "text") for text in texts)]
            return "\n\n".join(parts)
        case Details(summary, inner):
            body = markdown(inner, folder).strip()
            title = html.escape(summary, quote=False)
            return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"
    raise TypeError(block)


def _text(cell: str | Cell) -> str:
    text = cell.text if isinstance(cell, Cell) else cell
    return " ".join(text.split())


# -- HTML ----------------------------------------------------------------------------------------


def page(title: str, blocks: Sequence[Block]) -> str:
    """The page as self-contained HTML, with its style and figures inside."""
    sortable = any(isinstance(block, Table) and block.sortable for block in blocks)
    script = f"<script>\n{_beside('sort.js')}\n</script>\n" if sortable else ""
    style = _beside("page.css")
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}\n</style>\n</head>\n"
        f"<body>\n{body}\n{script}</body>\n</html>\n"
    )


def _beside(name: str) -> str:
    """A style or script from the folder of this file."""
    return Path(__file__).with_name(name).read_text("utf-8").strip()


def inline(text: str) -> str:
    """The text with its marks as HTML and everything else escaped."""
    parts = re.split(r"(`[^`]+`)", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"<code>{html.escape(part[1:-1], quote=False)}</code>"
        else:
            safe = html.escape(part, quote=False)
            parts[i] = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return "".join(parts)


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{inline(text)}</h{level}>"
        case Paragraph(text, kind):
            mark = f' class="{kind}"' if kind else ""
            return f"<p{mark}>{inline(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{inline(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            return _html_table(block)
        case Figure(path, alt, caption):
            data = base64.b64encode(path.with_name(f"{path.name}.svg").read_bytes()).decode()
            source = f"data:image/svg+xml;base64,{data}"
            picture = f'<img src="{source}" alt="{html.escape(alt)}">'
            return f"<figure>{picture}<figcaption>{inline(caption)}</figcaption></figure>"
        case Code(text):
            return f"<pre><code>{html.escape(text, quote=False)}</code></pre>"
        case Columns(columns):
            made = []
            for title, texts in columns:
                blocks = "".join(f"<pre>{html.escape(text, quote=False)}</pre>" for text in texts)
                made.append(f"<div><h4>{inline(title)}</h4>{blocks}</div>")
            return f'<div class="columns">{"".join(made)}</div>'
        case Details(summary, inner):
            body = "\n".join(_html(one) for one in inner)
            return f"<details><summary>{inline(summary)}</summary>\n{body}\n</details>"
    raise TypeError(block)


def _html_table(table: Table) -> str:
    def mark(i: int, text: str = "") -> str:
        kind = "text long" if len(text) > 40 else "text short"
        return f' class="{kind}"' if i in table.text_columns else ""

    sort = ' data-sort="" title="sort"' if table.sortable else ""
    head = "".join(f"<th{mark(i)}{sort}>{inline(t)}</th>" for i, t in enumerate(table.header))
    rows = []
    for cells in table.rows:
        made = []
        for i, cell in enumerate(cells):
            order = ""
            if isinstance(cell, Cell):
                value = "" if cell.order is None else str(cell.order)
                order = f' data-order="{html.escape(value)}"'
            text = _text(cell)
            made.append(f"<td{mark(i, text)}{order}>{inline(text)}</td>")
        rows.append(f"<tr>{''.join(made)}</tr>")
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )
