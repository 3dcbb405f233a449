"""The part of speech of English words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from danlu.base.errors import DataError
from danlu.data.fields import Row
from danlu.tasks.base import Task

# The universal tags after Petrov et al.; each with the Brown tags that begin it, the longer beginning first where two would fit.
BEGINNINGS: dict[str, tuple[str, ...]] = {
    "VERB": ("vb", "be", "do", "hv", "md"),
    "NOUN": ("nn", "np", "nr"),
    "ADJ": ("jj", "ap", "od"),
    "ADV": ("rb", "rn", "ql", "wrb", "wql", "*"),
    "PRON": ("pp$$", "ppl", "ppo", "pps", "pn", "wp", "ex"),
    "DET": ("at", "dt", "ab", "pp$", "wdt"),
    "ADP": ("in", "cs"),
    "NUM": ("cd",),
    "CONJ": ("cc",),
    "PRT": ("rp", "to"),
    "X": ("fw", "uh", "nil"),
    ".": (".", ",", ":", "(", ")", "'", "`", "--"),
}
TAGS = {beginning: tag for tag, beginnings in BEGINNINGS.items() for beginning in beginnings}
LONGEST = max(map(len, TAGS))


def read_brown(folder: Path) -> Iterator[Row]:
    """The sentences of all samples, one a line, with universal tags; words whose tag the corpus spoilt are X.

    Raises: DataError if a word has no tag.
    """
    for sample in sorted(folder.glob("c[a-r][0-9][0-9]")):
        for number, line in enumerate(sample.read_text("utf-8").split("\n"), 1):
            words = [word.rpartition("/")[::2] for word in line.split()]
            if not all(word and tag for word, tag in words):
                raise DataError(f"{sample.name}:{number}: expected words and tags, as in jury/nn")
            if words:
                yield {"tokens": [word for word, _ in words], "tags": [universal(tag) for _, tag in words]}


def universal(tag: str) -> str:
    """The universal tag of one of Brown's: that of its first part, whatever it is joined with (`pps+bez`) or marked as (`nn-tl`)."""
    return next((TAGS[tag[:size]] for size in range(min(LONGEST, len(tag)), 0, -1) if tag[:size] in TAGS), "X")


TASKS = (
    Task(
        name="pos-en",
        kind="label",
        what="the part of speech of each word of American English printed in 1961, in twelve universal tags",
        source="brown-corpus",
        rows=read_brown,
        language="en",
        prompt="{text}\nThe part of speech of each word (" + ", ".join(BEGINNINGS) + "):",
        citation="Francis & Kucera 1979, Brown University; tags after Petrov et al. 2012, arXiv:1104.2086",
    ),
)
