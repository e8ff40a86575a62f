"""CDSD, the Chinese Dysarthria Speech Database: Mandarin sentences, read."""

from __future__ import annotations

from pathlib import Path

from hyperasr.cohorts.corpora import base

_PARTS = ("1h", "10h")
# Full-width digits and letters to ASCII; Chinese punctuation stays as it is.
_NARROW = {
    wide: wide - 0xFEE0
    for first, last in (("０", "９"), ("Ａ", "Ｚ"), ("ａ", "ｚ"))
    for wide in range(ord(first), ord(last) + 1)
}

ABOUT = base.describe("cdsd")


def prepare(root: base.AnyPath) -> base.Prepared:
    """Read ``[after_catting/]{1h,10h}/Text/**/*.txt`` and ``.../Audio/**/SPEAKER/UTTERANCE.wav``.

    Lines of the texts are an utterance and what was said. Full-width Latin letters become ASCII,
    Latin letters upper case, and blanks go, as in the recipe of lhotse; ``extra`` keeps the
    original. The same utterance in both parts counts twice, with the part in its id.
    """
    return base.Prepared(ABOUT, root, _rows)


def _rows(root: Path, report: base.Report) -> base.Rows:
    for part in _PARTS:
        here = [root] if root.name.lower() == part else []
        for folder in here + [path for path in base.find_named(root, part) if path.is_dir()]:
            yield from _part(folder, part, report)


def _part(folder: Path, part: str, report: base.Report) -> base.Rows:
    texts = _texts(folder, report)
    recorded: set[str] = set()
    for top in base.find_named(folder, "audio", depth=1):
        for path in base.walk(top, report, (".wav", ".flac")):
            raw = texts.get(path.stem)
            if raw is None:
                report.skip("no transcript", path)
                continue
            recorded.add(path.stem)
            text = "".join(raw.translate(_NARROW).upper().split())
            extra = {"text_source": "prompt", "session": part}
            extra["raw_text"] = raw if text != raw else ""
            yield ABOUT.row(
                id=f"{part}/{path.stem}",
                path=path,
                text=text,
                speaker=path.parent.name,
                extra=extra,
            )
    for name in sorted(texts.keys() - recorded):
        report.skip("the recording is listed but absent", name)


def _texts(folder: Path, report: base.Report) -> dict[str, str]:
    """Return what was said by utterance; the texts of a part fit into memory."""
    texts: dict[str, str] = {}
    for top in base.find_named(folder, "text", depth=1):
        for path in base.walk(top, report, (".txt",)):
            for name, text in base.read_pairs(path, report, fallback="gb18030").items():
                if texts.setdefault(name, text) != text:
                    report.skip("a second transcript of the same utterance", name)
    return texts
