"""What went wrong, told in the shape of OpenAI's API.

Failures that are ours to mend are logged without a word of what people said or sent.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hyperasr.errors import AudioError, ConfigError, HyperASRError
from hyperasr.util.program import one_line

RETRY_S = 1
"""Seconds after which a caller that was sent away may come again."""

logger = logging.getLogger(__name__)


class Busy(HyperASRError):
    """Too many recordings wait already; try again later."""


class TooLong(AudioError):
    """A recording lasts longer than the server takes."""


class UnknownModel(ConfigError):
    """A model that this server does not have."""


class InternalError(HyperASRError):
    """Something of the server failed; its log says where."""


# The first that fits.
_STATUSES: tuple[tuple[type[HyperASRError], int], ...] = (
    (Busy, 503),
    (TooLong, 413),
    (UnknownModel, 404),
    (AudioError, 400),
    (ConfigError, 400),
)
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "too_large",
    499: "client_left",
    503: "busy",
    504: "timeout",
}


def status_of(error: BaseException) -> int:
    """Return the HTTP status that tells of an error."""
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def body_of(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """Return the JSON of an error.

    Args:
        status: of HTTP.
        message: one line: what, and what to do.
        code: for programs; None is the one of the status.
    """
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = code or _CODES.get(status, "internal_error")
    return {"error": {"message": one_line(message), "type": kind, "param": None, "code": code}}


def problem(status: int, message: str, code: str | None = None) -> JSONResponse:
    """Return the response that tells of an error; arguments as of `body_of`."""
    headers = {"Retry-After": str(RETRY_S)} if status == 503 else None
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    if status == 408:
        headers = {"Connection": "close"}  # else the rest of the upload would be waited for
    return JSONResponse(body_of(status, message, code), status, headers)


async def on_error(_: Request, error: Exception) -> JSONResponse:
    """Answer with the error that a route raised."""
    if isinstance(error, RequestValidationError):
        return problem(400, _explained(error))
    if isinstance(error, HTTPException):
        return problem(error.status_code, str(error.detail))
    code = "model_not_found" if isinstance(error, UnknownModel) else None
    return problem(status_of(error), str(error), code)


def _explained(error: RequestValidationError) -> str:
    """Say in one line which field is wrong; what was sent is not repeated."""
    faults = []
    for fault in error.errors():
        place = [str(part) for part in fault.get("loc", ()) if part not in ("body", "query")]
        missing = fault.get("type") == "missing"
        said = "is missing" if missing else f"is not valid: {fault.get('msg', '')}"
        faults.append(f"{'.'.join(place) or 'the body'} {said}")
    return "; ".join(faults)


def log_failure(error: BaseException, doing: str) -> InternalError:
    """Log the kind of an error and where it arose, and return what a caller is told.

    The message of the error is left out: it may hold a text or a path.

    Args:
        error: that nobody expected.
        doing: what was being done.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    logger.error("%s failed: %s in %s", doing, type(error).__name__, where)
    return InternalError(f"{doing} failed; the server's log says where")
