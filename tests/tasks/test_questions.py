from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.base.errors import ConfigError, DataError
from danlu.data.examples import Answer, Examples, SpanExample
from danlu.tasks.loading import find_task
from danlu.tasks.parts import Part, read_part
from danlu.tasks.questions import SQUAD, read_squad


def test_the_real_questions_have_their_answers_in_the_context(part_of: Callable[[str, Part], Examples]) -> None:
    records = [record for record in part_of("squad-en", "all").records if isinstance(record, SpanExample)]
    assert len({record.context for record in records}) == 803
    first = records[0]
    assert first.question == 'Harvard - Yale Regatta predates "The Game" by how many years?'
    assert first.answers == (Answer(text="23 years", start=23), Answer(text="23", start=23))
    assert all("Question:" not in record.context and record.answers for record in records)


def test_questions_are_for_folds() -> None:
    with pytest.raises(ConfigError, match="for folds only"):
        read_part(find_task("squad-en"), (), "test")


def test_a_request_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / SQUAD).parent.mkdir(parents=True)
    (tmp_path / SQUAD).write_bytes(gzip.compress(json.dumps({"doc": {"query": "Why?", "answers_text": []}}).encode()))
    with pytest.raises(DataError, match=r"requests\.jsonl\.gz:1: expected Title"):
        list(read_squad(tmp_path))
