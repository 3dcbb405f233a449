"""A model behind somebody's OpenAI-style API: likelihoods of continuations, and answers."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from danlu.base.errors import ConfigError, RequestError
from danlu.inference.likelihood import Scored

PREFIX = "api:"
KEYS = ("DANLU_API_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set
AT_ONCE = 4  # requests
TRIES = 8
SECONDS = 600.0  # for one reply
LONGEST_WAIT = 60.0  # seconds between two tries
CONTINUATIONS = 16  # scored in one request
BUSY = (429, 503)
ITEM_AT_FAULT = (400, 413, 422)  # statuses that tell of the prompt; others tell of the endpoint
MOST_BYTES = 2**28

Item = TypeVar("Item")
Result = TypeVar("Result")


class Said(NamedTuple):
    """What was written behind a prompt, and how many of the prompt's tokens were left out."""

    text: str
    cut: int = 0


class RemoteModel:
    """Asks an endpoint for completions, a few requests at once; a busy one is asked again when it says, or ever later.

    An error that one prompt brings is given in that prompt's place; one that the endpoint brings is raised.
    """

    def __init__(self, address: str) -> None:
        """`address` is api:URL#MODEL, where URL is what OpenAI's clients call the base, such as http://127.0.0.1:8000/v1.

        Raises: ConfigError if it is none.
        """
        url, _, self.model = address.removeprefix(PREFIX).partition("#")
        parts = urlsplit(url)
        if not address.startswith(PREFIX) or parts.scheme not in ("http", "https") or not parts.hostname or not self.model:
            raise ConfigError(f"the endpoint came as {address!r}; expected api:URL#MODEL, such as api:http://127.0.0.1:8000/v1#name")
        self.url = url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self.name = f"{self.model} at {parts.netloc.rpartition('@')[2]}"
        self.key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
        self.opener = urllib.request.build_opener(_NoRedirect)
        self.closed = threading.Event()

    def score(self, prompts: Sequence[tuple[str, Sequence[str]]]) -> list[list[Scored] | RequestError]:
        """The likelihood of every continuation behind its prompt, as Likelihoods.score_texts has it, from echoed log-probabilities.

        Raises: RequestError if the endpoint cannot be asked, or tells no log-probabilities of a prompt.
        """
        return self._each(self._score, prompts)

    def generate(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[Said | RequestError]:
        """The likeliest text behind every prompt, up to any of `stop`. Raises: as score."""

        def ask(prompt: str) -> Said:
            body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stop": list(stop)}
            return Said(self._text(self._post("completions", body), "text"))

        return self._each(ask, prompts)

    def chat(self, conversations: Sequence[Sequence[Mapping[str, str]]], max_tokens: int) -> list[Said | RequestError]:
        """The likeliest answer to every conversation of {"role", "content"}. Raises: as score."""

        def ask(messages: Sequence[Mapping[str, str]]) -> Said:
            body = {"messages": list(messages), "max_tokens": max_tokens, "temperature": 0}
            return Said(self._text(self._post("chat/completions", body), "message", "content"))

        return self._each(ask, conversations)

    def _each(self, ask: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | RequestError]:
        def one(item: Item) -> Result | RequestError:
            try:
                return ask(item)
            except ItemError as error:
                return error

        self.closed.clear()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                return list(pool.map(one, items))
            except BaseException:
                self.closed.set()  # what waits to try again gives up
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _score(self, prompt: tuple[str, Sequence[str]]) -> list[Scored]:
        shown = prompt[0].rstrip()  # spaces go with the continuation, as they do in a tokenizer's eyes
        texts = [prompt[0] + continuation for continuation in prompt[1]]
        found: list[Scored] = []
        for start in range(0, len(texts), CONTINUATIONS):
            some = texts[start : start + CONTINUATIONS]
            reply = self._post("completions", {"prompt": some, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0})
            try:
                choices = sorted(reply["choices"], key=lambda choice: choice["index"])
                found += [_scored(choice["logprobs"], text, len(shown)) for choice, text in zip(choices, some, strict=True)]
            except (KeyError, TypeError, ValueError, AttributeError, IndexError):
                raise RequestError(
                    f"{self.url}/completions answers echo and logprobs with something else; likelihoods cannot be had there, "
                    "but answers can be generated"
                ) from None
        return found

    def _text(self, reply: Any, *way: str) -> str:
        try:
            said = reply["choices"][0]
            for name in way:
                said = said[name]
        except (KeyError, TypeError, IndexError):
            raise RequestError(f"{self.url} answered something else than the OpenAI API has it; is this its base?") from None
        return str(said or "")

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self.key}"} if self.key else {})
        content = json.dumps({"model": self.model} | body).encode()
        for turn in range(1, TRIES + 1):
            request = urllib.request.Request(f"{self.url}/{route}", data=content, headers=headers, method="POST")
            try:
                with self.opener.open(request, timeout=SECONDS) as reply:
                    return json.loads(reply.read(MOST_BYTES))
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in BUSY or turn == TRIES:
                        raise self._refused(error) from None
                    wait = _retry_after(error.headers.get("retry-after"))
            except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                if turn == TRIES or isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                    raise RequestError(f"{self.url} cannot be reached ({getattr(error, 'reason', error)}); is it running?") from None
                wait = None
            except ValueError:
                raise RequestError(f"{self.url}/{route} answered something else than JSON; is this its base?") from None
            if self.closed.wait(min(2.0 ** (turn - 2) if wait is None else wait, LONGEST_WAIT)):
                break
        raise RequestError(f"{self.url} was no longer asked")

    def _refused(self, error: urllib.error.HTTPError) -> RequestError:
        content = error.read(2**16).decode("utf-8", errors="replace")
        code = None
        try:
            told = json.loads(content)
            told = told.get("error", told) if isinstance(told, dict) else {}
            content, code = (str(told.get("message") or content), told.get("code")) if isinstance(told, dict) else (str(told), None)
        except ValueError:
            pass
        said = " ".join(content.split())[:300]
        if error.code in ITEM_AT_FAULT:
            return ItemError(f"{self.url} answered {error.code}: {said}", code=code if isinstance(code, str) else None)
        advice = f"; put a key into {' or '.join(KEYS)}" if error.code in (401, 403) else ""
        return RequestError(f"{self.url} answered {error.code}: {said or error.reason}{advice}")


class ItemError(RequestError):
    """The endpoint cannot answer this prompt; it may answer others."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key is for the address that was given, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, given as a number or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _scored(logprobs: Mapping[str, Any], text: str, begin: int) -> Scored:
    """The continuation's part of a text's log-probabilities: tokens that end behind the prompt's `begin` characters.

    Raises: ValueError, or what else a reply of another shape brings about.
    """
    tokens, values, best, offsets = (logprobs[name] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"))
    if not len(tokens) == len(values) == len(best) == len(offsets):
        raise ValueError("lists of several lengths")
    # Some servers count a beginning token's name as if it were text.
    shift = offsets[1] if len(offsets) > 1 and not text.startswith(tokens[0]) else 0
    starts = [max(offset - shift, 0) for offset in offsets]
    ends = [*starts[1:], len(text)]
    chosen = [
        place for place, (start, end) in enumerate(zip(starts, ends, strict=True)) if start < len(text) and (start >= begin or end > begin)
    ]
    if not chosen:
        raise ItemError("a continuation adds no token to its prompt", param="prompt")
    if values[chosen[0]] is None:
        raise ItemError("nothing foretells the first token of a text; give a prompt that is not empty", param="prompt")
    greedy = all(values[place] >= max(best[place].values()) for place in chosen)
    return Scored(nats=float(sum(values[place] for place in chosen)), tokens=len(chosen), greedy=greedy)
