"""What a text is counted by: characters, words, stems or segmented words, weighed by how few texts have them (TF-IDF)."""

from __future__ import annotations

import functools
import itertools
import logging
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from danlu.base.errors import ConfigError

Words = Literal["chars", "words", "stemmed", "without-stop-words", "jieba", "jieba-without-stop-words"]
Tokenise = Callable[[str], list[str]]
WORD = re.compile(r"\w+")
UNSPACED = re.compile("[\u2e80-\u9fff]")  # scripts written without spaces between words
LOOKED_AT = 1000  # texts that tell the script of all
CHARACTERS = (1, 4)  # how many stand in one feature: of 2 to 4 at most the best on the training part of sentiment-zh
STEMS_KEPT = 1 << 17  # a stem costs 0.1 ms, and a text's words are mostly the same
MOST_COMMON = 100  # words of a language that no list of stop words comes with


def words_for(texts: Sequence[str]) -> Words:
    """Characters where a script has no spaces between words, words elsewhere."""
    looked = texts[:LOOKED_AT]
    unspaced = sum(len(UNSPACED.findall(text)) for text in looked)
    return "chars" if unspaced > 0.3 * sum(map(len, looked)) else "words"


def fitted(words: Words, texts: Sequence[str]) -> TfidfVectorizer:
    """A vectoriser of texts that knows the features which two texts or more have; of few texts, all.

    Raises: ConfigError if there is no such way to count.
    """
    if words not in get_args(Words):
        raise ConfigError(f"words came as {words!r}; expected one of {', '.join(get_args(Words))}")
    rare = 2 if len(texts) >= 100 else 1
    if words == "chars":
        counted = TfidfVectorizer(analyzer="char", ngram_range=CHARACTERS, min_df=rare, sublinear_tf=True)
    else:
        counted = TfidfVectorizer(analyzer=functools.partial(pairs, _tokenise(words, texts)), min_df=rare, sublinear_tf=True)
    try:
        return counted.fit(texts)
    except ValueError as error:  # nothing is left: no text has a word, or all are stop words
        raise ConfigError(f"the texts hold no {words} to count ({error}); count chars instead") from error


def pairs(tokenise: Tokenise, text: str) -> list[str]:
    """A text's words, and every two that stand side by side."""
    tokens = tokenise(text)
    return tokens + [f"{left} {right}" for left, right in itertools.pairwise(tokens)]


def _tokenise(words: Words, texts: Sequence[str]) -> Tokenise:
    if words == "stemmed":
        return _stems
    if words == "without-stop-words":
        return functools.partial(_without, _plain, ENGLISH_STOP_WORDS)
    if words == "jieba":
        return _segments
    if words == "jieba-without-stop-words":
        standing = Counter(
            word for text in texts for word in dict.fromkeys(_segments(text))
        )  # not a set: which of equals are kept must not vary
        return functools.partial(_without, _segments, frozenset(word for word, _ in standing.most_common(MOST_COMMON)))
    return _plain


def _plain(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _without(tokenise: Tokenise, stop_words: frozenset[str], text: str) -> list[str]:
    return [token for token in tokenise(text) if token not in stop_words]


def _stems(text: str) -> list[str]:
    """Words without their endings, by the English Snowball stemmer (Porter 2001)."""
    return [_stem(word) for word in _plain(text)]


def _segments(text: str) -> list[str]:
    """Chinese words by jieba's dictionary; punctuation is none."""
    return [word for word in _segmenter()(text.lower()) if WORD.search(word)]


@functools.lru_cache(maxsize=STEMS_KEPT)
def _stem(word: str) -> str:
    return _stemmer().stemWord(word)


@functools.lru_cache(maxsize=1)
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


@functools.lru_cache(maxsize=1)
def _segmenter() -> Callable[[str], Iterable[str]]:
    """jieba's own dictionary, read anew in each process: its cache is a file in a folder that everybody may write to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old escape sequences, when its code is compiled for the first time
        import jieba

    jieba.setLogLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = jieba.Tokenizer()
        tokenizer.tmp_dir = folder
        tokenizer.initialize()
    return tokenizer.cut
