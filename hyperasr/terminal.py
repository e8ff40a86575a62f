"""What a person at a terminal sees: progress and messages on stderr, texts with uncertain words."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from hyperasr.types import Transcript

__all__ = ["UNCERTAIN", "UNCERTAIN_STYLE", "Reporter", "marked", "output"]

UNCERTAIN = 0.5  # a word with less probability is marked
UNCERTAIN_STYLE = "yellow underline"
_WIDTH_WITHOUT_TERMINAL = 200


def output() -> Console:
    """Return the console of standard output; it never breaks lines of text by itself."""
    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=True)


def marked(transcript: Transcript) -> Text:
    """Return the text with its uncertain words coloured and underlined."""
    words = []
    for segment in transcript.segments:
        pairs = segment.words or tuple((word, 1.0) for word in segment.text.split())
        words += [Text(w, style=UNCERTAIN_STYLE if p < UNCERTAIN else "") for w, p in pairs]
    return Text(" ").join(words)


class Reporter:
    """A progress bar, where stderr is a terminal, and lines that do not run into it.

    Args:
        what: name of what is counted.
    """

    def __init__(self, what: str = "recordings") -> None:
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[heard]}"),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(what, total=None, heard="")

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, done: int, total: int, seconds: float) -> None:
        """Show how far it is; the `progress` of `hyperasr.transcribe.transcribe`."""
        if self._bar is not None:
            heard = f"{int(seconds) // 60}:{int(seconds) % 60:02d} of speech"
            self._bar.update(self._task, completed=done, total=total, heard=heard)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something is printed to the same terminal."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def say(self, kind: str, lines: Sequence[str]) -> None:
        """Print lines to stderr, such as ``hyperasr: warning: ...``."""
        if not lines:
            return
        with self.paused():
            for line in lines:
                print(f"hyperasr: {kind}: {' '.join(line.split())}", file=sys.stderr)
