"""What an encyclopedia's article is about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from danlu.data.fields import Row
from danlu.tasks.base import Task

# What the labels are called in a prompt: short, and each with a beginning of its own.
WORDS = {
    "Arts": "arts",
    "Biology and health sciences": "biology",
    "Everyday life": "everyday life",
    "Geography": "geography",
    "History": "history",
    "Mathematics": "mathematics",
    "People": "people",
    "Philosophy and religion": "philosophy",
    "Physical sciences": "physics",
    "Society and social sciences": "society",
    "Technology": "technology",
    "Uncategorized": "other",
}


def read_articles(file: Path) -> Iterator[Row]:
    """Each article's lead and its topic, in the file's order."""
    for article in json.loads(file.read_bytes()).values():
        yield {"text": article["extract"], "label": article["topic"]}


TASKS = (
    Task(
        name="topics-en",
        kind="classify",
        what="which of twelve topics the lead of an English Wikipedia article belongs to; a tenth is Uncategorized, which may be any",
        source="wikipedia-leads",
        rows=read_articles,
        language="en",
        prompt="{text}\nQuestion: Is this article about " + ", ".join(list(WORDS.values())[:-1]) + " or other?\nAnswer:",
        words=WORDS,
        citation="Wikipedia's vital articles and their topics, by its authors",
    ),
)
