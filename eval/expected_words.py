"""What a list of expected words is worth: rare words found with it and without, and what it costs.

    python -m eval.expected_words --config eval/configs/expected_words.yaml

Each speaker's list holds the rare words of their own recordings (words that the training texts do
not have) among those of others, as somebody would list the names of their life. Rows, by cohort and
``measure``: of the occurrences of listed words, the share that is written (`recall`); listed words
that nobody said (`invented`) and errors in all other words (`wer_others`), both as a share of the
other words; for the systems ``without_list`` and ``with_list_B`` (B is the bonus of a token of a
listed word, in nats), which search alike.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jiwer

from eval.lib import results
from eval.lib.tables import print_lines
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL, plan_views, render_view
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR, load
from hyperasr.metrics.normalisers import normaliser
from hyperasr.transcription import recogniser
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import transcribe
from hyperasr.transcription.recogniser import EXPECTED_BONUS
from train.loop.program import read_config, run_program

_FEWEST_LETTERS = 4


@dataclass(frozen=True)
class ExpectedWordsConfig:
    """Whose recordings, and which lists."""

    test: Path = Path("runs/data/dev.jsonl")
    """Manifest of the speakers; development speakers choose the bonus."""
    common: Path = Path("runs/data/train.jsonl")
    """Manifest whose texts' words are not rare."""
    model: str = "tiny.en"
    """The model."""
    simulate: tuple[str, ...] = COHORTS
    """Cohorts to simulate on typical recordings."""
    per_speaker: int = 12
    """Recordings of each speaker, at least 1."""
    listed: int = 100
    """Words in each speaker's list, their own and others'."""
    bonuses: tuple[float, ...] = (EXPECTED_BONUS,)
    """Bonuses to try, in nats a token of a listed word."""
    beam_size: int = 5
    """Of the search with and without a list."""
    seed: int = 0
    """Of recordings, simulated people and others' words."""
    out: Path = Path("results/expected_words.json")
    """Result file."""


def found_in(reference: str, hypothesis: str, listed: frozenset[str]) -> Counter[str]:
    """Count what a hypothesis makes of listed words and of all others.

    Args:
        reference, hypothesis: normalised.
        listed: words, normalised.
    Returns:
        ``said`` and ``written``: occurrences of listed words in the reference; of them, those
        written. ``invented``: listed words written where nobody said them. ``words`` and
        ``errors``: other words of the reference, and errors in them.
    """
    ours, theirs = reference.split(), hypothesis.split()
    said = sum(word in listed for word in ours)
    count = Counter(said=said, words=len(ours) - said)
    for chunk in jiwer.process_words(" ".join(ours), " ".join(theirs)).alignments[0]:
        own = ours[chunk.ref_start_idx : chunk.ref_end_idx]
        made = theirs[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            count["written"] += sum(word in listed for word in own)
            continue
        count["invented"] += sum(word in listed for word in made)
        # An insertion counts as an error of other words; a listed word that is missed does not.
        count["errors"] += sum(word not in listed for word in own) if own else len(made)
    return count


def lists(
    texts: dict[str, str], common: Iterable[str], listed: int, seed: int
) -> dict[str, list[str]]:
    """Return each speaker's list: their rare words, and others' up to `listed` words.

    Args:
        texts: all that a speaker says, normalised, by speaker.
        common: texts whose words are not rare, normalised.
        listed: words of a list; a speaker who has more gets all of them.
        seed: of the choice among others' words.
    """
    known = {word for text in common for word in text.split()}
    rare = {
        speaker: sorted(
            {w for w in text.split() if w.isalpha() and len(w) >= _FEWEST_LETTERS} - known
        )
        for speaker, text in texts.items()
    }
    made = {}
    for speaker, own in rare.items():
        others = sorted({word for words in rare.values() for word in words} - set(own))
        random.Random(f"{seed}/{speaker}").shuffle(others)
        made[speaker] = sorted(own + others[: max(0, listed - len(own))])
    return made


def texts_of(model: HyperASR, waveforms: Sequence[Any], options: TranscribeOptions) -> list[str]:
    """Transcribe (n_samples,) waveforms of 16 kHz."""
    sources = [(waveform, SAMPLE_RATE) for waveform in waveforms]
    answers = []
    for result in transcribe(model, sources, options):
        if result.transcript is None:
            raise ConfigError(f"{result.id}: {result.error}")
        answers.append(result.transcript.text)
    return answers


def main() -> None:
    """Transcribe twice, count, write the JSON, print the table."""
    config = read_config(ExpectedWordsConfig)
    alike = normaliser("whisper")
    rows = read_manifest(config.test)
    random.Random(config.seed).shuffle(rows)
    taken: Counter[str] = Counter()
    chosen = []
    for row in rows:
        if row.text and taken[row.speaker] < config.per_speaker:
            taken[row.speaker] += 1
            chosen.append(row)
    views = plan_views(
        chosen, seed=config.seed, cohorts=(*config.simulate, TYPICAL), severities=(0.3, 0.6, 0.9)
    )
    texts: dict[str, str] = {}
    for row in chosen:
        texts[row.speaker] = f"{texts.get(row.speaker, '')} {alike(row.text or '')}"
    common = (alike(row.text or "") for row in read_manifest(config.common))
    expected = lists(texts, common, config.listed, config.seed)
    model = load(config.model)
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    speakers: dict[tuple[str, str], set[str]] = {}
    for speaker, words in expected.items():
        own = [view for view in views if view.utterance.speaker == speaker]
        rendered = [render_view(view) for view in own]
        for bonus in (None, *config.bonuses):
            system = "without_list" if bonus is None else f"with_list_{bonus:g}"
            expect = "" if bonus is None else ", ".join(words)
            options = TranscribeOptions(beam_size=config.beam_size, expect=expect)
            # The bonus is no option of users, who have no way to choose it.
            with mock.patch.object(recogniser, "EXPECTED_BONUS", bonus):
                said = texts_of(model, [waveform for waveform, _ in rendered], options)
            for view, (_, text), hypothesis in zip(own, rendered, said, strict=True):
                key = (view.cohort, view.domain, system)
                new = found_in(alike(text), alike(hypothesis), frozenset(words))
                counts.setdefault(key, Counter()).update(new)
                speakers.setdefault(key[:2], set()).add(speaker)
        print(f"{len(own)} recordings of one speaker, {len(words)} words", flush=True)
    measured = []
    for (cohort, domain, system), count in counts.items():
        about = {"system": system, "cohort": cohort, "domain": domain}
        about["n_speakers"] = len(speakers[cohort, domain])
        for measure, part, whole in (
            ("recall", "written", "said"),
            ("wer_others", "errors", "words"),
            ("invented", "invented", "words"),
        ):
            value, n = count[part] / max(1, count[whole]), count[whole]
            measured.append({**about, "measure": measure, "value": value, "n": n})
    results.save("eval.expected_words", config, measured, protocol="whisper", normaliser=alike)
    print_lines(
        "expected words",
        ("system", "cohort", "measure", "%", "of"),
        [
            (r["system"], r["cohort"], r["measure"], f"{100 * r['value']:.1f}", str(r["n"]))
            for r in measured
        ],
    )


if __name__ == "__main__":
    run_program(main)
