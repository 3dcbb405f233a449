from __future__ import annotations

from danlu.data.examples import ClassifyExample, Examples, RegressExample
from danlu.data.looked_over import looked_over


def test_labels_are_counted_and_what_is_rare_twice_or_contradictory_is_told() -> None:
    rows = [("a", "x")] * 30 + [("b", "x"), ("b", "y"), ("c", "x")] + [(f"d{number}", "x") for number in range(30)]
    records = tuple(ClassifyExample(text=text, label=label) for text, label in rows)
    first, few, twice = looked_over(Examples(kind="classify", records=records, set_aside=(), labels=("x", "y")))
    assert first == "63 examples: x 62, y 1" and "y;" in few and "--balance-classes" in few
    assert twice == "30 stand there already; to 1 of the inputs there are different answers"


def test_nothing_odd_is_one_line() -> None:
    numbers = tuple(RegressExample(text=str(number), label=float(number)) for number in range(3))
    assert looked_over(Examples(kind="regress", records=numbers, set_aside=())) == ["3 examples"]
