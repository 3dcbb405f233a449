"""danlu generate: continue a prompt."""

from __future__ import annotations

import json as json_format
import sys
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from danlu.base.device import set_threads
from danlu.base.errors import RequestError
from danlu.base.options import spread
from danlu.inference.model import Gathered, Model, load
from danlu.inference.sampling import Sampling

DEFAULT_TEMPERATURE = 0.7  # for people at a terminal; the API's default is 1, as OpenAI's


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What one run of danlu generate made."""

    model: str
    choices: tuple[dict[str, Any], ...]
    prompt_tokens: int
    completion_tokens: int
    first_token_seconds: float
    wall_seconds: float

    @property
    def text(self) -> str:
        """The first answer."""
        return str(self.choices[0]["text"])


@spread(Sampling, temperature=DEFAULT_TEMPERATURE)
def generate(
    model: str,
    prompt: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    precision: str = "auto",
    threads: int | None = None,
    json: bool = False,
    **sampling: Any,
) -> Generated:
    """Continue a prompt; the text streams to standard output as it comes.

    Parameters
    ----------
    model
        A run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name.
    prompt
        Text to continue; "-" reads standard input. For a model without a tokenizer: token ids separated by spaces.
    precision
        The numbers that a decoder answers in: float32, bfloat16, int8, int4; auto: what the file has, or what is quick here.
    threads
        CPU threads to compute with; all cores unless given.
    json
        Print one JSON object at the end instead of streaming.
    """
    set_threads(threads)
    if prompt == "-":
        prompt = read_input()
    with load(model, precision=precision) as loaded:
        ids = token_ids(prompt) if loaded.tokenizer is None else loaded.encode(prompt)
        made = run(loaded, ids, sampling, show=not json)
    if json:
        print(json_format.dumps(asdict(made), ensure_ascii=False), flush=True)
    return made


def run(model: Model, ids: list[int], sampling: dict[str, Any], show: bool) -> Generated:
    """Answer token ids; several answers are shown one after the other, each as it comes."""
    began = time.perf_counter()
    stream = model.stream(ids, **sampling)
    gathered = Gathered(stream.request.sampling.n)
    shown, first, waiting = 0, 0.0, [""] * stream.request.sampling.n
    for piece in stream:
        first = first or time.perf_counter() - began
        gathered.add(piece)
        if show:
            waiting[piece.index] += piece.text if model.tokenizer is not None else "".join(f"{token} " for token in piece.token_ids)
            shown = _show(waiting, shown, gathered)
    choices = tuple(
        {"index": choice.index, "text": choice.text, "token_ids": choice.token_ids, "finish_reason": choice.finish_reason}
        for choice in gathered.choices()
    )
    return Generated(
        model=model.name,
        choices=choices,
        prompt_tokens=len(ids),
        completion_tokens=stream.request.sampled,
        first_token_seconds=round(first, 4),
        wall_seconds=round(time.perf_counter() - began, 4),
    )


def _show(waiting: list[str], shown: int, gathered: Gathered) -> int:
    """Print the answer whose turn it is as far as it has come; return whose turn it is now."""
    while shown < len(waiting):
        if waiting[shown]:
            print(waiting[shown], end="", flush=True)
            waiting[shown] = ""
        if not gathered.ended(shown):
            break
        shown += 1
        print("\n---" if shown < len(waiting) else "", flush=True)
    return shown


def read_input() -> str:
    """All of standard input as text. Raises: RequestError if it is no UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"standard input is no UTF-8 text (byte {error.start}); convert it first", param="prompt") from None


def token_ids(prompt: str) -> list[int]:
    """Token ids written as numbers. Raises: RequestError if one is none."""
    try:
        return [int(word) for word in prompt.replace(",", " ").split()]
    except ValueError:
        raise RequestError("this model has no tokenizer; give token ids separated by spaces", param="prompt") from None
