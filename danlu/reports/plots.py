"""Line plots as SVG that need no library and stand in any page: colours, axes, lines, and intervals as whiskers."""

from __future__ import annotations

import html
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Told apart by people with any kind of colour vision, and seen on white and on black.
# Source: Okabe & Ito 2008, "Color universal design", without its yellow and black; grey added.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#888888")
DASHES = ((), (6, 3), (2, 2))  # the second and third round of colours
Place = Callable[[float], float]  # of a value, in a drawing's own pixels


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One drawing's size and the room around its lines, in its own pixels."""

    width: int = 600
    height: int = 320
    left: int = 58
    right: int = 24
    top: int = 12
    bottom: int = 46

    @property
    def floor(self) -> int:
        """Where the lower axis lies."""
        return self.height - self.bottom

    def across(self, low: float, high: float) -> Place:
        """Where values from low to high lie from left to right."""
        return scale(low, high, self.left, self.width - self.right)

    def up(self, low: float, high: float) -> Place:
        """Where values from low to high lie from the floor up."""
        return scale(low, high, self.floor, self.top)

    def clip(self, name: str) -> str:
        """The beginning of a group of lines that end at the frame."""
        size = f'width="{self.width - self.left - self.right}" height="{self.floor - self.top}"'
        area = f'<clipPath id="{name}"><rect x="{self.left}" y="{self.top}" {size}/></clipPath>'
        return f'{area}<g clip-path="url(#{name})" fill="none" stroke-linejoin="round">'

    def wrap(self, parts: Sequence[str], title: str) -> str:
        """The whole drawing; text takes the page's own colour."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" style="max-width:100%;height:auto" role="img" '
            f'font-family="system-ui,sans-serif" font-size="12" fill="currentColor" xmlns="http://www.w3.org/2000/svg">'
            f"<title>{html.escape(title)}</title>{''.join(parts)}</svg>"
        )


SHARES = Frame(width=440, height=380)  # of shares against shares: about square


@dataclass(frozen=True, kw_only=True)
class PlotLine:
    """A line of a plot of shares, with rings at its points where they are few."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    rings: bool = False


def color(index: int) -> str:
    """The colour of a comparison's curve."""
    return COLORS[index % len(COLORS)]


def dashes(index: int) -> tuple[int, ...]:
    """Lengths of a curve's dashes and gaps in pixels; none for a whole line."""
    return DASHES[index // len(COLORS) % len(DASHES)]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between two bounds, about as many as wanted."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    scale = 10 ** math.floor(math.log10(rough))
    step = scale * next((factor for factor in (1, 2, 5) if factor * scale >= rough), 10)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step * (1 + 1e-9)) + 1)]


def number_text(value: float) -> str:
    """A tick's number: 0.05, 2.5, 1,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 9):g}"


def scale(low: float, high: float, start: float, end: float) -> Place:
    """Where values from low to high lie between two pixels."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def points(line: Sequence[tuple[float, float]], across: Place, up: Place) -> str:
    """A polyline's points."""
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)


def draw_legend(names: Sequence[str]) -> str:
    """Each curve's name beside a piece of its line."""
    entries = []
    for index, name in enumerate(names):
        line = f'stroke="{color(index)}" stroke-width="3" stroke-dasharray="{" ".join(map(str, dashes(index)))}"'
        piece = f'<svg width="28" height="10" aria-hidden="true"><line x1="1" x2="27" y1="5" y2="5" {line}/></svg>'
        entries.append(f'<span style="white-space:nowrap;margin-right:1.2em">{piece} {html.escape(name)}</span>')
    return f"<div>{' '.join(entries)}</div>"


def draw_axes(
    frame: Frame, xs: Sequence[float], ys: Sequence[float], across: Place, up: Place, x_label: str, y_label: str
) -> list[str]:  # fmt: skip
    """Ticks, faint lines across, and what is told along both axes."""
    floor, middle, end = frame.floor, (frame.top + frame.floor) / 2, frame.width - frame.right
    parts = []
    for y in ys:
        place = f"{up(y):.1f}"
        parts.append(f'<line x1="{frame.left}" x2="{end}" y1="{place}" y2="{place}" stroke="currentColor" opacity=".13"/>')
        parts.append(f'<text x="{frame.left - 8}" y="{place}" dy=".35em" text-anchor="end" opacity=".8">{number_text(y)}</text>')
    for x in xs:
        parts.append(f'<text x="{across(x):.1f}" y="{floor + 18}" text-anchor="middle" opacity=".8">{number_text(x)}</text>')
        parts.append(f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{floor}" y2="{floor + 4}" stroke="currentColor" opacity=".5"/>')
    parts.append(f'<line x1="{frame.left}" x2="{end}" y1="{floor}" y2="{floor}" stroke="currentColor" opacity=".5"/>')
    parts.append(f'<text x="{(frame.left + end) / 2}" y="{frame.height - 8}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>')
    return parts


def draw_shares(
    lines: Sequence[PlotLine],
    *,
    title: str,
    x_label: str,
    y_label: str,
    level: Sequence[tuple[float, float]] = (),
    bars: Sequence[PlotLine] = (),
) -> str:
    """Shares against shares, both from 0 to 1.

    `level` is a faint line to compare with, `bars` a faint histogram: x its edges, y its heights.
    """
    frame = SHARES
    across, up, marks = frame.across(0, 1), frame.up(0, 1), ticks(0, 1)
    parts = draw_axes(frame, marks, marks, across, up, x_label, y_label)
    parts.append(frame.clip(f"plot-{zlib.crc32(repr((title, lines)).encode()):x}"))
    for each in bars:
        for begin, end, height in zip(each.x, each.x[1:], each.y, strict=False):
            size = f'width="{max(across(end) - across(begin) - 1, 0.5):.1f}" height="{frame.floor - up(height):.1f}"'
            parts.append(f'<rect x="{across(begin) + 0.5:.1f}" y="{up(height):.1f}" {size} fill="currentColor" opacity=".16"/>')
    if level:
        parts.append(f'<polyline stroke="currentColor" stroke-dasharray="3 4" opacity=".45" points="{points(level, across, up)}"/>')
    for index, line in enumerate(lines):
        paint = f'stroke="{color(index)}" stroke-width="2" stroke-dasharray="{" ".join(map(str, dashes(index)))}"'
        way = points(list(zip(line.x, line.y, strict=True)), across, up)
        parts.append(f'<polyline {paint} points="{way}"><title>{html.escape(line.name)}</title></polyline>')
    parts.append("</g>")
    for index, line in enumerate(lines):
        for x, y in zip(line.x, line.y, strict=True) if line.rings else ():
            parts.append(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="4" fill="{color(index)}"/>')
    legend = draw_legend([line.name for line in lines]) if len(lines) > 1 else ""
    return f'<figure style="margin:0"><figcaption>{html.escape(title)}</figcaption>{frame.wrap(parts, title)}{legend}</figure>'


def draw_whisker(value: float, low: float, high: float, span: tuple[float, float], zero: bool = False) -> str:
    """A value as a dot on its interval, on a scale that other rows share; with a mark at zero where it matters."""
    place = scale(span[0], span[1] if span[1] > span[0] else span[0] + 1, 6, 154)
    mark = f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="0" y2="16" stroke="currentColor" opacity=".6"/>' if zero else ""
    track = '<line x1="6" x2="154" y1="8" y2="8" stroke="currentColor" opacity=".15"/>'
    line = (
        f'<line x1="{place(low):.1f}" x2="{place(high):.1f}" y1="8" y2="8" stroke="{COLORS[0]}" stroke-width="3" stroke-linecap="round"/>'
    )
    dot = f'<circle cx="{place(value):.1f}" cy="8" r="4" fill="{COLORS[0]}"/>'
    return f'<svg class="whisker" viewBox="0 0 160 16" width="160" height="16" aria-hidden="true">{track}{mark}{line}{dot}</svg>'
