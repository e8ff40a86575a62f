"""The frozen Whisper: load, encode on the real length, score and decode with adapted weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pad_sequence

from hyperasr.adapters.lora import dropping_rows, split_rows
from hyperasr.audio.mel import (
    CHUNK_S,
    FRAMES_PER_SECOND,
    FRAMES_PER_STATE,
    HOP_LENGTH,
    N_SAMPLES,
    SAMPLE_RATE,
    count_frames,
    log_mel_batch,
    sounding_frames,
)
from hyperasr.errors import CheckpointMismatch, ConfigError, ShapeError
from hyperasr.types import Decoded, EncoderOutput, real_mask
from hyperasr.whisper.biasing import ExpectedWords, word_starts
from hyperasr.whisper.decoder import DecoderStep, alignment_heads, attention_bias
from hyperasr.whisper.languages import MULTILINGUAL_VOCABULARY, language_tokens, prompt_tokens
from hyperasr.whisper.loading import (
    checked_device,
    checked_dtype,
    load_whisper,
    quiet_transformers,
    weights_digest,
)
from hyperasr.whisper.pooling import frame_weights, moments
from hyperasr.whisper.quantize import quantize_linears
from hyperasr.whisper.search import SearchConfig, beam, greedy
from hyperasr.whisper.stopping import StopAfterSound
from hyperasr.whisper.vocabulary import ScreenedLogits, can_screen

MARGIN_S = 2.5
"""Seconds of silence that a published Whisper hears after an utterance when its context is trimmed.
It was trained on silence to 30 s; without any it does not know where the text ends."""
SHORTEST_S = 1.2
"""Seconds that a model trained on trimmed context without a margin hears at least. Its training
utterances have silence around their words; a digit of 0.4 s cut without any loses its edges or the
whole word."""
_SHORTEST = round(SHORTEST_S * SAMPLE_RATE)
_TOGETHER = 1500
"""States that go through the encoder at once, unless an utterance has more: what a layer works on
stays small, and short utterances are not padded to long ones."""


class Backbone(nn.Module):
    """A Whisper with its tokenizer, used with frozen weights.

    Args:
        whisper: a `transformers.WhisperForConditionalGeneration`.
        tokenizer: its `transformers.WhisperTokenizer`.
        audio_context: ``"trimmed"`` runs the encoder on the real length of each utterance with
            padding masked in self- and cross-attention; ``"full"`` on 30 s, as Whisper was
            published. None reads what the checkpoint records, and takes ``"full"`` where it
            records nothing.
        margin_s: seconds of silence after each utterance that trimmed context hears too. None
            reads what the checkpoint records; where it records nothing, 0 for a checkpoint of
            trimmed context, `MARGIN_S` for a published one.
    Raises:
        ConfigError: `audio_context` is neither of the two, or a margin outside [0, 30].
    """

    def __init__(
        self,
        whisper: Any,
        tokenizer: Any,
        audio_context: str | None = None,
        margin_s: float | None = None,
    ) -> None:
        super().__init__()
        self.whisper = whisper.requires_grad_(False).eval()
        # Without a mask only this implementation is causal in the decoder.
        self.whisper.set_attn_implementation("sdpa")
        self.tokenizer = tokenizer
        recorded = getattr(whisper.config, "audio_context", "full")
        self.audio_context: str = audio_context or str(recorded)
        if self.audio_context not in ("trimmed", "full"):
            raise ConfigError(
                f"audio_context is {self.audio_context!r}; it must be 'trimmed' or 'full'"
            )
        if margin_s is None:
            default = 0.0 if recorded == "trimmed" else MARGIN_S
            margin_s = getattr(whisper.config, "margin_s", None)
            margin_s = default if margin_s is None else margin_s
        if not 0 <= margin_s <= CHUNK_S:
            raise ConfigError(f"margin_s is {margin_s}; it must be in [0, {CHUNK_S}]")
        # Frames and not seconds, so that states of 20 ms fit in whole.
        frames = round(margin_s * FRAMES_PER_SECOND / FRAMES_PER_STATE) * FRAMES_PER_STATE
        self.margin_frames: int = frames if self.audio_context == "trimmed" else 0
        self.dtype = "float32"
        self._pieces: dict[int, str] = {}
        self._screened: tuple[list[tuple[int, int]], ScreenedLogits] | None = None
        self._full_precision: Any = None  # digest and size from before a reduction of precision

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "tiny.en",
        *,
        offline: bool = False,
        audio_context: str | None = None,
        margin_s: float | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
    ) -> Backbone:
        """Load a frozen Whisper.

        Args:
            name: ``tiny.en`` (embedded), a local folder in the layout of Hugging Face or of
                CTranslate2, or a hub name such as ``openai/whisper-small``, ``small`` for short.
            offline: never touch the network; a hub name must then be in the local cache, or
                installed as a package (`hyperasr.whisper.weights`).
            audio_context, margin_s: see the class.
            device: ``cpu``, ``cuda``, ``cuda:1``, ...
            dtype: of the weights: ``float32``, ``bfloat16``, ``float16`` or, on the CPU, ``int8``.
                Adapters are always computed in float32.
        Raises:
            ConfigError: there is no such model, device or dtype, or it is no Whisper.
        """
        target = checked_device(device)
        checked_dtype(dtype)
        whisper, tokenizer = load_whisper(name, offline)
        return cls(whisper, tokenizer, audio_context, margin_s).reduced(dtype).to(target)

    def reduced(self, dtype: str) -> Backbone:
        """Bring the weights to another number format, in place; the fingerprint stays.

        Args:
            dtype: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        Raises:
            ConfigError: no such format, or the weights have lost precision already.
        """
        target = checked_dtype(dtype)
        if dtype == self.dtype:
            return self
        if self._full_precision is not None:
            raise ConfigError(f"weights in {self.dtype} cannot become {dtype}; load them again")
        self._full_precision = weights_digest(self.whisper), self.n_parameters
        if target is None:
            quantize_linears(self.whisper)
        else:
            self.whisper.to(target)
        self.dtype = dtype
        return self

    def as_published(self) -> Backbone:
        """Return the same weights with the audio context that they were trained for: 30 s mostly.

        Itself where that is what it hears. Adapters may have brought another context.
        """
        recorded = str(getattr(self.whisper.config, "audio_context", "full"))
        if recorded == self.audio_context:
            return self
        published = Backbone(self.whisper, self.tokenizer, recorded)
        published.dtype, published._full_precision = self.dtype, self._full_precision
        return published

    def around(self, whisper: Any) -> Backbone:
        """Return a backbone of other weights that hears as this one does, with its tokenizer."""
        return Backbone(whisper, self.tokenizer, self.audio_context, self.margin_s)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config, weights and tokenizer in the Hugging Face layout into `folder`.

        Raises:
            ConfigError: the weights were loaded in int8, which no other program reads.
        """
        if self.dtype == "int8":
            raise ConfigError("weights in int8 are for this process only; load float32 to save")
        # transformers drops lang_to_id on reload from a config that came from a model config.
        self.whisper.generation_config._from_model_config = False
        # In a copy of the config: what is in the model's own is how it was published.
        published = self.whisper.config
        self.whisper.config = copy.copy(published)
        try:
            self.whisper.config.audio_context = self.audio_context
            if self.audio_context == "trimmed":
                self.whisper.config.margin_s = self.margin_s
            with quiet_transformers():
                self.whisper.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
        finally:
            self.whisper.config = published

    @property
    def margin_s(self) -> float:
        """Seconds of silence that are heard after each utterance; 0 with the full context."""
        return self.margin_frames / FRAMES_PER_SECOND

    @property
    def d_model(self) -> int:
        """Width of encoder and decoder."""
        return int(self.whisper.config.d_model)

    @property
    def n_mels(self) -> int:
        """Mel channels of the input."""
        return int(self.whisper.config.num_mel_bins)

    @property
    def n_encoder_layers(self) -> int:
        """Number of encoder layers."""
        return int(self.whisper.config.encoder_layers)

    @property
    def n_parameters(self) -> int:
        """Number of weights, tied ones once."""
        if self._full_precision is not None:
            return int(self._full_precision[1])
        return sum(p.numel() for p in self.whisper.parameters())

    @property
    def is_multilingual(self) -> bool:
        """Whether the prompt names language and task."""
        recorded = getattr(self.whisper.generation_config, "is_multilingual", None)
        # Old checkpoints do not say; OpenAI's code goes by the size of the vocabulary.
        size = int(self.whisper.config.vocab_size)
        return size >= MULTILINGUAL_VOCABULARY if recorded is None else bool(recorded)

    @property
    def eos(self) -> int:
        """Token id of end of text, which is also the padding."""
        return int(self.tokenizer.convert_tokens_to_ids("<|endoftext|>"))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        weight: Tensor = next(self.whisper.parameters())
        return weight.device

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify weights and shape of this model.

        It is the same after a round trip through fp16, and whatever number format the weights were
        brought to after loading; see `hyperasr.whisper.loading.weights_digest`.
        """
        whole = self._full_precision
        digest = weights_digest(self.whisper) if whole is None else whole[0].copy()
        digest.update(self.audio_context.encode())
        if self.margin_frames:
            digest.update(f" and {self.margin_frames} frames".encode())
        return str(digest.hexdigest()[:16])

    def require_fingerprint(self, expected: str, what: str) -> None:
        """Raise `CheckpointMismatch` where `what` was made for another backbone."""
        loaded = self.fingerprint()
        if loaded != expected:
            raise CheckpointMismatch(
                f"{what} belongs to the backbone {expected}, but the one loaded is {loaded}; "
                "load it with its own backbone, or train it again on this one"
            )

    def features(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Compute the log-mel input of several waveforms.

        With trimmed context and no margin less than `SHORTEST_S` gets digital silence on both
        sides alike, as part of the utterance: frames, and word times made of them, then begin
        `lead_s` too early.

        Args:
            waveforms: each (n_samples,) float32, 16 kHz, at most 30 s.
        Returns:
            mel (n_utt, n_mels, n_frames), zero padded after the margin, or padded to 30 s of
            silence for the full audio context; and the real frames (n_utt,), 10 ms each.
        """
        pad_to_s = CHUNK_S if self.audio_context == "full" else None
        # An empty one stays empty, which is refused.
        padded = [np.pad(w, self._silence_around(len(w))) if len(w) else w for w in waveforms]
        mel, n_frames = log_mel_batch(padded, n_mels=self.n_mels, pad_to_s=pad_to_s)
        if self.margin_frames:
            n_frames = torch.tensor([count_frames(len(waveform)) for waveform in waveforms])
        return mel.to(self.device), n_frames.to(self.device)

    def lead_s(self, n_samples: int) -> float:
        """Return the seconds of silence that `features` puts before so many samples.

        Take them off every time that is counted in frames or encoder states.
        """
        return self._silence_around(n_samples)[0] / SAMPLE_RATE

    def _silence_around(self, n_samples: int) -> tuple[int, int]:
        """Return the samples of silence that are put before and after so many.

        A margin ends at 30 s. With the full context the model hears silence after the words, as it
        was trained to.
        """
        if self.margin_frames:
            return 0, max(0, min(self.margin_frames * HOP_LENGTH, N_SAMPLES - n_samples))
        missing = 0 if self.audio_context == "full" else max(0, _SHORTEST - n_samples)
        return missing // 2, missing - missing // 2

    def encode(
        self,
        mel: Tensor,
        n_frames: Tensor,
        pool_layers: Sequence[int] = (),
        *,
        keep_attended: bool = False,
        attended_only: bool = False,
        attended: Tensor | None = None,
    ) -> EncoderOutput:
        """Run the encoder.

        Args:
            mel: log-mel (n_utt, n_mels, n_frames), 10 ms a frame.
            n_frames: real frames of each utterance (n_utt,), at least 1.
            pool_layers: hidden layers whose mean and deviation over the real frames are returned
                as well; 0 is the convolutional stem.
            keep_attended: return also what the first layer's feed-forward part gets, from which a
                second pass can go on whose weights differ in W1 and W2 alone. Only without
                gradients, and not in float16.
            attended_only: stop there, with no states (n_utt, 0, d_model), where that is kept and
                no later layer is to be pooled.
            attended: of an earlier pass over the same input; the second pass begins there.
        Returns:
            States of 20 ms each. With trimmed context those of the margin count too; padding is
            masked everywhere and never changes a state. With full context all 1,500 states count,
            as in the published model.
        Raises:
            ShapeError: the full context without 30 s of mel, more than 30 s, mel without its
                margin, or an empty utterance to pool.
        """
        limit = int(self.whisper.config.max_source_positions) * FRAMES_PER_STATE
        trimmed = self.audio_context == "trimmed"
        if mel.shape[-1] > limit or not (trimmed or mel.shape[-1] == limit):
            raise ShapeError(
                f"mel has {mel.shape[-1]} frames; audio context {self.audio_context!r} takes "
                f"{'at most' if trimmed else 'exactly'} {limit}"
            )
        heard = n_frames + self.margin_frames if trimmed else torch.full_like(n_frames, limit)
        heard = heard.clamp_max(limit)
        if self.margin_frames and int(heard.max()) > mel.shape[-1]:
            raise ShapeError(
                f"mel has {mel.shape[-1]} frames, but the longest utterance with its margin of "
                f"{self.margin_s:g} s {int(heard.max())}; make mel by `features`"
            )
        # On a GPU one large batch is the fastest. Gradients need it all at once, and residual
        # adapters hang on a layer as a whole and are not told of rows.
        hooked = any(layer._forward_hooks for layer in self.whisper.model.encoder.layers)
        n_together = len(heard)
        if mel.device.type == "cpu" and not torch.is_grad_enabled() and not hooked:
            n_together = max(1, _TOGETHER // int(_n_states(heard).max()))
        parts = []
        for rows in split_rows(len(heard), n_together):
            n = int(_n_states(heard[rows]).max())
            part = self._encode_part(
                mel[rows, :, : n * FRAMES_PER_STATE],
                n_frames[rows],
                heard[rows],
                pool_layers,
                keep_attended,
                attended_only,
                None if attended is None else attended[rows, :n],
            )
            parts.append(part)
        return _joined(parts)

    def _encode_part(
        self,
        mel: Tensor,
        n_frames: Tensor,
        heard: Tensor,
        pool_layers: Sequence[int],
        keep_attended: bool,
        attended_only: bool,
        attended: Tensor | None,
    ) -> EncoderOutput:
        """Run the encoder on some rows, of which `heard` (n_utt,) frames are no padding."""
        encoder = self.whisper.model.encoder
        real, lengths = _n_states(n_frames), _n_states(heard)
        hidden = self._stem(mel, heard) if attended is None else attended
        bias = attention_bias(lengths, hidden.shape[1], hidden.dtype)
        weights = frame_weights(real, hidden.shape[:2]) if pool_layers else None
        pooled = {}
        # In float16 layers clamp as well, with gradients there is nothing to save, and residual
        # adapters hang on a layer as a whole.
        by_parts = not torch.is_grad_enabled() and hidden.dtype != torch.float16
        for index in range(self.n_encoder_layers + 1):
            if index == 1 and attended is not None:
                hidden = _feed_forward(encoder.layers[0], attended)
            elif index and by_parts and not encoder.layers[index - 1]._forward_hooks:
                layer = encoder.layers[index - 1]
                normed = layer.self_attn_layer_norm(hidden)
                middle = hidden + layer.self_attn(normed, attention_mask=bias)[0]
                if index == 1 and keep_attended:
                    attended = middle
                    if attended_only and max(pool_layers, default=0) == 0:
                        hidden = hidden[:, :0]
                        break
                hidden = _feed_forward(layer, middle)
            elif index:
                hidden = encoder.layers[index - 1](hidden, bias)
            # Pooled while it is at hand: no layer waits in memory for the last one.
            if weights is not None and index in pool_layers:
                pooled[index] = moments(hidden, weights)
        real_states = real_mask(lengths, hidden.shape[1])[..., None]
        states = encoder.layer_norm(hidden).masked_fill(~real_states, 0.0)
        sounding = self.sounding(mel, real * FRAMES_PER_STATE)
        return EncoderOutput(states, lengths, pooled, sounding, attended)

    def _stem(self, mel: Tensor, n_frames: Tensor) -> Tensor:
        """Return what the first layer gets (n_utt, n_states, d_model)."""
        encoder = self.whisper.model.encoder
        dtype = encoder.conv1.weight.dtype
        padding = ~real_mask(n_frames, mel.shape[-1])[:, None]
        # Filled, not multiplied: 0 * NaN is NaN.
        hidden = F.gelu(encoder.conv1(mel.to(dtype).masked_fill(padding, 0.0)))
        hidden = F.gelu(encoder.conv2(hidden.masked_fill(padding, 0.0)))
        hidden = hidden.transpose(1, 2) + encoder.embed_positions.weight[: hidden.shape[-1]]
        return F.dropout(hidden, p=encoder.dropout, training=encoder.training)

    def sounding(self, mel: Tensor, n_frames: Tensor) -> Tensor | None:
        """Return the states up to the end of each utterance's sound (n_utt,); None without margin.

        Args:
            mel: log-mel (n_utt, n_mels, n_frames).
            n_frames: real frames of each utterance (n_utt,).
        """
        if not self.margin_frames:
            return None
        return _n_states(sounding_frames(mel, n_frames))

    def prompt_ids(self, language: str = "en", task: str = "transcribe") -> list[int]:
        """Return the decoder's prompt: start, language and task (multilingual), no timestamps.

        Args:
            language: its code (``de``) or English name (``german``).
            task: ``transcribe``, or ``translate`` into English.
        Raises:
            ConfigError: the model does not know the language or the task.
        """
        return prompt_tokens(self.vocabulary, self.language_ids, language, task)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """All tokens and their ids; made once, because the tokenizer takes 20 ms for it."""
        return dict(self.tokenizer.get_vocab())

    @property
    def language_ids(self) -> dict[str, int]:
        """Token of each language that the model knows; none for a model of English alone."""
        if not self.is_multilingual:
            return {}
        recorded = getattr(self.whisper.generation_config, "lang_to_id", None)
        return language_tokens(self.vocabulary, recorded)

    @torch.inference_mode()
    def detect_language(self, encoded: EncoderOutput) -> list[tuple[str, float]]:
        """Return the most probable language of each utterance, and its probability.

        One step of the decoder after the start token, over the languages alone, as Whisper does
        (arXiv 2212.04356, section 2.3). A model of English alone says ``en``.

        Args:
            encoded: encoder states (n_utt, n_states, d_model).
        Returns:
            Code and probability of each utterance.
        """
        ids = self.language_ids
        if len(ids) < 2:
            return [(next(iter(ids), "en"), 1.0)] * encoded.states.shape[0]
        start = self.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
        tokens = torch.full((encoded.states.shape[0], 1), start, device=self.device)
        codes, columns = list(ids), torch.tensor(list(ids.values()), device=self.device)
        chances, best = self.logits(encoded, tokens)[:, -1, columns].float().softmax(-1).max(-1)
        return [(codes[i], p) for i, p in zip(best.tolist(), chances.tolist(), strict=True)]

    def text_ids(self, text: str) -> list[int]:
        """Return the tokens of a text, with the leading blank Whisper's targets have."""
        text = text.strip()
        return list(self.tokenizer(f" {text}", add_special_tokens=False).input_ids) if text else []

    def targets(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, int]:
        """Return what the decoder is to write of some texts, with the English prompt before it.

        Returns:
            Prompt, text, end of text, padding: (n_utt, n_max) int64; the real tokens of each
            (n_utt,) int64; and how many tokens the prompt has.
        """
        prompt = self.prompt_ids()
        ids = [torch.tensor([*prompt, *self.text_ids(text), self.eos]) for text in texts]
        tokens = pad_sequence(ids, batch_first=True, padding_value=self.eos)
        n_tokens = torch.tensor([len(own) for own in ids])
        return tokens.to(self.device), n_tokens.to(self.device), len(prompt)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of decoded tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def logits(self, encoded: EncoderOutput, tokens: Tensor) -> Tensor:
        """Teacher-forced logits of every next token.

        Args:
            encoded: encoder states of n_utt utterances.
            tokens: (n_utt, n_tokens) int64, prompt first.
        Returns:
            (n_utt, n_tokens, n_vocab).
        """
        step = DecoderStep(self.whisper, encoded, cached=False)
        logits: Tensor = self.whisper.proj_out(step.hidden(tokens))
        return logits

    def nll(
        self, encoded: EncoderOutput, tokens: Tensor, n_tokens: Tensor, n_prompt: int
    ) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each utterance's text and end of text.

        Args:
            encoded: encoder states.
            tokens: prompt, text, end of text, padding: (n_utt, n_max).
            n_tokens: real tokens (n_utt,).
            n_prompt: leading tokens that are given, not scored.
        Returns:
            Sum in nats (n_utt,), and the number of scored tokens (n_utt,).
        """
        logprobs, scored = self.scored_logprobs(encoded, tokens, n_tokens, n_prompt)
        losses = -logprobs.gather(1, tokens[scored][:, None])[:, 0]
        of_each = losses.new_zeros(scored.shape).masked_scatter(scored, losses)
        return of_each.sum(1), scored.sum(1)

    def scored_logprobs(
        self,
        encoded: EncoderOutput,
        tokens: Tensor,
        n_tokens: Tensor,
        n_prompt: int,
        among: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of tokens at the places that are scored.

        Args:
            encoded, tokens, n_tokens, n_prompt: as `nll`.
            among: ids (n,) over which is normalised; None for the whole vocabulary.
        Returns:
            (n_scored, n_vocab or n) float32, and which places of `tokens` these are (n_utt, n_max).
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        scored = (places >= n_prompt) & (places < n_tokens[:, None])
        hidden = DecoderStep(self.whisper, encoded, cached=False).hidden(tokens[:, :-1])
        # Only where they count: the vocabulary is what takes longest in a small model.
        chosen = hidden[scored[:, 1:]]
        if among is None:
            logits = self.whisper.proj_out(chosen)
        else:
            logits = F.linear(chosen, self.whisper.proj_out.weight[among])
        return logits.float().log_softmax(-1), scored

    @torch.inference_mode()
    def generate(
        self,
        encoded: EncoderOutput,
        config: SearchConfig | None = None,
        *,
        language: str | Sequence[str] = "en",
        task: str = "transcribe",
        max_tokens: Tensor | None = None,
    ) -> Decoded:
        """Decode each utterance of a fixed batch, greedy or with beams.

        Args:
            encoded: encoder states of n_utt utterances; rows of posterior samples count as such.
            config: search settings; what the checkpoint itself suppresses comes on top.
            language: of the prompt, or of each row's, for multilingual models.
            task: ``transcribe``, or ``translate`` into English.
            max_tokens: a limit for each utterance (n_utt,), on top of the config's.
        """
        config = self.suppressed(config or SearchConfig())
        prompt = self.prompts(language, task, encoded.states.shape[0])
        # The last token decoded is never fed back, so it needs no position.
        n_most = int(self.whisper.config.max_target_positions) - prompt.shape[1] + 1
        config = replace(config, max_tokens=min(config.max_tokens, n_most))
        watched = alignment_heads(self.whisper) if config.stop and self.margin_frames else None
        k = config.beam_size
        greedily = k == 1 and not config.temperature
        screen = self._screen(config.suppress) if greedily else None
        step = DecoderStep(self.whisper, encoded, rows_per_utt=k, watched=watched, screen=screen)
        stop = None
        if step.watches:
            n_sounding = encoded.sounding
            if n_sounding is None:  # states alone do not tell; the recording's end is near it
                margin = self.margin_frames // FRAMES_PER_STATE
                n_sounding = (encoded.lengths - margin).clamp_min(1)
            n_sounding = n_sounding.repeat_interleave(k)
            stop = StopAfterSound(step.looked, self.piece, self.eos, n_sounding)
        how: dict[str, Any] = {"eos": self.eos, "config": config, "max_tokens": max_tokens}
        if k == 1:
            with dropping_rows(prompt.shape[0]) as follow:

                def keep(rows: Tensor) -> None:
                    step.keep(rows)
                    assert follow is not None
                    follow(rows)

                drops = step.can_drop and follow is not None
                return greedy(step, prompt, stop=stop, keep=keep if drops else None, **how)
        expected = None
        if config.expected:
            n_vocab = int(self.whisper.config.vocab_size)
            starts = word_starts(self.vocabulary, self.eos, n_vocab)
            expected = ExpectedWords(config.expected, starts, config.bonus)
        return beam(step, step.reorder, prompt, stop=stop, expected=expected, **how)

    def _screen(self, suppress: Sequence[int]) -> Callable[[Tensor], Tensor] | None:
        """Return what computes logits in a greedy search; None is the whole product."""
        if not can_screen(self.whisper):
            return None
        weights = (self.whisper.proj_out.weight, self.whisper.model.decoder.layer_norm.weight)
        # Weights that were trained on in between are others.
        state = [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]
        known = self._screened
        if known is None or known[0] != state:
            known = self._screened = (state, ScreenedLogits(*weights))
        logits, ruled_out = known[1], torch.tensor(suppress, dtype=torch.int64)
        return lambda states: logits(states, ruled_out)

    def piece(self, token: int) -> str:
        """Return the text of one token, with the blank before it."""
        if token not in self._pieces:
            self._pieces[token] = str(self.tokenizer.decode([token]))
        return self._pieces[token]

    def prompts(self, language: str | Sequence[str], task: str, n_rows: int) -> Tensor:
        """Return the prompt of each row (n_rows, n_prompt); all are equally long.

        Raises:
            ConfigError: as `prompt_ids`.
            ShapeError: languages of more or fewer rows.
        """
        if isinstance(language, str):
            ids = torch.tensor(self.prompt_ids(language, task), device=self.device)
            return ids.expand(n_rows, -1)
        if len(language) != n_rows:
            raise ShapeError(f"{len(language)} languages do not fit {n_rows} rows; give one a row")
        return torch.tensor([self.prompt_ids(one, task) for one in language], device=self.device)

    def suppressed(self, config: SearchConfig) -> SearchConfig:
        """Add the tokens that the checkpoint's generation config rules out."""
        generation = self.whisper.generation_config
        # The published configs mark "the default list" by -1, which is no token.
        always = [token for token in generation.suppress_tokens or () if token >= 0]
        first = [token for token in generation.begin_suppress_tokens or () if token >= 0]
        return replace(
            config,
            suppress=(*config.suppress, *always),
            begin_suppress=(*config.begin_suppress, *first),
        )


def _n_states(n_frames: Tensor) -> Tensor:
    """Return how many encoder states so many mel frames become."""
    return (n_frames + FRAMES_PER_STATE - 1) // FRAMES_PER_STATE


def _feed_forward(layer: Any, attended: Tensor) -> Tensor:
    """Return what an encoder layer makes of what its attention gave (n_utt, n_states, d_model)."""
    wide = layer.activation_fn(layer.fc1(layer.final_layer_norm(attended)))
    out: Tensor = attended + layer.fc2(wide)
    return out


def _joined(parts: Sequence[EncoderOutput]) -> EncoderOutput:
    """Return the rows of several batches as one, padded to the longest."""
    if len(parts) == 1:
        return parts[0]

    def padded(batches: Sequence[Tensor]) -> Tensor:
        return pad_sequence([row for batch in batches for row in batch], batch_first=True)

    sounding = [part.sounding for part in parts if part.sounding is not None]
    attended = [part.attended for part in parts if part.attended is not None]
    return EncoderOutput(
        padded([part.states for part in parts]),
        torch.cat([part.lengths for part in parts]),
        {layer: torch.cat([part.moments[layer] for part in parts]) for layer in parts[0].moments},
        torch.cat(sounding) if sounding else None,
        padded(attended) if attended else None,
    )
