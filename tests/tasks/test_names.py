from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from danlu.base.errors import DataError
from danlu.data.examples import Examples, LabelExample
from danlu.tasks.names import read_news, tagged_characters
from danlu.tasks.parts import Part


def names(words: str) -> list[tuple[str, str]]:
    """The names of a line in the corpus's own form, with their kinds."""
    row = tagged_characters([word.rpartition("/")[::2] for word in words.split()])  # type: ignore
    return [("".join(row["tokens"][start : end + 1]), kind) for kind, start, end in get_entities(row["tags"])]


JOINED = [
    ("主席/n  江/nr  泽民/nr", ["江泽民"]),
    ("泽仁桑珠/nr  说/v", ["泽仁桑珠"]),
    ("江/nr  泽民/nr  李/nr  鹏/nr  乔/nr  石/nr  与/p", ["江泽民", "李鹏", "乔石"]),
    ("欧阳/nr  修/nr", ["欧阳修"]),
    ("剑武/nr  安/nr  远远/nr", ["剑武", "安远远"]),
    ("刘/nr  明英/nr  保平/nr", ["刘明英", "保平"]),
    ("江/nr  、/w  李/nr", ["江", "李"]),
]


@pytest.mark.parametrize(("words", "persons"), JOINED)
def test_surname_and_given_name_are_one_name(words: str, persons: list[str]) -> None:
    assert names(words) == [(person, "PER") for person in persons]


def test_names_that_touch_stay_apart() -> None:
    assert names("新华社/nt  北京/ns  上海/ns  李/nr  鹏/nr  中华/nz") == [
        ("新华社", "ORG"), ("北京", "LOC"), ("上海", "LOC"), ("李鹏", "PER"),
    ]  # fmt: skip


def test_a_word_without_a_tag_is_named(tmp_path: Path) -> None:
    (tmp_path / "news.txt").write_text("好/a\n\n好/a  坏\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"news\.txt:3: expected words and tags"):
        list(read_news(tmp_path / "news.txt"))


def test_the_real_news_is_valid_iob2(part_of: Callable[[str, Part], Examples]) -> None:
    records = [record for part in ("train", "test") for record in part_of("names-zh", part).records if isinstance(record, LabelExample)]  # type: ignore
    assert len(records) == 19_484
    tags = [tag for record in records for tag in record.tags]
    begun = Counter(tag for tag in tags if tag.startswith("B-"))
    assert begun == {"B-PER": 20_095, "B-LOC": 27_890, "B-ORG": 3_573}
    few = records[::20]
    strict = Entities([list(record.tags) for record in few], IOB2)  # reads only what follows the scheme
    assert sum(len(each) for each in strict.entities) == sum(tag.startswith("B-") for record in few for tag in record.tags)
    assert all(
        not tag.startswith("I-") or before[1:] == tag[1:]
        for record in records
        for before, tag in zip(("O", *record.tags), record.tags, strict=False)
    )
    first = next(record for record in records if "".join(record.tokens).startswith("迈向充满希望的新世纪"))
    assert set(first.tags) == {"O"}
