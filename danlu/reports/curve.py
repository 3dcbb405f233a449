"""Curves of loss: what of them is worth drawing, and a drawing as SVG that needs no library and stands in any page."""

from __future__ import annotations

import html
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from danlu.reports.plots import Frame, color, dashes, draw_axes, draw_legend, points, ticks

MOST_POINTS = 600  # of a line: more than there are pixels to show
TIMES = ((1.0, "s"), (60.0, "min"), (3600.0, "h"))


@dataclass(frozen=True, kw_only=True)
class Point:
    """The loss on what was held out, after a step."""

    step: int
    seconds: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A run's loss at each step; equally many `steps`, `seconds` of wall time and `losses` in `unit`."""

    name: str
    unit: str = "nats"
    steps: Sequence[int]
    seconds: Sequence[float]
    losses: Sequence[float]
    held_out: Sequence[Point] = field(default=())

    def smoothed(self) -> list[float]:
        """Mean loss over the steps around each: a fiftieth of the run, fewer near its beginning so that the first fall stays steep."""
        sums = [0.0, *accumulate(self.losses)]
        count, reach = len(self.losses), max(2, len(self.losses) // 100)
        spans = [(i - min(i, reach), min(count, i + min(i, reach) + 1)) for i in range(count)]
        return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def faint(curves: int) -> float:
    """How much of the lines of single steps is seen, from 0 to 1: less where many lie over each other."""
    return 0.28 if curves <= 3 else 0.1


def loss_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """The losses worth showing: all but the first fall from ln V, which would press the rest flat."""
    kept = [value for curve in curves for value in curve.smoothed()[len(curve.losses) // 12 :]]
    kept += [point.loss for curve in curves for point in curve.held_out if math.isfinite(point.loss)]
    if not kept:
        return 0.0, 1.0
    low, high = min(kept), max(kept)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def loss_label(curves: Sequence[Curve]) -> str:
    """What stands beside the axis of losses."""
    return f"loss ({', '.join(dict.fromkeys(curve.unit for curve in curves))})"


def time_unit(most_seconds: float) -> tuple[float, str]:
    """Seconds in the unit that suits a time axis, and the unit's sign."""
    return max((unit for unit in TIMES if most_seconds >= 2 * unit[0]), default=TIMES[0])


def thin(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """A line of at most `MOST_POINTS` that keeps each stretch's lowest and highest point, so that no spike is lost."""
    stretch = math.ceil(2 * len(x) / MOST_POINTS)
    if stretch <= 2:
        return list(zip(x, y, strict=True))
    kept = set()
    for start in range(0, len(x), stretch):
        places = range(start, min(start + stretch, len(x)))
        kept |= {min(places, key=y.__getitem__), max(places, key=y.__getitem__)}
    return [(x[place], y[place]) for place in sorted(kept | {0, len(x) - 1})]


def draw_svg(curves: Sequence[Curve], *, against: str = "step", title: str = "", legend: bool | None = None) -> str:
    """Loss against "step" or "time": faint as measured, strong smoothed, a ring for what was held out.

    Text takes the page's own colour, so that it is read on a dark page too.
    """
    curves = [curve for curve in curves if curve.steps]
    if not curves:
        return f"<figure><figcaption>{html.escape(title)}</figcaption><p>no step was measured yet</p></figure>"
    unit, sign = time_unit(max(max(curve.seconds) for curve in curves)) if against == "time" else (1.0, "")
    xs = [[second / unit for second in curve.seconds] if against == "time" else list(map(float, curve.steps)) for curve in curves]
    left, right = 0.0 if against == "time" else min(x[0] for x in xs), max(max(x) for x in xs)
    low, high = loss_range(curves)
    frame = Frame()
    across, up = frame.across(left, max(right, left + 1e-9)), frame.up(low, high)
    x_label = "step" if against == "step" else f"wall time ({sign})"
    parts = draw_axes(frame, ticks(left, right, 6), ticks(low, high), across, up, x_label, loss_label(curves))
    parts.append(frame.clip(f"plot-{zlib.crc32(repr((title, against, curves)).encode()):x}"))
    for index, (curve, x) in enumerate(zip(curves, xs, strict=True)):
        paint = f'stroke="{color(index)}" stroke-width="1" opacity="{faint(len(curves))}"'
        parts.append(f'<polyline {paint} points="{points(thin(x, curve.losses), across, up)}"/>')
    for index, (curve, x) in enumerate(zip(curves, xs, strict=True)):
        paint = f'stroke="{color(index)}" stroke-width="2" stroke-dasharray="{" ".join(map(str, dashes(index)))}"'
        line = points(thin(x, curve.smoothed()), across, up)
        parts.append(f'<polyline {paint} points="{line}"><title>{html.escape(curve.name)}</title></polyline>')
    parts.append("</g>")
    for index, curve in enumerate(curves):
        for point in curve.held_out:
            place = point.seconds / unit if against == "time" else point.step
            at = f'cx="{across(place):.1f}" cy="{up(point.loss):.1f}" r="4.5"'
            told = f"{html.escape(curve.name)}: held out {point.loss:.4f} {curve.unit}"
            parts.append(f'<circle {at} fill="none" stroke="{color(index)}" stroke-width="2"><title>{told}</title></circle>')
    drawing = frame.wrap(parts, title or "loss")
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    shown = draw_legend([curve.name for curve in curves]) if legend or (legend is None and len(curves) > 1) else ""
    return f'<figure style="margin:0">{caption}{shown}{drawing}</figure>'
