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
