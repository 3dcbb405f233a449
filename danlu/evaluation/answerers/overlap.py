"""An answer to a question without a model: where the context repeats the question's words, what it says beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from danlu.data.answers import Answer, Refused
from danlu.data.examples import Example, SpanExample

TOKEN = re.compile("[\u2e80-\u9fff]|[\\w'’]+(?:[.,-]\\w+)*|\\S")  # a character of a script without spaces, a word or number, a sign
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\W?[A-Z0-9])|(?<=[。！？])|\n+")
NUMBERS = re.compile(r"\b(when|what (?:year|date|day|percent\w*|century)|how (?:many|much|long|old|far))\b|多少|几|何时", re.IGNORECASE)
SHORTEST = 4  # letters of a word that tells something, if it is no number


class WordOverlap:
    """Takes the sentence that shares the rarest words with the question, and of it one stretch that the question does not say.

    1. Each of the question's words counts one divided by how many of the context's sentences have it; the best sentence wins, the first
       of equals. 2. Of its words that the question lacks, those side by side which are numbers or begin with a capital are candidates
       (the sentence's first word is none). 3. A question for a number or a time takes the first candidate with a digit, others the
       longest without. 4. Where there is none, the longest stretch between signs that the question does not say.
    """

    name = "overlap of words, then names or numbers"
    labels: tuple[str, ...] = ()

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        return [
            Answer(text=overlapping(example.context, example.question)) if isinstance(example, SpanExample) else NO_QUESTION
            for example in examples
        ]


def overlapping(context: str, question: str) -> str:
    """The stretch of the context that the rules above find."""
    asked = {token.lower() for token in TOKEN.findall(question)}
    sentences = [sentence for sentence in SENTENCE_END.split(context) if sentence.strip()] or [context]
    held = [{token.lower() for token in TOKEN.findall(sentence)} for sentence in sentences]
    weights = {word: 1 / max(sum(word in words for words in held), 1) for word in asked if len(word) >= SHORTEST or not word.isascii()}
    # fsum, since a set has its words in another order each time, and rounding would then choose between equals.
    best = max(range(len(sentences)), key=lambda number: math.fsum(weights.get(word, 0) for word in held[number]))
    sentence = sentences[best]
    named = list(_stretches(sentence, asked, only_names=True))
    with_digit = [stretch for stretch in named if any(map(str.isdigit, stretch))]
    if NUMBERS.search(question) and with_digit:
        return with_digit[0]
    found = [stretch for stretch in named if stretch not in with_digit] or named or list(_stretches(sentence, asked, only_names=False))
    return max(found, key=len, default=sentence.strip())


def _stretches(sentence: str, asked: set[str], only_names: bool) -> Iterator[str]:
    """Words side by side that the question does not say; names and numbers alone if wanted."""
    start = end = -1
    for number, token in enumerate(TOKEN.finditer(sentence)):
        word = token[0]
        is_name = word[0].isdigit() or (word[0].isupper() and number > 0)
        if (is_name if only_names else word[0].isalnum()) and word.lower() not in asked:
            start, end = (token.start() if start < 0 else start), token.end()
        elif start >= 0:
            yield sentence[start:end]
            start = -1
    if start >= 0:
        yield sentence[start:end]


NO_QUESTION = Refused(reason="the example has no context and question")
