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
    """Columns named in `text_columns` are set to the left, all others to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    text_columns: Sequence[int] = (0,)
    sortable: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture: `path` without its ending, `.png` and `.svg` being there."""

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
    """Blocks that a reader opens when wanted."""

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
            return "\n".join(f"- {item}" for item in items)
        case Table():
            return _markdown_table(block)
        case Figure(path, alt, caption):
            where = path.relative_to(folder).as_posix()
            return f"![{alt}]({where}.png)\n\n*{caption}* ([SVG]({where}.svg))"
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


def _markdown_table(table: Table) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = [":---" if i in table.text_columns else "---:" for i in range(len(table.header))]
    rows = [[_text(cell) for cell in cells] for cells in table.rows]
    return "\n".join([row(table.header), f"|{'|'.join(rule)}|", *map(row, rows)])


def _text(cell: str | Cell) -> str:
    text = cell.text if isinstance(cell, Cell) else cell
    return " ".join(text.split())


def fenced(text: str, language: str) -> str:
    """A fenced block that the text cannot break out of."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


# -- HTML ----------------------------------------------------------------------------------------

STYLE = """
:root { --ink: #1b1b1b; --soft: #5c5c5c; --line: #d9d9d9; --tint: #f5f6f7; --accent: #0b5a8c; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 77rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans",
  Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, ul { max-width: 46rem; margin: .6rem 0; }
.answer { font-size: 1.08rem; border-left: 4px solid var(--accent); padding: .3rem 0 .3rem .9rem; }
.warning { border-left: 4px solid #b8860b; background: #fdf8ea; padding: .4rem .9rem; }
.scroll { overflow-x: auto; margin: .8rem 0; background:
  linear-gradient(to left, #fff 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, #c4c4c4, transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { vertical-align: bottom; border-bottom: 2px solid var(--ink); font-weight: 600;
  white-space: normal; min-width: 4.2rem; }
th.text, td.text { text-align: left; }
td.text { white-space: normal; min-width: 6rem; max-width: 30rem; }
td.text.long { min-width: 16rem; } td.text.short, td code { white-space: nowrap; }
th[data-sort] { cursor: pointer; } th[data-sort]:hover { text-decoration: underline; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .875rem; max-width: 46rem; margin-top: .3rem; }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", Consolas, monospace; font-size: .85em; }
code { background: var(--tint); padding: .05em .25em; border-radius: 3px; }
pre { background: var(--tint); padding: .7rem .9rem; border-radius: 4px; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: .6rem 0; }
pre code { background: none; padding: 0; font-size: 1em; }
.columns { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.columns h4 { margin: 0 0 .3rem; font-size: .9rem; } .columns pre { font-size: .8rem; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; } .scroll { overflow: visible; }
  table { font-size: 7pt; } th, td { padding: .15rem .3rem; min-width: 0; white-space: normal; }
  figure, tr, .columns > div { break-inside: avoid; } h2, h3 { break-after: avoid; }
}
""".strip()

_SORT = """
for (const th of document.querySelectorAll("th[data-sort]")) th.onclick = () => {
  const body = th.closest("table").tBodies[0], i = th.cellIndex;
  const down = th.dataset.sort = th.dataset.sort === "up" ? "down" : "up";
  const value = row => row.cells[i].dataset.order ?? row.cells[i].textContent;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if ((x === "") !== (y === "")) return x === "" ? 1 : -1;  // what is unknown comes last
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return down === "up" ? order : -order;
  };
  body.append(...[...body.rows].sort(compare));
};
""".strip()


def page(title: str, blocks: Sequence[Block]) -> str:
    """The page as HTML that needs nothing else: style and figures are inside it."""
    sortable = any(isinstance(block, Table) and block.sortable for block in blocks)
    script = f"<script>\n{_SORT}\n</script>\n" if sortable else ""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n{script}</body>\n</html>\n"
    )


def inline(text: str) -> str:
    """A text's marks as HTML, all else escaped."""
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
