"""A conversation to the text that a chat model was trained on, by the model's own template."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from danlu.base.errors import RequestError
from danlu.inputs.tokenizer import Tokenizer

LONGEST = 2**20  # characters a template may produce
MOST_SECONDS = 1.0  # of processor time for one conversation; real templates take a thousandth


class TemplateRefused(Exception):
    """What a template raises by raise_exception, and what stops one that would never end."""


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
    """Write `messages` ({role, content} each) as the model saw conversations in training.

    The template comes with the model and runs in a sandbox; requests can never bring one.
    Raises: RequestError if the model has no template, or the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise RequestError(
            "this model has no chat template: it continues text but was not trained to chat; use completions (danlu generate) instead",
            param="model",
            code="no_chat_template",
        )
    given: dict[str, Any] = {name: _text(tokenizer.settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    given |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
    parts, length = [], 0
    try:
        with _time_limit():
            for part in _compile(tokenizer.chat_template).generate(**given):
                parts.append(part)
                length += len(part)
                if length > LONGEST:
                    raise RequestError(
                        f"the conversation came to over {LONGEST} characters; send fewer or shorter messages", param="messages"
                    )
    except RequestError:
        raise
    except TemplateRefused as error:
        raise RequestError(f"the model's chat template refuses these messages: {error}", param="messages") from None
    except Exception as error:  # a template is a program of strangers: it can fail in every way
        what = " ".join(str(error).split())[:300] or type(error).__name__
        raise RequestError(f"the model's chat template fails on these messages ({what})", param="messages") from None
    return "".join(parts)


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    """What transformers offers to templates, and no more."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}
    environment.filters["tojson"] = _to_json
    return environment.from_string(template)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no single product or power takes all memory or all day."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for one, times in ((left, right), (right, left)):
            if isinstance(one, Sequence) and isinstance(times, int) and len(one) * times > LONGEST:
                raise TemplateRefused(f"it repeats something {times} times")
        if operator == "**" and not all(isinstance(x, int | float) and abs(x) < 2**10 for x in (left, right)):
            raise TemplateRefused("it raises a number to a giant power")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """{% generation %} marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Stop a template whose loops take over MOST_SECONDS: this thread looks at the clock before each of its lines."""
    before, end = sys.gettrace(), time.thread_time() + MOST_SECONDS

    def watch(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if time.thread_time() > end:
            raise TemplateRefused(f"it takes over {MOST_SECONDS:g} s")
        return watch if frame.f_code.co_filename == "<template>" else None

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(message)


def _text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")
