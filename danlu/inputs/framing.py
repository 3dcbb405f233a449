"""What a model expects around a text: [CLS] x [SEP], x </s>, <s> x. Said in the tokenizer itself, for all its readers."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer as RawTokenizer
from tokenizers.processors import TemplateProcessing

FIRST, SECOND = "$A", "$B"  # the places of the texts in a template; a number behind a colon is the segment


def frame(raw: RawTokenizer, single: Sequence[str], pair: Sequence[str]) -> None:
    """Have `raw` set control tokens around one text and around two, as templates of tokens, FIRST and SECOND say.

    Raises: ValueError if it lacks one of the tokens.
    """
    names = sorted({part.partition(":")[0] for part in (*single, *pair)} - {FIRST, SECOND})
    lacking = [name for name in names if raw.token_to_id(name) is None]
    if lacking:
        raise ValueError(f"the vocabulary lacks {', '.join(lacking)}")
    raw.post_processor = TemplateProcessing(
        single=list(single), pair=list(pair), special_tokens=[(name, raw.token_to_id(name)) for name in names]
    )


def frame_bert(raw: RawTokenizer, start: str, separator: str) -> None:
    """[CLS] x [SEP], and [CLS] x [SEP] y [SEP] in two segments."""
    single = [start, FIRST, separator]
    frame(raw, single, [*single, f"{SECOND}:1", f"{separator}:1"])


def frame_roberta(raw: RawTokenizer, start: str, end: str) -> None:
    """<s> x </s>, and <s> x </s></s> y </s> in one segment."""
    single = [start, FIRST, end]
    frame(raw, single, [*single, end, SECOND, end])


def frame_ends(raw: RawTokenizer, before: str | None, after: str | None) -> None:
    """A token before each text, behind it, both or neither: <s> x as Llama, x </s> as T5."""
    if before is None and after is None:
        return
    single, second = ([*([before] if before else []), place, *([after] if after else [])] for place in (FIRST, SECOND))
    frame(raw, single, [*single, *second])
