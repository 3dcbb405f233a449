"""Request bodies: read up to a bound, then parsed with every bound checked before anything is computed."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from fastapi import Request

from danlu.base.errors import RequestError
from danlu.inference.sampling import told

MOST_BYTES = 8 * 2**20
MOST_DEPTH = 64
MOST_SECONDS = 30.0  # for the whole body to arrive
DRAINED_BYTES = 64 * 2**20  # so much of a refused body is read and thrown away, so that its sender gets to read the answer


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises: RequestError if it is too large, too slow, too deep or no JSON object."""
    try:
        async with asyncio.timeout(MOST_SECONDS):
            content = await _read(request)
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {MOST_SECONDS:g} s", code="timeout") from None
    return parse(content)


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    parts: list[bytes] = []
    size = 0
    refused = len(declared) > 15 or (declared.isdigit() and int(declared) > MOST_BYTES)
    if not (refused and (len(declared) > 15 or int(declared) > DRAINED_BYTES)):
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise RequestError("the client left before its request was whole")
            size += len(message.get("body", b""))
            refused = refused or size > MOST_BYTES
            if refused:
                parts.clear()
            else:
                parts.append(message.get("body", b""))
            if not message.get("more_body", False) or size > DRAINED_BYTES:
                break
    if refused:
        raise RequestError(f"the body is larger than {MOST_BYTES} bytes; send less at once", code="body_too_large")
    return b"".join(parts)


def parse(content: bytes) -> dict[str, Any]:
    """A JSON object from bytes. Raises: RequestError if it is none, nests too deep, or holds what JSON does not know."""
    try:
        body = json.loads(content.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise RequestError(f"the body nests deeper than {MOST_DEPTH} levels") from None
    except ValueError:
        raise RequestError("the body is no valid JSON in UTF-8; expected one JSON object") from None
    if not isinstance(body, dict):
        raise RequestError(f"the body is {told(body)}; expected one JSON object")
    for field, value in body.items():
        _check(value, field)
    return body


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _check(value: Any, field: str) -> None:
    """Refuse deep nesting and strings that are no text: half a surrogate pair cannot be encoded."""
    layer: list[Any] = [field, value]
    for _ in range(MOST_DEPTH):
        following: list[Any] = []
        for item in layer:
            if isinstance(item, str) and not item.isascii():
                try:
                    item.encode()
                except UnicodeEncodeError:
                    raise RequestError("the body holds half a surrogate pair; expected whole characters", param=_name(field)) from None
            elif isinstance(item, list):
                following += item
            elif isinstance(item, dict):
                following += item.keys()
                following += item.values()
        if not following:
            return
        layer = following
    raise RequestError(f"the body nests deeper than {MOST_DEPTH} levels", param=_name(field))


def _name(field: str) -> str:
    return field.encode("ascii", "replace").decode()[:60]
