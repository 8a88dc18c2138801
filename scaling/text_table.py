"""Tables for a terminal and for plain text files."""

import io
from collections.abc import Collection, Iterable, Sequence


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    left: Collection[int] = (0,),
    rule: bool = True,
) -> str:
    """Aligned columns, two spaces apart; those in `left` are flush left, the others flush right.

    `rule` draws a line below the header. Cells are shown as they are: nothing is wrapped, cut or
    read as markup. Wide characters count as two columns.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for i, name in enumerate(header):
        table.add_column(Text(name), justify="left" if i in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    text = io.StringIO()
    Console(file=text, width=10_000, color_system=None).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    if rule:
        lines.insert(1, "-" * max(map(cell_len, lines)))
    return "\n".join(lines)
