"""How byte-level BPE cuts text before it merges: patterns, and the names under which llama.cpp knows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from danlu.base.errors import CheckpointError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
DIGIT, DIGITS, THREE_DIGITS = r"\p{N}", r"\p{N}+", "[0-9][0-9][0-9]"


@dataclass(frozen=True)
class Cutting:
    """Patterns that cut one after the other, each what the one before has left, and whether a word of the vocabulary skips the merges."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The same in the library's terms, in the shapes that its own files have."""
        *before, last = self.patterns
        if last != GPT2:
            before, last = [*before, last], ""
        digits = pre_tokenizers.Digits(individual_digits=True)
        steps: list[pre_tokenizers.PreTokenizer] = [
            digits if pattern == DIGIT else pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in before
        ]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=bool(last)))
        return pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]


_GPT2, _DIGITS_APART, _QWEN2 = Cutting((GPT2,)), Cutting((DIGIT, GPT2)), Cutting((QWEN2,))
_LLAMA3, _LLAMA3_MERGED = Cutting((LLAMA3,), ignore_merges=True), Cutting((LLAMA3,))

# Of the names of one cutting the first is the one to write. A name is here only if its pattern is the tokenizer's own, to the letter:
# llama.cpp comes close to others (tekken, gpt-4o), and a model cut otherwise than it was trained is wrong without a sign of it.
NAMES: Mapping[str, Cutting] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe", "modern-bert", "exaone4", "trillion"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS_APART),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "megrez", "grok-2", "solar-open"), _QWEN2),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _LLAMA3_MERGED),
    "qwen35": Cutting((QWEN35,)),
    "falcon": Cutting((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, THREE_DIGITS)),
    "default": Cutting((r"[\p{P}\$\+<=>\^~\|]+", GPT2, DIGITS, THREE_DIGITS)),
}


def name_of(raw: RawTokenizer) -> str:
    """llama.cpp's name for the way in which a byte-level BPE cuts text.

    Raises: CheckpointError naming the pattern if it has none that is exactly this one.
    Source: github.com/ggml-org/llama.cpp, src/llama-vocab.cpp.
    """
    steps = json.loads(raw.pre_tokenizer.__getstate__()) if raw.pre_tokenizer is not None else {"type": "none"}
    patterns = [_pattern(step) for step in steps.get("pretokenizers", [steps])]
    if None not in patterns:
        own = Cutting(tuple(pattern for pattern in patterns if pattern), bool(raw.model.ignore_merges))
        name = next((name for name, cutting in NAMES.items() if cutting == own), None)
        if name is not None:
            return name
    told = [part if part is not None else step for part, step in zip(patterns, steps.get("pretokenizers", [steps]), strict=True)]
    merging = " and words that skip the merges" if raw.model.ignore_merges else ""
    raise CheckpointError(f"llama.cpp has no name for a tokenizer that cuts by {told}{merging}; GGUF can hold one that cuts as {_known()}")


def _pattern(step: Mapping[str, Any]) -> str | None:
    """The pattern by which one step cuts, "" if it does not cut, None if it is no pattern."""
    match step:
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern
        case {"type": "Digits", "individual_digits": alone}:
            return DIGIT if alone else DIGITS
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": cuts}:
            return GPT2 if cuts else ""
    return None


def _known() -> str:
    firsts: dict[Cutting, str] = {}
    for name, cutting in NAMES.items():
        firsts.setdefault(cutting, name)
    return ", ".join(firsts.values())


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's way of writing bytes as printable characters: character -> byte, in the order of GPT-2's first 256 tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
