"""The stop after the sound: repetitions that are heard stay, a text that begins again does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperasr.audio.mel import log_mel_batch, sounding_frames
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import simulate
from hyperasr.metrics.normalisers import normaliser
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.decoder import DecoderStep, alignment_heads
from hyperasr.whisper.search import SearchConfig, beam, greedy
from hyperasr.whisper.stopping import StopAfterSound, text_end
from hyperasr.whisper.weights import ASSETS

EOS = 0
WORDS = ["<end>", " I", " went", " home", ".", " Home", " again", " the", "f", "-"]


def spoken(text: str) -> list[str]:
    return [f" {word}" for word in text.split()]


@pytest.mark.parametrize(
    ("text", "fronts", "n_sounding", "end"),
    [
        # The whole text, or its last sentence, once more after attention has been at the end.
        ("He went home. He went home.", [20, 60, 110, 150, 20, 60], 150, 3),
        ("We ate. Then we slept. Then we slept.", [9, 30, 60, 90, 149, 149, 149, 149], 150, 5),
        ("ten ten ten ten", [40, 140, 140, 140], 150, 2),
        # SpeechSegment: attention comes to the end with the last of them.
        ("no no no", [20, 60, 110], 150, None),
        ("I I I went home home home", [9, 15, 25, 60, 100, 120, 140], 150, None),
        ("bye bye", [15, 50], 70, None),
        # Nothing comes again; or not enough of it.
        ("He went home", [20, 90, 149], 150, None),
        ("He said he said that he would go", [9, 30, 45, 60, 120, 140, 145, 149], 150, None),
        ("the cat and the", [20, 60, 120, 149], 150, None),
        ("", [], 150, None),
    ],
)  # fmt: skip
def test_text_end(text: str, fronts: list[int], n_sounding: int, end: int | None) -> None:
    pieces = spoken(text)
    fronts = [max(fronts[: i + 1]) for i in range(len(pieces))]
    assert text_end(pieces, fronts, n_sounding) == end


def test_words_are_compared_and_not_tokens_or_marks() -> None:
    pieces = [" Ho", "me", ",", " sweet", " home", ".", " Home", " sweet", " ho", "me"]
    fronts = [10, 20, 30, 60, 149, 149, 149, 149, 149, 149]
    assert text_end(pieces, fronts, 150) == 6


def script(rows: list[list[int]], looks: list[list[int]]) -> tuple[Any, Callable[[], Tensor]]:
    """Return a step that writes rows token by token, and where they look meanwhile."""
    calls = {"n": 0}

    def step(tokens: Tensor) -> Tensor:
        logits = torch.zeros(len(rows), len(WORDS))
        for row, ids in enumerate(rows):
            logits[row, ids[min(calls["n"], len(ids) - 1)]] += 9.0
            logits[row, EOS] += 5.0 * (WORDS[int(tokens[row, -1])] == ".")
        calls["n"] += 1
        return logits

    def looked() -> Tensor:
        return torch.tensor([at[min(calls["n"] - 1, len(at) - 1)] for at in looks])

    return step, looked


def test_greedy_ends_the_row_that_begins_again_and_no_other() -> None:
    again, other = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [1, 2, 3, 7, 1, 2, 3, 4, 5, EOS]
    looks = [[10, 60, 140, 149], [5, 10, 20, 40, 50, 60, 90, 149]]
    step, looked = script([again, other], looks)
    stop = StopAfterSound(looked, WORDS.__getitem__, EOS, torch.tensor([150, 150]))
    prompt = torch.ones(2, 1, dtype=torch.int64)
    config = SearchConfig(max_tokens=10)
    found = greedy(step, prompt, eos=EOS, config=config, stop=stop)
    assert found.tokens == (tuple(again[:4]), tuple(other[:9]))
    assert found.finished == (True, True)
    # The end of text counts with the probability that it had there.
    written = float(torch.tensor([9.0, *[0.0] * 9]).log_softmax(0)[0])
    ended = float(torch.tensor([9.0, 5.0, *[0.0] * 8]).log_softmax(0)[1])
    assert found.score[0] == pytest.approx((4 * written + ended) / 5, abs=1e-5)
    without = greedy(script([again, other], looks)[0], prompt, eos=EOS, config=config)
    assert len(without.tokens[0]) == 10


def test_beams_drop_hypotheses_that_begin_again() -> None:
    again = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
    looks = [[10, 60, 140, 149]] * 2
    config = SearchConfig(beam_size=2, max_tokens=16)
    prompt = torch.ones(1, 1, dtype=torch.int64)
    texts = []
    for stops in (False, True):
        step, looked = script([again, again], looks)
        sounding = torch.tensor([150, 150])
        stop = StopAfterSound(looked, WORDS.__getitem__, EOS, sounding) if stops else None
        found = beam(step, lambda rows: None, prompt, eos=EOS, config=config, stop=stop)
        texts.append(found.tokens[0])
    assert len(texts[0]) == 16
    assert texts[1] == (1, 2, 3, 4)


def test_where_rows_look_is_where_all_of_attention_says(
    random_backbone_folder: Path, voice: Callable[..., np.ndarray]
) -> None:
    """Against weights computed for the whole text at once, beams and all."""
    backbone = Backbone.from_pretrained(random_backbone_folder, margin_s=0.5)
    mel, n_frames = backbone.features([voice(1.1), voice(1.7, 200.0)])
    encoded = backbone.encode(mel, n_frames)
    heads = alignment_heads(backbone.whisper)
    tokens = torch.randint(70, 120, (4, 4), generator=torch.Generator().manual_seed(0))
    step = DecoderStep(backbone.whisper, encoded, rows_per_utt=2, watched=heads)
    seen = []
    for new in tokens.split([2, 1, 1], dim=1):  # a prompt, and token by token
        step(new)
        seen.append(step.looked())
    kept: dict[tuple[int, str], Tensor] = {}
    layers = backbone.whisper.model.decoder.layers
    hooks = [
        getattr(layers[i].encoder_attn, name).register_forward_hook(
            lambda m, a, out, key=(i, name): kept.__setitem__(key, out)
        )
        for i in heads
        for name in ("q_proj", "k_proj")
    ]
    rows = replace(
        encoded,
        states=encoded.states.repeat_interleave(2, 0),
        lengths=encoded.lengths.repeat_interleave(2, 0),
        sounding=None,
    )
    DecoderStep(backbone.whisper, rows, cached=False).hidden(tokens)
    for hook in hooks:
        hook.remove()
    total = torch.zeros(4, 4, rows.states.shape[1])
    for i, own in heads.items():
        attention = layers[i].encoder_attn
        for row in range(4):
            n = int(rows.lengths[row])
            q = (kept[i, "q_proj"][row] * attention.scaling).unflatten(-1, (4, -1))
            k = kept[i, "k_proj"][row, :n].unflatten(-1, (4, -1))
            for head in own:
                total[row, :, :n] += (q[:, head] @ k[:, head].T).softmax(-1)
    assert torch.equal(torch.stack(seen, 1), total.argmax(-1)[:, 1:])


def test_sounding_frames(voice: Callable[..., np.ndarray]) -> None:
    quiet = np.random.default_rng(0).normal(0, 1e-4, 8_000).astype(np.float32)
    waves = [np.concatenate([voice(1.0), quiet]), voice(2.0), np.concatenate([quiet, voice(0.5)])]
    mel, n_frames = log_mel_batch(waves)
    found = sounding_frames(mel, n_frames).tolist()
    assert found[0] == pytest.approx(100, abs=4)
    assert found[1] == pytest.approx(200, abs=20), "the last syllable may fade"
    assert found[2] == pytest.approx(100, abs=4)
    silence, n = log_mel_batch([np.zeros(1_600, dtype=np.float32)])
    assert sounding_frames(silence, n).tolist() == [10]


@pytest.fixture(scope="module")
def short() -> Backbone:
    """The embedded model without a margin long enough to end by itself."""
    backbone = Backbone.from_pretrained("tiny.en", audio_context="trimmed")
    backbone.margin_frames = 50
    return backbone


@pytest.mark.slow
def test_a_published_whisper_on_the_real_length_ends_its_texts(short: Backbone) -> None:
    rows = read_manifest(ASSETS / "demo" / "manifest.jsonl")
    rows = [row for row in rows if row.cohort in ("parkinson", "typical")]
    mel, n_frames = short.features([load(row.path) for row in rows])
    encoded = short.encode(mel, n_frames)
    limits = n_frames // 3
    runs, ends = (
        short.generate(encoded, SearchConfig(stop=stop), max_tokens=limits).tokens
        for stop in (False, True)
    )
    assert any(len(a) > len(b) for a, b in zip(runs, ends, strict=True)), "nothing to stop"
    assert all(a[: len(b)] == b for a, b in zip(runs, ends, strict=True)), "words are left alone"
    normalise = normaliser("whisper")
    for row, tokens in zip(rows, ends, strict=True):
        if row.cohort == "typical":
            said = len(normalise(row.text or "").split())
            assert len(normalise(short.text(tokens)).split()) <= said + 3


@pytest.mark.slow
def test_repetitions_at_the_end_that_somebody_says_are_kept(short: Backbone) -> None:
    """Simulated stuttering of a short sentence: the stop takes no word that comes once."""
    rows = [r for r in read_manifest(ASSETS / "demo" / "manifest.jsonl") if r.cohort == "typical"]
    wave, text = load(rows[1].path), rows[1].text or ""  # of this one the stop takes something
    waves = [
        simulate(wave, text, "stuttering", 0.9, seed=seed, speaker=str(seed)).waveform
        for seed in range(2)
    ]
    mel, n_frames = short.features(waves)
    encoded = short.encode(mel, n_frames)
    runs, ends = (
        short.generate(encoded, SearchConfig(stop=stop), max_tokens=n_frames // 12).tokens
        for stop in (False, True)
    )
    cut = [(a, b) for a, b in zip(runs, ends, strict=True) if a != b]
    assert cut, "nothing to stop"
    for whole, kept in cut:
        assert whole[: len(kept)] == kept
        # What was cut stands in the text already.
        rest = set(normaliser("whisper")(short.text(whole[len(kept) :])).split())
        assert rest <= set(normaliser("whisper")(short.text(kept)).split())
