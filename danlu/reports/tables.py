"""Tables for terminals and pages, and numbers as people read them."""

from __future__ import annotations

import html
import io
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

CELL = "padding:.2em .7em;text-align:{};vertical-align:top"


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Aligned text; on a terminal long cells are folded to its width. Chinese characters take two places."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=None if sys.stdout.isatty() else 1000, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """A plain table in the page's own colours."""
    sides = ["right" if column in right else "left" for column in columns]
    head = "".join(f'<th style="{CELL.format(side)}">{html.escape(column)}</th>' for column, side in zip(columns, sides, strict=True))
    lines = []
    for row in rows:
        cells = (f'<td style="{CELL.format(side)}">{html.escape(cell)}</td>' for cell, side in zip(row, sides, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


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
