from __future__ import annotations

import codecs

import pytest

from danlu.data.encoding import decode, detect
from danlu.data.rows import BadRow

CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n" * 3
TRADITIONAL = "登嶺望落日，眇然傷別魂。亭臯秋色徧，遊子在荆門。世故東西客，山空斷續猨。\n" * 6
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 5
FRENCH = "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux se fermaient.\n" * 5


@pytest.mark.parametrize("text", [CHINESE, "plain", "naïve café", "𠮷野家 🙂"])
def test_utf8_is_taken_as_it_is(text: str) -> None:
    assert decode(text.encode()) == (text, False)


def test_a_utf8_mark_is_dropped() -> None:
    assert decode(codecs.BOM_UTF8 + CHINESE.encode()) == (CHINESE, False)


@pytest.mark.parametrize("text", [CHINESE, TRADITIONAL, "中文，一行。"])
def test_gb18030(text: str) -> None:
    assert decode(text.encode("gb18030")) == (text, True)


def test_mixed_chinese_and_english_in_gb18030() -> None:
    text = "The poem 静夜思 is by 李白 (Li Bai), who lived in the 唐 dynasty.\n" * 4
    assert decode(text.encode("gb18030")) == (text, True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", [CHINESE, "plain English\nin two lines\n"])
def test_wide_encodings(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == (text, True)


@pytest.mark.parametrize(
    ("text", "encoding"), [(RUSSIAN, "cp1251"), (FRENCH, "cp1252"), ("春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。\n" * 6, "big5")]
)
def test_other_encodings_are_found(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, True)


@pytest.mark.parametrize("content", [b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\x03\0>\0", b"text with a \0 in it", bytes(range(256)) * 20])
def test_binary_is_refused(content: bytes) -> None:
    with pytest.raises(BadRow, match=r"binary|neither"):
        decode(content)


def test_a_sample_may_end_inside_a_character() -> None:
    content = ("a" + "中" * 40_000).encode()
    for cut in range(3):
        assert detect(content[: len(content) - cut])[0] == "utf-8"
