"""Demonstration clips of development speakers: simulated cohorts, typical and recorded atypical.

    python -m train.data.manifests
    python -m train.demo_clips --recordings runs/data/dev.jsonl

make those in ``hyperasr/assets/demo``; ``--out`` makes others, for ``hyperasr demo --folder``.
Which clips is decided by the seed alone, never by how well they are recognised. They are Ogg Opus,
with a manifest and, in ``NOTICE``, what the licences of the recordings ask for.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from hyperasr.audio import SAMPLE_RATE
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL, View, realise
from hyperasr.errors import ConfigError
from hyperasr.files import atomic_folder, atomic_write_text
from hyperasr.types import Utterance
from hyperasr.weights import ASSETS
from train.data.manifests import has_numbers
from train.program import read_config, run_program

__all__ = ["DemoConfig", "choose"]

_LENGTH_S = (3.0, 8.0)
_MIN_WORDS = 5
# Whisper writes Mr., Mrs., Dr. and St.: a difference of spelling that says nothing.
_ABBREVIATED = frozenset({"mister", "missus", "doctor", "saint"})
_OPUS_LEVEL = 0.896  # 32 kbit/s: 256 at level 0, 6 at level 1

_LICENCE = "Creative Commons Attribution 4.0 International, creativecommons.org/licenses/by/4.0/"
_ATTRIBUTIONS = {
    "librispeech": f"""\
LibriSpeech ASR corpus, dev-clean: (c) 2014 by Vassil Panayotov; V. Panayotov, G. Chen, D. Povey and
S. Khudanpur, "Librispeech: an ASR corpus based on public domain audio books", ICASSP 2015; read by
volunteers of LibriVox. openslr.org/12
Licence: {_LICENCE}
""",
    "speechocean762": f"""\
speechocean762: J. Zhang, Z. Zhang, Y. Wang, Z. Yan, Q. Song, Y. Huang, K. Li, D. Povey and Y. Wang,
"speechocean762: An Open-Source Non-native English Speech Corpus For Pronunciation Assessment",
Interspeech 2021. openslr.org/101
Licence: {_LICENCE}
""",
}
_NOTICE = """\
The clips in this folder are made from the corpora below and under the same licence as these. No
endorsement by their authors is implied. manifest.jsonl says which clip is of which corpus (source)
and speaker.

Changes: whole utterances were chosen, none was cut, and encoded anew as Ogg Opus of 32 kbit/s.
Clips whose "domain" is "simulated" were changed by a program into stuttered, dysarthric or
parkinsonian speech: what is heard there is no disorder of the reader's. Clips whose "domain" is
"recorded" are otherwise as they were. Texts are in lower case.

"""


@dataclass(frozen=True)
class DemoConfig:
    """Which clips to make."""

    recordings: Path = Path("runs/data/dev.jsonl")
    """Manifest of recordings of people whom no model was trained on, nor is tested with."""
    out: Path = ASSETS / "demo"
    """Folder of the clips."""
    per_cohort: int = 3
    """Clips of each cohort, of as many people."""
    seed: int = 8
    """Decides people, texts and what is simulated; taken for sentences that can be shown to anybody
    before any clip was transcribed."""


@dataclass(frozen=True)
class Clip:
    """One clip.

    Attributes:
        view: what it shows.
        waveform: (n_samples,) float32, 16 kHz.
        text: what was meant to be said.
    """

    view: View
    waveform: np.ndarray
    text: str


def choose(config: DemoConfig) -> list[Clip]:
    """Return the clips: of every simulated cohort, of typical speech, of every recorded cohort.

    A clip lasts 3 to 8 s, simulated or not. Its text is of five words or more, is no other clip's,
    and is written as it is said. The people of one cohort differ; over all cohorts everybody has
    about as many clips as everybody else.

    Raises:
        ConfigError: too few people or texts.
        ManifestError, AudioError: recordings that cannot be read.
    """
    rows = [u for u in read_manifest(config.recordings) if _fits(u.text or "")]
    random.Random(config.seed).shuffle(rows)
    recorded = [TYPICAL, *sorted({u.cohort for u in rows} - {TYPICAL})]
    kinds = [(cohort, True) for cohort in COHORTS] + [(cohort, False) for cohort in recorded]
    clips: list[Clip] = []
    for cohort, simulated in kinds:
        own = [u for u in rows if u.cohort == (TYPICAL if simulated else cohort)]
        people: set[str] = set()
        for index in range(config.per_cohort):
            severity = 0.4 + 0.6 * index / config.per_cohort if simulated else None
            used = Counter(clip.view.utterance.speaker for clip in clips)
            texts = {clip.text for clip in clips}
            candidates = [u for u in own if u.speaker not in people and u.text not in texts]
            candidates.sort(key=lambda u, used=used: used[u.speaker])
            views = (_view(u, cohort, severity, config.seed) for u in candidates)
            clip = next((clip for clip in map(_clip, views) if clip is not None), None)
            if clip is None:
                raise ConfigError(
                    f"{config.recordings} has too few people or sentences of 3 to 8 s for "
                    f"{config.per_cohort} clips of {cohort}; give a smaller --per_cohort"
                )
            people.add(clip.view.utterance.speaker)
            clips.append(clip)
    return clips


def _view(utterance: Utterance, cohort: str, severity: float | None, seed: int) -> View:
    """Plan an utterance in a simulated cohort, or as it was recorded where there is no severity."""
    if severity is None:
        return View(utterance, cohort, utterance.severity, utterance.speaker, 0)
    number = random.Random(f"{seed}/{utterance.id}/{cohort}").getrandbits(31)
    return View(utterance, cohort, severity, f"demo-{utterance.speaker}", number)


def _clip(view: View) -> Clip | None:
    """Make a clip; None where it is too short or too long."""
    waveform, text = realise(view)
    low, high = (round(s * SAMPLE_RATE) for s in _LENGTH_S)
    return Clip(view, waveform, text) if low <= len(waveform) <= high else None


def _fits(text: str) -> bool:
    """Whether a text is a sentence that is written as it is said."""
    words = text.lower().split()
    return len(words) >= _MIN_WORDS and not has_numbers(text) and _ABBREVIATED.isdisjoint(words)


def notice(sources: set[str]) -> str:
    """Return what must stand beside clips of these corpora."""
    unknown = "{}: ask those whose recordings they are before you pass the clips on.\n"
    parts = [_ATTRIBUTIONS.get(source, unknown.format(source)) for source in sorted(sources)]
    return _NOTICE + "\n".join(parts)


def main() -> None:
    """Write the clips, their manifest and their attribution."""
    config = read_config(DemoConfig)
    rows = []
    with atomic_folder(config.out, replaces=("manifest.jsonl",)) as temporary:
        for number, clip in enumerate(choose(config), start=1):
            view = clip.view
            name = f"{number:02d}-{view.cohort}"
            sf.write(
                temporary / f"{name}.ogg",
                clip.waveform,
                SAMPLE_RATE,
                format="OGG",
                subtype="OPUS",
                compression_level=_OPUS_LEVEL,
            )
            rows.append(
                Utterance(
                    id=name,
                    path=f"{name}.ogg",
                    text=clip.text,
                    speaker=view.utterance.speaker,
                    cohort=view.cohort,
                    severity=None if view.severity is None else round(view.severity, 2),
                    split=view.utterance.split,
                    source=view.utterance.source,
                    domain=view.domain,
                )
            )
        write_manifest(temporary / "manifest.jsonl", rows)
        atomic_write_text(temporary / "NOTICE", notice({row.source for row in rows}))
    size = sum(file.stat().st_size for file in config.out.glob("*.ogg"))
    print(f"{len(rows)} clips in {config.out}, {size // 1000} kB")


if __name__ == "__main__":
    run_program(main)
