"""A static adapter of one speaker or cohort for other programs: PEFT, transformers, faster-whisper,
whisper.cpp.

The weights are merged in float32 and cast last. What was written is loaded again and held against
the model it was made from, on the clips themselves: its logits, and the texts that the engine it is
for writes by its defaults. Where either differs too much, nothing is left.
"""

from __future__ import annotations

import copy
import importlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperasr.adapters import lora
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.export.card import export_card
from hyperasr.export.config import ExportConfig
from hyperasr.export.engines import by_faster_whisper, by_pipeline, by_whisper_cpp
from hyperasr.export.ggml import write_ggml
from hyperasr.export.parity import (
    Exported,
    Parity,
    Reference,
    Texts,
    ctranslate2_parity,
    parity,
    reference_of,
)
from hyperasr.export.peft_folder import write_peft
from hyperasr.export.static_adapter import build_static_adapter
from hyperasr.model import AdaptedWhisper, decode
from hyperasr.types import Batch, LoRAFactors
from hyperasr.util.files import atomic_folder
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import DTYPES, quiet_transformers
from hyperasr.whisper.search import SearchConfig, text_only

GGML_FILE = "ggml-model.bin"
_WRITERS = {"peft": "peft", "ctranslate2": "ctranslate2"}  # packages that a format needs
_ENGINES = {"ctranslate2": "faster_whisper", "ggml": "pywhispercpp"}  # packages that try it
_FEWEST_TOKENS = 51_865  # CTranslate2 takes a smaller vocabulary for that of English alone
_CHECKED_CLIPS = 8  # of the clips, for the parity check: enough to see a wrong weight

# Largest difference of a logit beside the largest logit, and smallest share of equal best tokens.
# Our choice: float32 allows for another order of sums, the others for their rounding.
_LIMITS = {
    "float32": (1e-4, 0.99),
    "float16": (1e-2, 0.9),
    "bfloat16": (1e-1, 0.9),
    "int8": (0.3, 0.8),
}


def export(
    model: AdaptedWhisper,
    waveforms: Sequence[np.ndarray],
    out: str | Path,
    config: ExportConfig | None = None,
    *,
    base: str = "",
) -> Exported:
    """Write one static adapter, made of unlabelled clips, for another program.

    Args:
        model: with weights in float32.
        waveforms: clips of one speaker or cohort, each (n_samples,) float32, 16 kHz, at most 30 s.
        out: folder, written as a whole or not at all.
        config: what to write.
        base: hub name or folder of the backbone, which a PEFT adapter names.
    Raises:
        ConfigError: no clips, a setting that does not fit the model, or weights not in float32.
        CheckpointMismatch: what was written does not give the model's logits, or other texts in the
            engine it is for.
        MissingExtra: a package that the format needs.
    """
    config = config or ExportConfig()
    backbone = model.backbone
    if backbone.dtype != "float32":
        raise ConfigError(f"weights in {backbone.dtype} cannot be exported; load them in float32")
    _require(config)
    with atomic_folder(out) as folder:
        adapter = build_static_adapter(
            model, waveforms, method=config.method, rank=config.rank, group=config.group
        )
        checked = list(waveforms[:_CHECKED_CLIPS])
        reference = reference_of(backbone, adapter.factors, checked, config.language)
        own = _dynamic(model, checked, config)
        heard = checked if config.max_word_difference is not None else ()
        factors = adapter.factors
        agreed, elsewhere = _write(backbone, factors, folder, config, base, reference, heard)
        relative, agreement = _LIMITS[config.dtype]
        agreed.require(config.max_difference or relative, agreement)
        texts = Texts(tuple(map(backbone.text, own)), elsewhere)
        if config.max_word_difference is not None:
            texts.require(config.max_word_difference)
        n_same, notes = _n_as_static(own, reference), tuple(_notes(backbone, config))
        exported = Exported(adapter, agreed, len(checked), n_same, texts, notes)
        card = export_card(model, config, exported, n_clips=len(waveforms), base=base)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return exported


def _write(
    backbone: Backbone,
    factors: LoRAFactors,
    folder: Path,
    config: ExportConfig,
    base: str,
    reference: Reference,
    clips: Sequence[np.ndarray],
) -> tuple[Parity, tuple[str, ...]]:
    """Write in one format, load it again, compare, and let its engine transcribe the clips."""
    if config.to == "peft":
        write_peft(backbone.whisper, factors, folder, base)
        with _adapted_by_peft(backbone, folder):
            agreed = parity(backbone, reference)
            return agreed, by_pipeline(backbone.whisper, backbone, clips, config.language)
    if config.to == "merged":
        write_merged(backbone, factors, folder, config.dtype)
        agreed = parity(Backbone.from_pretrained(folder, offline=True), reference)
        return agreed, by_pipeline(folder, backbone, clips, config.language)
    if config.to == "ggml":
        with tempfile.TemporaryDirectory(dir=folder) as merged:
            write_merged(backbone, factors, Path(merged), config.dtype)
            rounded = Backbone.from_pretrained(merged, offline=True)
        agreed = parity(rounded, reference)  # of what the file holds; whisper.cpp gives no logits
        write_ggml(rounded, folder / GGML_FILE)
        return agreed, by_whisper_cpp(folder / GGML_FILE, backbone, clips, config.language)
    with tempfile.TemporaryDirectory(dir=folder) as merged:
        write_merged(backbone, factors, Path(merged), "float32")
        _convert(Path(merged), folder, config.dtype)
    agreed = ctranslate2_parity(folder, backbone, reference)
    return agreed, by_faster_whisper(folder, backbone, clips, config.language)


def write_merged(backbone: Backbone, factors: LoRAFactors, folder: Path, dtype: str) -> None:
    """Write backbone and factors as one Whisper in the Hugging Face layout.

    Merged in float32, cast last. With every file that other engines ask for: tokenizer, feature
    extractor and the language table of the generation config.

    Raises:
        ConfigError: merged weights that are not finite, also after the cast.
    """
    from transformers import WhisperFeatureExtractor

    whisper = backbone.whisper
    with lora.merged(whisper, factors):
        written = whisper
        if dtype != "float32":
            written = copy.deepcopy(whisper).to(DTYPES[dtype])
        broken = [n for n, p in written.named_parameters() if not bool(torch.isfinite(p).all())]
        if broken:
            raise ConfigError(f"{broken[0]} does not fit into {dtype}; choose bfloat16 or float32")
        _complete(written.generation_config, backbone)
        backbone.around(written).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=backbone.n_mels).save_pretrained(folder)


def _complete(generation: Any, backbone: Backbone) -> None:
    """Write down what other engines read off a generation config, where it says nothing."""
    vocabulary = backbone.vocabulary
    values: dict[str, Any] = {
        "is_multilingual": backbone.is_multilingual,
        "no_timestamps_token_id": vocabulary["<|notimestamps|>"],
        "prev_sot_token_id": vocabulary.get("<|startofprev|>"),
    }
    if backbone.is_multilingual:
        values["lang_to_id"] = {f"<|{code}|>": i for code, i in backbone.language_ids.items()}
        values["task_to_id"] = {t: vocabulary[f"<|{t}|>"] for t in ("translate", "transcribe")}
    for name, value in values.items():
        if getattr(generation, name, None) is None:
            setattr(generation, name, value)


@contextmanager
def _adapted_by_peft(backbone: Backbone, folder: Path) -> Iterator[None]:
    """Let PEFT itself put the adapter on for the length of the block."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers
        adapted = PeftModel.from_pretrained(backbone.whisper, str(folder))
    try:
        yield
    finally:
        adapted.unload()
        backbone.whisper.requires_grad_(False)


def _convert(merged: Path, folder: Path, dtype: str) -> None:
    from ctranslate2.converters import TransformersConverter

    files = [p.name for p in merged.iterdir() if p.suffix in (".json", ".txt")]
    files = [name for name in files if name not in ("config.json", "generation_config.json")]
    converter = TransformersConverter(str(merged), copy_files=sorted(files))
    converted = merged / "converted"  # the converter wants to make its folder itself
    with quiet_transformers():
        converter.convert(str(converted), quantization=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    for path in list(converted.iterdir()):
        path.rename(folder / path.name)
    converted.rmdir()


def _require(config: ExportConfig) -> None:
    """Import what writes the format and what tries it, before any work."""
    needed = {_WRITERS.get(config.to)}
    if config.max_word_difference is not None:
        needed.add(_ENGINES.get(config.to))
    for name in sorted(filter(None, needed)):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingExtra(
                f"exporting to {config.to} needs the package {name}; pip install 'hyperasr[export]'"
            ) from error


def _dynamic(
    model: AdaptedWhisper, waveforms: Sequence[np.ndarray], config: ExportConfig
) -> list[tuple[int, ...]]:
    """Return the tokens of each clip with an adapter of its own, as the model transcribes."""
    n_vocab = int(model.backbone.whisper.config.vocab_size)
    search = text_only(SearchConfig(), model.backbone.eos, n_vocab)
    cohorts = (config.group,) if config.group else ()
    found = []
    for waveform in waveforms:
        mel, n_frames = model.backbone.features([waveform])
        batch = Batch(
            n_frames=n_frames, mel=mel, waveforms=(waveform,), cohorts=cohorts, speakers=cohorts
        )
        found.append(decode(model, batch, search, language=config.language).tokens[0])
    return found


def _n_as_static(own: Sequence[tuple[int, ...]], reference: Reference) -> int:
    """Count the clips whose text an adapter of their own does not change, as far as it is known."""
    known = reference.search.max_tokens  # where a static text was cut off
    return sum(a[:known] == b for a, b in zip(own, reference.tokens, strict=True))


def _notes(backbone: Backbone, config: ExportConfig) -> list[str]:
    notes = []
    if backbone.audio_context == "trimmed":
        notes.append(
            "this model was trained on the real length of each utterance; engines that pad to 30 s "
            "may write other texts"
        )
    if config.to == "ctranslate2" and backbone.is_multilingual:
        n_tokens = int(backbone.whisper.config.vocab_size)
        if n_tokens < _FEWEST_TOKENS:
            notes.append(
                f"CTranslate2 takes a vocabulary of {n_tokens} for English alone and leaves "
                "language and task out of the prompt; give it the whole prompt yourself"
            )
    return notes
