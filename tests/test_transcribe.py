"""Recordings become transcripts: in order, in batches, in flat memory, and silence stays empty."""

from __future__ import annotations

import json
import math
import resource
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hyperasr import transcribe as room
from hyperasr.errors import AudioError, ConfigError, HyperASRError
from hyperasr.loudness import active_level_dbfs
from hyperasr.model import HyperASR
from hyperasr.options import TranscribeOptions
from hyperasr.search import SearchConfig
from hyperasr.transcribe import Result, transcribe, words_of

RATE = 16_000
Voice = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def model(random_model_folder: Path) -> HyperASR:
    return HyperASR.from_pretrained(random_model_folder, offline=True)


@pytest.fixture
def folder(tmp_path: Path, voice: Voice) -> Path:
    """Five recordings of different lengths, the third of them silent."""
    for index, seconds in enumerate([2.0, 0.7, 1.0, 3.1, 1.4]):
        waveform = voice(seconds, 100 + 30 * index) * (index != 2)
        soundfile.write(tmp_path / f"{index}.wav", waveform, RATE)
    return tmp_path


def run(model: HyperASR, sources: Any, **options: Any) -> list[Result]:
    return list(transcribe(model, sources, TranscribeOptions(**options)))


def texts(results: list[Result]) -> list[str]:
    assert all(result.transcript for result in results), [result.error for result in results]
    return [result.transcript.text for result in results if result.transcript]


def test_the_random_model_hears_differences(model: HyperASR, folder: Path) -> None:
    # Else the tests below could not fail.
    results = run(model, folder, compare=True)
    adapted, base = texts(results), [r.base.text for r in results if r.base]
    assert len(set(adapted)) == 5
    assert adapted != base


def test_results_come_in_the_order_given_whatever_the_batch(
    model: HyperASR, folder: Path, voice: Voice
) -> None:
    sources = [folder / "3.wav", (voice(0.9), RATE), folder, str(folder / "1.wav")]
    together = run(model, sources, batch_size=16)
    assert [r.id for r in together] == [
        str(folder / "3.wav"),
        "array 2",
        *(str(folder / f"{i}.wav") for i in range(5)),
        str(folder / "1.wav"),
    ]
    alone = [text for source in sources for text in texts(run(model, source, batch_size=1))]
    assert texts(together) == alone
    assert texts(run(model, sources, batch_size=2)) == alone


def test_file_and_array_say_the_same(model: HyperASR, folder: Path) -> None:
    samples, rate = soundfile.read(folder / "0.wav", dtype="int16")
    of_file = model.transcribe(folder / "0.wav")
    for array in (samples, torch.from_numpy(samples), np.stack([samples, samples])):
        of_array = model.transcribe(array, rate)
        assert of_array.text == of_file.text
        assert of_array.duration_s == of_file.duration_s == 2.0


def test_compare_is_both_ways_at_once(
    model: HyperASR, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted, base = texts(run(model, folder)), texts(run(model, folder, adapt=False))
    calls = []
    encode = model.backbone.encode
    monkeypatch.setattr(
        model.backbone, "encode", lambda *args, **kw: (calls.append(1), encode(*args, **kw))[1]
    )
    results = run(model, folder, compare=True)
    assert len(calls) == 1
    assert texts(results) == adapted
    assert [r.base.text for r in results if r.base] == base


def test_silence_gives_an_empty_transcript_not_an_invented_one(
    model: HyperASR, folder: Path
) -> None:
    silence = model.transcribe(np.zeros(3 * RATE), RATE)
    hiss = model.transcribe(0.02 * np.random.default_rng(0).normal(size=3 * RATE), RATE)
    for transcript in (silence, hiss, model.transcribe(folder / "2.wav")):
        assert transcript.text == ""
        assert transcript.segments == ()
        assert transcript.duration_s > 0
        assert transcript.warnings == ("nobody speaks in it: empty transcript",)
    assert model.transcribe(folder / "0.wav").text


@pytest.mark.parametrize("n_samples", [1, 160, 399])
def test_too_short_for_speech(model: HyperASR, voice: Voice, n_samples: int) -> None:
    transcript = model.transcribe(voice(1.0)[:n_samples], RATE)
    assert transcript.text == ""
    (warning,) = transcript.warnings
    assert "too short for speech" in warning


def test_a_quarter_of_a_frame_more_is_decoded(model: HyperASR, voice: Voice) -> None:
    assert len(model.transcribe(voice(1.0)[:400], RATE).segments) == 1


def test_a_bad_recording_does_not_stop_the_others(model: HyperASR, folder: Path) -> None:
    samples, _ = soundfile.read(folder / "3.wav", dtype="float32")
    good = texts(run(model, folder))
    long = np.tile(samples, 6)
    long[-1] = np.nan  # found after its first segments were cut
    soundfile.write(folder / "1b.wav", long, RATE, subtype="FLOAT")
    results = run(model, [folder, folder / "missing.wav"], batch_size=1)
    assert [r.error is None for r in results] == [True, True, False, True, True, True, False]
    assert [r.transcript.text for r in results if r.transcript] == good
    assert "1b.wav has NaN" in str(results[2].error)
    assert "there is no file" in str(results[6].error)


def test_an_error_in_decoding_is_one_recordings_own(
    model: HyperASR, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = texts(run(model, folder))
    decode = room.decode

    def fragile(model: Any, batch: Any, *args: Any, **kw: Any) -> Any:
        if bool((batch.n_frames == 310).any()):
            raise HyperASRError("no token has a finite probability")
        return decode(model, batch, *args, **kw)

    monkeypatch.setattr(room, "decode", fragile)
    results = run(model, folder)
    assert [r.error is None for r in results] == [True, True, True, False, True]
    assert [r.transcript.text for r in results if r.transcript] == [*good[:3], good[4]]


def test_words_have_the_probability_of_their_tokens(model: HyperASR, folder: Path) -> None:
    for result in run(model, folder):
        assert result.transcript is not None
        for segment in result.transcript.segments:
            assert [word for word, _ in segment.words] == segment.text.split()
            assert all(0 < p <= 1 for _, p in segment.words)


def test_words_of_known_tokens(model: HyperASR) -> None:
    backbone = model.backbone
    tokens = [*backbone.text_ids("turn on"), *backbone.text_ids("grün it")]
    logprobs = [-0.1 * (i + 1) for i in range(len(tokens))]
    pairs = words_of(backbone, tokens, logprobs)
    assert [word for word, _ in pairs] == ["turn", "on", "grün", "it"]
    assert math.isclose(math.log(math.prod(p for _, p in pairs)), sum(logprobs), abs_tol=1e-9)
    n_first = len(backbone.text_ids("turn"))
    assert math.isclose(pairs[0][1], math.exp(sum(logprobs[:n_first])))
    assert words_of(backbone, [], []) == ()


def test_loudness_is_brought_to_one_level(
    model: HyperASR, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []
    features = model.backbone.features
    monkeypatch.setattr(model.backbone, "features", lambda w: (heard.extend(w), features(w))[1])
    quiet = voice(2.0, level=0.004)
    model.transcribe(quiet, RATE)
    model.transcribe(quiet, RATE, normalise_loudness=False)
    assert abs(active_level_dbfs(heard[0]) + 23) < 0.5
    assert np.array_equal(heard[1], quiet)


def test_a_long_recording_is_cut_and_put_together(model: HyperASR, voice: Voice) -> None:
    parts = []
    for pitch in (100, 150, 200, 250):
        parts += [voice(4.0, pitch), np.zeros(RATE // 2, "f4")]
    waveform = np.concatenate(parts)
    transcript = model.transcribe(waveform, RATE, max_segment_s=5.0)
    assert len(transcript.segments) == 4
    assert transcript.duration_s == 18.0
    assert transcript.text == " ".join(s.text for s in transcript.segments if s.text)
    for index, segment in enumerate(transcript.segments):
        assert 4.5 * index - 0.5 <= segment.start_s <= 4.5 * index
        assert segment.end_s - segment.start_s <= 5.0
    assert len(model.transcribe(waveform, RATE).segments) == 2  # trimmed context: 10 s at most


def test_a_decoder_that_never_ends_is_stopped_and_said_so(
    model: HyperASR, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 30 s allow more tokens than the decoder has positions.
    search = room._search

    def endless(*args: Any) -> SearchConfig:
        config = search(*args)
        return replace(config, suppress=(*config.suppress, model.backbone.eos))

    monkeypatch.setattr(room, "_search", endless)
    waveform = np.concatenate([voice(6.0, pitch) for pitch in (100, 140, 180, 220, 260)])
    transcript = model.transcribe(waveform, RATE, max_segment_s=30.0)
    assert len(transcript.segments) == 1
    assert any("from 0.0 s to 30.0 s the decoder found no end" in w for w in transcript.warnings)


def test_what_the_reader_should_know(model: HyperASR, voice: Voice, tmp_path: Path) -> None:
    loud = np.clip(8 * voice(2.0), -1, 1)
    assert any("clipped" in w for w in model.transcribe(loud, RATE).warnings)
    assert not any("clipped" in w for w in model.transcribe(voice(2.0), RATE).warnings)
    path = tmp_path / "narrow.wav"
    soundfile.write(path, voice(2.0)[::4], 4_000)
    assert any("recorded at 4,000 Hz" in w for w in model.transcribe(path).warnings)


def test_eight_channels(model: HyperASR, voice: Voice, tmp_path: Path) -> None:
    path = tmp_path / "eight.wav"
    soundfile.write(path, np.repeat(voice(1.5)[:, None], 8, axis=1), RATE)
    assert model.transcribe(path).text == model.transcribe(voice(1.5), RATE).text


def test_damage_is_a_warning(model: HyperASR, voice: Voice, tmp_path: Path) -> None:
    path = tmp_path / "torn.flac"
    soundfile.write(path, voice(3.0), RATE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(bytes(content))
    transcript = model.transcribe(path)
    assert any("damaged" in warning for warning in transcript.warnings)
    assert 0 < transcript.duration_s < 3.0


def test_a_manifest_gives_parts_and_references(model: HyperASR, folder: Path) -> None:
    rows = [
        {"id": "b", "path": "3.wav", "start_s": 0.5, "end_s": 1.5, "text": "turn on"},
        {"id": "a", "path": "0.wav", "cohort": "stuttering", "severity": 0.4},
    ]
    manifest = folder / "rows.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    b, a = run(model, manifest)
    assert (b.id, b.reference, a.id, a.reference) == ("b", "turn on", "a", None)
    assert (a.recording.cohort, a.recording.severity) == ("stuttering", 0.4)
    assert b.transcript is not None
    assert b.transcript.duration_s == 1.0
    samples, _ = soundfile.read(folder / "3.wav", dtype="float32")
    assert b.transcript.text == model.transcribe(samples[8_000:24_000], RATE).text


def test_progress_counts_recordings(model: HyperASR, folder: Path) -> None:
    seen: list[tuple[int, int, float]] = []
    options = TranscribeOptions(batch_size=1)
    results = transcribe(model, folder, options, progress=lambda *values: seen.append(values))
    assert len(list(results)) == 5
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][:2] == (5, 5)
    assert math.isclose(seen[-1][2], 2.0 + 0.7 + 3.1 + 1.4, abs_tol=1e-3)


def test_results_do_not_wait_for_the_last_recording(
    model: HyperASR, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    features = model.backbone.features
    monkeypatch.setattr(
        model.backbone, "features", lambda w: (batches.append(len(w)), features(w))[1]
    )
    results = transcribe(model, [(voice(0.5), RATE)] * 9, TranscribeOptions(batch_size=2))
    assert next(results).id == "array 1"
    assert sum(batches) < 9
    assert len(list(results)) == 8
    assert max(batches) == 2


def test_beams(model: HyperASR, voice: Voice) -> None:
    greedy = model.transcribe(voice(1.0), RATE)
    beams = model.transcribe(voice(1.0), RATE, beam_size=3)
    assert beams.segments[0].logprob >= greedy.segments[0].logprob - 1e-4  # rounding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"beam_size": 1.5}, r"beam_size is 1\.5"),
        ({"max_segment_s": 31}, "max_segment_s is 31"),
        ({"max_segment_s": 0.2}, r"max_segment_s is 0\.2"),
        ({"adapt": False, "compare": True}, "needs adapt"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TranscribeOptions(**options)


def test_mistakes_of_a_caller(model: HyperASR, voice: Voice, folder: Path) -> None:
    with pytest.raises(ConfigError, match="no option 'beam'; did you mean 'beam_size'"):
        model.transcribe(folder / "0.wav", beam=2)
    with pytest.raises(ConfigError, match="language"):
        model.transcribe(folder / "0.wav", language="xx")
    with pytest.raises(AudioError, match="needs its sample rate"):
        model.transcribe(voice(1.0))
    with pytest.raises(ConfigError, match="holds 5 recordings"):
        model.transcribe(folder)
    with pytest.raises(AudioError, match="shape"):
        model.transcribe(np.zeros(0), RATE)


def test_full_context_takes_longer_segments() -> None:
    assert TranscribeOptions().segment_s("full") == 28.0
    assert TranscribeOptions().segment_s("trimmed") == 10.0
    assert TranscribeOptions(max_segment_s=5).segment_s("full") == 5


@pytest.mark.slow
def test_three_hours_in_flat_memory(model: HyperASR, voice: Voice, tmp_path: Path) -> None:
    path, hours = tmp_path / "long.wav", 3
    minute = np.full(60 * 8_000, 128, dtype=np.uint8)
    minute[:8_000] = (128 + 100 * voice(2.0)[::2][:8_000]).astype(np.uint8)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8_000)
        for _ in range(60 * hours):
            file.writeframes(minute.tobytes())
    model.transcribe(voice(2.0), RATE)  # what every call needs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    transcript = model.transcribe(path)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert transcript.duration_s == hours * 3600
    assert len(transcript.segments) == 60 * hours
    assert all(abs(s.start_s % 60 - 60) < 1 or s.start_s % 60 < 1 for s in transcript.segments)
    # Whole it would take 660 MiB.
    assert grown_mib < 350
