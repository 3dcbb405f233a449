from __future__ import annotations

from collections import Counter

import pytest
from ftfy.badness import is_bad
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.cleaning import ANY, RARE, SUSPECT, clean


@pytest.mark.parametrize(
    ("dirty", "mended", "count"),
    [
        ("a\r\nb\rc\x0cd", "a\nb\nc\nd", None),
        ("a\x00b\x07c\x7fd", "abcd", "control_characters_removed"),
        ("中\x00文\ufeff", "中文", "control_characters_removed"),
        ("cafe\u0301", "caf\u00e9", "unicode_normalised"),
        ("schÃ¶n und grÃ¼n", "schön und grün", "encoding_mended"),
        ("line one\nIt doesnâ€™t\nline three", "line one\nIt doesn’t\nline three", "encoding_mended"),
        ("<html><body><h1>Title</h1><p>Text &amp; more</p><script>x()</script></body></html>", "Title\n\nText & more", "markup_removed"),
        ("  \n\n text \n ", "text", None),
        ("\x00\n ", "", "control_characters_removed"),
    ],
)
def test_what_is_mended(dirty: str, mended: str, count: str | None) -> None:
    counts: Counter[str] = Counter()
    assert clean(dirty, counts) == mended
    assert counts == (Counter([count]) if count else Counter())


@pytest.mark.parametrize(
    "text",
    [
        "床前明月光，疑是地上霜。（李白）“静夜思”……全角１２３ＡＢＣ",
        "“Quotes” – dashes — and… ellipses, naïve café, Straße",
        "if a < b and c > d:\n    return a << 2  # <p> in a comment",
        "x² × 3 ≤ 5 µm ± 2 °C, £5 – €6",
        "Привет, мир! Ελληνικά. العربية. हिन्दी 👩‍👩‍👧",
        "\tindented\n\n\n   three lines apart",
    ],
)
def test_what_is_right_stays(text: str) -> None:
    counts: Counter[str] = Counter()
    assert clean(text, counts) == text.strip()
    assert not counts


def test_html_files_are_markup_whatever_they_begin_with() -> None:
    assert clean("Hello <b>world</b>", Counter(), html=True) == "Hello world"


SIGNS = st.text(st.sampled_from([character for character in ANY if character != "-"] + list("aZ .\n中。Γβ€вЂãÂ×²")), min_size=1, max_size=6)


@given(SIGNS)
def test_the_quick_look_misses_nothing_that_ftfy_finds(text: str) -> None:
    assert SUSPECT.search(text) or not is_bad(text)


@given(SIGNS)
def test_the_plain_set_misses_nothing_that_the_quick_look_finds(text: str) -> None:
    found = SUSPECT.search(text)
    rare = RARE.search(text)
    assert found is None or (rare is not None and rare.start() <= found.end() and found.start() >= rare.start() - 1)
