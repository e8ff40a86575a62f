"""What a person at a terminal sees: progress and messages on stderr, texts with doubtful words."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from hyperasr.transcription.disfluency import pieces
from hyperasr.types import UNCLEAR, Segment, Transcript
from hyperasr.util.program import complain

DOUBTFUL_STYLE = "yellow underline"
UNCLEAR_STYLE = "red bold"
_WIDTH_WITHOUT_TERMINAL = 200


class _Console(Console):
    """Leaves a reader that went away to `hyperasr.util.program.run`; rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """Return the console of standard output; it never breaks lines of text by itself."""
    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    return _Console(file=sys.stdout, width=width, highlight=False, soft_wrap=True)


def print_rows(rows: Mapping[str, object]) -> None:
    """Print names and values as two columns."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def marked(transcript: Transcript, mode: str = "verbatim", marks: bool = True) -> Text:
    """Return the text with its doubtful words marked, by a sign as well as by colour.

    Mode ``clean`` shows the clean text, everything else the verbatim one.
    """
    texts = [marked_segment(segment, mode, marks) for segment in transcript.segments]
    return Text(" ").join(text for text in texts if text)


def marked_segment(segment: Segment, mode: str = "verbatim", marks: bool = True) -> Text:
    """Return the text of one segment as in `marked`."""
    text = Text()
    for part, word in pieces(segment, mode):
        if marks and word is not None and word.text == UNCLEAR:
            text.append(part, UNCLEAR_STYLE)
        elif marks and word is not None and word.doubtful:
            text.append(f"[?{part}]", DOUBTFUL_STYLE)
        else:
            text.append(part)
    return text


class Reporter:
    """A progress bar, where stderr is a terminal, and lines that do not run into it."""

    def __init__(self, what: str = "recordings") -> None:
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
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(what, total=None, heard="")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def progress(self, done: int, total: int, seconds: float | None = None) -> None:
        """Show how far it is; the `progress` of `hyperasr.transcription.pipeline.transcribe`."""
        heard = ""
        if seconds is not None:
            heard = f"{int(seconds) // 60}:{int(seconds) % 60:02d} of speech"
        self._bar.update(self._task, completed=done, total=total, heard=heard)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something is printed to the same terminal."""
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
                complain(line, f"hyperasr: {kind}")
