"""Words: probabilities of their tokens, and times equal to those of transformers."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr.adapters import lora
from hyperasr.audio import reading as audio
from hyperasr.audio.loudness import audible
from hyperasr.hub import HyperASR
from hyperasr.metrics.normalisers import normaliser
from hyperasr.transcription.words import (
    Attention,
    Word,
    attend,
    chars_of,
    first_states,
    fit_to_sound,
    printable,
    with_length,
    word_times,
    words_of,
)
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.decoder import alignment_heads

RATE = 16_000
LENGTHS = (93, 300, 44)  # mel frames


@pytest.fixture(scope="module")
def batch(model: HyperASR) -> Batch:
    generator = torch.Generator().manual_seed(4)
    mel = torch.zeros(len(LENGTHS), 80, max(LENGTHS))
    for row, n in zip(mel, LENGTHS, strict=True):
        row[:, :n] = torch.randn(80, n, generator=generator)
    return Batch(n_frames=torch.tensor(LENGTHS), mel=mel)


@pytest.fixture(scope="module")
def tokens(model: HyperASR) -> list[list[int]]:
    return [model.backbone.text_ids(text) for text in ("turn on the light", "grün", "one two")]


# Words and probabilities -------------------------------------------------------------------------


def test_words_of_known_tokens(model: HyperASR) -> None:
    backbone = model.backbone
    tokens = [*backbone.text_ids("turn on"), *backbone.text_ids("grün it")]
    logprobs = [-0.1 * (i + 1) for i in range(len(tokens))]
    words = words_of(backbone, tokens, logprobs)
    assert [word.text for word in words] == ["turn", "on", "grün", "it"]
    assert [word.first for word in words[1:]] == [word.last for word in words[:-1]]
    assert (words[0].first, words[-1].last) == (0, len(tokens))
    for word in words:  # the geometric mean of its tokens
        mean = sum(logprobs[word.first : word.last]) / (word.last - word.first)
        assert math.isclose(word.probability, math.exp(mean))
    assert words_of(backbone, [], []) == ()
    assert sum(chars_of(backbone, backbone.text_ids("turn on"))) == len("turnon")
    assert printable("a\x00b\n c\x1b[0m") == "a b c [0m"


def test_a_long_word_is_as_sure_as_its_tokens(model: HyperASR) -> None:
    tokens = model.backbone.text_ids("a xylophonezz")
    words = words_of(model.backbone, tokens, [math.log(0.9)] * len(tokens))
    assert words[1].last - words[1].first > 3
    assert [word.probability for word in words] == pytest.approx([0.9, 0.9])


def test_blanks_count_with_the_word_after_them(model: HyperASR) -> None:
    backbone = model.backbone
    blank = backbone.tokenizer.convert_tokens_to_ids("Ġ")
    tokens = [blank, *backbone.text_ids("go")]
    logprobs = [math.log(0.25), *[0.0] * (len(tokens) - 1)]
    (word,) = words_of(backbone, tokens, logprobs)
    assert word.text == "go"
    assert word.probability == pytest.approx(0.25 ** (1 / len(tokens)))


def test_languages_without_blanks_have_words_of_one_character(model: HyperASR) -> None:
    tokens = model.backbone.text_ids("日本 go")
    words = words_of(model.backbone, tokens, [-0.1] * len(tokens), "ja")
    assert [word.text for word in words] == ["日", "本", "g", "o"]
    assert [w.text for w in words_of(model.backbone, tokens, [-0.1] * len(tokens))] == [
        "日本",
        "go",
    ]


# Attention and alignment -------------------------------------------------------------------------


class Outputs(dict):  # type: ignore[type-arg]
    """What `_extract_token_timestamps` reads of the outputs of generate."""

    __getattr__ = dict.__getitem__


def test_times_are_those_of_transformers(
    random_backbone_folder: Path, tokens: list[list[int]]
) -> None:
    backbone = Backbone.from_pretrained(random_backbone_folder, offline=True, audio_context="full")
    model = HyperASR(backbone, *_plain_configs())
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(2, 80, 3000, generator=generator)
    n_frames = (400, 1000)
    ids = backbone.text_ids("turn on the light")
    prompt = backbone.prompt_ids()
    batch = Batch(n_frames=torch.tensor(n_frames), mel=mel)
    ours = attend(model, batch, [ids, ids], adapt=False)
    whisper = backbone.whisper
    whisper.set_attn_implementation("eager")
    rows = torch.tensor([[*prompt, *ids]] * 2)
    with torch.no_grad():
        found = whisper(mel, decoder_input_ids=rows, output_attentions=True)
    outputs = Outputs(cross_attentions=[found.cross_attentions], sequences=rows)
    heads = [(layer, head) for layer, hs in alignment_heads(whisper).items() for head in hs]
    # We keep the row of the last prompt token, which writes the first token of the text.
    theirs = whisper._extract_token_timestamps(
        outputs, heads, num_frames=np.array(n_frames), num_input_ids=len(prompt) - 1
    )
    for row, attention in enumerate(ours):
        starts = first_states(attention.aligned) / 50
        expected = theirs[row, len(prompt) - 1 :][: len(ids) + 1]
        assert starts == pytest.approx(expected.numpy(), abs=1e-6)
        weights = torch.stack([found.cross_attentions[l][row, h] for l, h in heads])  # noqa: E741
        weights = weights[:, len(prompt) - 1 :, : n_frames[row] // 2]
        assert attention.mean == pytest.approx(weights.mean(0).numpy(), abs=1e-5)
    assert not np.array_equal(first_states(ours[0].aligned), first_states(ours[1].aligned))


def _plain_configs() -> tuple[Any, Any]:
    from hyperasr.adapters import SourceConfig
    from hyperasr.speaker.encoder import SpeakerConfig

    return SpeakerConfig(), SourceConfig(settings={"rank": 2, "d_hidden": 16})


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 25), st.integers(0, 2**31), st.booleans())
def test_warping_is_that_of_transformers(
    n_tokens: int, n_states: int, seed: int, ties: bool
) -> None:
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping

    matrix = np.random.default_rng(seed).normal(size=(n_tokens, n_states)).astype("f4")
    matrix = np.round(matrix) if ties else matrix
    text, time = _dynamic_time_warping(-matrix.astype(np.float64))
    jumps = np.pad(np.diff(text), (1, 0), constant_values=1).astype(bool)
    assert first_states(matrix).tolist() == time[jumps].tolist()


def test_attention_of_a_row_does_not_depend_on_the_batch(
    model: HyperASR, batch: Batch, tokens: list[list[int]]
) -> None:
    together = attend(model, batch, tokens)
    assert not any(m._forward_hooks for m in model.backbone.whisper.modules()), "hooks are gone"
    for i, n in enumerate(LENGTHS):
        one = Batch(n_frames=torch.tensor([n]), mel=batch.mel[i : i + 1, :, :n])  # type: ignore[index]
        (alone,) = attend(model, one, [tokens[i]])
        assert alone.mean.shape == (len(tokens[i]) + 1, (n + 1) // 2)
        assert together[i].mean == pytest.approx(alone.mean, abs=1e-5)
        assert together[i].aligned == pytest.approx(alone.aligned, abs=1e-2)
        assert alone.mean.sum(axis=1) == pytest.approx(1.0, abs=1e-4)


def test_attention_is_that_of_the_adapted_decoder(
    model: HyperASR, batch: Batch, tokens: list[list[int]]
) -> None:
    adapted, plain = attend(model, batch, tokens), attend(model, batch, tokens, adapt=False)
    assert not np.allclose(adapted[0].mean, plain[0].mean, atol=1e-3)
    one = Batch(n_frames=batch.n_frames[:1], mel=batch.mel[:1, :, : LENGTHS[0]])  # type: ignore[index]
    with torch.no_grad():
        factors = model.factors(model.embed(one)[0])
    with lora.merged(model.backbone.whisper, factors):
        (merged,) = attend(model, one, tokens[:1], adapt=False)
    assert adapted[0].mean == pytest.approx(merged.mean, abs=1e-4)


def test_a_row_that_fills_all_positions(model: HyperASR, batch: Batch) -> None:
    n_most = model.backbone.whisper.config.max_target_positions
    longest = n_most - len(model.backbone.prompt_ids()) + 1
    rows = [[70] * longest, [71], [72] * 3]
    found = attend(model, batch, rows)
    assert [len(a.mean) for a in found] == [longest + 1, 2, 4]
    assert all(np.isfinite(a.aligned).all() for a in found)


def test_heads_are_those_that_the_checkpoint_names(tiny_whisper: Any) -> None:
    assert alignment_heads(tiny_whisper) == {1: [0, 1, 2, 3]}
    tiny_whisper.generation_config.alignment_heads = [[0, 2], [1, 1], [1, 3]]
    assert alignment_heads(tiny_whisper) == {0: [2], 1: [1, 3]}


# Times -------------------------------------------------------------------------------------------


def test_times_of_a_clear_alignment() -> None:
    aligned = np.full((5, 50), -1.0, dtype="f4")
    for row, (first, last) in enumerate([(0, 10), (10, 20), (20, 35), (35, 40), (40, 50)]):
        aligned[row, first:last] = 1.0
    words = [Word("one", 1.0, 0, 2), Word("two", 1.0, 2, 4)]
    times = word_times(words, Attention(aligned, aligned))
    assert np.array(times) == pytest.approx(np.array([(0.0, 0.4), (0.4, 0.8)]))


def test_words_lose_the_silence_around_them() -> None:
    rng = np.random.default_rng(0)
    waveform = np.zeros(2 * RATE, dtype="f4")
    for begin, end in ((0.3, 0.7), (1.2, 1.6)):
        waveform[round(begin * RATE) : round(end * RATE)] = rng.normal(
            0, 0.1, round(end * RATE) - round(begin * RATE)
        )
    fitted = fit_to_sound([(0.0, 1.0), (1.0, 2.0), (1.8, 2.0)], waveform)
    assert np.array(fitted[:2]) == pytest.approx(np.array([(0.3, 0.7), (1.2, 1.6)]), abs=0.03)
    assert fitted[2] == (1.8, 2.0), "nothing sounds there"
    assert fit_to_sound([(0.4, 0.6)], waveform) == [(0.4, 0.6)], "sound at both borders"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 3), max_size=40), st.floats(0.001, 3))
def test_every_word_has_a_length_in_order_inside(borders: list[float], last_s: float) -> None:
    # Borders of words that follow each other, and some that coincide, as of fast speech.
    starts = sorted(min(border, last_s) for border in borders)
    times = list(zip(starts, [*starts[1:], last_s], strict=True)) if starts else []
    made = with_length(times, last_s)
    flat = [border for pair in made for border in pair]
    assert flat == sorted(flat)
    assert all(0 <= border <= last_s for border in flat)
    least = min(0.02, last_s / max(1, len(times)))
    assert all(end - start > least - 1e-9 for start, end in made)
    if all(end - start >= 0.02 for start, end in times):
        assert made == times


@pytest.fixture(scope="module")
def published() -> HyperASR:
    """The embedded model, unadapted."""
    return HyperASR.unadapted(Backbone.from_pretrained("tiny.en", audio_context="trimmed"))


@pytest.mark.slow
def test_a_spoken_word_of_four_tenths_has_times_inside_it(
    published: HyperASR, shared_data: Path
) -> None:
    with open(shared_data / "an4-train" / "manifest.csv", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if len(r["text"]) > 2 and " " not in r["text"]]
    covered = []
    for row in rows:
        spoken = audible(audio.load(shared_data / "an4-train" / row["path"]))
        loud = np.flatnonzero(np.abs(spoken) > 0.05 * np.abs(spoken).max())
        spoken = spoken[loud[0] : loud[-1] + 1]
        if not 0.3 * RATE < len(spoken) < 0.5 * RATE:
            continue
        (segment,) = published.transcribe(spoken, RATE, word_times=True).segments
        seconds = len(spoken) / RATE
        times = [(w.start, w.end) for w in segment.words]
        assert all(0 <= a <= b <= seconds + 1e-6 for a, b in times)
        if normaliser("spoken")(segment.text) == row["text"].lower():
            ((a, b),) = times
            covered.append((b - a) / seconds)
        if len(covered) == 6:
            break
    assert len(covered) >= 6
    # Counted from the silence before it, most of a word would lie behind the end of its sound.
    assert float(np.median(covered)) > 0.6


@pytest.mark.slow
def test_times_of_the_embedded_whisper_are_near_the_truth(
    published: HyperASR, shared_data: Path
) -> None:
    """Recordings of single words by one speaker, put together with pauses: borders are known."""
    with open(shared_data / "an4-train" / "manifest.csv", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if len(r["text"]) > 2 and " " not in r["text"]]
    rng = np.random.default_rng(0)
    errors: list[float] = []
    for speaker in sorted({r["speaker"] for r in rows}):
        own = [r for r in rows if r["speaker"] == speaker][:4]
        if len(own) < 3 or len(errors) > 80:
            continue
        parts, spans, texts, now = [], [], [], 0
        for row in own:
            spoken = audio.load(shared_data / "an4-train" / row["path"])
            loud = np.flatnonzero(np.abs(spoken) > 0.03 * np.abs(spoken).max())
            spoken = spoken[loud[0] : loud[-1]]
            gap = (0.001 * rng.normal(size=round(rng.uniform(0.05, 0.4) * RATE))).astype("f4")
            parts += [gap, spoken]
            spans.append(((now + len(gap)) / RATE, (now + len(gap) + len(spoken)) / RATE))
            now += len(gap) + len(spoken)
            texts.append(row["text"].lower())
        waveform = audible(np.concatenate([*parts, np.zeros(1600, "f4")]))
        mel, n_frames = published.backbone.features([waveform])
        ids = published.backbone.text_ids(" ".join(texts))
        (attention,) = attend(published, Batch(n_frames=n_frames, mel=mel), [ids])
        words = words_of(published.backbone, ids, [0.0] * len(ids))
        times = fit_to_sound(word_times(words, attention), waveform)
        errors += np.abs(np.array(times) - np.array(spans)).flatten().tolist()
    assert len(errors) > 40
    assert float(np.median(errors)) < 0.25
    # Words at even distances would be this far off, or the test would say nothing.
    assert float(np.mean(np.array(errors) < 0.2)) > 0.4
