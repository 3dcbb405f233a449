"""The one table of what goes wrong and how it is said over HTTP."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from danlu.base.errors import DanluError, RequestError

log = logging.getLogger(__name__)

# code of a RequestError -> status; every other RequestError is the client's own: 400
STATUSES = {
    "invalid_api_key": 401,
    "forbidden_host": 403,
    "forbidden_origin": 403,
    "not_found": 404,
    "model_not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "body_too_large": 413,
    "queue_full": 429,
    "engine_failure": 500,
    "engine_stopped": 503,
}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
}
RETRY_SECONDS = {429: 2, 503: 5}


def status_of(error: Exception) -> int:
    """The HTTP status that an error is told with."""
    if isinstance(error, RequestError):
        return STATUSES.get(error.code or "", 400)
    return 500


def body_of(error: Exception) -> dict[str, Any]:
    """The error as the OpenAI API words it. Only a RequestError's message is meant for clients."""
    told = error if isinstance(error, RequestError) else RequestError("the server failed on this request", code="engine_failure")
    return {"error": {"message": str(told), "type": TYPES[status_of(told)], "param": told.param, "code": told.code}}


def reply(error: Exception) -> Response:
    """The response that tells of an error."""
    status = status_of(error)
    headers = {"retry-after": str(RETRY_SECONDS[status])} if status in RETRY_SECONDS else {}
    return JSONResponse(body_of(error), status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Tell every error of the app in this way."""

    async def known(_request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestError):
            log.error("a request failed", exc_info=error)
        return reply(error)

    async def routing(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        messages = {404: "there is nothing at this address", 405: "this address wants another method"}
        told = RequestError(messages.get(error.status_code, "the request cannot be read"), code=codes.get(error.status_code))
        response = reply(told)
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(DanluError, known)
    app.add_exception_handler(HTTPException, routing)
