"""`hyperasr serve`: one model for every program of this machine."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from hyperasr.cli.commands import open_for
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.service.config import ServeConfig
from hyperasr.util.program import complain

__all__ = ["serve"]


def serve(args: Any) -> int:
    """Serve until SIGTERM or Ctrl-C, which finish what is under way.

    Raises:
        HyperASRError: the extra is not installed, or the call or the model is wrong.
    """
    names = [field.name for field in dataclasses.fields(ServeConfig)]
    config = ServeConfig(**{name: args[name] for name in names})
    try:
        from hyperasr.service import server
    except ImportError as error:
        if error.name is None or error.name.startswith("hyperasr"):
            raise
        raise MissingExtra(f"the server needs {error.name}; install hyperasr[serve]") from error
    if config.wyoming is not None and config.wyoming == config.port != 0:
        raise ConfigError(f"port and wyoming are both {config.port}; give two")
    model = open_for(args)
    for line in model.warnings:
        complain(line, "hyperasr: warning")
    server.serve(model, args.model, config, on_start=_say)
    return 0


def _say(address: str) -> None:
    print(f"{address} (Ctrl-C stops it)")
    sys.stdout.flush()
