"""The server: its routes, its page, how it starts, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from hyperasr import __version__
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.hub import HyperASR
from hyperasr.service.answers import Service
from hyperasr.service.config import Limits, ServeConfig
from hyperasr.service.engine import Engine
from hyperasr.service.guard import Guard, Http
from hyperasr.service.live import MOST_MESSAGE_BYTES, live_routes
from hyperasr.service.metrics import Metrics
from hyperasr.service.openai_api import openai_routes
from hyperasr.service.own_api import own_routes, voice_routes
from hyperasr.service.problems import on_error
from hyperasr.service.rendering import format_routes
from hyperasr.service.voices import Voices
from hyperasr.service.wyoming_server import serving_wyoming
from hyperasr.transcription.options import TranscribeOptions

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


def build_app(
    service: Service,
    config: ServeConfig,
    token: str | None = None,
    wyoming: socket.socket | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        service: what its routes share; its engine is closed when the application ends.
        config: how it is reached.
        token: that clients must send; None lets everybody in.
        wyoming: where the Wyoming protocol is spoken; None does without.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if wyoming is not None:
                await stack.enter_async_context(serving_wyoming(service, wyoming))
            yield
            await asyncio.to_thread(service.engine.close)

    # The pages of its documentation would be fetched from elsewhere.
    app = FastAPI(
        title="hyperasr", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_middleware(
        Guard,
        host=config.host,
        token=token,
        limits=service.limits,
        metrics=service.metrics,
    )
    for kind in (HyperASRError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, on_error)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": service.model_id,
            "adapts": service.model.adapts,
            "waiting": service.engine.n_waiting,
            "voices": service.voices is not None,
            "token": token is not None,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    app.include_router(openai_routes(service))
    app.include_router(own_routes(service))
    if service.voices is not None:
        app.include_router(voice_routes(service.voices))
    app.include_router(format_routes())
    app.include_router(live_routes(service, token))
    app.router.default = Page()  # asked last: a route that takes another method says so
    return app


def model_id_of(name: str) -> str:
    """Return what clients call a model: its name, of a folder the last part."""
    return Path(name).resolve().name if Path(name).is_dir() else name


class Server:
    """A server that listens from the start and answers once it runs.

    Args:
        model: the model; nothing else may move or change it meanwhile.
        name: that it was opened by.
        config: how the server is reached.
        limits: of one client; None is the default.
    Attributes:
        address: such as ``http://127.0.0.1:8000/``.
        wyoming_address: such as ``tcp://127.0.0.1:10300``; None where Wyoming is not spoken.
    Raises:
        ConfigError: an address is taken, or a file that is needed cannot be used.
    """

    def __init__(
        self, model: HyperASR, name: str, config: ServeConfig, limits: Limits | None = None
    ) -> None:
        token, tls = config.token(), _tls(config)
        self._listening = _listening(config.host, config.port)
        self.address = f"{'https' if tls else 'http'}://{_shown(self._listening)}/"
        self.wyoming_address: str | None = None
        wyoming: socket.socket | None = None
        if config.wyoming is not None:
            # Its protocol knows no token, so nobody else may reach it.
            wyoming = _listening("127.0.0.1", config.wyoming)
            self.wyoming_address = f"tcp://{_shown(wyoming)}"
        limits = limits or Limits()
        self.engine = Engine(model, most_waiting=config.queue, longest_s=limits.recording_s)
        metrics = Metrics(self.engine)
        voices = None
        if config.voices is not None:
            voices = Voices(Path(config.voices), model, name)
        model_id = model_id_of(name)
        service = Service(self.engine, model_id, limits, metrics, int(time.time()), voices)
        self._usual = TranscribeOptions(language=service.language(None))
        self._server = uvicorn.Server(
            uvicorn.Config(
                build_app(service, config, token, wyoming),
                http=Http,
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=config.certfile,
                ssl_keyfile=config.keyfile,
                ws_max_size=MOST_MESSAGE_BYTES,
            )
        )

    def warm_up(self) -> None:
        """Decode once before anybody calls, or the first caller waits for what is loaded late."""
        self.engine.warm_up(self._usual)

    def run(self) -> None:
        """Answer until SIGTERM, SIGINT or `stop`; requests under way are finished."""
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        with self._listening:
            self._server.run(sockets=[self._listening])

    def stop(self) -> None:
        """Let `run` end, from another thread."""
        self._server.should_exit = True


def _shown(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {reason}; give another --port or --host"
        ) from error
    return listening


def _tls(config: ServeConfig) -> bool:
    """Say whether TLS is asked for, and that its files can be used."""
    if config.certfile is None or config.keyfile is None:
        return False
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.certfile, config.keyfile)
    except OSError as error:  # ssl's own as well
        reason = error.strerror or str(error)
        raise ConfigError(
            f"--certfile {config.certfile} with --keyfile {config.keyfile}: {reason}"
        ) from error
    return True
