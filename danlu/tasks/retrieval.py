"""Which document belongs to a text, found among all documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from danlu.data.fields import Row
from danlu.tasks.base import Task


def read_descriptions(file: Path) -> Iterator[Row]:
    """Each article's lead with its one-line description; articles without one are left out."""
    for article in json.loads(file.read_bytes()).values():
        if article["description"]:
            yield {"query": article["extract"], "document": article["description"]}


TASKS = (
    Task(
        name="descriptions-en",
        kind="retrieve",
        what="finding an English Wikipedia article's one-line description by its lead; some descriptions belong to several articles",
        source="wikipedia-leads",
        rows=read_descriptions,
        test_share=1,
        language="en",
        prompt="{query}\nThe article's description in one line:",
        citation="Wikipedia's leads and Wikidata's descriptions, by their authors",
    ),
)
