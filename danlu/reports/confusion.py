"""A confusion matrix as a coloured table that stays readable with many classes, and its most frequent mistakes in words."""

from __future__ import annotations

import html

from danlu.evaluation.scores.curves import Confusion
from danlu.reports.tables import html_table

MOST_CLASSES = 40  # shown in the matrix: the most frequent; the list of mistakes is of all
FEW = 6  # classes whose names stand upright above their columns
RIGHT, WRONG = "0,114,178", "213,94,0"  # the first two of plots.COLORS
DEEPEST = 0.62  # of a cell's colour, so that its number is read in either ink
LISTED = 12


def confusion_table(confusion: Confusion) -> str:
    """Truth down, answers across; the deeper a cell, the larger its share of the row."""
    totals = [sum(row) for row in confusion.counts]
    shown = sorted(sorted(range(len(totals)), key=lambda row: -totals[row])[:MOST_CLASSES])
    columns = [*shown, *range(len(confusion.labels), len(confusion.answered))]
    many = len(columns) > FEW
    heads = "".join(f"<th><span>{html.escape(confusion.answered[column])}</span></th>" for column in columns)
    lines = []
    for row in shown:
        cells = (_cell(confusion, row, column, totals[row]) for column in columns)
        lines.append(f"<tr><th>{html.escape(confusion.labels[row])}</th>{''.join(cells)}<td class='total'>{totals[row]:,}</td></tr>")
    left = len(totals) - len(shown)
    said = f"<p>{left} classes with fewer rows are left out of the matrix.</p>" if left else ""
    first = f"<tr><th>truth ↓ &nbsp; answer →</th>{heads}<th><span>rows</span></th></tr>"
    table = f"<thead>{first}</thead><tbody>{''.join(lines)}</tbody>"
    return f'<table class="confusion{" many" if many else ""}">{table}</table>{said}'


def _cell(confusion: Confusion, row: int, column: int, total: int) -> str:
    count = confusion.counts[row][column]
    part = count / total if total else 0.0
    told = html.escape(f"{confusion.labels[row]} answered as {confusion.answered[column]}: {count:,} of {total:,} ({part:.1%})")
    if not count:
        return f'<td title="{told}" class="none">·</td>'
    paint = f"rgba({RIGHT if row == column else WRONG},{0.06 + (DEEPEST - 0.06) * part**0.6:.2f})"
    return f'<td title="{told}" style="background:{paint}">{count:,}</td>'


def confused_pairs(confusion: Confusion) -> str:
    """The most frequent mistakes, one a line."""
    found = [
        (count, row, column)
        for row, counts in enumerate(confusion.counts)
        for column, count in enumerate(counts)
        if count and column != row
    ]
    found.sort(key=lambda each: (-each[0], each[1], each[2]))
    columns = ("truth", "answered as", "times", "of the class")
    rows = [
        [confusion.labels[row], confusion.answered[column], f"{count:,}", f"{count / sum(confusion.counts[row]):.1%}"]
        for count, row, column in found[:LISTED]
    ]
    return html_table(columns, rows, columns[2:]) if rows else "<p>none</p>"
