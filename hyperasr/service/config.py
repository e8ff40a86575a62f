"""How the server is set up: settings alone, so that the command line can read them fast."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from hyperasr.errors import ConfigError
from hyperasr.util.config import check_types

OPENAI_NAME = "whisper-1"
"""OpenAI's name of its Whisper, which many programs send without asking; it means our model."""
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class ServeConfig:
    """How the server is reached."""

    host: str = "127.0.0.1"
    """Address to listen at; any but this machine's own needs token-file, certfile and keyfile."""

    port: int = 8000
    """Port to listen at; 0 takes a free one, which is printed."""

    token_file: str | None = None
    """File with the token that clients must send, at least 16 characters on one line."""

    certfile: str | None = None
    """TLS certificate (PEM): browsers give the microphone to this machine's own pages or to https
    alone."""

    keyfile: str | None = None
    """Private key of the certificate (PEM)."""

    wyoming: int | None = None
    """Port for the Wyoming protocol of Home Assistant; at this machine's own address alone, since
    the protocol knows no token."""

    voices: str | None = None
    """Folder in which models of single voices are kept by name; clients may train them from their
    clips, use them and delete them. Nothing of this without it."""

    queue: int = 32
    """Recordings that may wait or be worked on; a caller beyond them is told to come again."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, port in (("port", self.port), ("wyoming", self.wyoming)):
            if port is not None and not 0 <= port <= 65_535:
                raise ConfigError(f"{name} is {port}; give 0 to 65535")
        if self.queue < 1:
            raise ConfigError(f"queue is {self.queue}; it must be at least 1")
        if (self.certfile is None) != (self.keyfile is None):
            raise ConfigError("certfile and keyfile belong together; give both")
        if not is_loopback(self.host):
            names = ("token_file", "certfile", "keyfile")
            missing = [f"--{n.replace('_', '-')}" for n in names if getattr(self, n) is None]
            if missing:
                raise ConfigError(
                    f"--host {self.host} can be reached by others; it also needs "
                    f"{', '.join(missing)}"
                )

    def token(self) -> str | None:
        """Read the token; None where there is none.

        Raises:
            ConfigError: the file cannot be read, or its token is too short.
        """
        if self.token_file is None:
            return None
        try:
            token = Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError(f"--token-file {self.token_file}: {reason}") from error
        if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(map(str.isspace, token)):
            raise ConfigError(
                f"--token-file {self.token_file}: a token is one word of at least "
                f"{_SHORTEST_TOKEN} ASCII characters, such as of: openssl rand -hex 32"
            )
        return token


@dataclass(frozen=True)
class Limits:
    """What one client may take."""

    upload_bytes: int = 10**9
    """Of a request."""

    upload_idle_s: float = 30.0
    """Without a byte of a request that was begun."""

    upload_s: float = 900.0
    """For the whole of a request."""

    recording_s: float = 4 * 3600.0
    """Of a recording."""

    answer_s: float = 3600.0
    """Until a transcript is there."""

    live_sessions: int = 16
    """WebSockets and Wyoming connections at once."""

    live_idle_s: float = 60.0
    """Without a message on such a connection."""

    utterance_s: float = 120.0
    """Of a live utterance, which then ends by itself."""


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
