"""The embedded model's tokenizer: Whisper's special tokens, and every text comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from train.tokenizer import N_TIMESTAMPS, build_tokenizer

N_MERGED = 20
TEXTS = ["turn on the light", "turn off the light", "one two three", "set a timer for ten minutes"]
SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
]


@pytest.fixture(scope="module", params=["built", "reloaded"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    built = build_tokenizer(TEXTS, N_MERGED)
    if request.param == "built":
        return built
    from transformers import WhisperTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    built.save_pretrained(folder)
    return WhisperTokenizer.from_pretrained(folder, local_files_only=True)


def test_special_tokens_follow_the_text_tokens_in_whispers_order(tokenizer: Any) -> None:
    first = 256 + N_MERGED
    assert tokenizer.convert_tokens_to_ids(SPECIAL) == list(range(first, first + len(SPECIAL)))
    assert tokenizer.eos_token_id == first
    stamps = [tokenizer.convert_tokens_to_ids(t) for t in ("<|0.00|>", "<|0.02|>", "<|30.00|>")]
    last = first + len(SPECIAL)
    assert stamps == [last, last + 1, last + N_TIMESTAMPS - 1]
    assert len(tokenizer) == last + N_TIMESTAMPS
    assert len(set(tokenizer.get_vocab().values())) == len(tokenizer)


@pytest.mark.parametrize(
    "text",
    [
        " turn on the light",
        " t- tu- turn on uh the the light",
        " Straße, naïve; 日本語 🎤 0.5",
        " two  blanks and a trailing one ",
        "",
        "\n\t\x00",
    ],
)
def test_every_text_comes_back(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert all(i < tokenizer.eos_token_id for i in ids)
    assert tokenizer.decode(ids) == text


def test_merges_are_of_the_texts(tokenizer: Any) -> None:
    # 20 merges of four sentences: frequent words are few tokens, other words are bytes.
    assert len(tokenizer(" the light", add_special_tokens=False).input_ids) < 8
    assert len(tokenizer("QZX", add_special_tokens=False).input_ids) == 3


def test_decoding_leaves_out_special_tokens_and_timestamps(tokenizer: Any) -> None:
    names = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>", "<|0.02|>"]
    ids = tokenizer.convert_tokens_to_ids(names)
    ids += [*tokenizer(" one two", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == " one two"


def test_building_it_again_gives_the_same(tokenizer: Any) -> None:
    assert build_tokenizer(TEXTS, N_MERGED).get_vocab() == tokenizer.get_vocab()


def test_no_merge_is_characters() -> None:
    tokenizer = build_tokenizer(TEXTS, 0)
    assert len(tokenizer(" turn", add_special_tokens=False).input_ids) == 5
