"""Adapted generation: every utterance alone, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperasr.adapters import SourceConfig, lora
from hyperasr.hub import HyperASR
from hyperasr.model import decode, decode_tokens, token_limits
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, EncoderOutput
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, text_only

LENGTHS = (61, 20, 93, 44, 7)  # mel frames


def decode_rows(model: HyperASR, rows: Any, *args: Any, **options: Any) -> list[str]:
    """Return the texts of what `decode_tokens` writes."""
    tokens = decode_tokens(model, rows, *args, **options).tokens
    return [model.backbone.text(row) for row in tokens]


class Rows:
    """What `decode_tokens` needs of a cache, over random encoder states."""

    def __init__(self, model: HyperASR) -> None:
        generator = torch.Generator().manual_seed(4)
        mels = [torch.randn(80, n, generator=generator) for n in LENGTHS]
        self.n_frames = list(LENGTHS)
        self.encoded: list[Tensor] = []
        self.embs: list[Tensor] = []
        with torch.no_grad():
            for mel, n in zip(mels, LENGTHS, strict=True):
                emb, encoded = model.embed(Batch(torch.tensor([n]), mel=mel[None]))
                self.encoded.append(encoded.states[0])
                self.embs.append(emb[0])

    def __len__(self) -> int:
        return len(self.n_frames)

    def batch(self, indices: Sequence[int]) -> Batch:
        lengths = torch.tensor([len(self.encoded[i]) for i in indices])
        states = torch.zeros(len(indices), int(lengths.max()), 32)
        for row, i in zip(states, indices, strict=True):
            row[: len(self.encoded[i])] = self.encoded[i]
        return Batch(
            n_frames=torch.tensor([self.n_frames[i] for i in indices]),
            encoded=EncoderOutput(states, lengths),
            speaker_emb=torch.stack([self.embs[i] for i in indices]),
        )


@pytest.fixture(scope="module")
def rows(model: HyperASR) -> Rows:
    return Rows(model)


def only_text(model: HyperASR, search: SearchConfig | None = None) -> SearchConfig:
    """Return the search without markers and timestamps, of which `decode_tokens` writes none."""
    n_vocab = int(model.backbone.whisper.config.vocab_size)
    return text_only(search or SearchConfig(), model.backbone.eos, n_vocab)


@pytest.mark.parametrize("search", [None, SearchConfig(beam_size=3)], ids=["greedy", "beam"])
def test_a_transcript_does_not_depend_on_its_batch(
    model: HyperASR, rows: Rows, search: SearchConfig | None
) -> None:
    # The slow twin: one utterance, its factors merged into the weights, nothing else around.
    text = only_text(model, search)
    alone: list[Any] = []
    for i in range(len(rows)):
        batch = rows.batch([i])
        assert batch.encoded is not None
        assert batch.speaker_emb is not None
        with lora.merged(model.backbone.whisper, model.factors(batch.speaker_emb)):
            limits = token_limits(batch.encoded.lengths)
            decoded = model.backbone.generate(batch.encoded, text, max_tokens=limits)
        alone.append(model.backbone.text(decoded.tokens[0]))
    assert len(set(alone)) > 3, "the utterances differ"
    for batch_size in (1, 2, 5, 64):
        assert decode_rows(model, rows, batch_size=batch_size, search=search) == alone
    order = [3, 0, 4, 1, 2, 3]
    expected = [alone[i] for i in order]
    assert decode_rows(model, rows, order, batch_size=4, search=search) == expected
    together = decode(model, rows.batch(order), text).tokens
    assert [model.backbone.text(t) for t in together] == expected


def test_unadapted_is_the_backbone_alone(model: HyperASR, rows: Rows) -> None:
    batch = rows.batch(range(5))
    assert batch.encoded is not None
    limits = token_limits(batch.encoded.lengths)
    plain = model.backbone.generate(batch.encoded, max_tokens=limits)
    assert decode(model, batch, adapt=False) == plain
    assert decode(model, batch).tokens != plain.tokens
    plain = model.backbone.generate(batch.encoded, only_text(model), max_tokens=limits)
    texts = [model.backbone.text(t) for t in plain.tokens]
    assert decode_rows(model, rows, adapt=False) == texts


@pytest.mark.parametrize("search", [None, SearchConfig(beam_size=3)], ids=["greedy", "beam"])
def test_zero_factors_are_the_backbone(
    random_backbone: Backbone, rows: Rows, search: SearchConfig | None
) -> None:
    untrained = HyperASR(random_backbone, SpeakerConfig(), SourceConfig()).eval()
    batch = rows.batch(range(5))
    assert decode(untrained, batch, search) == decode(untrained, batch, search, adapt=False)


def test_markers_are_not_decoded_from_a_cache(model: HyperASR, rows: Rows) -> None:
    eos = model.backbone.eos
    n_text = len(model.backbone.tokenizer.get_vocab())
    # Without any letters a free search takes what is left: markers and timestamps.
    search = SearchConfig(max_tokens=5, suppress=tuple(range(eos)))
    free = decode(model, rows.batch(range(5)), search).tokens
    assert any(eos < token < n_text for row in free for token in row)
    assert decode_tokens(model, rows, search=search).tokens == ((),) * 5


def test_controls_take_other_embeddings(model: HyperASR, rows: Rows) -> None:
    own = torch.stack(rows.embs)
    assert decode_rows(model, rows, embeddings=own) == decode_rows(model, rows)
    shuffled = own.roll(1, 0)
    control = decode_rows(model, rows, batch_size=2, embeddings=shuffled)
    assert control != decode_rows(model, rows)
    # Embedding k belongs to row indices[k], however the rows are sorted for decoding.
    for k, i in enumerate([4, 0, 2]):
        batch = replace(rows.batch([i]), speaker_emb=shuffled[i : i + 1])
        expected = model.backbone.text(decode(model, batch).tokens[0])
        chosen = shuffled[[4, 0, 2]]
        assert decode_rows(model, rows, [4, 0, 2], embeddings=chosen)[k] == expected


def test_mel_and_cached_states_give_the_same(model: HyperASR) -> None:
    generator = torch.Generator().manual_seed(4)
    mel = torch.randn(1, 80, 61, generator=generator)
    fresh = Batch(torch.tensor([61]), mel=mel)
    with torch.no_grad():
        emb, encoded = model.embed(fresh)
    assert decode(model, fresh) == decode(model, replace(fresh, encoded=encoded, speaker_emb=emb))
    plain = decode(model, fresh, adapt=False)
    assert plain == decode(model, replace(fresh, encoded=encoded), adapt=False)


def test_no_row_has_more_tokens_than_its_limit(model: HyperASR, rows: Rows) -> None:
    batch = rows.batch(range(5))
    assert batch.encoded is not None
    limits = token_limits(batch.encoded.lengths).tolist()
    assert len(set(limits)) == 5, "each has its own"
    decoded = decode(model, batch)
    for tokens, finished, limit in zip(decoded.tokens, decoded.finished, limits, strict=True):
        assert len(tokens) <= limit
        assert finished or len(tokens) == limit
    assert not all(decoded.finished), "some row runs into its limit, or this tests nothing"


def test_limits_leave_room_for_fast_speech_and_none_for_loops() -> None:
    seconds = torch.tensor([0, 1, 10, 30])
    limits = token_limits(seconds * 50)
    assert (limits >= 24 * seconds).all(), "24 characters a second is fast speech"
    assert (limits <= 32 * seconds + 8).all()
    assert limits[0] > 0


def test_the_limit_follows_the_real_length_in_full_context(random_backbone_folder: Path) -> None:
    full = Backbone.from_pretrained(random_backbone_folder, offline=True, audio_context="full")
    model = HyperASR(full, SpeakerConfig(), SourceConfig()).eval()
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    decoded = decode(model, Batch(torch.tensor([40]), mel=mel))
    assert len(decoded.tokens[0]) <= int(token_limits(torch.tensor([20])))
