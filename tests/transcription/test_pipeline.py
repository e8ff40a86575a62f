"""Recordings become transcripts: in order, in batches, in flat memory, and silence stays empty."""

from __future__ import annotations

import json
import math
import shutil
import tracemalloc
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hyperasr.adapters import SourceConfig
from hyperasr.audio.loudness import _active_level_dbfs, frame_levels_dbfs
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.hub import HyperASR
from hyperasr.metrics.calibration import CALIBRATION_FILE, PlattScaling
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.transcription import pipeline
from hyperasr.transcription import recogniser as room
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import Result, iter_transcribe, transcribe
from hyperasr.transcription.recordings import find_recordings
from hyperasr.transcription.transcript import to_dict
from hyperasr.types import Segment, Word
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig

RATE = 16_000
Voice = Callable[..., np.ndarray]


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


def times_of(segment: Segment) -> list[Any]:
    return [(word.start, word.end) for word in segment.words]


def segments(results: list[Result]) -> list[Segment]:
    return [s for result in results if result.transcript for s in result.transcript.segments]


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
        "recording 2",
        *(str(folder / f"{i}.wav") for i in range(5)),
        str(folder / "1.wav"),
    ]
    alone = [text for source in sources for text in texts(run(model, source, batch_size=1))]
    assert texts(together) == alone
    assert texts(run(model, sources, batch_size=2)) == alone


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


def test_unadapted_is_the_whisper_as_published_whatever_the_adapters_hear(
    model: HyperASR, random_backbone: Backbone, folder: Path
) -> None:
    # Its configuration records trimmed context; these adapters bring the full one.
    backbone = Backbone(random_backbone.whisper, random_backbone.tokenizer, "full")
    heard_whole = HyperASR(backbone, model.speaker_config, model.source_config).eval()
    published = texts(run(HyperASR.unadapted(random_backbone), folder))
    assert texts(run(heard_whole, folder, adapt=False)) == published
    compared = run(heard_whole, folder, compare=True)
    assert [r.base.text for r in compared if r.base] == published
    assert texts(compared) == texts(run(heard_whole, folder))
    # A plain Whisper hears what its user asked for.
    whole = HyperASR.unadapted(backbone)
    assert texts(run(whole, folder, adapt=False)) == texts(run(whole, folder)) != published


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


def test_from_one_window_on_sound_is_decoded(model: HyperASR, voice: Voice) -> None:
    for n_samples in (1, 399):
        transcript = model.transcribe(voice(1.0)[:n_samples], RATE)
        assert transcript.text == ""
        (warning,) = transcript.warnings
        assert "too short for speech" in warning
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


def test_words_are_those_of_the_text(model: HyperASR, folder: Path) -> None:
    for segment in segments(run(model, folder)):
        assert [word.text for word in segment.words] == segment.text.split()
        assert all(0 <= word.probability <= 1 for word in segment.words)


def test_loudness_is_brought_to_one_level(
    model: HyperASR, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []
    features = model.backbone.features
    monkeypatch.setattr(model.backbone, "features", lambda w: (heard.extend(w), features(w))[1])
    quiet = voice(2.0, level=0.004)
    model.transcribe(quiet, RATE)
    assert abs(_active_level_dbfs(frame_levels_dbfs(heard[0])) + 23) < 0.5


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


@pytest.fixture
def endless(model: HyperASR, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the decoder from ending."""
    search = room._search

    def without_end(*args: Any) -> SearchConfig:
        config = search(*args)
        return replace(config, suppress=(*config.suppress, model.backbone.eos))

    monkeypatch.setattr(room, "_search", without_end)


@pytest.mark.usefixtures("endless")
def test_a_decoder_that_never_ends_is_stopped_and_marked(model: HyperASR, voice: Voice) -> None:
    # 30 s allow more tokens than the decoder has positions.
    waveform = np.concatenate([voice(6.0, pitch) for pitch in (100, 140, 180, 220, 260)])
    transcript = model.transcribe(waveform, RATE, max_segment_s=30.0, word_times=True)
    (segment,) = transcript.segments
    (unclear,) = segment.unclear
    assert "no end of text" in unclear.reason
    assert "attention that stands still" in unclear.reason
    assert segment.words[unclear.word] == Word("[unclear]", 0.0, unclear.start_s, unclear.end_s)
    assert len(segment.words) == len(segment.text.split())
    assert any(f"it is unclear: {unclear.reason}" in w for w in transcript.warnings)


@pytest.mark.usefixtures("endless")
def test_without_the_guard_the_text_stays_and_a_warning_says_so(
    model: HyperASR, voice: Voice
) -> None:
    transcript = model.transcribe(voice(2.0), RATE, loop_guard=False)
    assert "[unclear]" not in transcript.text
    assert any("from 0.0 s to 2.0 s the decoder found no end" in w for w in transcript.warnings)
    (segment,) = model.transcribe(voice(2.0), RATE).segments
    (unclear,) = segment.unclear
    assert segment.text.replace("[unclear]", unclear.text) == transcript.text


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
    found = find_recordings(folder)
    results = transcribe(model, found, options, progress=lambda *values: seen.append(values))
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
    assert next(results).id == "recording 1"
    assert sum(batches) < 9
    assert len(list(results)) == 8
    assert max(batches) == 2


def test_long_segments_are_decoded_in_smaller_batches(
    model: HyperASR, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 0.7, 1.4, 2.0 and 3.1 s: the silent one has no segment.
    expected = texts(run(model, folder))
    monkeypatch.setattr(pipeline, "_BATCH_S", 3.0)
    batches = []
    features = model.backbone.features
    monkeypatch.setattr(
        model.backbone,
        "features",
        lambda w: (batches.append([len(x) / RATE for x in w]), features(w))[1],
    )
    assert texts(run(model, folder)) == expected
    heard = [sum(batch) for batch in batches]
    assert len(heard) == 3, "the longest, though it lasts longer, is decoded alone"
    assert sum(seconds > 3.0 for seconds in heard) == 1


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
        ({"adapt": False, "samples": 2}, "they need adapt"),
        ({"language": None}, "language is None; it must be text"),
        ({"prompt": None}, "prompt is None; it must be text"),
        ({"expect": 3}, "expect is 3; it must be text"),
        ({"loop_guard": "no"}, "loop_guard is 'no'; it must be true or false"),
        ({"max_segment_s": "5"}, "max_segment_s is '5'; it must be a number or null"),
        ({"temperatures": 0.2}, r"temperatures is 0\.2; it must be a list"),
        ({"mode": "cleen"}, "mode is 'cleen'; it must be one of 'verbatim', 'clean', 'both'"),
        ({"pauses": "none"}, "pauses is 'none'"),
        ({"temperatures": (0.2, -1.0)}, "each must be above 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TranscribeOptions(**options)


def test_full_context_takes_longer_segments() -> None:
    assert TranscribeOptions().segment_s("full") == 28.0
    assert TranscribeOptions().segment_s("trimmed") == 10.0
    assert TranscribeOptions(max_segment_s=5).segment_s("full") == 5


def test_what_is_not_decoded_is_reported(model: HyperASR, voice: Voice) -> None:
    waveform = np.concatenate([voice(2.0), np.zeros(20 * RATE, "f4"), voice(2.0, 200)])
    transcript = model.transcribe(waveform, RATE)
    heard = sum(s.end_s - s.start_s for s in transcript.segments)
    assert transcript.discarded_s == pytest.approx(24.0 - heard)
    assert 18 < transcript.discarded_s < 20
    assert model.transcribe(voice(2.0), RATE).discarded_s == 0.0
    assert model.transcribe(np.zeros(3 * RATE), RATE).discarded_s == 3.0


def test_longer_pauses_stay_in_one_segment(model: HyperASR, voice: Voice) -> None:
    # A block of three seconds; ten more seconds make the recording longer than a segment.
    block = np.zeros(3 * RATE, "f4")
    waveform = np.concatenate([voice(1.5), block, voice(1.5), np.zeros(10 * RATE, "f4")])
    assert len(model.transcribe(waveform, RATE).segments) == 2
    assert len(model.transcribe(waveform, RATE, pauses="stuttering").segments) == 1


def test_word_times_are_ordered_and_inside_whatever_the_batch(
    model: HyperASR, folder: Path
) -> None:
    plain = run(model, folder)
    timed = run(model, folder, word_times=True, batch_size=2)
    assert texts(timed) == texts(plain)
    for segment in segments(timed):
        times = times_of(segment)
        assert times == sorted(times)
        for start, end in times:
            assert segment.start_s <= start < end <= segment.end_s + 1e-6
    assert sum(len(segment.words) for segment in segments(timed)) > 5
    assert all(word.start is None for segment in segments(plain) for word in segment.words)
    alone = segments(run(model, folder, word_times=True, batch_size=1))
    for one, other in zip(alone, segments(timed), strict=True):
        assert np.allclose(
            times_of(one), times_of(other), atol=0.021
        )  # a border may move by a state


def test_plain_text_pays_for_no_attention(
    model: HyperASR, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_rows: list[int] = []
    attend = room.attend
    monkeypatch.setattr(
        room, "attend", lambda *args, **kw: (n_rows.append(len(args[2])), attend(*args, **kw))[1]
    )
    run(model, folder, loop_guard=False)
    assert n_rows == []
    run(model, folder, word_times=True, loop_guard=False)
    assert n_rows == [4]


def test_an_adapted_encoder_hears_once_however_often_it_is_looked_at(
    random_backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SourceConfig("bayes_hypernet", ("encoder.fc1", "decoder.fc1"), {"rank": 2})
    adapting = HyperASR(random_backbone, SpeakerConfig(), source).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapting.source.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.3)
    options: dict[str, Any] = {"word_times": True, "samples": 2, "temperatures": (0.5,)}
    passes: list[int] = []
    encode = Backbone.encode
    monkeypatch.setattr(
        Backbone, "encode", lambda *args, **kw: (passes.append(1), encode(*args, **kw))[1]
    )
    once = segments(run(adapting, folder, **options))
    n_once = len(passes)

    # The twin: whoever needs adapted states makes them.
    states = HyperASR._states
    monkeypatch.setattr(
        HyperASR,
        "_states",
        lambda self, batch, *rest: states(self, replace(batch, adapted=None), *rest),
    )
    again = segments(run(adapting, folder, **options))
    assert [s.text for s in again] == [s.text for s in once]
    for one, other in zip(once, again, strict=True):
        assert np.allclose(times_of(one), times_of(other), atol=0.021)
        assert [w.uncertainty for w in one.words] == [w.uncertainty for w in other.words]
    # Embedding, adapting, and the samples.
    assert n_once == 3
    assert len(passes) - n_once > 3


def test_one_source_is_streamed_at_a_time(model: HyperASR, folder: Path) -> None:
    with pytest.raises(ConfigError, match="holds 5 recordings"):
        iter_transcribe(model, folder)


def test_drawn_tokens_depend_on_the_sound_alone(
    model: HyperASR, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The random model is unsure of everything, so that all of it is drawn again; here the less
    # probable row wins, else drawing would change nothing.
    monkeypatch.setattr(room._Row, "trusted", property(lambda row: -row.score))
    greedy = texts(run(model, folder))
    drawn = texts(run(model, folder, temperatures=(2.0,), batch_size=16))
    assert sum(one != other for one, other in zip(drawn, greedy, strict=True)) >= 3
    assert texts(run(model, folder, temperatures=(2.0,), batch_size=1)) == drawn
    backwards = sorted(folder.iterdir(), reverse=True)
    assert texts(run(model, backwards, temperatures=(2.0,))) == drawn[::-1]
    assert texts(run(model, folder, temperatures=(2.0,), seed=1)) != drawn


def test_drawing_again_never_takes_the_worse(model: HyperASR, folder: Path) -> None:
    def scores(**options: Any) -> list[tuple[bool, float]]:
        return [(not s.unclear, s.logprob) for s in segments(run(model, folder, **options))]

    for greedy, drawn in zip(scores(), scores(temperatures=(0.2, 0.6, 1.0)), strict=True):
        assert drawn >= greedy


def test_a_prompt_changes_what_is_heard(model: HyperASR, folder: Path) -> None:
    without = texts(run(model, folder))
    prompted = texts(run(model, folder, prompt="the light in the kitchen"))
    assert prompted != without
    assert texts(run(model, folder, prompt="the light in the kitchen", batch_size=1)) == prompted
    assert texts(run(model, folder, prompt="  ")) == without


def test_verbatim_and_clean_come_from_one_decode(
    model: HyperASR, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = model.backbone.text_ids("um turn on the the l- light")
    decode = room.decode

    def stuttering(*args: Any, **kw: Any) -> Any:
        found = decode(*args, **kw)
        return replace(
            found, tokens=(tuple(said),), logprobs=((-0.1,) * len(said),), finished=(True,)
        )

    monkeypatch.setattr(room, "decode", stuttering)
    (result,) = run(model, folder / "3.wav", mode="both", word_times=True)
    assert result.transcript is not None
    assert result.transcript.text == "um turn on the the l- light"
    assert result.transcript.clean == "turn on the light"
    (segment,) = result.transcript.segments
    assert [e.kind for e in segment.edits] == ["filler", "repetition", "part_word"]
    for edit in segment.edits:
        times = times_of(segment)[edit.first : edit.last]
        assert (edit.start_s, edit.end_s) == (times[0][0], times[-1][1])
    (plain,) = run(model, folder / "3.wav")
    assert plain.transcript is not None
    assert plain.transcript.clean is None
    assert plain.transcript.segments[0].edits == ()


def test_samples_tell_how_much_a_word_is_in_doubt(random_backbone: Any, folder: Path) -> None:
    source = SourceConfig("bayes_hypernet", settings={"rank": 2, "d_hidden": 8})
    gaussian = HyperASR(random_backbone, SpeakerConfig(), source).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # wide enough that samples differ
        for name, weight in gaussian.source.named_parameters():
            wide = weight.fill_(-1.0) if "sigma" in name else weight
            wide.add_(0.3 * torch.randn(weight.shape, generator=generator))

    def doubts(**options: Any) -> list[Any]:
        decoded = segments(run(gaussian, folder, loop_guard=False, **options))
        return [[word.uncertainty for word in s.words] for s in decoded]

    found = doubts(samples=4)
    assert doubts(samples=4, batch_size=1) == found
    values = {value for row in found for value in row}
    assert values <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert values - {0.0}, "samples differ, or this says nothing"
    assert {value for row in doubts() for value in row} == {None}
    assert len(doubts(samples=4, expect="light")) == len(found), "it goes with expected words"


def test_samples_need_a_distribution(model: HyperASR, folder: Path) -> None:
    with pytest.raises(ConfigError, match="this one gives points"):
        model.transcribe(folder / "0.wav", samples=2)


@pytest.mark.slow
def test_an_hour_in_flat_memory(model: HyperASR, voice: Voice, tmp_path: Path) -> None:
    path, n_minutes = tmp_path / "long.wav", 60
    minute = np.full(60 * 8_000, 128, dtype=np.uint8)
    minute[:8_000] = (128 + 100 * voice(2.0)[::2][:8_000]).astype(np.uint8)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8_000)
        for _ in range(n_minutes):
            file.writeframes(minute.tobytes())
    model.transcribe(voice(2.0), RATE)  # what every call needs
    tracemalloc.start()
    try:
        transcript = model.transcribe(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert transcript.duration_s == 60 * n_minutes
    assert len(transcript.segments) == n_minutes
    assert all(abs(s.start_s % 60 - 60) < 1 or s.start_s % 60 < 1 for s in transcript.segments)
    # Whole it would take 220 MiB.
    assert peak < 80 * 2**20


def test_probabilities_are_calibrated_where_the_model_brings_a_calibration(
    model: HyperASR, random_model_folder: Path, folder: Path
) -> None:
    calibrated = random_model_folder.parent / "calibrated"
    shutil.copytree(random_model_folder, calibrated)
    scaling = PlattScaling(0.5, -1.0)
    scaling.write(calibrated / CALIBRATION_FILE, {"n_words": 3})
    other = HyperASR.from_pretrained(calibrated, offline=True)
    options: dict[str, Any] = {"compare": True, "loop_guard": False}
    raw, made = run(model, folder / "3.wav", **options), run(other, folder / "3.wav", **options)
    assert texts(made) == texts(raw)
    for name, was_fitted in (("transcript", True), ("base", False)):
        (before,), (after,) = ([getattr(r, name) for r in results] for results in (raw, made))
        assert (before.calibrated, after.calibrated) == (False, was_fitted)
        words = [(w.text, w.probability) for w in before.words]
        assert len(words) > 1
        fitted = [(text, float(scaling(p))) for text, p in words] if was_fitted else words
        assert [(w.text, w.probability) for w in after.words] == fitted
    assert to_dict(made[0])["calibrated"] is True
    (calibrated / CALIBRATION_FILE).write_text('{"slope": null}')
    with pytest.raises(ConfigError, match=r"calibration\.json is damaged"):
        HyperASR.from_pretrained(calibrated, offline=True)
