from __future__ import annotations

from danlu.tasks.distinct import undivided


def test_a_text_stands_once_and_in_one_class() -> None:
    rows = undivided([("b", "1"), ("a", "1"), ("b", "1"), ("c", "1"), ("c", "2"), (" ", "1"), ("", "2"), ("d", "2")])
    assert list(rows) == [{"text": "b", "label": "1"}, {"text": "a", "label": "1"}, {"text": "d", "label": "2"}]


def test_texts_with_one_key_are_one_text() -> None:
    rows = undivided([("Buy 1", "spam"), ("buy 2", "spam"), ("sell 1", "spam"), ("Sell", "wanted")], key=lambda text: text.lower()[:3])
    assert list(rows) == [{"text": "Buy 1", "label": "spam"}]
