"""Scores of texts: exact match and the overlap of their words, as SQuAD has them and for free answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from danlu.data.answers import Answer
from danlu.evaluation.scores.figures import Expected
from danlu.evaluation.scores.means import MeanScores

ARTICLES = re.compile(r"\b(a|an|the)\b")
CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TOKEN = re.compile(f"[{CHINESE}]|[^\\s{CHINESE}]+")
SIGNS = frozenset(string.punctuation)
CHINESE_SIGNS = SIGNS | frozenset("，。！？；：、（）《》“”‘’「」『』【】…—·")
MOSTLY = 0.5
HAN = re.compile(f"[{CHINESE}]")
LETTER = re.compile(r"\w")


class SpanScores(MeanScores):
    """Stretches of a context: exact match and F1 of words, the best over the answers; a question without an answer wants none.

    Source: Rajpurkar et al. 2016, arXiv:1606.05250, its evaluation script; Chinese characters are words of their own, as CMRC 2018 has it.
    """

    names = ("exact_match", "f1")
    main = 1

    def of_sample(self, expected: Expected, answer: Answer) -> Sequence[float]:
        """The best over all expected texts."""
        texts = [str(text) for text in expected] if not isinstance(expected, str | int | float) else [str(expected)]
        told = normalized(answer.text)
        wanted = [normalized(text) for text in texts] or [""]
        return max(float(told == text) for text in wanted), max(overlap(told, text) for text in wanted)


class TextScores(MeanScores):
    """Free texts: exact match after trimming and case folding, F1 of words (Chinese: characters)."""

    names = ("exact_match", "token_f1")

    def of_sample(self, expected: Expected, answer: Answer) -> Sequence[float]:
        """Both are from 0 to 1."""
        told, wanted = answer.text.strip().casefold(), str(expected).strip().casefold()
        return float(told == wanted), overlap(told, wanted)


def normalized(text: str) -> str:
    """A text as SQuAD compares it: small letters, no punctuation (of ASCII; in Chinese its own too), no articles, single spaces."""
    left_out = CHINESE_SIGNS if is_chinese(text) else SIGNS
    small = "".join(sign for sign in text.lower() if sign not in left_out)
    return " ".join(ARTICLES.sub(" ", small).split())


def overlap(told: str, wanted: str) -> float:
    """F1 of two texts' words, each as often as it stands there."""
    mine, theirs = TOKEN.findall(told), TOKEN.findall(wanted)
    if not mine or not theirs:
        return float(mine == theirs)
    both = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * both / (len(mine) + len(theirs))


def is_chinese(text: str) -> bool:
    """Whether most of a text's letters are Chinese characters."""
    return len(HAN.findall(text)) > MOSTLY * max(len(LETTER.findall(text)), 1)
