"""Whether exported weights say what the model says: logits and tokens on real clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hyperasr.adapters import lora
from hyperasr.errors import CheckpointMismatch
from hyperasr.export.static_adapter import StaticAdapter
from hyperasr.metrics.error_rates import score
from hyperasr.metrics.normalisers import normaliser
from hyperasr.types import LoRAFactors
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, text_only

_MOST_TOKENS = 64


@dataclass(frozen=True)
class Parity:
    """How far two models are apart on the same clips.

    Attributes:
        difference: largest difference of a logit (of a log-probability where an engine gives
            nothing else).
        scale: largest logit.
        agreement: share of positions where both find the same token best.
        n_tokens: positions compared.
    """

    difference: float
    scale: float
    agreement: float
    n_tokens: int

    @property
    def relative(self) -> float:
        """The difference beside the largest logit, which is what rounding goes by."""
        return self.difference / max(1.0, self.scale)

    def require(self, relative: float, agreement: float) -> None:
        """Raise `CheckpointMismatch` where the two are further apart than allowed."""
        if not (self.relative <= relative and self.agreement >= agreement):
            raise CheckpointMismatch(
                f"what was exported is not the model: {self}; allowed are {relative:g} of the "
                f"largest logit and {100 * agreement:.0f} % equal tokens. Nothing was written; "
                "choose a wider dtype"
            )

    def __str__(self) -> str:
        return (
            f"largest difference of a logit {self.difference:.2g} ({self.relative:.1g} of the "
            f"largest), {100 * self.agreement:.1f} % of {self.n_tokens} tokens equal"
        )


@dataclass(frozen=True)
class Texts:
    """What the model writes of each clip, and what another engine does with what was exported.

    Attributes:
        own: with an adapter for each clip.
        elsewhere: by the other engine's defaults; empty where it was not asked.
    """

    own: tuple[str, ...]
    elsewhere: tuple[str, ...]

    @property
    def word_difference(self) -> float:
        """Words that differ for each word of the model's own, by Whisper's normaliser; a model that
        writes nothing has no words to differ from, and one word stands for them."""
        counts = score(self.own, self.elsewhere, normaliser("whisper"))
        return sum(c.errors for c in counts) / max(1, sum(c.n_reference for c in counts))

    def require(self, most: float) -> None:
        """Raise `CheckpointMismatch` where the other engine's words differ in more than this."""
        if (difference := self.word_difference) > most:
            pairs = zip(self.own, self.elsewhere, strict=True)
            first = next(f"{b!r} for {a!r}" for a, b in pairs if a != b)
            raise CheckpointMismatch(
                f"the engine that this is for writes other texts than the model: "
                f"{100 * difference:.0f} % of the words differ, {100 * most:.0f} % are allowed; "
                f"{first}. Nothing was written; give more clips of one voice, or a model that was "
                "trained on 30 s"
            )


@dataclass(frozen=True)
class Exported:
    """What was written, and how true it is.

    Attributes:
        adapter: the static adapter.
        parity: what was written against the model with the same static adapter.
        n_clips: clips that the following were counted on.
        n_as_dynamic: of them, with the text that an adapter of the clip's own gives.
        texts: what the model and the engine that the export is for write.
        notes: one line for each thing its user should know.
    """

    adapter: StaticAdapter
    parity: Parity
    n_clips: int
    n_as_dynamic: int
    texts: Texts
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """What a model with static factors decodes, and its logits there.

    Attributes:
        mels: of each clip (1, n_mels, n_frames).
        n_frames: of each clip (1,).
        prompt: tokens given.
        tokens: decoded text of each clip.
        logits: after the prompt and after each token (n_tokens + 1, n_vocab).
        search: how it was decoded.
    """

    mels: tuple[Tensor, ...]
    n_frames: tuple[Tensor, ...]
    prompt: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]
    logits: tuple[Tensor, ...]
    search: SearchConfig


@torch.inference_mode()
def reference_of(
    backbone: Backbone, factors: LoRAFactors, waveforms: Sequence[np.ndarray], language: str
) -> Reference:
    """Decode each clip alone, greedily, with the same static factors."""
    prompt = tuple(backbone.prompt_ids(language))
    config = backbone.whisper.config
    room = int(config.max_target_positions) - len(prompt)
    search = SearchConfig(max_tokens=min(_MOST_TOKENS, room))
    search = text_only(search, backbone.eos, int(config.vocab_size))
    inputs = [backbone.features([waveform]) for waveform in waveforms]
    found, logits = [], []
    with lora.using(backbone.whisper, factors):
        for mel, n_frames in inputs:
            encoded = backbone.encode(mel, n_frames)
            tokens = backbone.generate(encoded, search, language=language).tokens[0]
            found.append(tokens)
            logits.append(_logits(backbone, mel, n_frames, prompt, tokens))
    mels, frames = zip(*inputs, strict=True)
    return Reference(mels, frames, prompt, tuple(found), tuple(logits), search)


@torch.inference_mode()
def parity(backbone: Backbone, reference: Reference) -> Parity:
    """Compare the teacher-forced logits of a backbone with the reference."""
    clips = zip(reference.mels, reference.n_frames, reference.tokens, strict=True)
    found = [
        _logits(backbone, mel, n_frames, reference.prompt, tokens)
        for mel, n_frames, tokens in clips
    ]
    ours, theirs = torch.cat(list(reference.logits)), torch.cat(found)
    return Parity(
        float((ours - theirs).abs().max()),
        float(ours.abs().max()),
        float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
        len(ours),
    )


def ctranslate2_parity(folder: Path, backbone: Backbone, reference: Reference) -> Parity:
    """Let CTranslate2 decode the clips, and compare tokens and log-probabilities.

    Both are compared as far as the two have written the same; log-probabilities of allowed tokens.
    """
    import ctranslate2

    engine = ctranslate2.models.Whisper(str(folder), device="cpu", intra_threads=1)
    suppressed = backbone.suppressed(reference.search)
    allowed = torch.ones(int(backbone.whisper.config.vocab_size), dtype=torch.bool)
    allowed[list(suppressed.suppress)] = False
    worst, scale, same, total = 0.0, 0.0, 0, 0
    for mel, tokens, logits in zip(reference.mels, reference.tokens, reference.logits, strict=True):
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.cpu().numpy()))
        result = engine.generate(
            view,
            [list(reference.prompt)],
            beam_size=1,
            # It takes the half of this for the text.
            max_length=2 * max(len(reference.prompt), len(tokens)) + 2,
            suppress_blank=bool(suppressed.begin_suppress),
            suppress_tokens=list(suppressed.suppress),
            return_logits_vocab=True,
        )[0]
        # A reference that was cut off says nothing about what comes next.
        n_most = len(tokens) + (len(tokens) < reference.search.max_tokens)
        theirs = tuple(result.sequences_ids[0])[:n_most]
        n_same = next(
            (i for i, (a, b) in enumerate(zip(tokens, theirs, strict=False)) if a != b),
            min(len(tokens), len(theirs)),
        )
        # After the first difference the two decode different things.
        same += n_same
        total += n_same + (tokens != theirs)
        for step, row in enumerate(result.logits[0][: n_same + 1]):
            if step == 0 and suppressed.begin_suppress:
                continue  # other tokens are ruled out there
            found = torch.from_numpy(np.array(row)).flatten()[: len(allowed)].float()
            a, b = logits[step][allowed].log_softmax(-1), found[allowed].log_softmax(-1)
            worst, scale = max(worst, float((a - b).abs().max())), max(scale, float(a.abs().max()))
    return Parity(worst, scale, same / total if total else 1.0, total)


def _logits(
    backbone: Backbone,
    mel: Tensor,
    n_frames: Tensor,
    prompt: Sequence[int],
    tokens: Sequence[int],
) -> Tensor:
    encoded = backbone.encode(mel, n_frames)
    given = torch.tensor([[*prompt, *tokens]], device=backbone.device)
    return backbone.logits(encoded, given)[0, len(prompt) - 1 :].float().cpu()
