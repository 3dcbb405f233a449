"""danlu chat: talk with a model that was trained to."""

from __future__ import annotations

import sys
from typing import Any

from danlu.base.device import set_threads
from danlu.base.errors import ConfigError, RequestError
from danlu.base.options import spread
from danlu.inference.model import Model, load
from danlu.inference.sampling import Sampling
from danlu.recipes.generate import DEFAULT_TEMPERATURE

LEAVING = ("/exit", "/quit")


@spread(Sampling, temperature=DEFAULT_TEMPERATURE, max_tokens=1024)
def chat(
    model: str, *, system: str | None = None, precision: str = "auto", threads: int | None = None, **sampling: Any
) -> list[dict[str, str]]:
    """Talk with a model, in its own chat template. /exit or Ctrl-D leaves; Ctrl-C stops an answer, and leaves when nothing runs.

    Parameters
    ----------
    model
        A run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name.
    system
        What the model is told before the conversation.
    precision
        The numbers that a decoder answers in: float32, bfloat16, int8, int4; auto: what the file has, or what is quick here.
    threads
        CPU threads to compute with; all cores unless given.
    """
    if sampling.get("n", 1) != 1:
        raise ConfigError("n came as more than one; a chat goes on from one answer: leave --n out, or use danlu generate")
    set_threads(threads)
    messages = [{"role": "system", "content": system}] if system else []
    with load(model, precision=precision) as loaded:
        if loaded.tokenizer is None or loaded.tokenizer.chat_template is None:
            # No continuation in disguise: a base model answers a question with more questions, which looks like a broken chat.
            raise ConfigError(
                f"{model} has no chat template, it was not trained to chat; continue text with: danlu generate {model} PROMPT"
            )
        if sys.stdin.isatty():
            print("Talk; /exit or Ctrl-D leaves, Ctrl-C stops an answer.", file=sys.stderr)
        while (said := _ask()) is not None:
            if said.strip():
                _answer(loaded, messages, said, sampling)
    return messages


def _ask() -> str | None:
    """The next thing the user says, or None to leave."""
    try:
        said = input("> ") if sys.stdin.isatty() else sys.stdin.readline()
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return None
    except UnicodeDecodeError:
        raise RequestError("standard input is no UTF-8 text; convert it first", param="messages") from None
    if (not said and not sys.stdin.isatty()) or said.strip() in LEAVING:
        return None
    return said.rstrip("\n")


def _answer(model: Model, messages: list[dict[str, str]], said: str, sampling: dict[str, Any]) -> None:
    """Stream one answer and remember it, as far as it came."""
    messages.append({"role": "user", "content": said})
    heard: list[str] = []
    try:
        for piece in model.chat_stream(messages, **sampling):
            print(piece.text, end="", flush=True)
            heard.append(piece.text)
    except KeyboardInterrupt:
        pass
    except RequestError as error:
        messages.pop()
        if error.code != "context_length_exceeded" or not sys.stdin.isatty():
            raise
        print(f"danlu: {error}; /exit and start anew, or say less", file=sys.stderr)
        return
    print(flush=True)
    messages.append({"role": "assistant", "content": "".join(heard)})
