from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.base.errors import DataError
from danlu.data.examples import ClassifyExample, Examples
from danlu.tasks.loading import find_task
from danlu.tasks.parts import Part
from danlu.tasks.sentiment import FILMS, read_films, read_reviews


def archive(folder: Path, name: str, text: str) -> Path:
    with tarfile.open(folder / "films.tar.gz", "w:gz") as packed:
        member = tarfile.TarInfo(name)
        member.size = len(text.encode())
        packed.addfile(member, io.BytesIO(text.encode()))
    return folder / "films.tar.gz"


def test_films_are_labelled_where_their_raters_agree(tmp_path: Path) -> None:
    rows = read_films(archive(tmp_path, FILMS, "1\t0.3\tso so\n2\t0.31\tgood\n3\t-0.31\tbad\n4\t-4\tbad\n5\t2\ttorn\n6\t-2\ttorn\n"))
    assert list(rows) == [{"text": "good", "label": "positive"}, {"text": "bad", "label": "negative"}]


@pytest.mark.parametrize(
    ("name", "text", "told"), [("other.txt", "1\t2\ta\n", "expected hutto"), (FILMS, "1\t2\n", "number, rating and text")]
)
def test_an_archive_of_something_else_is_named(name: str, text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as caught:
        list(read_films(archive(tmp_path, name, text)))
    assert "\n" not in str(caught.value)
    (tmp_path / "films.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"films\.tar\.gz cannot be read"):
        list(read_films(tmp_path / "films.tar.gz"))


def test_reviews_that_are_liked_and_disliked_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "pos.txt").write_text("好\n好\n\n 行 \n", encoding="utf-8")
    (tmp_path / "neg.txt").write_text("差\n行\n", encoding="utf-8")
    assert list(read_reviews(tmp_path)) == [{"text": "好", "label": "positive"}, {"text": "差", "label": "negative"}]


def test_the_real_reviews_are_what_they_are_known_to_be(part_of: Callable[[str, Part], Examples]) -> None:
    films, reviews = part_of("sentiment-en", "train"), part_of("sentiment-zh", "train")
    assert films.labels == reviews.labels == ("negative", "positive")
    known = ((films, "The Rock is destined to be the 21st Century's new ''Conan''"), (reviews, "我正在写这本书的心得"))
    first, liked = (next(one for one in part.records if one.text.startswith(begins)) for part, begins in known)  # type: ignore
    assert isinstance(first, ClassifyExample) and isinstance(liked, ClassifyExample) and first.label == liked.label == "positive"
    both = Counter(record.label for part in ("train", "test") for record in part_of("sentiment-zh", part).records)  # type: ignore
    assert both == {"positive": 8_332, "negative": 9_031}  # 8,379 and 9,079 different lines, less 47 that stand in both and the empty one
    task = find_task("sentiment-zh")
    assert task.ask(liked).endswith("这条评论是好评还是差评？\n回答：") and task.answer(liked) == "好评"
    assert task.choices(liked, reviews.labels) == ("差评", "好评")
