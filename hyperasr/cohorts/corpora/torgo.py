"""TORGO: words and sentences read by people with cerebral palsy or ALS, and controls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._sheets import user_table
from hyperasr.errors import ConfigError

_SPEAKER = re.compile(r"[FM]C?\d{2}", re.IGNORECASE)
_SESSION = re.compile(r"session[\d_]+", re.IGNORECASE)
_MIC = re.compile(r"wav_(array|head)mic", re.IGNORECASE)
_TAKE = re.compile(r"\d{4}")
_PICTURE = re.compile(r"input/images|\.(jpg|jpeg|png|bmp)\s*$", re.IGNORECASE)
_PUNCTUATION = str.maketrans("", "", '.,?!:;"\r')
_MICS = ("array", "head")

ABOUT = base.describe("torgo")


def prepare(
    root: base.AnyPath,
    *,
    mics: str = "both",
    severity: Mapping[str, float] | base.AnyPath | None = None,
) -> base.Prepared:
    """Read TORGO below `root`.

    The text is the prompt without punctuation. Prompts that are instructions (in brackets),
    pictures or marked bad are skipped. Both microphones of an utterance share ``extra["group"]``.

    Args:
        root: the unpacked corpus; folders of groups (F, FC, M, MC) may stand above the speakers.
        mics: ``both``, ``array`` or ``head``.
        severity: of each speaker in [0, 1]: a mapping or a CSV ``speaker,severity``. The corpus
            has none, and what is in circulation disagrees.
    Raises:
        ConfigError: no such folder or table, an unknown microphone, a severity out of range.
    """
    if mics not in ("both", *_MICS):
        raise ConfigError(f"mics is {mics!r}; it must be both, array or head")
    table = _severities(user_table(severity, "severity"))
    wanted = _MICS if mics == "both" else (mics,)
    return base.Prepared(ABOUT, root, _rows, mics=wanted, severity=table)


def clean_prompt(prompt: str) -> str | None:
    """Return the words of a prompt, or None with nothing spoken that it could tell.

    Instructions in brackets, ``xxx`` (bad recording) and pictures are no words. The rules are
    those of the Kaldi recipe of idiap/torgo_asr.
    """
    if _fault(prompt):
        return None
    words = " ".join(prompt.translate(_PUNCTUATION).split())
    return re.sub(r"\bxray\b", lambda m: "x-ray" if m[0].islower() else "X-RAY", words, flags=re.I)


def _fault(prompt: str) -> str | None:
    if "[" in prompt:
        return "the prompt is an instruction in brackets"
    if _PICTURE.search(prompt):
        return "the prompt is a picture; what was said is not known"
    return "the prompt marks a bad recording (xxx)" if "xxx" in prompt.lower() else None


def _rows(
    root: Path, report: base.Report, mics: tuple[str, ...], severity: dict[str, float]
) -> base.Rows:
    prompts: dict[str, Path] = {}
    session_of_prompts: Path | None = None
    for path in base.walk(root, report, (".wav",)):
        place = _place(path, root)
        if place is None:
            report.skip("the place of the recording tells no speaker, session and number", path)
            continue
        speaker, session, mic, folder = place
        if mic not in mics:
            continue
        if folder != session_of_prompts:  # the walk goes session by session
            session_of_prompts, prompts = folder, _prompts(folder, root, report)
        take = path.stem
        if take not in prompts:
            report.skip("there is no prompt for the recording", path)
            continue
        prompt = base.read_text(prompts[take], report)
        if prompt is None:
            continue
        text = clean_prompt(prompt.strip())
        if text is None:
            report.skip(_fault(prompt) or "", path)
            continue
        typical = speaker[1] == "C"
        yield ABOUT.row(
            id=f"torgo/{speaker}/{session}/{mic}Mic/{take}",
            path=path,
            text=text,
            speaker=speaker,
            cohort="typical" if typical else "dysarthria",
            etiology=None if typical else "cerebral palsy or ALS",
            severity=severity.get(speaker),
            extra={
                "gender": speaker[0].lower(),
                "group": f"{speaker}/{session}/{take}",
                "session": session,
                "mic": mic,
                "text_source": "prompt",
                "raw_text": prompt.strip(),
                "task": "sentence" if " " in text else "word",
            },
        )


def _place(path: Path, root: Path) -> tuple[str, str, str, Path] | None:
    """Return speaker, session, microphone and the session's folder, where a place tells them."""
    if not _TAKE.fullmatch(path.stem):
        return None
    # The root may itself be the folder of a speaker or of a session.
    chain = [*root.parts[-2:], *path.relative_to(root).parts[:-1]]
    for i in range(len(chain) - 2):
        speaker, session, mic = chain[i : i + 3]
        side = _MIC.fullmatch(mic)
        if _SPEAKER.fullmatch(speaker) and _SESSION.fullmatch(session) and side:
            folder = path.parents[len(chain) - 3 - i].parent
            return speaker.upper(), session.capitalize(), side[1].lower(), folder
    return None


def _prompts(session: Path, root: Path, report: base.Report) -> dict[str, Path]:
    """Return the prompt files of a session by their number."""
    prompts: dict[str, Path] = {}
    for folder in base.find_named(session, "prompts", report, depth=1, within=root):
        for file in base.walk(folder, report, (".txt",), within=root):
            prompts.setdefault(file.name[:4], file)
    return prompts


def _severities(table: dict[str, str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for speaker, value in table.items():
        severity = base.scaled(value, 1.0)
        if severity is None:
            raise ConfigError(f"severity of {speaker} is {value!r}; it must be within 0 and 1")
        values[speaker.upper()] = severity
    return values
