"""Write a transcript as a document of Word (.docx), to be corrected and kept by hand."""

from __future__ import annotations

from io import BytesIO

from docx import Document
from docx.enum.text import WD_UNDERLINE
from docx.text.paragraph import Paragraph

from hyperasr import __version__
from hyperasr.transcription.disfluency import pieces
from hyperasr.transcription.formats import labelled
from hyperasr.transcription.html_page import bare_name, printable
from hyperasr.transcription.transcript import Result
from hyperasr.types import Segment, Transcript

DOCX_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def word_document(result: Result, mode: str) -> bytes:
    """Return a document with one paragraph a segment, which begins with its time.

    Doubtful words are underlined and end in ``[?]``.

    Args:
        result: of a recording that could be transcribed.
        mode: ``verbatim``, ``clean`` or ``both``, which are two chapters.
    """
    assert result.transcript is not None
    document = Document()
    name = printable(bare_name(result.recording))
    document.core_properties.title, document.core_properties.author = name, ""
    document.core_properties.comments = ""
    document.add_heading(name, level=1)
    about = f"Written by hyperasr {__version__}; no person has checked it."
    if any(word.doubtful for word in result.transcript.words):
        about += " Words with [?] are doubtful."
    document.add_paragraph(about)
    for label, shown, own in labelled(result, mode):
        if label:
            document.add_heading(label.strip().rstrip(":").capitalize(), level=2)
        if isinstance(shown, Transcript):
            for segment in shown.segments:
                _add_segment(document.add_paragraph(), segment, own)
        else:
            document.add_paragraph(printable(shown))
    file = BytesIO()
    document.save(file)
    return file.getvalue()


def _add_segment(paragraph: Paragraph, segment: Segment, mode: str) -> None:
    seconds = int(segment.start_s)
    time = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    paragraph.add_run(f"{time}  ").italic = True
    for text, word in pieces(segment, mode):
        run = paragraph.add_run(printable(text))
        if word is not None and word.doubtful:
            run.font.underline = WD_UNDERLINE.DOTTED
            paragraph.add_run("[?]")
