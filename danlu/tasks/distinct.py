"""Labelled texts once each: what stands twice would be learnt in one part and measured in the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from danlu.data.fields import Row


def undivided(labelled: Iterable[tuple[str, str]], key: Callable[[str], str] = str) -> Iterator[Row]:
    """Each text once, in the order of its first; none that is empty or stands in two classes, since nobody can know its label.

    Texts with one `key` are one text.
    """
    first, labels = dict[str, str](), defaultdict[str, set[str]](set)
    for text, label in labelled:
        same = key(text)
        if same.strip():
            first.setdefault(same, text)
            labels[same].add(label)
    yield from ({"text": text, "label": next(iter(labels[same]))} for same, text in first.items() if len(labels[same]) == 1)
