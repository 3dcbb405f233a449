"""The mistakes that teach most: those of which the model was surest, and those farthest from what was wanted."""

from __future__ import annotations

import heapq
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from danlu.evaluation.evaluated import Evaluation
from danlu.evaluation.samples import Sample

SHOWN = 12
CUT = 300  # characters of a text before it is folded away
DECIDED = ("classify", "choice")  # kinds in which the model says how sure it is


@dataclass
class _Most:
    """The samples with the highest keys, few in memory, the first of equals."""

    held: list[tuple[float, int, Sample]] = field(default_factory=list)
    seen: int = 0

    def offer(self, key: float, sample: Sample) -> None:
        self.seen += 1
        if math.isfinite(key):
            (heapq.heappushpop if len(self.held) == SHOWN else heapq.heappush)(self.held, (key, -self.seen, sample))

    def ordered(self) -> list[Sample]:
        return [sample for _, _, sample in sorted(self.held, key=lambda each: each[:2], reverse=True)]


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """Samples that are wrong: all of them counted, the surest and the worst kept. With two classes the surest are the worst."""

    count: int
    surest: list[Sample]
    worst: list[Sample]


def find_mistakes(samples: Iterable[Sample], evaluation: Evaluation) -> Mistakes:
    """One pass over the samples, in bounded memory."""
    kind = evaluation.subject.kind
    labels = evaluation.confusion.labels if evaluation.confusion else ()
    surest, worst, count = _Most(), _Most(), 0
    for sample in samples:
        if sample.score == (0 if kind == "regress" else 1):
            continue
        count += 1
        if kind in DECIDED:
            surest.offer(sample.sureness(), sample)
            worst.offer(-_of_truth(sample, labels), sample)
        else:
            worst.offer(sample.score if kind == "regress" else -sample.score, sample)
    apart = kind not in DECIDED or (bool(worst.held) and (kind == "choice" or len(labels) > 2))
    return Mistakes(count=count, surest=surest.ordered(), worst=worst.ordered() if apart else [])


def _of_truth(sample: Sample, labels: tuple[str, ...]) -> float:
    """The probability that the model gave to what is true."""
    if not sample.answer.scores:
        return math.nan
    place = sample.expected if isinstance(sample.expected, int) else labels.index(str(sample.expected))
    return sample.answer.scores[place]


def mistake_cards(samples: Iterable[Sample], kind: str) -> str:
    """Each with its text, what was wanted and what was answered, and where it stands."""
    return f'<div class="cards">{"".join(_card(sample, kind) for sample in samples)}</div>'


def differing_cards(pairs: Iterable[tuple[Sample, Sample]], names: tuple[str, str], kind: str) -> str:
    """Rows that two models answered apart, each with what both said."""
    return f'<div class="cards">{"".join(_card(pair[0], kind, list(zip(names, pair, strict=True))) for pair in pairs)}</div>'


def _card(sample: Sample, kind: str, answers: Sequence[tuple[str, Sample]] = ()) -> str:
    told = [(name, each.told(), _beside(each, kind)) for name, each in answers or (("answered", sample),)]
    lines = (("wanted", sample.wanted(), ""), *told)
    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{folded(text) or '<i>nothing</i>'}{more}</dd>" for name, text, more in lines)
    place = html.escape(f"{sample.file}:{sample.line}")
    return f'<article><div class="text">{folded(sample.text())}</div><dl>{rows}</dl><small>{place}</small></article>'


def _beside(sample: Sample, kind: str) -> str:
    """How sure an answer was, or how good it is where that is not said."""
    sure = sample.sureness()
    if math.isfinite(sure):
        return f" <small>sure to {sure:.1%}</small>"
    return "" if kind in DECIDED else f" <small>{sample.score:.3f}</small>"


def folded(text: str) -> str:
    """A text as HTML: its beginning, and all of it on request where it is long."""
    if len(text) <= CUT:
        return html.escape(text)
    return f"<details><summary>{html.escape(text[:CUT])}…</summary>{html.escape(text[CUT:])}</details>"
