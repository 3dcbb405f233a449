from __future__ import annotations

from collections.abc import Callable

from danlu.data.choices import RetrieveExample
from danlu.data.examples import Examples
from danlu.tasks.parts import Part


def test_articles_and_their_descriptions(part_of: Callable[[str, Part], Examples]) -> None:
    records = [record for record in part_of("descriptions-en", "all").records if isinstance(record, RetrieveExample)]
    assert records[1].document == "1968 film by Stanley Kubrick" and records[1].query.startswith("2001: A Space Odyssey is a 1968")
    assert (len({record.document for record in records}), len({record.query for record in records})) == (9_290, 9_862)
