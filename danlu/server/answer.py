"""One HTTP request's way through the engine and back: whole, or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from danlu.base.errors import DanluError, RequestError
from danlu.inference.engine import Piece
from danlu.inference.model import Model
from danlu.inference.request import Request
from danlu.inference.sampling import Sampling
from danlu.inference.text import Token
from danlu.server.errors import body_of
from danlu.server.replies import CompletionShape, Words, usage

BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}  # line ends to Python's splitlines that JSON leaves as they are

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request wants: prompts (as ids), how to answer, and how to say it."""

    model: Model
    prompts: Sequence[list[int]]
    echoes: Sequence[str]  # text that goes before each prompt's answers
    sampling: Sampling
    shape: CompletionShape
    include_usage: bool = False
    warnings: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"warnings": self.warnings} if self.warnings else {}


class Answer:
    """The prompts of one HTTP request, running; pieces come over from the engine's thread without blocking either side."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.events: asyncio.Queue[tuple[int, Piece | DanluError]] = asyncio.Queue()
        self.open = len(asked.prompts) * asked.sampling.n
        self.loop = asyncio.get_running_loop()
        self.requests: list[Request] = []
        self.words = [Words(asked.model.tokenizer) for _ in range(self.open)]
        self.begun: set[int] = set()
        try:
            for number, ids in enumerate(asked.prompts):
                self.requests.append(asked.model.submit(ids, asked.sampling, self._deliver(number)))
        except DanluError:
            self.cancel()
            raise

    def _deliver(self, number: int) -> Callable[[Piece | DanluError], None]:
        def deliver(event: Piece | DanluError) -> None:
            self.loop.call_soon_threadsafe(self.events.put_nowait, (number, event))

        return deliver

    def cancel(self) -> None:
        """Nobody waits for this any more."""
        for request in self.requests:
            request.cancel()

    async def parts(self) -> AsyncIterator[tuple[int, str, list[Token], str | None]]:
        """Index of a choice, its next text and tokens, and why it ended; what is to be echoed comes first. Raises: RequestError."""
        while self.open:
            number, event = await self.events.get()
            if isinstance(event, DanluError):
                raise event
            index = number * self.asked.sampling.n + event.index
            text, tokens = event.text, list(event.tokens)
            if index not in self.begun:
                self.begun.add(index)
                text = self.asked.echoes[number] + text
                known = self.requests[number].prompt_tokens
                tokens = known + tokens
                if not known:
                    self.words[index].offset = len(self.asked.echoes[number])
            if event.finish_reason:
                self.open -= 1
            yield index, text, tokens, event.finish_reason

    def logprobs(self, index: int, tokens: list[Token]) -> dict[str, Any] | None:
        """Log-probabilities as the reply has them, if they were asked for."""
        if self.asked.sampling.logprobs is None:
            return None
        return self.asked.shape.logprobs(self.words[index], tokens)

    def token_ids(self, tokens: list[Token]) -> list[int] | None:
        """Token ids for models that have no text."""
        return [token.id for token in tokens] if self.asked.model.tokenizer is None else None

    def cost(self) -> dict[str, int]:
        """Tokens read and drawn so far."""
        return usage(sum(request.prompt_length for request in self.requests), sum(request.sampled for request in self.requests))


async def whole(http: HttpRequest, asked: Asked) -> Response:
    """The complete reply, unless the client leaves before."""
    answer = Answer(asked)
    try:
        choices = await unless_left(http, _gather(answer))
        return JSONResponse(asked.shape.whole(choices, answer.cost()), headers=asked.headers)
    finally:
        answer.cancel()


async def _gather(answer: Answer) -> list[dict[str, Any]]:
    texts: list[list[str]] = [[] for _ in range(answer.open)]
    tokens: list[list[Token]] = [[] for _ in texts]
    reasons: list[str | None] = [None for _ in texts]
    async for index, text, new, reason in answer.parts():
        texts[index].append(text)
        tokens[index] += new
        reasons[index] = reason
    shape = answer.asked.shape
    return [
        shape.choice(index, "".join(parts), reasons[index], answer.logprobs(index, tokens[index]), answer.token_ids(tokens[index]))
        for index, parts in enumerate(texts)
    ]


async def unless_left(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """What some work gives. Raises: RequestError if the client leaves before it is done; the work is cancelled then."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(left(http.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError("the client left before its answer was complete")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def left(receive: Receive) -> None:
    """Return once the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """The reply as server-sent events; it ends in [DONE], or in an error event if something failed midway."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **answer.asked.headers})
        del self.headers["content-length"]
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self.answer.cancel()
            sending.cancel()
            leaving.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events():
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except OSError:  # the client is gone
            return
        except Exception as error:
            if not isinstance(error, DanluError):
                log.exception("a stream failed")
            await send({"type": "http.response.body", "body": b"event: error\n" + line(body_of(error)), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        asked, answer = self.answer.asked, self.answer
        extra = {"usage": None} if asked.include_usage else {}
        for index in range(answer.open):
            opening = asked.shape.first(index)
            if opening is not None:
                yield line({**asked.shape.piece([opening]), **extra})
        async for index, text, tokens, reason in answer.parts():
            logprobs = answer.logprobs(index, tokens)
            if text or tokens or reason:
                part = asked.shape.part(index, text, reason, logprobs, answer.token_ids(tokens))
                yield line({**asked.shape.piece([part]), **extra})
        if asked.include_usage:
            yield line({**asked.shape.piece([]), "usage": answer.cost()})
        yield b"data: [DONE]\n\n"


def line(content: dict[str, Any]) -> bytes:
    """One event, in one line for clients too that take more than the protocol does for the end of one."""
    return b"data: " + json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(BREAKS).encode() + b"\n\n"
