from __future__ import annotations

import math
import random
from xml.etree import ElementTree

import pytest

from danlu.reports.curve import MOST_POINTS, Curve, Point, draw_svg, loss_range, thin, time_unit
from danlu.reports.plots import COLORS, ticks


def falling(count: int, name: str = "a", noise: float = 0.0) -> Curve:
    draw = random.Random(0)
    losses = [2 + 6 * math.exp(-20 * i / count) + draw.gauss(0, 1) * noise for i in range(count)]
    held_out = [Point(step=count, seconds=float(count), loss=2.0)] if count else []
    return Curve(
        name=name, steps=list(range(1, count + 1)), seconds=[float(i) for i in range(1, count + 1)], losses=losses, held_out=held_out
    )


def test_smoothing_takes_noise_away_and_moves_nothing() -> None:
    noisy, clean = falling(2000, noise=0.3), falling(2000)
    smooth = noisy.smoothed()
    assert len(smooth) == 2000
    assert math.sqrt(sum((s - c) ** 2 for s, c in zip(smooth, clean.losses, strict=True)) / 2000) < 0.1
    straight = Curve(name="a", steps=range(9), seconds=range(9), losses=[float(9 - i) for i in range(9)])
    assert straight.smoothed()[:7] == pytest.approx(straight.losses[:7])  # no lag
    assert falling(1).smoothed() == [8.0] and falling(0).smoothed() == []


def test_the_first_fall_does_not_press_the_rest_flat() -> None:
    low, high = loss_range([falling(1000)])
    assert 1.5 < low < 2 < high < 4
    rising = Curve(name="a", steps=range(100), seconds=range(100), losses=[float(i) for i in range(100)])
    assert loss_range([rising])[1] > 97  # a loss that grows is shown
    assert loss_range([]) == (0.0, 1.0)
    assert loss_range([falling(1)])[0] < loss_range([falling(1)])[1]


def test_a_thinned_line_keeps_every_spike() -> None:
    x, y = [float(i) for i in range(50_000)], [0.0] * 50_000
    y[31_417], y[123] = 9.0, -9.0
    line = thin(x, y)
    assert len(line) <= MOST_POINTS + 2
    assert (31_417.0, 9.0) in line and (123.0, -9.0) in line and line[0] == (0.0, 0.0) and line[-1] == (49_999.0, 0.0)
    assert line == sorted(line)
    assert thin(x[:100], y[:100]) == list(zip(x[:100], y[:100], strict=True))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2.93, 3.11), (0, 123456), (-3, 5), (1e-6, 2e-6)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 6 and all(low - 1e-9 <= mark <= high * (1 + 1e-9) for mark in marks)
    assert f"{marks[1] - marks[0]:.3e}"[:5] in ("1.000", "2.000", "5.000")
    assert ticks(3, 3) == [3]


def test_times_have_the_unit_that_suits() -> None:
    assert [time_unit(seconds)[1] for seconds in (0, 100, 121, 7000, 7201)] == ["s", "s", "min", "min", "h"]


@pytest.mark.parametrize("against", ["step", "time"])
def test_a_drawing_stands_alone_and_says_its_units(against: str) -> None:
    drawn = draw_svg([falling(500, "a", 0.1), falling(300, "丹<b>&", 0.1)], against=against, title="two")
    tree = ElementTree.fromstring(drawn)  # well formed, names as text
    svg = next(each for each in tree.iter() if each.tag.endswith("}svg") and each.get("viewBox", "").startswith("0 0 600"))
    kinds = [each.tag.rpartition("}")[2] for each in svg.iter()]
    assert kinds.count("polyline") == 4 and kinds.count("circle") == 2
    text = "".join(tree.itertext())
    assert "loss (nats)" in text and ("wall time (min)" if against == "time" else "step") in text and "丹<b>&" in text
    assert COLORS[0] in drawn and COLORS[1] in drawn and "currentColor" in drawn
    assert "href" not in drawn and "url(#" in drawn and "<script" not in drawn
    points = [pair.split(",") for line in svg.iter() for pair in line.get("points", "").split()]
    places = [float(x) for x, _ in points]
    assert min(places) >= 58 and max(places) <= 600


def test_runs_without_steps_are_said_to_have_none() -> None:
    assert "no step" in draw_svg([falling(0)], title="a")
    assert "polyline" in draw_svg([falling(0), falling(1)])
