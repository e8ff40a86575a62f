"""Speech from the free synthesisers espeak-ng, flite and festival: what trains the embedded model.

They are needed to *train* it, never to use it. On Debian: ``apt-get install espeak-ng flite
festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k``. A voice is one synthesiser, one
voice of it, and fixed settings of rate and pitch; whole espeak-ng variants and one flite voice are
kept out of training for development and test.
"""

from __future__ import annotations

import io
import random
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from hyperasr.audio import from_array
from hyperasr.errors import HyperASRError

__all__ = ["Voice", "split_of", "synthesise", "voices"]

ACCENTS = (
    "en-us en-gb en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-029 en-us-nyc"
).split()
# Whisper, croak and robot variants are left out: they are effects rather than people.
VARIANTS = (
    "adam Alex Alicia Andrea Andy anika Annie antonio aunty belinda benjamin boris caleb david "
    "Denis Diogo ed edward edward2 f1 f2 f3 f4 f5 Gene Gene2 grandma grandpa gustave Henrique Hugo "
    "iven iven2 iven3 iven4 Jacky john kaukovalta klatt klatt2 klatt3 klatt4 Lee linda m1 m2 m3 m4 "
    "m5 m6 m7 m8 marcelo Marco Mario max michel Michael miguel Mike norbert pablo paul pedro "
    "quincy rob robert sandro shelby steph steph2 steph3 Storm travis Tweaky victor zac"
).split()
DEV_VARIANTS = frozenset("Annie Gene Hugo iven2 m3 steph2".split())
TEST_VARIANTS = frozenset(
    "adam Alicia belinda boris caleb edward f4 grandpa Henrique klatt3 linda m7 max pablo steph "
    "victor".split()
)
FLITE_VOICES = ("kal16", "awb", "rms", "slt")
FLITE_TEST = "rms"
FESTIVAL_VOICES = ("cmu_us_slt_arctic_hts", "kal_diphone", "ked_diphone")


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker.

    Attributes:
        name: unique, filesystem-safe; the speaker id in manifests.
        engine: espeak, flite or festival.
        voice: the engine's name of the voice.
        rate: speaking rate relative to the engine's usual one.
        pitch: espeak 0 to 99; flite mean f0 in Hz; unused by festival.
        split: train, dev or test.
    """

    name: str
    engine: str
    voice: str
    rate: float
    pitch: float
    split: str


def split_of(variant: str) -> str:
    """Return the split of an espeak-ng variant; every voice made from it shares it."""
    if variant in TEST_VARIANTS or variant == FLITE_TEST:
        return "test"
    return "dev" if variant in DEV_VARIANTS else "train"


def voices(seed: int = 0) -> list[Voice]:
    """Return all voices: accents x variants of espeak-ng in training, one each in dev and test."""
    rng = random.Random(seed)
    found: list[Voice] = []
    for variant in VARIANTS:
        split = split_of(variant)
        for accent in rng.sample(ACCENTS, 3 if split == "train" else 1):
            name = f"espeak-{accent}-{variant}"
            rate, pitch = rng.uniform(0.75, 1.15), rng.uniform(25, 75)
            found.append(Voice(name, "espeak", f"{accent}+{variant}", rate, pitch, split))
    for voice in FLITE_VOICES:
        base = 180.0 if voice == "slt" else 105.0
        for i in range(6 if split_of(voice) == "train" else 1):
            rate, pitch = rng.uniform(0.8, 1.15), base * rng.uniform(0.85, 1.2)
            found.append(Voice(f"flite-{voice}-{i}", "flite", voice, rate, pitch, split_of(voice)))
    for voice in FESTIVAL_VOICES:
        for i, rate in enumerate((0.85, 1.0, 1.15)):
            found.append(Voice(f"festival-{voice}-{i}", "festival", voice, rate, 0.0, "train"))
    return found


def _spoken(text: str) -> str:
    """Write single letters in capitals with full pauses off, so that engines spell them."""
    return " ".join(
        word.upper() if len(word) == 1 and word != "i" else word for word in text.split()
    )


def _espeak(voice: Voice, text: str, rate: float, pitch: float) -> bytes:
    command = ["espeak-ng", "-v", voice.voice, "-s", str(int(160 * rate)), "-p", str(int(pitch))]
    return _run([*command, "--stdout", _spoken(text)])


def _flite(voice: Voice, text: str, rate: float, pitch: float) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".wav") as out:
        settings = ["--setf", f"duration_stretch={1 / rate:.3f}"]
        settings += ["--setf", f"int_f0_target_mean={pitch:.1f}"]
        _run(["flite", "-voice", voice.voice, *settings, "-t", _spoken(text), "-o", out.name])
        return Path(out.name).read_bytes()


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except FileNotFoundError as error:
        raise HyperASRError(
            f"{command[0]} is not installed; it is needed to train the embedded model "
            "(on Debian: apt-get install espeak-ng flite festival)"
        ) from error


def _festival(voice: Voice, texts: list[str]) -> list[bytes]:
    """Synthesise many texts in one festival process; loading a voice takes a second."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            f"(voice_{voice.voice})",
            f"(Parameter.set 'Duration_Stretch {1 / voice.rate:.3f})",
        ]
        for i, text in enumerate(texts):
            lines.append(
                f'(utt.save.wave (utt.synth (Utterance Text "{_spoken(text)}")) '
                f'"{folder}/{i}.wav" \'riff)'
            )
        script = Path(folder) / "say.scm"
        script.write_text("\n".join(lines))
        _run(["festival", "--batch", str(script)])
        return [(Path(folder) / f"{i}.wav").read_bytes() for i in range(len(texts))]


def _decode(wav: bytes) -> np.ndarray:
    array, rate = sf.read(io.BytesIO(wav), dtype="float32")
    return from_array(array, rate)


def synthesise(voice: Voice, texts: list[str], seed: int) -> Iterator[np.ndarray]:
    """Speak `texts`; rate and pitch vary a little from utterance to utterance.

    Yields:
        One waveform (n_samples,) float32 at 16 kHz a text.
    """
    rng = random.Random(f"{voice.name}-{seed}")
    if voice.engine == "festival":
        yield from map(_decode, _festival(voice, texts))
        return
    speak = _espeak if voice.engine == "espeak" else _flite
    for text in texts:
        rate = voice.rate * rng.uniform(0.9, 1.1)
        pitch = voice.pitch * rng.uniform(0.9, 1.1)
        yield _decode(
            speak(voice, text, rate, min(pitch, 99) if voice.engine == "espeak" else pitch)
        )
