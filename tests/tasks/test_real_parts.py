from __future__ import annotations

from collections.abc import Callable

import pytest

from danlu.base.catalog import find
from danlu.data.examples import Examples, input_key
from danlu.tasks.loading import tasks
from danlu.tasks.parts import Part

PARTED = {
    "sentiment-en": (8_247, 2_062),
    "sentiment-zh": (13_891, 3_472),
    "topics-en": (8_024, 2_009),
    "spam-en": (4_646, 1_161),
    "names-zh": (15_602, 3_882),
    "pos-en": (45_833, 11_507),
    "instructions-en": (20_917, 5_232),
}
WHOLE = {"arc-easy": 570, "piqa": 1_838, "boolq": 3_270, "openbookqa": 500, "sst2": 872, "squad-en": 1_000, "descriptions-en": 9_862}


@pytest.mark.parametrize("name", PARTED)
def test_a_part_has_its_rows_and_no_input_of_the_other(name: str, part_of: Callable[[str, Part], Examples]) -> None:
    train, test = part_of(name, "train"), part_of(name, "test")
    assert (len(train.records), len(test.records)) == PARTED[name]
    assert not {input_key(record) for record in train.records} & {input_key(record) for record in test.records}
    assert train.labels == test.labels and train.set_aside == test.set_aside == ()


@pytest.mark.parametrize("name", WHOLE)
def test_what_measures_only_keeps_all_its_rows(name: str, part_of: Callable[[str, Part], Examples]) -> None:
    found = part_of(name, "all")
    assert len(found.records) == WHOLE[name] and found.set_aside == ()


def test_every_task_says_what_it_is_and_whose_its_data_are() -> None:
    brought = {name: task for name, task in tasks().items() if task.sources}
    assert brought.keys() == PARTED.keys() | WHOLE.keys()
    for task in brought.values():
        assert task.what and task.citation and task.language in ("en", "zh") and "{" in task.prompt
        assert all(find(source).licence for source in task.sources)
