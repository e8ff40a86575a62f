"""`hyperasr serve`: one model for every program of this machine."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from hyperasr.cli.commands import open_for
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.service.config import ServeConfig
from hyperasr.util.program import complain


def serve(args: Any) -> int:
    """Serve until SIGTERM or Ctrl-C, which finish what is under way.

    Raises:
        HyperASRError: the extra is not installed, or the call or the model is wrong.
    """
    names = [field.name for field in dataclasses.fields(ServeConfig)]
    config = ServeConfig(**{name: args[name] for name in names})
    try:
        from hyperasr.service.server import Server
    except ImportError as error:
        if error.name is None or error.name.startswith("hyperasr"):
            raise
        raise MissingExtra(f"the server needs {error.name}; install hyperasr[serve]") from error
    if config.wyoming is not None and config.wyoming == config.port != 0:
        raise ConfigError(f"port and wyoming are both {config.port}; give two")
    config.token()  # raises before a model is opened
    model = open_for(args)
    for line in model.warnings:
        complain(line, "hyperasr: warning")
    server = Server(model, args.model, config)
    server.warm_up()  # before anybody is told where to call
    print(f"{server.address} (Ctrl-C stops it)")
    if server.wyoming_address is not None:
        print(f"{server.wyoming_address} for Home Assistant")
    sys.stdout.flush()
    server.run()
    return 0
