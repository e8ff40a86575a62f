"""HTTP connections that do not wait for ever for the head of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0
"""Seconds that a client has for the head of a request."""


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
