from __future__ import annotations

from collections.abc import Callable

from danlu.data.examples import ClassifyExample, Examples
from danlu.tasks.loading import find_task
from danlu.tasks.parts import Part
from danlu.tasks.topics import WORDS


def test_twelve_topics_each_with_a_word_of_its_own(part_of: Callable[[str, Part], Examples]) -> None:
    found = part_of("topics-en", "train")
    assert found.labels == tuple(sorted(WORDS)) and len(found.labels) == 12
    assert len({word[:3] for word in WORDS.values()}) == 12
    begins = "20th-century classical music is Western art music"
    first = next(one for one in found.records if isinstance(one, ClassifyExample) and one.text.startswith(begins))
    assert first.label == "Arts"
    task = find_task("topics-en")
    assert task.answer(first) == "arts" and all(word in task.ask(first) for word in task.choices(first, found.labels))
