"""A model of one person's voice: an adapter goes on learning from a few of their recordings.

What all utterances share in an adapter is trained on the person's clips: the biases of a
hypernetwork's output, or the factors of a static LoRA. Everything else stays, so that each
utterance still gets weights of its own. The texts are the person's corrections where there are any,
else what the model itself writes by beam search (self-training; Kahn et al., arXiv 1909.09116).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.errors import AudioError, ConfigError
from hyperasr.metrics.error_rates import EditCounts, score
from hyperasr.metrics.normalisers import normaliser
from hyperasr.model import AdaptedWhisper, decode
from hyperasr.types import Batch
from hyperasr.whisper.search import SearchConfig, text_only

STEPS = (10, 20, 40)
"""Lengths of a training, among which clips held back choose; without a choice the first."""
LEARNING_RATE = 5e-4
GAIN = 0.1
"""Share of the errors in clips held back that a training must take away; less may be chance."""
FEWEST_CHECKED = 4
"""Clips with texts from which on it can be told what a training is worth."""
_SHARED = ("bias_A", "bias_B", "A", "B")
_BATCH = 16  # clips a step
_BEAMS = 5  # of the search for texts
_NEGATIVES = 4096  # tokens of the vocabulary a step

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Clip:
    """One utterance of the person.

    Attributes:
        waveform: (n_samples,) float32, 16 kHz, at most 30 s.
        text: what was said, as Whisper would write it; empty lets the model write it.
    """

    waveform: np.ndarray
    text: str = ""


def sentence(text: str) -> str:
    """Return words as one sentence: a capital first, a full stop last."""
    text = re.sub(r"\bi\b(?!-)", "I", " ".join(text.split()))
    text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".?!" else f"{text}."


def enrol(
    model: AdaptedWhisper,
    clips: Sequence[Clip],
    *,
    steps: int = STEPS[0],
    lr: float = LEARNING_RATE,
    progress: Progress | None = None,
    after: Callable[[int], None] | None = None,
) -> list[str]:
    """Go on training an adapter on clips of one person, in place.

    Args:
        model: with an adapter, in float32; nothing else may use it meanwhile.
        clips: at least one.
        steps: of Adam, at least 1.
        lr: its rate.
        progress: called with steps done and steps in all.
        after: called with the number of steps done; it may decode with the model.
    Returns:
        The texts that were learned from, one a clip; empty where nothing was heard.
    Raises:
        AudioError: no clip has a text, nor is anything heard in one; or a text is too long.
        ConfigError: a plain Whisper, or an adapter whose utterances share nothing.
    """
    shared = shared_parameters(model)
    order = sorted(range(len(clips)), key=lambda i: len(clips[i].waveform))  # little padding
    texts, batches = [""] * len(clips), []
    for start in range(0, len(clips), _BATCH):
        places = order[start : start + _BATCH]
        batch, written = _batch(model, [clips[i] for i in places])
        for i, text in zip(places, written, strict=True):
            texts[i] = text
        if batch is not None:
            batches.append(batch)
    if not batches:
        raise AudioError("nothing is heard in any of the clips, and none has a text")
    before = model.objective
    model.objective = ObjectiveConfig(negatives=_NEGATIVES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of dropout and of what else is drawn
        model.requires_grad_(False).train()
        for parameter in shared:
            parameter.requires_grad_(True)
        optimiser = torch.optim.Adam(shared, lr=lr)
        for step in range(steps):
            optimiser.zero_grad()
            model(batches[step % len(batches)]).total.backward()
            nn.utils.clip_grad_norm_(shared, 1.0)
            optimiser.step()
            if progress is not None:
                progress(step + 1, steps)
            if after is not None:
                with torch.random.fork_rng(devices=[]):
                    after(step + 1)
                model.train()
    model.objective = before
    model.requires_grad_(False).eval()
    return texts


@dataclass(frozen=True)
class Worth:
    """What trainings of some lengths are worth on clips that were held back.

    Attributes:
        before: word errors without a training (by Whisper's own normaliser).
        after: the same by the number of steps.
    """

    before: EditCounts
    after: dict[int, EditCounts]

    @property
    def steps(self) -> int:
        """The length with the fewest errors, the shortest of several; 0 where none gains `GAIN`."""
        best = min(self.after, key=lambda steps: (self.after[steps].errors, steps))
        enough = (1 - GAIN) * self.before.errors
        return best if self.after[best].errors < min(self.before.errors, enough) else 0


def checked(
    model: AdaptedWhisper, clips: Sequence[Clip], *, progress: Progress | None = None
) -> Worth | None:
    """Measure what enrolling would be worth: each half of the clips with texts is held back once.

    The model is afterwards what it was.

    Args:
        model, clips: as for `enrol`.
        progress: as for `enrol`, over both halves.
    Returns:
        What each of `STEPS` is worth; None with fewer than `FEWEST_CHECKED` clips that have texts.
    """
    told = [i for i, clip in enumerate(clips) if clip.text]
    if len(told) < FEWEST_CHECKED:
        return None
    shared = shared_parameters(model)
    start = [parameter.detach().clone() for parameter in shared]
    before = EditCounts()
    after = dict.fromkeys(STEPS, EditCounts())
    for half in (0, 1):
        held = [clips[i] for i in told[half::2]]
        others = [clip for i, clip in enumerate(clips) if i not in told[half::2]]
        before += errors_of(model, held)

        def note(steps: int, held: Sequence[Clip] = held) -> None:
            if steps in after:
                after[steps] += errors_of(model, held)

        def in_half(done: int, total: int, half: int = half) -> None:
            if progress is not None:
                progress(half * total + done, 2 * total)

        enrol(model, others, steps=max(STEPS), progress=in_half, after=note)
        with torch.no_grad():
            for parameter, values in zip(shared, start, strict=True):
                parameter.copy_(values)
    return Worth(before, after)


def shared_parameters(model: AdaptedWhisper) -> list[nn.Parameter]:
    """Return the parameters of an adapter that every utterance shares.

    Raises:
        ConfigError: there are none.
    """
    named = model.source.named_parameters()
    shared = [p for name, p in named if name.partition(".")[0] in _SHARED]
    if not (model.adapts and shared):
        kind = model.source_config.kind if model.adapts else "plain Whisper"
        raise ConfigError(f"a {kind} learns no voice; give a hypernetwork or a static LoRA")
    return shared


def errors_of(model: AdaptedWhisper, clips: Sequence[Clip]) -> EditCounts:
    """Return the word errors of clips with texts."""
    model.eval()
    hypotheses: list[str] = []
    for start in range(0, len(clips), _BATCH):
        part = clips[start : start + _BATCH]
        hypotheses += _written(model, _heard(model, part), SearchConfig())
    counts = score([clip.text for clip in clips], hypotheses, normaliser("whisper"), "wer")
    return sum(counts, EditCounts())


def _heard(model: AdaptedWhisper, clips: Sequence[Clip]) -> Batch:
    waveforms = tuple(clip.waveform for clip in clips)
    mel, n_frames = model.backbone.features(waveforms)
    batch = Batch(n_frames=n_frames, mel=mel, waveforms=waveforms)
    with torch.no_grad():
        emb, encoded = model.embed(batch)
    return replace(batch, encoded=encoded, speaker_emb=emb)


def _batch(model: AdaptedWhisper, clips: Sequence[Clip]) -> tuple[Batch | None, list[str]]:
    """Return the clips that have a text as a batch with tokens, and the texts of all."""
    batch = _heard(model, clips)
    texts = [clip.text.strip() for clip in clips]
    if not all(texts):
        own = _written(model, batch, SearchConfig(beam_size=_BEAMS))
        texts = [text or made for text, made in zip(texts, own, strict=True)]
    rows = [i for i, text in enumerate(texts) if text]
    if not rows:
        return None, texts
    return _with_tokens(model, batch.select(rows), [texts[i] for i in rows]), texts


def _written(model: AdaptedWhisper, batch: Batch, search: SearchConfig) -> list[str]:
    """Return what the model writes for each utterance."""
    backbone = model.backbone
    n_vocab = int(backbone.whisper.config.vocab_size)
    with torch.inference_mode():
        decoded = decode(model, batch, text_only(search, backbone.eos, n_vocab))
    return [backbone.text(tokens) for tokens in decoded.tokens]


def _with_tokens(model: AdaptedWhisper, batch: Batch, texts: Sequence[str]) -> Batch:
    """Return a batch with targets: prompt, text, end."""
    backbone = model.backbone
    tokens, n_tokens, n_prompt = backbone.targets(texts)
    longest = int(backbone.whisper.config.max_target_positions)
    for text, n in zip(texts, n_tokens.tolist(), strict=True):
        if n > longest:
            raise AudioError(f"the text {text[:40]!r}... is too long; cut the clip and its text")
    return replace(batch, tokens=tokens, n_tokens=n_tokens, n_prompt=n_prompt)
