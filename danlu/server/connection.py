"""One connection: closed if no request comes in time, refused where there are too many, answered in the API's words if it is no HTTP."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from danlu.base.errors import RequestError
from danlu.server.errors import body_of

HEAD_SECONDS = 15.0  # between two looks: a connection that has begun no request meanwhile is closed
MOST_CONNECTIONS, LEFT_FILES = 2000, 64  # at once; and the files that the process keeps for all else


def most_connections() -> int:
    """How many may be open at once, by how many files this process may have: out of files, nobody could be answered."""
    try:
        import resource  # not on Windows
    except ImportError:
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files < 0 else max(1, min(MOST_CONNECTIONS, files - LEFT_FILES))


class Connection(H11Protocol):
    """As uvicorn has it, and besides as this file says."""

    look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.abort()
        else:
            self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.look is not None:
            self.look.cancel()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        content = json.dumps(body_of(RequestError("what came is no HTTP request that can be read"))).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close"}
        headers["x-request-id"] = f"req-{uuid.uuid4().hex}"
        events = (h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"), h11.Data(data=content))
        with suppress(h11.LocalProtocolError):  # an earlier request's answer is on its way
            for event in (*events, h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _look_again(self) -> None:
        self.look = self.loop.call_later(HEAD_SECONDS, self._still_idle, self.cycle, self.conn.their_state)

    def _still_idle(self, cycle: Any, state: Any) -> None:
        if state is h11.IDLE and self.conn.their_state is h11.IDLE and self.cycle is cycle:
            self.transport.close()
        else:
            self._look_again()
