"""Fixtures of the server's tests: a random model, a server of it, and a start of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from hyperasr.hub import HyperASR
from hyperasr.service.config import Limits
from hyperasr.service.server import Server
from tests.service.serving import Start, running


@pytest.fixture(scope="package")
def server(model: HyperASR) -> Iterator[Server]:
    """With the default limits, and Wyoming."""
    with running(model, wyoming=0) as started:
        yield started


@pytest.fixture
def start(model: HyperASR) -> Iterator[Start]:
    """Start a server of its own: with limits of `Limits`, and settings of `ServeConfig`."""
    with ExitStack() as stack:

        def started(limits: dict[str, Any] | None = None, **config: Any) -> Server:
            return stack.enter_context(running(model, Limits(**(limits or {})), **config))

        yield started
