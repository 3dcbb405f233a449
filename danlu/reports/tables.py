"""Tables for terminals and pages, and numbers as people read them."""

from __future__ import annotations

import html
import io
import shutil
import sys
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2  # places between columns of text
CELL = "padding:.2em .7em;text-align:{};vertical-align:top"
NUMBER = ";white-space:nowrap"  # a page's tables scroll where it is narrow


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), spare: Sequence[str] = ()) -> str:
    """Aligned text; on a terminal that is too narrow the `spare` columns are left out, first ones first, and then long cells are folded.

    Chinese characters take two places.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    widths = {column: max(map(cell_len, (column, *cells))) + GAP for column, *cells in zip(columns, *rows, strict=True)}
    left_out: list[str] = []
    for column in spare:
        if sum(widths.values()) - GAP > width:
            left_out.append(column)
            del widths[column]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for column in widths:
        number = column in right
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        table.add_row(*(Text(cell) for column, cell in zip(columns, row, strict=True) if column in widths))
    console = Console(file=io.StringIO(), width=min(width, sum(widths.values())), color_system=None)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().rstrip().splitlines()]
    return "\n".join([*lines, f"(a wider terminal shows {', '.join(left_out)} too)"] if left_out else lines)


class Markup(str):
    """Text that is HTML already; any other is escaped where it is put into a page."""

    __slots__ = ()


def escaped(text: str) -> str:
    """A text as HTML."""
    return text if isinstance(text, Markup) else html.escape(text)


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """A plain table in the page's own colours."""
    sides = ["right" if column in right else "left" for column in columns]
    head = "".join(f'<th style="{CELL.format(side)}">{escaped(column)}</th>' for column, side in zip(columns, sides, strict=True))
    lines = []
    for row in rows:
        cells = (
            f'<td style="{CELL.format(side)}{NUMBER if side == "right" else ""}">{escaped(cell)}</td>'
            for cell, side in zip(row, sides, strict=True)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table style="border-collapse:collapse;color:inherit"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def amount(number: float) -> str:
    """A count for people: 950, 12.3 k, 4.56 M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {sign}"
    return f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """A time for people: 8.1 s, 3 min 20 s, 2 h 05 min."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
