"""A small byte-level BPE tokenizer with Whisper's special tokens, for the embedded model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import hyperasr  # noqa: F401  (before transformers: it keeps torchaudio importable)

__all__ = ["build_tokenizer"]

N_TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 20 ms, as in every Whisper
_SPECIAL = (
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",  # must be last: timestamps begin right after it
)


def build_tokenizer(texts: Iterable[str], n_merged: int) -> Any:
    """Train a `WhisperTokenizer`: 256 bytes, `n_merged` merges, specials, timestamps.

    Args:
        texts: text of the domain; every one is seen with a leading blank.
        n_merged: tokens above the single bytes.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import WhisperTokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + n_merged,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((" " + text for text in texts), trainer)
    model = json.loads(bpe.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for name in ("<|endoftext|>", *_SPECIAL):
        vocabulary[name] = len(vocabulary)
    timestamps = [f"<|{0.02 * i:.2f}|>" for i in range(N_TIMESTAMPS)]
    tokenizer = WhisperTokenizer(
        vocab=vocabulary,
        merges=[tuple(pair) for pair in model["merges"]],
        language="en",
        task="transcribe",
        extra_special_tokens=list(_SPECIAL),
    )
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in timestamps])
    return tokenizer
