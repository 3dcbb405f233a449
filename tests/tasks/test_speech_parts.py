from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.base.errors import DataError
from danlu.data.examples import Examples, LabelExample
from danlu.tasks.parts import Part
from danlu.tasks.speech_parts import BEGINNINGS, read_brown, universal

TAGS = {
    "nn": "NOUN", "np$-tl": "NOUN", "nr": "NOUN", "vbz": "VERB", "bedz*": "VERB", "md+hv": "VERB", "hvd": "VERB", "jjt": "ADJ", "od": "ADJ",
    "ql": "ADV", "*": "ADV", "wrb": "ADV", "pp$": "DET", "pp$$": "PRON", "pps+bez": "PRON", "wp$": "PRON", "wdt+bez": "DET", "abn": "DET",
    "in": "ADP", "cs": "ADP", "cd-hl": "NUM", "cc": "CONJ", "to": "PRT", "rp": "PRT", "fw-in+at-tl": "X", "nil": "X", "uh": "X",
    "--": ".", "``": ".", "''": ".", "(-hl": ".", ",": ".", "zz": "X",
}  # fmt: skip


@pytest.mark.parametrize(("tag", "expected"), TAGS.items())
def test_a_tag_becomes_a_universal_one(tag: str, expected: str) -> None:
    assert universal(tag) == expected


def test_slashes_belong_to_words(tmp_path: Path) -> None:
    (tmp_path / "ca01").write_text("\n\n\t1/2/cd miles/nns ./.\n\n")
    (tmp_path / "README").write_text("no sample")
    assert list(read_brown(tmp_path)) == [{"tokens": ["1/2", "miles", "."], "tags": ["NUM", "NOUN", "."]}]
    (tmp_path / "ca02").write_text("word\n")
    with pytest.raises(DataError, match="ca02:1: expected words and tags"):
        list(read_brown(tmp_path))


def test_the_real_corpus_has_its_words(part_of: Callable[[str, Part], Examples]) -> None:
    parts = [part_of("pos-en", "train"), part_of("pos-en", "test")]
    assert set(parts[0].labels) == set(BEGINNINGS)
    records = [record for part in parts for record in part.records if isinstance(record, LabelExample)]
    assert (len(records), sum(len(record.tokens) for record in records)) == (57_340, 1_161_192)
    tags = Counter(tag for record in records for tag in record.tags)
    assert tags["NOUN"] == 272_967 and tags["CONJ"] == 38_151 and tags["X"] < 0.002 * tags.total()
    first = next(record for record in records if record.tokens[:4] == ("The", "Fulton", "County", "Grand"))
    assert first.tags[:4] == ("DET", "NOUN", "NOUN", "ADJ")
