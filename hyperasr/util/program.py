"""How every program ends: a failure is one line on stderr and an exit status."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress

from hyperasr.errors import HyperASRError

FAILED = 2
_INTERRUPTED = 128 + signal.SIGINT
_BROKEN_PIPE = 128 + 13  # SIGPIPE, which not every system names
# Line breaks, what moves a terminal's cursor or turns the writing round, bytes that are no text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def run(
    main: Callable[[], object], name: str = "", *, partly: type[HyperASRError] | None = None
) -> int:
    """Run a program's main and return the exit status.

    0: done. 1: some of it failed. 2: a mistake in the call, or nothing could be done. 130:
    interrupted. 141: the reader of standard output went away.

    Args:
        main: a whole number that it returns is the status, anything else 0.
        name: of the program, before its messages.
        partly: an error that means 1.
    """
    prefix = f"{name}: error" if name else "error"
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # or print would write to standard output
    if sys.stdout is None:
        complain("standard output is closed; send it to a file or to /dev/null", prefix)
        return FAILED
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal cannot show
    if not sys.warnoptions:
        # For those who change a program, not its users; Python itself hides the other two kinds.
        warnings.simplefilter("ignore", FutureWarning, append=True)
    try:
        result = main()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except HyperASRError as error:
        complain(error, prefix)
        return 1 if partly is not None and isinstance(error, partly) else FAILED
    except KeyboardInterrupt:
        complain("interrupted", name or "error")
        return _INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return _BROKEN_PIPE
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        where = f"{error.filename}: " if error.filename is not None else ""
        if error.filename is None and _stdout_fails():
            where = "cannot write to standard output: "
        complain(f"{where}{reason}", prefix)
        return FAILED


def complain(what: object, kind: str) -> None:
    """Print a line such as ``hyperasr: error: ...`` to stderr, where that is possible."""
    with suppress(OSError):
        print(f"{kind}: {one_line(what)}", file=sys.stderr, flush=True)


def one_line(text: object) -> str:
    """Return text with its line breaks and control characters as escapes such as ``\\n``."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def _stdout_fails() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        _forget_stdout()
        return True
    return False


def _forget_stdout() -> None:
    """Keep Python from complaining once more when it closes standard output."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
