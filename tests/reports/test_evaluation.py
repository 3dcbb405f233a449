from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from danlu.base.errors import DataError
from danlu.data.answers import Answer, Refused
from danlu.data.choices import ChoiceExample
from danlu.data.examples import Answer as Span
from danlu.data.examples import ClassifyExample, Example, LabelExample, Placed, RegressExample, SetAside, SpanExample
from danlu.evaluation.comparing import compare
from danlu.evaluation.measure import measure
from danlu.evaluation.scores.curves import Confusion
from danlu.reports.confusion import confused_pairs, confusion_table
from danlu.reports.evaluation import write_comparison, write_report
from danlu.reports.mistakes import folded
from danlu.reports.plots import PlotLine, draw_shares, draw_whisker
from danlu.tasks.base import Task

EVIL = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta"}


class Reader(HTMLParser):
    """A page's tags and text; what is opened must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


class Drawn:
    """Answers at random, with a name and labels of the test's choosing."""

    def __init__(self, name: str, labels: tuple[str, ...], seed: int = 0) -> None:
        self.name, self.labels, self.random = name, labels, np.random.default_rng(seed)

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        return [self.one(example) for example in examples]

    def one(self, example: Example) -> Answer | Refused:
        if isinstance(example, LabelExample):
            return Answer(tags=tuple(self.random.choice(self.labels, len(example.tokens)).tolist()))
        if isinstance(example, RegressExample):
            return Answer(value=example.label + self.random.normal())
        if isinstance(example, SpanExample):
            return Answer(text=example.context[: self.random.integers(1, 20)])
        sure = self.random.dirichlet(np.ones(len(getattr(example, "choices", self.labels))))
        names = self.labels if isinstance(example, ClassifyExample) else [str(place) for place in range(len(sure))]
        return Answer(label=names[sure.argmax()], scores=tuple(sure.tolist()))


def measured(folder: Path, name: str, labels: tuple[str, ...], seed: int = 0, count: int = 120) -> Path:
    task = Task(name="moods", kind="classify", what="a mood")
    stream: list[Placed | SetAside] = [
        Placed(
            file="a.jsonl",
            line=n,
            example=ClassifyExample(text=f"{EVIL} 天气很好 {n} " + "长" * (n % 2) * 400, label=labels[n % len(labels)]),
        )
        for n in range(1, count + 1)
    ]
    stream.append(SetAside(file="a.jsonl", line=count + 1, reason=f"`text` is {EVIL}"))
    measure(task, Drawn(name, labels, seed), stream, folder, data=f"a {EVIL}", part="test", licence=EVIL, trained_on=set())
    return folder


def test_a_page_stands_alone_and_whatever_a_text_holds_is_text(tmp_path: Path) -> None:
    page = write_report(measured(tmp_path, f"model {EVIL}", ("bad", "good", EVIL))).read_text("utf-8")
    read = Reader(page)
    assert "script" not in read.tags and "img" not in read.tags and "link" not in read.tags
    assert read.text.count("<script>alert('x')</script>") > 10 and "天气很好" in read.text
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org/2000/svg)|@import", page)
    for title in (
        "Figures",
        "Curves and calibration",
        "Confusion",
        "By class",
        "Slices",
        "Mistakes it was surest of",
        "Checks of the data",
    ):
        assert f"<h2>{title}" in page
    assert "ROC" in read.text and "Reliability" in read.text and read.tags.count("article") == 24 and "details" in read.tags


@pytest.mark.parametrize(
    ("kind", "example", "labels"),
    [
        ("label", LabelExample(tokens=("北", "京", EVIL), tags=("B-LOC", "I-LOC", "O")), ("O", "B-LOC", "I-LOC")),
        ("regress", RegressExample(text=EVIL, label=3.0), ()),
        ("span", SpanExample(context=EVIL, question="what?", answers=(Span(text="alert", start=8),)), ()),
        ("choice", ChoiceExample(prompt=EVIL, choices=("a", EVIL, "c"), answer=1), ()),
    ],
)
def test_every_kind_has_its_page(kind: str, example: Example, labels: tuple[str, ...], tmp_path: Path) -> None:
    stream = [Placed(file="a", line=line, example=example) for line in range(1, 30)]
    measure(Task(name=kind, kind=kind, what=kind), Drawn("drawn", labels), stream, tmp_path, data="a", part="all")
    read = Reader(write_report(tmp_path).read_text("utf-8"))
    assert "script" not in read.tags and "28 " not in read.tags and "duplicates within the data28" in read.text


def test_a_comparison_says_its_verdict_first(tmp_path: Path) -> None:
    folders = [measured(tmp_path / name, name, ("bad", "good"), seed) for seed, name in enumerate(("one", "<b>two"))]
    found = compare(folders)
    page = write_comparison(found, tmp_path).read_text("utf-8")
    read = Reader(page)
    assert str(found.pairs[0]) in read.text and "<b>two" in read.text and "McNemar, exact" in read.text and "ROC" in read.text
    assert "one right, <b>two wrong" in read.text and read.tags.count("article") == 12 and "script" not in read.tags
    assert read.text.index(str(found.pairs[0])) < read.text.index("Pairs")


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        write_report(tmp_path)


def test_a_confusion_matrix_of_many_classes_shows_the_most_frequent() -> None:
    labels = tuple(f"c{place}" for place in range(60))
    counts = tuple(tuple(place + 1 if place == other else int(other == place + 1) for other in range(60)) for place in range(60))
    table = confusion_table(Confusion(labels=labels, answered=(*labels, "(none)"), counts=tuple((*row, 2) for row in counts)))
    read = Reader(table)
    assert read.tags.count("tr") == 41 and "20 classes with fewer rows" in read.text and "c59 answered as (none): 2 of 62" in table
    few = Confusion(labels=("a", "b"), answered=("a", "b"), counts=((5, 3), (0, 4)))
    assert "many" not in confusion_table(few) and "37.5%" in confused_pairs(few)


def test_drawings_are_within_their_frame() -> None:
    drawn = draw_shares(
        [PlotLine(name="丹<b>", x=(0, 0.5, 1), y=(0, 1, 1), rings=True), PlotLine(name="b", x=(0, 1), y=(0, 1))],
        title="t",
        x_label="x",
        y_label="y",
        level=((0, 0), (1, 1)),
        bars=[PlotLine(name="", x=(0.4, 0.5), y=(0.3,))],
    )
    read = Reader(drawn)
    assert read.tags.count("polyline") == 3 and read.tags.count("circle") == 3 and "丹<b>" in read.text
    places = [tuple(map(float, pair.split(","))) for line in re.findall(r'points="([^"]+)"', drawn) for pair in line.split()]
    assert all(58 <= x <= 416 and 12 <= y <= 334 for x, y in places)
    assert 'cx="80.0"' in draw_whisker(0.5, 0.4, 0.6, (0, 1)) and draw_whisker(1, 1, 1, (1, 1))


def test_long_texts_are_folded_and_lose_nothing() -> None:
    text = "<i>" + "字" * 500
    read = Reader(folded(text))
    assert read.tags == ["details", "summary"] and read.text.replace("…", "") == text
    assert folded("short <b>") == "short &lt;b&gt;"
