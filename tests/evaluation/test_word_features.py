from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest

from danlu.base.errors import ConfigError
from danlu.evaluation.answerers.word_features import Words, fitted, words_for

TEXTS = ["The cats were running home", "a cat runs; the dogs ran"]
CHINESE = ["我们在北京大学学习中文。", "北京大学的学生！"]


def features(words: Words, texts: list[str]) -> set[str]:
    return set(fitted(words, texts).get_feature_names_out())


def test_a_script_tells_what_is_counted() -> None:
    assert words_for(TEXTS) == "words" and words_for(CHINESE) == "chars"
    assert words_for(["在 Linux 中用 ls -l 列出文件, then read the whole of the manual page"]) == "words"
    assert words_for([]) == "words"


def test_words_and_pairs_of_words() -> None:
    assert {"the", "cats", "the cats", "a", "a cat"} <= features("words", TEXTS)
    assert not any(";" in feature for feature in features("words", TEXTS))


def test_stems_join_forms_of_a_word() -> None:
    assert {"cat", "run", "dog", "were run", "cat run"} <= features("stemmed", TEXTS)
    assert "running" not in features("stemmed", TEXTS)


def test_stop_words_are_gone_and_their_neighbours_meet() -> None:
    found = features("without-stop-words", TEXTS)
    assert {"cats", "cats running", "runs dogs"} <= found and not {"the", "a", "were"} & found


def test_characters_up_to_four() -> None:
    found = features("chars", CHINESE)
    assert {"我", "北京", "北京大学"} <= found and max(map(len, found)) == 4


def test_jieba_cuts_chinese_words_and_leaves_no_file_behind(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(Path(tempfile.gettempdir()).glob("jieba*"))
    assert {"我们", "北京大学", "学习", "中文", "学习 中文"} <= features("jieba", CHINESE)
    assert "。" not in features("jieba", CHINESE)
    assert set(Path(tempfile.gettempdir()).glob("jieba*")) == before
    assert capsys.readouterr().err == "" and logging.getLogger("jieba").level >= logging.WARNING


def test_the_words_of_most_texts_are_a_languages_stop_words() -> None:
    texts = (
        [f"的{name}学习" for name in ("北京", "上海", "中文", "英文")]
        + ["学习 中文"] * 2
        + [chr(number) for number in range(0x4E00, 0x4EC8)] * 2
    )
    assert "的" in features("jieba", texts)
    found = features("jieba-without-stop-words", texts)
    assert found and not {"的", "学习"} & found


def test_features_of_one_text_alone_tell_nothing() -> None:
    texts = [f"common rare{number}" for number in range(150)]
    assert features("words", texts) == {"common"}


def test_what_cannot_be_counted_is_said() -> None:
    with pytest.raises(ConfigError, match="words came as 'letters'; expected one of chars, words, stemmed"):
        fitted("letters", TEXTS)  # type: ignore
    with pytest.raises(ConfigError, match="hold no without-stop-words to count"):
        fitted("without-stop-words", ["the of", "and"])
