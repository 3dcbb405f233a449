from __future__ import annotations

import pytest

from danlu.evaluation.scores.texts import is_chinese, normalized


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Fair, of 1893!", "fair of 1893"),
        ("rock’n’roll", "rock’n’roll"),  # SQuAD's script leaves out the punctuation of ASCII alone
        ("“太阳系”，八大行星。", "太阳系八大行星"),
        ("an  answer", "answer"),
    ],
)
def test_texts_are_compared_as_squad_compares_them_and_chinese_without_its_signs(text: str, expected: str) -> None:
    assert normalized(text) == expected


def test_a_text_is_chinese_by_most_of_its_letters() -> None:
    assert is_chinese("太阳系八大行星 x") and not is_chinese("Beijing 北京") and not is_chinese("1893")
