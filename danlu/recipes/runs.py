"""`danlu runs`: what has been trained, how far and how well; `danlu runs compare`: several of them side by side."""

from __future__ import annotations

import json as encoder
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cyclopts import App

from danlu.base.errors import ConfigError
from danlu.reports.comparison import Comparison, compare_runs
from danlu.reports.listing import Runs, find_run

app = App(name="runs")


def runs(runs: str | Path = Path("runs")) -> Runs:
    """All runs of a folder by name, newest first. Shows itself as a table; runs(...)[name] shows a curve in a notebook."""
    return Runs(Path(runs))


@app.default
def show(*, runs: Path = Path("runs"), json: bool = False) -> None:
    """List all runs, newest first: how far they came and how good they became.

    A run says "running?" if it wrote something in the last minute. The loss is the mean of the last 20 steps, in nats an answer
    (squared error for numbers); tokens/s are of the
    middle step. What is damaged is said in its row.

    Parameters
    ----------
    runs
        Where runs are kept.
    json
        Print one JSON object.
    """
    found = Runs(runs)
    print(encoder.dumps({"runs": [asdict(each) for each in found.values()]}, ensure_ascii=False) if json else found)


@app.command
def compare(*names: str, runs: Path = Path("runs"), out: Path = Path("comparison"), json: bool = False) -> Comparison:
    """Put runs side by side: curves, final figures, and the settings in which they differ.

    Writes compare.png and compare.html, a page that needs nothing else.

    Parameters
    ----------
    names
        Two runs or more, by name or by folder.
    runs
        Where runs are kept.
    out
        Folder for the picture and the page; older ones there are replaced.
    json
        Print one JSON object at the end.
    """
    if len(names) < 2:
        raise ConfigError(f"{len(names)} run came to be compared; expected two or more, such as: danlu runs compare FIRST SECOND")
    found = compare_runs([find_run(name, runs) for name in names])
    page, picture, said = found.write(out)
    if json:
        told: dict[str, Any] = {title: dict(_columns(rows, found)) for title, rows in found.tables()}
        files = {"page": str(page), "picture": picture and str(picture)}
        print(encoder.dumps({"runs": [asdict(each) for each in found.runs], **told, **files}, ensure_ascii=False))
    else:
        print(found, *([said] if said else []), f"look at {' and '.join(str(file) for file in (picture, page) if file)}", sep="\n\n")
    return found


def _columns(rows: list[list[str]], found: Comparison) -> list[tuple[str, dict[str, str]]]:
    return [(row[0], dict(zip((curve.name for curve in found.curves), row[1:], strict=True))) for row in rows]
