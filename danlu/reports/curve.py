"""Curves of loss: what of them is worth drawing, and a drawing as SVG that needs no library and stands in any page."""

from __future__ import annotations

import html
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

# Told apart by people with any kind of colour vision, and seen on white and on black.
# Source: Okabe & Ito 2008, "Color universal design", without its yellow and black; grey added.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#888888")
DASHES = ((), (6, 3), (2, 2))  # the second and third round of colours
MOST_POINTS = 600  # of a line: more than there are pixels to show
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 600, 320, 58, 24, 12, 46  # of one drawing, in its own pixels
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


def color(index: int) -> str:
    """The colour of a comparison's curve."""
    return COLORS[index % len(COLORS)]


def dashes(index: int) -> tuple[int, ...]:
    """Lengths of a curve's dashes and gaps in pixels; none for a whole line."""
    return DASHES[index // len(COLORS) % len(DASHES)]


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


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between two bounds, about as many as wanted."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    scale = 10 ** math.floor(math.log10(rough))
    step = scale * next((factor for factor in (1, 2, 5) if factor * scale >= rough), 10)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step * (1 + 1e-9)) + 1)]


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
    across = _scale(left, max(right, left + 1e-9), LEFT, WIDTH - RIGHT)
    up = _scale(low, high, HEIGHT - BOTTOM, TOP)
    x_label = "step" if against == "step" else f"wall time ({sign})"
    parts = _axes(ticks(left, right, 6), ticks(low, high), across, up, x_label, loss_label(curves))
    clip = f"plot-{zlib.crc32(repr((title, against, curves)).encode()):x}"
    parts.append(
        f'<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath>'
    )
    parts.append(f'<g clip-path="url(#{clip})" fill="none" stroke-linejoin="round">')
    for index, (curve, x) in enumerate(zip(curves, xs, strict=True)):
        paint = f'stroke="{color(index)}" stroke-width="1" opacity="{faint(len(curves))}"'
        parts.append(f'<polyline {paint} points="{_points(thin(x, curve.losses), across, up)}"/>')
    for index, (curve, x) in enumerate(zip(curves, xs, strict=True)):
        paint = f'stroke="{color(index)}" stroke-width="2" stroke-dasharray="{" ".join(map(str, dashes(index)))}"'
        line = _points(thin(x, curve.smoothed()), across, up)
        parts.append(f'<polyline {paint} points="{line}"><title>{html.escape(curve.name)}</title></polyline>')
    parts.append("</g>")
    for index, curve in enumerate(curves):
        for point in curve.held_out:
            place = point.seconds / unit if against == "time" else point.step
            at = f'cx="{across(place):.1f}" cy="{up(point.loss):.1f}" r="4.5"'
            told = f"{html.escape(curve.name)}: held out {point.loss:.4f} {curve.unit}"
            parts.append(f'<circle {at} fill="none" stroke="{color(index)}" stroke-width="2"><title>{told}</title></circle>')
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" style="max-width:100%;height:auto" role="img" '
        f'font-family="system-ui,sans-serif" font-size="12" fill="currentColor" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{html.escape(title or 'loss')}</title>{''.join(parts)}</svg>"
    )
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    shown = draw_legend(curves) if legend or (legend is None and len(curves) > 1) else ""
    return f'<figure style="margin:0">{caption}{shown}{drawing}</figure>'


def draw_legend(curves: Sequence[Curve]) -> str:
    """Each curve's name beside a piece of its line."""
    entries = []
    for index, curve in enumerate(curves):
        line = f'stroke="{color(index)}" stroke-width="3" stroke-dasharray="{" ".join(map(str, dashes(index)))}"'
        piece = f'<svg width="28" height="10" aria-hidden="true"><line x1="1" x2="27" y1="5" y2="5" {line}/></svg>'
        entries.append(f'<span style="white-space:nowrap;margin-right:1.2em">{piece} {html.escape(curve.name)}</span>')
    return f"<div>{''.join(entries)}</div>"


def number_text(value: float) -> str:
    """A tick's number: 0.05, 2.5, 1,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 9):g}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _points(line: Sequence[tuple[float, float]], across: Callable[[float], float], up: Callable[[float], float]) -> str:
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)


def _axes(
    xs: Sequence[float], ys: Sequence[float], across: Callable[[float], float], up: Callable[[float], float], x_label: str, y_label: str
) -> list[str]:  # fmt: skip
    floor, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for y in ys:
        place = f"{up(y):.1f}"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place}" y2="{place}" stroke="currentColor" opacity=".13"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{place}" dy=".35em" text-anchor="end" opacity=".8">{number_text(y)}</text>')
    for x in xs:
        parts.append(f'<text x="{across(x):.1f}" y="{floor + 18}" text-anchor="middle" opacity=".8">{number_text(x)}</text>')
        parts.append(f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{floor}" y2="{floor + 4}" stroke="currentColor" opacity=".5"/>')
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}" stroke="currentColor" opacity=".5"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_label}</text>')
    parts.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>')
    return parts
