"""Where memory does not suffice the batch is halved and a warning says so; the text is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hyperasr.errors import HyperASRError
from hyperasr.hub import HyperASR
from hyperasr.model import decode_tokens
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import Result, transcribe
from hyperasr.util.memory import out_of_memory
from hyperasr.whisper.backbone import Backbone
from tests.test_decode import LENGTHS, Rows

RATE = 16_000
TOO_MUCH = 2**50  # numbers: more than any address space


def test_errors_of_memory_are_told_from_others() -> None:
    for allocate in (lambda: torch.empty(TOO_MUCH), lambda: np.empty(TOO_MUCH)):
        with pytest.raises((RuntimeError, MemoryError)) as error:
            allocate()
        assert out_of_memory(error.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as error:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert not out_of_memory(error.value)
    assert not out_of_memory(HyperASRError("out of memory"))


def limit(monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> list[int]:
    """Let a method of the backbone need more than there is for more rows than this."""
    real: Any = getattr(Backbone, name)
    sizes: list[int] = []

    def limited(self: Backbone, first: Any, *args: Any, **options: Any) -> Any:
        n_rows = len(first) if isinstance(first, torch.Tensor) else len(first.states)
        sizes.append(n_rows)
        if n_rows > most:
            torch.empty(TOO_MUCH)  # the real error
        return real(self, first, *args, **options)

    monkeypatch.setattr(Backbone, name, limited)
    return sizes


def run(model: HyperASR, sounds: list[Any], **options: Any) -> list[Result]:
    return list(transcribe(model, sounds, TranscribeOptions(**options)))


@pytest.fixture
def sounds(voice: Callable[..., np.ndarray]) -> list[Any]:
    return [(voice(0.6 + 0.3 * i, 100.0 + 20 * i), RATE) for i in range(7)]


@pytest.mark.parametrize("name", ["encode", "generate"])
def test_a_batch_is_halved_and_says_so(
    model: HyperASR, sounds: list[Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = [r.transcript.text for r in run(model, sounds) if r.transcript]
    sizes = limit(monkeypatch, name, 2)
    found = run(model, sounds, batch_size=7)
    assert [r.transcript.text for r in found if r.transcript] == expected
    assert len(set(expected)) > 1
    warnings = [w for r in found if r.transcript for w in r.transcript.warnings if "memory" in w]
    assert warnings[0].startswith("7 segments at once do not fit into memory: 4 from here on")
    assert sizes[0] == 7
    assert sum(n for n in sizes if n <= 2) == 7
    # What was learnt serves the rest of the call.
    sizes.clear()
    run(model, sounds * 2, batch_size=7)
    assert sizes.count(7) == 1


def test_a_segment_that_does_not_fit_alone_is_its_recordings_error(
    model: HyperASR, sounds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, "generate", 0)
    for result in run(model, sounds[:2], beam_size=3):
        assert "a segment of" in str(result.error)
        assert "with 3 beams does not fit into memory" in str(result.error)
        assert "\n" not in str(result.error)


def test_other_errors_are_not_hidden(
    model: HyperASR, sounds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Backbone, "generate", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(model, sounds)


def test_rows_of_a_cache_are_halved(model: HyperASR, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(model)
    expected = decode_tokens(model, rows)
    sizes = limit(monkeypatch, "generate", 2)
    with pytest.warns(UserWarning, match=r"5 utterances with 1 beams .* do not fit into memory"):
        found = decode_tokens(model, rows)
    assert found.tokens == expected.tokens
    assert sum(n for n in sizes if n <= 2) == len(LENGTHS)
    limit(monkeypatch, "generate", 0)
    with (
        pytest.warns(UserWarning, match="do not fit into memory"),
        pytest.raises(HyperASRError, match="does not fit into memory"),
    ):
        decode_tokens(model, rows)
