"""A conversation to the text that a chat model was trained on, by the model's own template."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from danlu.base.errors import RequestError
from danlu.inputs.tokenizer import Tokenizer

LONGEST = 2**20  # characters a template may produce


class TemplateRefused(Exception):
    """What a template raises by raise_exception."""


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
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    written = {name: _text(tokenizer.settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    parts, length = [], 0
    try:
        for part in environment.from_string(tokenizer.chat_template).generate(
            messages=list(messages), add_generation_prompt=add_generation_prompt, **written
        ):
            parts.append(part)
            length += len(part)
            if length > LONGEST:
                raise RequestError(f"the conversation came to over {LONGEST} characters; send fewer or shorter messages", param="messages")
    except TemplateRefused as error:
        raise RequestError(f"the model's chat template refuses these messages: {error}", param="messages") from None
    except jinja2.TemplateError as error:
        raise RequestError(f"the model's chat template fails on these messages ({error})", param="messages") from None
    return "".join(parts)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(message)


def _text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")
