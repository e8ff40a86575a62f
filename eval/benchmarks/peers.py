"""Other ways to the same work, for the table of speed: one random Whisper in everybody's hands.

Every peer gets log-mel features that were computed beforehand and decodes a fixed number of tokens
greedily, so that all do the same work. transformers, PEFT and CTranslate2 (the engine of
faster-whisper) take 30 s of features, whatever was said: none of them can run on less. Adapters of
PEFT hold factors of ours and are registered beforehand; their making is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperasr.adapters import lora
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.types import LayerFactors, LoRAFactors
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import load_whisper, quiet_transformers

__all__ = [
    "ALL_AT_ONCE",
    "CTranslate2",
    "Missing",
    "Peft",
    "Transformers",
    "write_random_whisper",
]

ALL_AT_ONCE = 0
"""As `batch_size`: all utterances in one batch."""
_END, _START, _NO_TIMES = 50_257, 50_258, 50_363  # of the multilingual vocabulary
_VOCABULARY = 51_865
_LANGUAGES = 99

Tokens = list[list[int]]


class Missing(HyperASRError):
    """A peer, or what all of them need, is not on this machine."""


def write_random_whisper(folder: Path, tokenizer: Path, **shape: int) -> Path:
    """Write a Whisper of random weights in the Hugging Face layout, Whisper-tiny unless told.

    Args:
        folder: to write into.
        tokenizer: folder of the published multilingual tokenizer.
        shape: `d_model`, `n_heads`, `n_layers` where they are not those of Whisper-tiny.
    Raises:
        Missing: there is no tokenizer.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

    if not (tokenizer / "tokenizer.json").is_file():
        raise Missing(f"no published tokenizer in {tokenizer}; give --tokenizer")
    d_model, n_layers = shape.get("d_model", 384), shape.get("n_layers", 4)
    sizes: dict[str, Any] = {"vocab_size": _VOCABULARY, "d_model": d_model}
    for part in ("encoder", "decoder"):
        sizes[f"{part}_layers"] = n_layers
        sizes[f"{part}_attention_heads"] = shape.get("n_heads", 6)
        sizes[f"{part}_ffn_dim"] = 4 * d_model
    config = WhisperConfig(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whisper = WhisperForConditionalGeneration(config)
    model: Any = WhisperTokenizer.from_pretrained(tokenizer, local_files_only=True)
    vocabulary = model.get_vocab()
    codes = sorted(vocabulary, key=vocabulary.get)[_START + 1 : _START + 1 + _LANGUAGES]
    known = {
        "is_multilingual": True,
        "lang_to_id": {code: vocabulary[code] for code in codes},
        "task_to_id": {t: vocabulary[f"<|{t}|>"] for t in ("translate", "transcribe")},
        "no_timestamps_token_id": _NO_TIMES,
        "max_initial_timestamp_index": 50,
        "decoder_start_token_id": _START,
        "eos_token_id": _END,
        "pad_token_id": _END,
        "bos_token_id": _END,
    }
    for name, value in known.items():
        setattr(whisper.generation_config, name, value)
    Backbone(whisper, model).save_pretrained(folder)
    return folder


class Transformers:
    """transformers' own `generate`, unadapted.

    Args:
        folder: of the Whisper.
        mel: features of 30 s each (n_utt, n_mels, 3000).
        n_tokens: decoded for each utterance, no more and no less.
        batch_size: utterances decoded together, or `ALL_AT_ONCE`.
    """

    def __init__(self, folder: Path, mel: Tensor, n_tokens: int, batch_size: int = ALL_AT_ONCE):
        self.whisper = load_whisper(folder, offline=True)[0].eval()
        self.mel, self.n_tokens = mel, n_tokens
        self.batch_size = batch_size or len(mel)

    @torch.inference_mode()
    def __call__(self) -> Tokens:
        """Return the tokens of every utterance."""
        starts = range(0, len(self.mel), self.batch_size)
        return [row for s in starts for row in self._decoded(self.mel[s : s + self.batch_size])]

    def _decoded(self, mel: Tensor, **options: Any) -> Tokens:
        known = self.whisper.generation_config
        end = int(known.eos_token_id)
        if known.is_multilingual:
            options |= {"language": "en", "task": "transcribe"}
        with quiet_transformers():
            found = self.whisper.generate(
                mel,
                num_beams=1,
                do_sample=False,
                max_new_tokens=self.n_tokens,
                # End of text, markers and times: all rows are as long, in a single window.
                suppress_tokens=list(range(end, self.whisper.config.vocab_size)),
                **options,
            )
        return [row[-self.n_tokens :] for row in found.tolist()]


class Peft(Transformers):
    """PEFT with an adapter for each utterance, registered beforehand.

    Args:
        folder, mel, n_tokens: as `Transformers`.
        factors: of each utterance.
        how: ``mixed``, one batch with `adapter_names`; ``swap``, utterance after utterance with
            `set_adapter`; ``merge``, utterance after utterance with the adapter merged and
            unmerged.
    Raises:
        Missing: PEFT is not installed.
    """

    def __init__(
        self, folder: Path, mel: Tensor, n_tokens: int, factors: LoRAFactors, how: str = "mixed"
    ) -> None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise Missing("PEFT is not installed: pip install 'hyperasr[export]'") from error
        if how not in ("mixed", "swap", "merge"):
            raise ConfigError(f"how is {how!r}; it must be 'mixed', 'swap' or 'merge'")
        super().__init__(folder, mel, n_tokens)
        linears = lora.find_targets(self.whisper, factors)
        paths = {module: path for path, module in self.whisper.named_modules()}
        rank = next(iter(factors.targets.values())).A.shape[2]
        config = LoraConfig(
            r=rank,
            lora_alpha=factors.scaling * rank,
            target_modules=[paths[m] for ms in linears.values() for m in ms],
        )
        self.names = [f"utt{i}" for i in range(len(mel))]
        self.how = how
        model: Any = get_peft_model(self.whisper, config, adapter_name=self.names[0])
        for name in self.names[1:]:
            model.add_adapter(name, config)
        modules = dict(self.whisper.named_modules())
        for target, layers in linears.items():
            for layer, linear in enumerate(layers):
                _fill(modules[paths[linear]], factors[target], layer, self.names)
        self.whisper = model.eval()

    @torch.inference_mode()
    def __call__(self) -> Tokens:
        """Return the tokens of every utterance."""
        if self.how == "mixed":
            return self._decoded(self.mel, adapter_names=self.names)
        tokens = []
        for name, mel in zip(self.names, self.mel, strict=True):
            self.whisper.set_adapter(name)
            if self.how == "merge":
                self.whisper.merge_adapter()
            tokens += self._decoded(mel[None])
            if self.how == "merge":
                self.whisper.unmerge_adapter()
        return tokens


def _fill(module: Any, pair: LayerFactors, layer: int, names: list[str]) -> None:
    """Write one layer's factors of every utterance into PEFT's adapters."""
    with torch.no_grad():
        for utt, name in enumerate(names):
            module.lora_A[name].weight.copy_(pair.A[layer, utt])
            module.lora_B[name].weight.copy_(pair.B[layer, utt])


class CTranslate2:
    """CTranslate2, the engine of faster-whisper, unadapted.

    Args:
        folder: of the Whisper.
        converted: where to write it in the engine's own layout.
        mel, n_tokens, batch_size: as `Transformers`.
        compute: number format of weights and products: ``int8``, ``float32``.
        threads: of one decoding.
    Raises:
        Missing: CTranslate2 is not installed.
    """

    def __init__(
        self,
        folder: Path,
        converted: Path,
        mel: Tensor,
        n_tokens: int,
        batch_size: int = ALL_AT_ONCE,
        compute: str = "int8",
        threads: int = 2,
    ) -> None:
        try:
            import ctranslate2
            from ctranslate2.converters import TransformersConverter
        except ImportError as error:
            raise Missing("CTranslate2 is not installed: pip install 'hyperasr[export]'") from error
        if not (converted / "model.bin").exists():
            with quiet_transformers():
                TransformersConverter(str(folder)).convert(str(converted), quantization=compute)
        self.model = ctranslate2.models.Whisper(
            str(converted), device="cpu", compute_type=compute, intra_threads=threads
        )
        batch_size = batch_size or len(mel)
        view: Callable[[Any], Any] = ctranslate2.StorageView.from_array
        starts = range(0, len(mel), batch_size)
        # The engine reads the very memory, so the arrays must stay.
        self.arrays = [mel[s : s + batch_size].contiguous().numpy() for s in starts]
        self.batches = [view(array) for array in self.arrays]
        self.n_tokens = n_tokens
        self.prompt = [_START, _START + 1, 50_359, _NO_TIMES]

    def __call__(self) -> Tokens:
        """Return the tokens of every utterance."""
        tokens: Tokens = []
        for batch in self.batches:
            found = self.model.generate(
                batch,
                [self.prompt] * batch.shape[0],
                beam_size=1,
                # The engine takes half of it for what came before, whether there is any or not.
                max_length=2 * max(self.n_tokens, len(self.prompt)),
                suppress_blank=False,
                suppress_tokens=list(range(_END, _VOCABULARY)),
            )
            tokens += [row.sequences_ids[0] for row in found]
        return tokens
