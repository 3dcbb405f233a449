from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.base.errors import DataError
from danlu.data.choices import ChoiceExample
from danlu.data.examples import Examples
from danlu.tasks.loading import find_task
from danlu.tasks.multiple import read_arrow
from danlu.tasks.parts import Part

# Prompt's beginning and end, the choices, the right one's number: lm-eval 0.4's templates, filled with the data's first rows.
FIRST = {
    "arc-easy": ("Question: Which technology was", "developed most recently?\nAnswer:", 4, "cellular telephone"),
    "piqa": (
        "Question: How do I ready a guinea pig cage",
        "it's new occupants?\nAnswer:",
        2,
        "Provide the guinea pig with a cage full of a few inches",
    ),
    "boolq": ("All biomass goes through", "\nQuestion: does ethanol take more energy make that produces?\nAnswer:", 2, "no"),
    "openbookqa": ("Frilled sharks and angler fish", "which is why they are known as", 4, "Deep sea animals"),
    "sst2": ("it 's a charming", "journey . \nQuestion: Is this sentence positive or negative?\nAnswer:", 2, "positive"),
}
RIGHT = {"arc-easy": 0.2772, "piqa": 0.4951, "boolq": 0.3783, "openbookqa": 0.252}  # share of rows whose first choice is right


@pytest.mark.parametrize("name", FIRST)
def test_prompts_are_those_of_lm_eval(name: str, part_of: Callable[[str, Part], Examples]) -> None:
    task, found = find_task(name), part_of(name, "all")
    first = found.records[0]
    begins, ends, choices, answer = FIRST[name]
    assert task.ask(first).startswith(begins) and task.ask(first).endswith(ends)
    assert len(task.choices(first, found.labels)) == choices and task.answer(first).startswith(answer)


def test_choices_stand_in_lm_evals_order(part_of: Callable[[str, Part], Examples]) -> None:
    found = part_of("sst2", "all")
    assert find_task("sst2").choices(found.records[0], found.labels) == ("negative", "positive")
    assert {record.choices for record in part_of("boolq", "all").records if isinstance(record, ChoiceExample)} == {("no", "yes")}


@pytest.mark.parametrize("name", RIGHT)
def test_answers_are_spread_as_in_the_data(name: str, part_of: Callable[[str, Part], Examples]) -> None:
    answers = Counter(record.answer for record in part_of(name, "all").records if isinstance(record, ChoiceExample))
    assert answers[0] / answers.total() == pytest.approx(RIGHT[name], abs=1e-4)


def test_spaces_at_the_end_of_a_choice_stay(part_of: Callable[[str, Part], Examples]) -> None:
    second = part_of("piqa", "all").records[1]
    assert isinstance(second, ChoiceExample) and second.choices[0] == "replace drawer with bobby pin "


def test_what_is_no_arrow_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "hf_datasets" / "a" / "validation" / "data-00000-of-00001.arrow"
    with pytest.raises(DataError, match="a cannot be read as Arrow"):
        list(read_arrow(tmp_path, "a"))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="a cannot be read as Arrow"):
        list(read_arrow(tmp_path, "a"))
