"""Run the app: one socket, clean endings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from danlu.base.errors import ConfigError
from danlu.server.app import Service, make_app
from danlu.server.connection import Connection

GRACE_SECONDS = 5.0  # running answers may end by themselves for so long; then they end in an error event
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def bind(host: str, port: int) -> socket.socket:
    """Take a port, before models are loaded in vain. Raises: ConfigError if the address is public or the port is taken."""
    if host not in LOCAL_HOSTS:
        raise ConfigError(
            f"the host came as {host}; expected 127.0.0.1: keys do not exist yet, and without them the server answers this machine only"
        )
    if not 0 <= port <= 65535:
        raise ConfigError(f"the port came as {port}; expected 0 (any free one) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ConfigError(f"port {port} on {host} cannot be used ({error.strerror}); choose another with --port, or 0 for any") from None
    return listener


class Server(uvicorn.Server):
    """uvicorn, but with streams that end in words when it stops, and an exit without an error."""

    def __init__(self, service: Service, *, on_ready: Callable[[], None] = lambda: None, grace_seconds: float = GRACE_SECONDS) -> None:
        self.service, self.on_ready, self.grace_seconds = service, on_ready, grace_seconds
        app = make_app(service)
        logging.getLogger("uvicorn.access").disabled = True  # it writes whole addresses, which may hold anything
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(grace_seconds) + 5,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.stopping = True
        ending = asyncio.create_task(self._end_answers())
        await super().shutdown(sockets)
        ending.cancel()
        await self._close_engines()

    async def _end_answers(self) -> None:
        await asyncio.sleep(self.grace_seconds)
        await self._close_engines()

    async def _close_engines(self) -> None:
        for model in self.service.models.values():
            await asyncio.to_thread(model.close)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """As uvicorn does, but a signal that was obeyed is not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._obey) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _obey(self, _number: int, _frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def address(listener: socket.socket) -> str:
    """Where clients find the API."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
