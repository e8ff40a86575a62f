"""Failures that are ours to mend, logged without a word of what people said or sent."""

from __future__ import annotations

import logging
import traceback

from hyperasr.errors import HyperASRError

logger = logging.getLogger(__name__)


class InternalError(HyperASRError):
    """Something of the server failed; its log says where."""


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
