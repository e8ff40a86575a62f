"""The page that the server shows at ``/``: its files, and what a browser must not do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

_HEADERS = {
    # Its own files and its own server, nothing else; and nobody may put it into a frame, where a
    # person could be led to press its button.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Page(StaticFiles):
    """The files of the folder ``page``."""

    def __init__(self) -> None:
        super().__init__(directory=Path(__file__).with_name("page"), html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; files are no place for a WebSocket."""
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def file_response(self, *args: Any, **how: Any) -> Response:
        """Return a file with the headers that keep the page to itself."""
        response = super().file_response(*args, **how)
        response.headers.update(_HEADERS)
        return response
