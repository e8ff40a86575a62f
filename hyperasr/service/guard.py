"""What stands before every route: whose page calls, with which token, how much and how slowly."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from hyperasr.service.config import Limits, is_loopback
from hyperasr.service.metrics import Metrics
from hyperasr.service.problems import log_failure, problem

_GUARDED = ("/v1/", "/metrics")


HEAD_S = 20.0
"""Seconds that a client has for the head of a request."""


def right_token(given: str, token: str | None) -> bool:
    """Whether a client sent the token, compared in constant time; true where there is none."""
    return token is None or hmac.compare_digest(given.encode(), token.encode())


def foreign(headers: Mapping[str, str], host: str) -> str | None:
    """Say why a request comes from somebody else's page; None where it does not.

    A page elsewhere could point its own name to this machine (DNS rebinding): its browser then
    sends that name as Host. And any page may send requests here, or open WebSockets: its browser
    then sends its Origin.

    Args:
        headers: of the request, names in lower case.
        host: that the server listens at.
    """
    called = headers.get("host", "")
    name = urlsplit(f"//{called}").hostname or ""
    if is_loopback(host) and not is_loopback(name):
        return "this server answers to localhost and 127.0.0.1 alone"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != called.lower():
        return "this server answers to no pages of other origins"
    return None


class Guard:
    """Checks requests, counts them, and keeps their bodies within limits.

    Args:
        app: that answers what is let through.
        host: that the server listens at.
        token: that clients must send; None lets everybody in.
        limits: of one client.
        metrics: where requests are counted.
    """

    def __init__(
        self, app: ASGIApp, host: str, token: str | None, limits: Limits, metrics: Metrics
    ) -> None:
        self.app, self.host, self.token = app, host, token
        self.limits, self.metrics = limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if (refused := self._refused(scope)) is not None:
                await refused(scope, receive, noted)
            else:
                await self.app(scope, self._limited(receive), noted)
        except Exception as unknown:
            told = log_failure(unknown, "answering a request")
            if not status:
                await problem(500, str(told))(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, time.perf_counter() - started)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if foreign(Headers(scope=scope), self.host):
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # the handshake answers 403
            return
        try:
            await self.app(scope, receive, send)
        except Exception as unknown:
            log_failure(unknown, "a live session")

    def _refused(self, scope: Scope) -> Any:
        headers = Headers(scope=scope)
        if reason := foreign(headers, self.host):
            return problem(403, reason)
        path = scope["path"]
        if path.startswith(_GUARDED):
            kind, _, given = headers.get("authorization", "").partition(" ")
            if not right_token(given.strip() if kind.lower() == "bearer" else "", self.token):
                return problem(401, "the token is missing or wrong; send Authorization: Bearer ...")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.limits.upload_bytes:
            return problem(413, self._too_large())
        return None

    def _limited(self, receive: Receive) -> Receive:
        """Return `receive` with a limit on the bytes of a body, and on the time they take."""
        ends, n_bytes, whole = time.monotonic() + self.limits.upload_s, 0, False

        async def limited() -> Message:
            nonlocal n_bytes, whole
            if whole:
                return await receive()
            left_s = min(self.limits.upload_idle_s, ends - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), left_s)
            except TimeoutError:
                raise HTTPException(408, "the upload is too slow; send it again") from None
            n_bytes += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if n_bytes > self.limits.upload_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"the upload has more than {self.limits.upload_bytes / 1e6:g} MB; send less at once"


class Http(H11Protocol):
    """Uvicorn's protocol, which times a connection between requests but not within their heads."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._time_the_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waits_for_a_head():
            self._time_the_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _waits_for_a_head(self) -> bool:
        if self.transport.get_protocol() is not self:  # it became a WebSocket
            return False
        return self.cycle is None or self.cycle.response_complete

    def _time_the_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._close_if_waiting)

    def _close_if_waiting(self) -> None:
        self._head_timer = None
        if self._waits_for_a_head() and not self.transport.is_closing():
            self.transport.close()
