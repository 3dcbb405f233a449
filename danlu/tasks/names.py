"""Names of persons, places and bodies in Chinese text, character by character."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from danlu.base.errors import DataError
from danlu.data.fields import Row
from danlu.tasks.base import Task

PERSON = "nr"
NAMED = {PERSON: "PER", "ns": "LOC", "nt": "ORG"}  # the corpus's tags: person, place, body


def read_news(file: Path) -> Iterator[Row]:
    """Lines of words with their tags (`江/nr  泽民/nr  说/v`) as characters with IOB2 tags; words that are no names are O.

    Raises: DataError if a word has no tag.
    """
    for number, line in enumerate(file.read_text("utf-8").split("\n"), 1):
        words = [word.rpartition("/")[::2] for word in line.split()]
        if not all(word and tag for word, tag in words):
            raise DataError(f"{file.name}:{number}: expected words and tags, as in 江/nr")
        if words:
            yield tagged_characters(words)


def tagged_characters(words: Sequence[tuple[str, str]]) -> Row:
    """The characters of words, and the IOB2 tag of each (Ramshaw & Marcus 1995, arXiv:cmp-lg/9505040)."""
    tokens, tags = list[str](), list[str]()
    for word, tag in _joined(words):
        tokens.extend(word)
        name = NAMED.get(tag)
        tags.extend(["O"] * len(word) if name is None else [f"B-{name}", *[f"I-{name}"] * (len(word) - 1)])
    return {"tokens": tokens, "tags": tags}


def _joined(words: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Words with persons' names whole: the corpus cuts a Chinese name into surname and given name, both nr.

    Two nr side by side are one name. More of them are several persons (江/nr 泽民/nr 李/nr 鹏/nr): there a surname of one
    character takes what follows it, and whatever is longer stands alone.
    """
    place = 0
    while place < len(words):
        end = place
        while end < len(words) and words[end][1] == PERSON:
            end += 1
        if end - place == 2:
            yield words[place][0] + words[place + 1][0], PERSON
            place = end
            continue
        while place < end:
            takes = 2 if len(words[place][0]) == 1 and place + 1 < end else 1
            yield "".join(word for word, _ in words[place : place + takes]), PERSON
            place += takes
        if place < len(words):
            yield words[place]
            place += 1


TASKS = (
    Task(
        name="names-zh",
        kind="label",
        what="which characters of Chinese news of 1998 name a person, a place or a body, as IOB2 tags",
        source="chinese-news-1998",
        rows=read_news,
        score="entity_f1",
        language="zh",
        prompt="{text}\n每个字的标记（B-PER I-PER 人名，B-LOC I-LOC 地名，B-ORG I-ORG 机构，O 其他）：",
        citation="Yu et al. 2002, Journal of Chinese Information Processing 16(5), tagged at Peking University",
    ),
)
