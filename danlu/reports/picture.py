"""A comparison as one picture (PNG), drawn by matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FuncFormatter
from rich.cells import cell_len, chop_cells

from danlu.reports.curve import Curve, faint, loss_label, loss_range, time_unit
from danlu.reports.plots import color, dashes, number_text
from danlu.reports.summary import RunSummary

LATIN = "DejaVu Sans"  # comes with matplotlib
WIDE = re.compile(r"noto.*cjk|sourcehan|wqy|msyh|pingfang|simhei|hiragino|droidsansfallback", re.IGNORECASE)  # looked into first
LEGEND_CELLS, SHORT_CELLS = 150, 20  # room for names above and beside the drawing; a Chinese character takes two
INK, FAINT = "#222222", "#dddddd"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#888888", "axes.labelcolor": INK, "axes.spines.right": False, "axes.spines.top": False, "axes.titlesize": 11,
    "axes.titlelocation": "left", "axes.grid": True, "axes.axisbelow": True, "grid.color": FAINT,
    "grid.linewidth": 0.8, "xtick.color": "#555555", "ytick.color": "#555555", "text.color": INK, "font.size": 10, "text.parse_math": False,
}  # fmt: skip


def draw_png(curves: Sequence[Curve], runs: Sequence[RunSummary]) -> tuple[bytes, str]:
    """Loss against step and against wall time, and what was held out. Returns: the file's bytes, and what could not be drawn."""
    family, lacking = find_fonts("".join(curve.name for curve in curves))
    names = ["".join("?" if sign in lacking else sign for sign in curve.name) for curve in curves]
    said = ""
    if lacking:
        said = f"no font here draws {lacking}: it is ? in the picture, not on the page; install one (Debian: fonts-noto-cjk)"
    with matplotlib.rc_context({**STYLE, "font.family": family}):
        measured, unit = _held_out(runs)
        columns = max(1, min(len(curves), LEGEND_CELLS // (6 + max(map(cell_len, names)))))
        height = 4.6 + 0.28 * ((len(curves) - 1) // columns)
        figure = Figure(figsize=(15.0 if measured else 12.0, height), dpi=150, layout="constrained", facecolor="white")
        panels = figure.subplots(1, 3 if measured else 2, width_ratios=(1, 1, 0.55) if measured else (1, 1))
        by_step, by_time = panels[0], panels[1]
        most_seconds = max((max(curve.seconds, default=0.0) for curve in curves), default=0.0)
        divisor, sign = time_unit(most_seconds)
        seen = faint(len(curves))
        for index, curve in enumerate(curves):
            _draw(by_step, curve, [float(step) for step in curve.steps], [float(p.step) for p in curve.held_out], index, names[index], seen)
            seconds, held_out = [s / divisor for s in curve.seconds], [p.seconds / divisor for p in curve.held_out]
            _draw(by_time, curve, seconds, held_out, index, names[index], seen)
        for axes, label in ((by_step, "step"), (by_time, f"wall time ({sign})")):
            axes.set(xlabel=label, ylabel=loss_label(curves), ylim=loss_range(curves))
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
            axes.set_title(f"Loss against {label.partition(' (')[0]}")
            axes.grid(visible=False, axis="x")
        if measured:
            _draw_held_out(panels[2], measured, unit, names)
        handles, labels = by_step.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=11)
        key = "faint: each step   ·   strong: mean over the steps around it   ·   ring: held out"
        figure.supxlabel(key, fontsize=9, color="#666666", x=0.01, ha="left")
        written = io.BytesIO()
        FigureCanvasAgg(figure).print_png(written, metadata={"Title": "runs compared"})
    return written.getvalue(), said


def find_fonts(text: str) -> tuple[list[str], str]:
    """Font families that together draw a text, and the signs that none of this machine's fonts has."""
    latin = FT2Font(font_manager.findfont(LATIN))
    lacking = {sign for sign in text if ord(sign) not in latin.get_charmap()}
    family = [LATIN]
    files = sorted(font_manager.findSystemFonts(), key=lambda file: (not WIDE.search(Path(file).name), file)) if lacking else []
    for file in files:
        try:
            found = {sign for sign in lacking if ord(sign) in FT2Font(file).get_charmap()}
        except (OSError, RuntimeError):  # a file that is no font
            continue
        if found:
            font_manager.fontManager.addfont(file)
            family.append(font_manager.FontProperties(fname=file).get_name())
            lacking -= found
        if not lacking:
            break
    return family, "".join(sorted(lacking))


def _draw(axes: Axes, curve: Curve, x: list[float], held_out: list[float], index: int, name: str, seen: float) -> None:
    paint, pattern = color(index), dashes(index)
    axes.plot(x, curve.losses, color=paint, alpha=seen, linewidth=0.8, zorder=2)
    axes.plot(x, curve.smoothed(), color=paint, linewidth=1.9, zorder=3, label=name, linestyle=(0, pattern) if pattern else "-")
    losses = [point.loss for point in curve.held_out]
    axes.plot(held_out, losses, "o", color=paint, markerfacecolor="white", markeredgewidth=1.8, markersize=7, zorder=4, clip_on=False)


def _short(name: str) -> str:
    return name if cell_len(name) <= SHORT_CELLS else f"{chop_cells(name, SHORT_CELLS - 1)[0]}…"


def _held_out(runs: Sequence[RunSummary]) -> tuple[list[tuple[int, float]], str]:
    """Each run's place and value in the one unit that most of them share."""
    kinds = (("bits per byte", "val_bits_per_byte"), ("share of answers right", "val_accuracy"), ("loss", "val_loss_nats"))
    found = [
        ([(place, value) for place, run in enumerate(runs) if (value := getattr(run, field)) is not None], unit) for unit, field in kinds
    ]
    return max(found, key=lambda each: len(each[0]))


def _draw_held_out(axes: Axes, measured: list[tuple[int, float]], unit: str, names: Sequence[str]) -> None:
    for place, value in measured:
        axes.plot([value], [place], "o", color=color(place), markersize=9)
        axes.annotate(f"{value:.4g}", (value, place), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9)
    axes.set(yticks=range(len(names)), yticklabels=[_short(name) for name in names], ylim=(len(names) - 0.4, -0.6), xlabel=unit)
    axes.set_title("Held out")
    axes.margins(x=0.25)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
