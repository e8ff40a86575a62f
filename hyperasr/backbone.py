"""The frozen Whisper: load, encode on the real length, score and decode with adapted weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hyperasr.audio import CHUNK_S, FRAMES_PER_SECOND
from hyperasr.decoder import DecoderStep, attention_bias, zero_padding
from hyperasr.errors import CheckpointMismatch, ConfigError, ShapeError
from hyperasr.mel import log_mel_batch
from hyperasr.search import SearchConfig, beam, greedy
from hyperasr.types import Decoded, EncoderOutput

__all__ = ["ASSETS", "Backbone"]

ASSETS = Path(__file__).parent / "assets"
FRAMES_PER_STATE = 2  # the second convolution has stride 2
_FULL_FRAMES = CHUNK_S * FRAMES_PER_SECOND
_FINGERPRINT_SAMPLES = 1024
_MULTILINGUAL_VOCABULARY = 51_865  # tokens of the first multilingual Whisper


class Backbone(nn.Module):
    """A Whisper with its tokenizer, used with frozen weights.

    Args:
        whisper: a `transformers.WhisperForConditionalGeneration`.
        tokenizer: its `transformers.WhisperTokenizer`.
        audio_context: ``"trimmed"`` runs the encoder on the real length of each utterance with
            padding masked in self- and cross-attention; ``"full"`` on 30 s, as Whisper was
            published. None reads what the checkpoint records, and takes ``"full"`` where it
            records nothing.
    Raises:
        ConfigError: `audio_context` is neither of the two.
    """

    def __init__(self, whisper: Any, tokenizer: Any, audio_context: str | None = None) -> None:
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

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "micro",
        *,
        offline: bool = False,
        audio_context: str | None = None,
    ) -> Backbone:
        """Load a frozen Whisper.

        Args:
            name: ``"micro"`` (embedded), a local folder in the Hugging Face layout, or a hub name
                such as ``openai/whisper-small``.
            offline: never touch the network; a hub name must then be in the local cache.
            audio_context: see the class.
        Raises:
            ConfigError: there is no such model, or it is no Whisper.
        """
        from transformers import WhisperForConditionalGeneration, WhisperTokenizer

        source = ASSETS / "micro" / "backbone" if str(name) == "micro" else name
        local = Path(source).is_dir()
        if not local and (Path(source).is_absolute() or str(source).startswith(".")):
            raise ConfigError(f"no model folder at {source}")
        options: dict[str, Any] = {"local_files_only": offline or local}
        try:
            with _no_progress_bars():
                loaded: Any = WhisperForConditionalGeneration.from_pretrained(
                    source, dtype=torch.float32, output_loading_info=True, **options
                )
            whisper, report = loaded
            tokenizer = WhisperTokenizer.from_pretrained(source, **options)
        except Exception as error:  # transformers and safetensors raise of every kind
            hint = "give 'micro', a folder in the Hugging Face layout, or a hub name"
            if offline and not local:
                hint = "it is not in the local cache and --offline is set"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"cannot load the Whisper {str(name)!r}: {hint} ({reason})"
            ) from error
        # transformers makes up for both: with random numbers, and with an empty vocabulary.
        lacks = sorted(report["missing_keys"])
        lacks += [t for t in ("<|startoftranscript|>",) if t not in tokenizer.get_vocab()]
        if lacks:
            raise ConfigError(
                f"cannot load the Whisper {str(name)!r}: it is incomplete or no Whisper, "
                f"without {lacks[0]}"
            )
        return cls(whisper, tokenizer, audio_context)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config, weights and tokenizer in the Hugging Face layout into `folder`."""
        self.whisper.config.audio_context = self.audio_context
        # transformers drops lang_to_id on reload from a config that came from a model config.
        self.whisper.generation_config._from_model_config = False
        self.whisper.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

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
        return sum(p.numel() for p in self.whisper.parameters())

    @property
    def is_multilingual(self) -> bool:
        """Whether the prompt names language and task."""
        known = getattr(self.whisper.generation_config, "is_multilingual", None)
        # Old checkpoints do not say; OpenAI's code goes by the size of the vocabulary.
        size = int(self.whisper.config.vocab_size)
        return size >= _MULTILINGUAL_VOCABULARY if known is None else bool(known)

    @property
    def eos(self) -> int:
        """Token id of end of text, which is also the padding."""
        return int(self.tokenizer.convert_tokens_to_ids("<|endoftext|>"))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.whisper.parameters()).device

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify weights and shape of this model.

        Hashes each tensor's name, shape, checksum and some evenly spaced values, in float16: it is
        the same after a round trip through fp16, quick, and no single changed value escapes it.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.whisper.state_dict().items()):
            flat = tensor.detach().flatten()
            step = max(1, flat.numel() // _FINGERPRINT_SAMPLES)
            half = flat.to(torch.float16)
            checksum = int(half.view(torch.int16).sum(dtype=torch.int64))
            digest.update(json.dumps([name, list(tensor.shape), checksum]).encode())
            digest.update(half[::step].cpu().numpy().tobytes())
        digest.update(self.audio_context.encode())
        return digest.hexdigest()[:16]

    def require_fingerprint(self, expected: str, what: str) -> None:
        """Raise `CheckpointMismatch` where `what` was made for another backbone."""
        found = self.fingerprint()
        if found != expected:
            raise CheckpointMismatch(
                f"{what} belongs to the backbone {expected}, but the one loaded is {found}; "
                "load it with its own backbone, or train it again on this one"
            )

    def features(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Compute the log-mel input of several waveforms.

        Args:
            waveforms: each (n_samples,) float32, 16 kHz, at most 30 s.
        Returns:
            mel (n_utt, n_mels, n_frames), zero padded, or padded to 30 s of silence for the full
            audio context; and the real frames (n_utt,), 10 ms each.
        """
        pad_to_s = CHUNK_S if self.audio_context == "full" else None
        mel, n_frames = log_mel_batch(waveforms, n_mels=self.n_mels, pad_to_s=pad_to_s)
        return mel.to(self.device), n_frames.to(self.device)

    def encode(
        self, mel: Tensor, n_frames: Tensor, keep_layers: Sequence[int] = ()
    ) -> EncoderOutput:
        """Run the encoder.

        Args:
            mel: log-mel (n_utt, n_mels, n_frames), 10 ms a frame.
            n_frames: real frames of each utterance (n_utt,), at least 1.
            keep_layers: hidden layers to return as well; 0 is the convolutional stem.
        Returns:
            States of 20 ms each. With trimmed context padding is masked everywhere and never
            changes a state; with full context all 1,500 states count, as in the published model.
        Raises:
            ShapeError: the full context without 30 s of mel, or more than 30 s.
        """
        encoder = self.whisper.model.encoder
        limit = int(self.whisper.config.max_source_positions) * FRAMES_PER_STATE
        trimmed = self.audio_context == "trimmed"
        if mel.shape[-1] > limit or not (trimmed or mel.shape[-1] == limit):
            raise ShapeError(
                f"mel has {mel.shape[-1]} frames; audio context {self.audio_context!r} takes "
                f"{'at most' if trimmed else 'exactly'} {limit}"
            )
        if not trimmed:
            n_frames = torch.full_like(n_frames, limit)
        dtype = encoder.conv1.weight.dtype
        hidden = F.gelu(encoder.conv1(zero_padding(mel.to(dtype), n_frames, dim=-1)))
        hidden = F.gelu(encoder.conv2(zero_padding(hidden, n_frames, dim=-1)))
        lengths = (n_frames + FRAMES_PER_STATE - 1) // FRAMES_PER_STATE
        hidden = hidden.transpose(1, 2) + encoder.embed_positions.weight[: hidden.shape[-1]]
        hidden = F.dropout(hidden, p=encoder.dropout, training=encoder.training)
        bias = attention_bias(lengths, hidden.shape[1], hidden.dtype)
        kept = {0: hidden} if 0 in keep_layers else {}
        for index, layer in enumerate(encoder.layers, start=1):
            hidden = layer(hidden, bias)
            if index in keep_layers:
                kept[index] = hidden
        states = zero_padding(encoder.layer_norm(hidden), lengths, dim=1)
        return EncoderOutput(states, lengths, kept)

    def prompt_ids(self, language: str = "en", task: str = "transcribe") -> list[int]:
        """Return the decoder's prompt: start, language and task (multilingual), no timestamps.

        Raises:
            ConfigError: the model does not know the language or the task.
        """
        vocabulary = self.tokenizer.get_vocab()
        names = ["<|startoftranscript|>"]
        if self.is_multilingual:
            languages = getattr(self.whisper.generation_config, "lang_to_id", None) or vocabulary
            known = f"<|{language}|>" in languages and task in ("transcribe", "translate")
            names += [f"<|{language}|>", f"<|{task}|>"]
        else:
            known = (language, task) == ("en", "transcribe")
        names.append("<|notimestamps|>")
        missing = [name for name in names if name not in vocabulary]
        if missing or not known:
            raise ConfigError(f"this model cannot {task} {language!r}; try language='en'")
        return [vocabulary[name] for name in names]

    def text_ids(self, text: str) -> list[int]:
        """Return the tokens of a text, with the leading blank Whisper's targets have."""
        text = text.strip()
        return list(self.tokenizer(f" {text}", add_special_tokens=False).input_ids) if text else []

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
        return DecoderStep(self.whisper, encoded, cached=False).all_logits(tokens)

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
        logits = self.logits(encoded, tokens[:, :-1]).float()
        scored = torch.arange(1, tokens.shape[1], device=tokens.device)
        scored = (scored >= n_prompt) & (scored < n_tokens[:, None])
        losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return (losses * scored).sum(1), scored.sum(1)

    @torch.inference_mode()
    def generate(
        self,
        encoded: EncoderOutput,
        config: SearchConfig | None = None,
        *,
        language: str = "en",
        max_tokens: Tensor | None = None,
    ) -> Decoded:
        """Decode each utterance of a fixed batch, greedy or with beams.

        Args:
            encoded: encoder states of n_utt utterances; rows of posterior samples count as such.
            config: search settings; what the checkpoint itself suppresses comes on top.
            language: language of the prompt, for multilingual models.
            max_tokens: a limit for each utterance (n_utt,), on top of the config's.
        """
        config = self._with_suppressed(config or SearchConfig())
        prompt = torch.tensor(self.prompt_ids(language), device=self.device)
        # The last token decoded is never fed back, so it needs no position.
        n_most = int(self.whisper.config.max_target_positions) - len(prompt) + 1
        config = replace(config, max_tokens=min(config.max_tokens, n_most))
        prompt = prompt.expand(encoded.states.shape[0], -1)
        if config.beam_size == 1:
            step = DecoderStep(self.whisper, encoded)
            return greedy(step, prompt, eos=self.eos, config=config, max_tokens=max_tokens)
        step = DecoderStep(self.whisper, encoded, rows_per_utt=config.beam_size)
        return beam(step, step.reorder, prompt, eos=self.eos, config=config, max_tokens=max_tokens)

    def _with_suppressed(self, config: SearchConfig) -> SearchConfig:
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


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar for a model that loads in milliseconds."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
