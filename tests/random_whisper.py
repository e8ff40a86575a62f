"""Whispers of random weights, with a tokenizer of 64 merged tokens and Whisper's special ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TOKENIZER = Path(__file__).parent / "data" / "checkpoint" / "backbone"


def random_whisper(encoder_layers: int = 2, decoder_layers: int = 2) -> Any:
    """Return a `hyperasr.whisper.backbone.Backbone` of d_model 32 and 4 heads, trimmed, its seed
    0."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

    from hyperasr.whisper.backbone import Backbone

    tokenizer = WhisperTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
    known = tokenizer.get_vocab()
    eos = known["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        dropout=0.1,
        max_target_positions=224,
        pad_token_id=eos,
        bos_token_id=eos,
        eos_token_id=eos,
        decoder_start_token_id=known["<|startoftranscript|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
        audio_context="trimmed",
        init_std=32**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whisper = WhisperForConditionalGeneration(config)
    generation = whisper.generation_config
    generation.is_multilingual = True
    generation.lang_to_id = {"<|en|>": known["<|en|>"]}
    generation.task_to_id = {t: known[f"<|{t}|>"] for t in ("transcribe", "translate")}
    generation.no_timestamps_token_id = known["<|notimestamps|>"]
    generation.prev_sot_token_id = known["<|startofprev|>"]
    generation.max_initial_timestamp_index = 50
    return Backbone(whisper, tokenizer)


def write_backbone(folder: Path) -> None:
    """Write a random Whisper whose decoded text depends on the audio."""
    backbone = random_whisper()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, weight in backbone.whisper.named_parameters():
            if weight.dim() > 1 and "embed_positions" not in name:
                weight.data.normal_(0, 0.3)
        # Texts of letters and words that end: neither single bytes nor markers.
        backbone.whisper.model.decoder.embed_tokens.weight.data[256:321] *= 2.0
    backbone.save_pretrained(folder)


def write_hypernet(folder: Path, backbone_folder: Path) -> None:
    """Write a `HyperASR` on a random Whisper in the folder beside, which does adapt."""
    from hyperasr.adapters import SourceConfig
    from hyperasr.hub import HyperASR
    from hyperasr.speaker.encoder import SpeakerConfig
    from hyperasr.whisper.backbone import Backbone

    backbone = Backbone.from_pretrained(backbone_folder, offline=True)
    settings = {"rank": 2, "d_hidden": 16, "d_layer_emb": 4, "n_hidden": 1}
    model = HyperASR(backbone, SpeakerConfig(), SourceConfig(settings=settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in [*model.source.heads.parameters(), *model.source.bias_B.parameters()]:
            weight.normal_(0, 0.5, generator=generator)
    # Relative to the folder, so that both can be moved together.
    name = f"../{backbone_folder.name}"
    model.save_pretrained(folder, backbone=name, training={"note": "random weights"})
