"""What clients may send: the OpenAI API's fields. Sampling's fields come from inference/sampling.py, one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, FailFast, ValidationError, create_model

from danlu.base.errors import RequestError
from danlu.inference.sampling import MOST_ALTERNATIVES, MOST_BIASES, MOST_STOPS, Sampling, parameters, told

MOST_PROMPTS = 64
MOST_MESSAGES = 2048
MOST_INPUTS = 2048
MOST_FIELDS = 1024
# Entries of a list or an object, checked before anything in them is; token ids are bounded by the model's context.
LONGEST = {"prompt": MOST_PROMPTS, "messages": MOST_MESSAGES, "input": MOST_INPUTS, "stop": MOST_STOPS, "logit_bias": MOST_BIASES}
COMPLETION_TOKENS = 16  # what the OpenAI API writes when max_tokens is not given; chat goes on until the context ends

# Known fields that are not supported yet, each with the values that ask for nothing. Any other value gets a 400 that names it.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "store": (False,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": (),
}
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class FirstFault(FailFast):
    """A list's first fault is told: to gather millions of them would hold up everybody. Hashable, so that unions take it."""

    __hash__ = object.__hash__


Texts = Annotated[list[str], FirstFault()]
Ids = Annotated[list[int], FirstFault()]


class Strict(BaseModel):
    """Fields keep their JSON type: no string is taken for a number. Unknown fields are kept, to be named in a warning."""

    model_config = ConfigDict(strict=True, extra="allow")


def _wire_types() -> dict[str, Any]:
    """Sampling's fields as JSON has them; null stands for the default everywhere."""
    forms: dict[Any, Any] = {tuple[str, ...]: str | Texts, Mapping[int, float]: dict[str, float]}
    hints = get_type_hints(Sampling)
    names = (name for name in parameters() if name not in ("logprobs", "prompt_logprobs"))  # each route has them in its own way
    return {name: (forms.get(hints[name], hints[name]) | None, None) for name in names}


_SHARED: dict[str, Any] = {
    "model": (str | None, None),
    "stream": (bool | None, None),
    "stream_options": (dict[str, Any] | None, None),
    "user": (str | None, None),
    **_wire_types(),
}

CompletionRequest = create_model(
    "CompletionRequest",
    __base__=Strict,
    prompt=(str | Texts | Ids | Annotated[list[Ids], FirstFault()] | None, None),
    echo=(bool | None, None),
    logprobs=(int | None, None),
    **_SHARED,
)
ChatRequest = create_model(
    "ChatRequest",
    __base__=Strict,
    messages=(Annotated[list[dict[str, Any]], FirstFault()], ...),
    max_completion_tokens=(int | None, None),
    logprobs=(bool | None, None),
    top_logprobs=(int | None, None),
    **_SHARED,
)


class EmbeddingRequest(Strict):
    """Fields of /v1/embeddings."""

    input: str | Texts | Ids | Annotated[list[Ids], FirstFault()]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: Literal[-1] | None = None  # as vLLM has it: cut to what the model reads
    user: str | None = None


class ClassifyRequest(Strict):
    """Fields of /classify."""

    input: str | Texts
    model: str | None = None
    user: str | None = None


def read(kind: type[BaseModel], content: Mapping[str, Any]) -> Any:
    """A typed request. Raises: RequestError that names the field at fault."""
    if len(content) > MOST_FIELDS:
        raise RequestError(f"the body has {len(content)} fields; expected at most {MOST_FIELDS}")
    for field, most in LONGEST.items():
        value = content.get(field)
        if isinstance(value, list | dict) and len(value) > most and not (isinstance(value, list) and isinstance(value[0], int)):
            raise RequestError(f"{field} came with {len(value)} entries; expected at most {most}", param=field)
    try:
        body = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "missing":
            raise RequestError(f"{name} is missing; expected it in the body", param=name) from None
        raise RequestError(f"{name} came as {told(first['input'])}: {first['msg'].lower()}", param=name) from None
    for name in body.model_extra or {}:
        value = content[name]
        if name in UNSUPPORTED and value is not None and not any(value == one and type(value) is type(one) for one in UNSUPPORTED[name]):
            raise RequestError(f"{name} is not supported here yet; leave it out", param=name, code="unsupported_parameter")
    return body


def warnings_of(body: BaseModel) -> str:
    """The names of unknown fields that were ignored, fit for a header."""
    names = [re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:40] for name in body.model_extra or {} if name not in UNSUPPORTED]
    return "ignored unknown fields: " + ", ".join(names[:20]) if names else ""


def sampling_of(body: Any) -> Sampling:
    """How the request wants to be answered. Raises: RequestError that names the field at fault."""
    given = {name: getattr(body, name) for name in _wire_types() if getattr(body, name) is not None}
    chat = isinstance(body, ChatRequest)
    if chat:
        if body.max_completion_tokens is not None:
            given["max_tokens"] = parameters()["max_tokens"].check("max_completion_tokens", body.max_completion_tokens)
        given.setdefault("max_tokens", None)
        given["logprobs"] = _chat_logprobs(body)
    else:
        given.setdefault("max_tokens", COMPLETION_TOKENS)
        given["logprobs"] = body.logprobs
        given["prompt_logprobs"] = bool(body.echo and body.logprobs is not None)
    return Sampling(**given)


def _chat_logprobs(body: Any) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs came without logprobs; set logprobs to true as well", param="top_logprobs")
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= MOST_ALTERNATIVES:
        raise RequestError(
            f"top_logprobs came as {told(body.top_logprobs)}; expected a whole number from 0 to {MOST_ALTERNATIVES}", param="top_logprobs"
        )
    return (body.top_logprobs or 0) if body.logprobs else None


def wants_usage(body: Any) -> bool:
    """Whether a stream is to end with its usage. Raises: RequestError if the option cannot be read."""
    options = body.stream_options
    if options is None:
        return False
    wanted = options.get("include_usage", False)
    if not isinstance(wanted, bool):
        raise RequestError(f"stream_options.include_usage came as {told(wanted)}; expected true or false", param="stream_options")
    if not body.stream:
        raise RequestError("stream_options came without stream; set stream to true as well", param="stream_options")
    return wanted


def prompts_of(body: Any) -> list[str | list[int]]:
    """The prompts of a completion: one or several, each text or token ids. Raises: RequestError if there are too many."""
    prompt = body.prompt
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise RequestError("prompt came as an empty list; expected text, token ids, or a list of these", param="prompt")
    if isinstance(prompt[0], int):
        return [prompt]
    if len(prompt) > MOST_PROMPTS:
        raise RequestError(f"prompt came with {len(prompt)} prompts; expected at most {MOST_PROMPTS}", param="prompt")
    return list(prompt)


def inputs_of(body: Any) -> list[str | list[int]]:
    """What is to become vectors: one or several, each text or token ids. Raises: RequestError if there are none or too many."""
    given = [body.input] if isinstance(body.input, str) or (body.input and isinstance(body.input[0], int)) else body.input
    if not 1 <= len(given) <= MOST_INPUTS:
        raise RequestError(f"input came with {len(given)} entries; expected 1 to {MOST_INPUTS}", param="input")
    return list(given)


def messages_of(body: Any) -> list[dict[str, str]]:
    """The conversation, each message's parts joined. Raises: RequestError if one cannot be read."""
    if not body.messages or len(body.messages) > MOST_MESSAGES:
        raise RequestError(f"messages came with {len(body.messages)} entries; expected 1 to {MOST_MESSAGES}", param="messages")
    return [_message(place, message) for place, message in enumerate(body.messages)]


def _message(place: int, message: Mapping[str, Any]) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise RequestError(f"messages[{place}].role came as {told(role)}; expected one of {', '.join(ROLES)}", param="messages")
    if message.get("tool_calls") or message.get("function_call"):
        raise RequestError(
            f"messages[{place}] calls a tool; tools are not supported here yet", param="messages", code="unsupported_parameter"
        )
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise RequestError(
                f"messages[{place}].content holds a part that is no text; only text is supported here",
                param="messages",
                code="unsupported_parameter",
            )
        content = "".join(text for text in texts if text is not None)
    if not isinstance(content, str):
        raise RequestError(f"messages[{place}].content came as {told(content)}; expected text", param="messages")
    return {"role": ROLES[role], "content": content}
