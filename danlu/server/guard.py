"""What every request meets first: a number, a look at where it comes from, one line in the log, and no traceback on the way out."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.base.errors import RequestError
from danlu.server.errors import reply

log = logging.getLogger(__name__)

STOPPING = RequestError("the server is shutting down; ask again later", code="engine_stopped")
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Stands before all routes, those to come included.

    While no keys exist, only programs of this machine may ask: a Host that is no local name is a web page whose
    address was bent towards this machine (DNS rebinding), a foreign Origin is a web page from elsewhere.
    """

    def __init__(self, app: ASGIApp, stopping: Callable[[], bool]) -> None:
        self.app, self.stopping = app, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number, began, status = f"req-{uuid.uuid4().hex}", time.monotonic(), 0

        async def send_numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            refusal = self._refusal(Headers(scope=scope), scope["http_version"])
            if refusal is not None:
                await reply(refusal)(scope, receive, send_numbered)
            else:
                await self.app(scope, receive, send_numbered)
        except asyncio.CancelledError:  # the server ends, and has waited long enough
            if not status:
                await reply(STOPPING)(scope, receive, send_numbered)
        except Exception as error:
            log.exception("request %s failed", number)
            if not status:
                await reply(error)(scope, receive, send_numbered)
        finally:
            route = getattr(scope.get("route"), "path", "(no route)")  # the pattern: an address may hold anything
            log.info("%s %s %d %.3f s %s", scope["method"], route, status, time.monotonic() - began, number)

    def _refusal(self, headers: Headers, version: str) -> RequestError | None:
        hosts = headers.getlist("host") or ["localhost"] * (version == "1.0")  # which needs none, and no web page speaks
        if len(hosts) != 1 or _name(f"http://{hosts[0]}") not in LOCAL_NAMES:
            return RequestError("the Host header names no local address; this server answers this machine only", code="forbidden_host")
        if any(_name(origin) not in LOCAL_NAMES for origin in headers.getlist("origin")):
            return RequestError("the Origin header names another site; this server answers this machine only", code="forbidden_origin")
        if self.stopping():
            return STOPPING
        return None


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
