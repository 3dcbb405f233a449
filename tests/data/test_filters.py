from __future__ import annotations

import pytest

from danlu.base.errors import ConfigError
from danlu.data.filters import Judge, Words, check_filters, identify

ENGLISH = (
    "The old harbour lay quiet in the morning light, and the boats that had come in during the night were still tied to the wall. "
    "A woman with a basket of bread walked along the water, speaking to everybody she met, because she had known most of them since "
    "they were children. Nobody was in a hurry. It would be a long day, and there was no wind to take anyone out to sea before noon."
)


@pytest.mark.parametrize(
    ("text", "language"),
    [(ENGLISH, "en"), ("床前明月光，疑是地上霜。举头望明月，低头思故乡。", "zh"), ("Alle glücklichen Familien gleichen einander.", "de")],
)
def test_languages_are_told_apart(text: str, language: str) -> None:
    assert identify(text) == language


def test_languages_that_were_not_asked_for_are_dropped_with_their_name() -> None:
    judge = Judge((), ("en", "zh"))
    assert judge(ENGLISH) is None
    assert judge("床前明月光，疑是地上霜。举头望明月，低头思故乡。") is None
    assert judge("Alle glücklichen Familien gleichen einander, jede unglückliche ist auf ihre eigene Weise unglücklich.") == "language de"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("gopher-quality", "Too short.", "gopher-quality: gopher_short_doc"),
        ("gopher-repetition", "the same line again\n" * 40, "gopher-repetition: dup"),
        ("fineweb-quality", "no end of line mark\n" * 40, "fineweb-quality: "),
    ],
)
def test_filters_drop_with_a_reason_and_keep_prose(name: str, text: str, reason: str) -> None:
    judge = Judge((name,), ())
    assert (judge(text) or "").startswith(reason)
    assert judge(ENGLISH) is None


def test_an_unknown_filter_is_a_wrong_flag() -> None:
    with pytest.raises(ConfigError, match="unknown filter 'gopher'; expected some of gopher-quality"):
        check_filters(("gopher",))


def test_words_and_sentences() -> None:
    words = Words()
    assert words.word_tokenize("It's 李白's well-known poem.") == ["It's", "李", "白", "'", "s", "well-known", "poem", "."]
    assert words.word_tokenize("Title\n=====\n(see below)...") == ["Title", "=====", "(", "see", "below", ")", "..."]
    assert words.sent_tokenize("One. 两句。Three") == ["One.", " 两句。", "Three"]
