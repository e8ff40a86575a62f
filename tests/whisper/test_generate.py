"""Generation with a published vocabulary equals that of transformers: languages, prompts, lists."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.transcription.recogniser import previous_ids
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, greedy, text_only

ASSETS = Path(__file__).resolve().parents[3] / "shared" / "whisper-assets" / "whisper-multilingual"
N_VOCAB = 51_865
N_TOKENS = 12


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A random Whisper of 1 + 1 layers with the published multilingual tokenizer."""
    if not ASSETS.is_dir():
        pytest.skip("needs the tokenizers in ../shared/whisper-assets")
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    config = WhisperConfig(
        vocab_size=N_VOCAB,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=100,  # 2 s, to be quick
        init_std=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whisper = WhisperForConditionalGeneration(config).eval()
        whisper.model.decoder.embed_positions.weight.data.normal_(0, 0.5)
    whisper.generation_config = GenerationConfig(
        decoder_start_token_id=50_258,
        eos_token_id=50_257,
        pad_token_id=50_257,
        bos_token_id=50_257,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": 50_259 + i for i, code in enumerate(list(LANGUAGES)[:99])},
        task_to_id={"transcribe": 50_359, "translate": 50_358},
        no_timestamps_token_id=50_363,
        prev_sot_token_id=50_361,
        max_initial_timestamp_index=50,
        suppress_tokens=[1, 2, 7, 50_360],
        begin_suppress_tokens=[220, 50_257],
        return_timestamps=False,
    )
    folder = tmp_path_factory.mktemp("multilingual")
    for path in ASSETS.iterdir():
        shutil.copy(path, folder)
    made = Backbone(whisper, _tokenizer(folder))
    made.save_pretrained(folder)
    return Backbone.from_pretrained(folder, offline=True)


def _tokenizer(folder: Path) -> Any:
    from transformers import WhisperTokenizer

    return WhisperTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def mel() -> torch.Tensor:
    return torch.randn(3, 80, 200, generator=torch.Generator().manual_seed(1))


MARKERS = tuple(range(50_258, N_VOCAB))


def ours(
    backbone: Backbone, mel: torch.Tensor, language: str, config: SearchConfig
) -> list[tuple[int, ...]]:
    n_frames = torch.full((len(mel),), 200)
    with torch.inference_mode():
        encoded = backbone.encode(mel, n_frames)
    config = text_only(config, backbone.eos, N_VOCAB)
    return list(backbone.generate(encoded, config, language=language).tokens)


def theirs(
    backbone: Backbone, mel: torch.Tensor, language: str, beams: int, **options: Any
) -> list[tuple[int, ...]]:
    suppress = [*backbone.whisper.generation_config.suppress_tokens, *MARKERS]
    suppress += options.pop("suppress", [])
    found = backbone.whisper.generate(
        mel,
        language=language,
        task="transcribe",
        num_beams=beams,
        max_new_tokens=N_TOKENS,
        do_sample=False,
        suppress_tokens=suppress,
        early_stopping=False,
        renormalize_logits=True,
        **options,
    )
    prompt = backbone.prompt_ids(language)
    rows = []
    for row in found.tolist():
        # What comes back begins after the prompt, or with it.
        start = row.index(prompt[-1]) + 1 if prompt[-1] in row else 0
        row = row[start:]
        rows.append(tuple(row[: row.index(backbone.eos)] if backbone.eos in row else row))
    return rows


@pytest.mark.parametrize(("language", "beams"), [("en", 3), ("de", 1), ("zh", 1)])
def test_languages(backbone: Backbone, mel: torch.Tensor, language: str, beams: int) -> None:
    config = SearchConfig(beams, max_tokens=N_TOKENS)
    found = ours(backbone, mel, language, config)
    assert found == theirs(backbone, mel, language, beams)
    assert all(found)


def test_languages_differ(backbone: Backbone, mel: torch.Tensor) -> None:
    config = SearchConfig(max_tokens=N_TOKENS)
    assert len({str(ours(backbone, mel, code, config)) for code in ("en", "de", "zh")}) == 3


@pytest.mark.parametrize("beams", [1, 3])
def test_prompts(backbone: Backbone, mel: torch.Tensor, beams: int) -> None:
    prompt = backbone.tokenizer.get_prompt_ids("Names: Zoë, Bjørn", return_tensors="pt")
    prefix = previous_ids(backbone, "Names: Zoë, Bjørn")
    assert list(prefix) == prompt.tolist()
    config = SearchConfig(beams, max_tokens=N_TOKENS, prefix=prefix)
    found = ours(backbone, mel, "en", config)
    assert found == theirs(backbone, mel, "en", beams, prompt_ids=prompt)
    assert found != ours(backbone, mel, "en", SearchConfig(beams, max_tokens=N_TOKENS))


def test_a_long_prompt_keeps_its_end(backbone: Backbone) -> None:
    text = " ".join(f"word{i}" for i in range(300))
    prefix = previous_ids(backbone, text)
    assert len(prefix) == 448 // 2
    assert backbone.text(prefix[1:]).endswith("word299")
    assert previous_ids(backbone, " ") == ()


def test_a_model_that_takes_no_prompt_says_so(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dict(backbone.vocabulary)
    known.pop("<|startofprev|>")
    monkeypatch.setitem(vars(backbone), "vocabulary", known)
    with pytest.raises(ConfigError, match="takes no prompt"):
        previous_ids(backbone, "names")


# Drawn tokens ------------------------------------------------------------------------------------


def uneven(tokens: torch.Tensor) -> torch.Tensor:
    """A model without memory: probabilities 0.7, 0.2 and 0.1."""
    return torch.tensor([[0.7, 0.2, 0.1]]).log().expand(len(tokens), -1)


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    n = 4_000
    prompt = torch.zeros(n, 1, dtype=torch.int64)
    for temperature, power in ((1.0, 1.0), (0.5, 2.0)):
        config = SearchConfig(max_tokens=1, temperature=temperature, seeds=tuple(range(n)))
        found = greedy(uneven, prompt, eos=2, config=config)
        expected = torch.tensor([0.7, 0.2, 0.1]) ** power
        expected /= expected.sum()
        drawn = [row[0] if row else 2 for row in found.tokens]
        shares = torch.bincount(torch.tensor(drawn), minlength=3) / n
        assert shares.tolist() == pytest.approx(expected.tolist(), abs=0.03)


def test_log_probabilities_are_the_models_own() -> None:
    config = SearchConfig(max_tokens=3, temperature=5.0, seeds=(1,))
    found = greedy(uneven, torch.zeros(1, 1, dtype=torch.int64), eos=2, config=config)
    logs = torch.tensor([0.7, 0.2, 0.1]).log().tolist()
    assert list(found.logprobs[0]) == pytest.approx([logs[t] for t in found.tokens[0]])


def test_a_row_draws_the_same_whatever_is_beside_it() -> None:
    seeds = (5, 17, 40)
    settings: dict[str, Any] = {"max_tokens": 9, "temperature": 1.0, "suppress": (2,)}
    together = greedy(
        uneven,
        torch.zeros(3, 1, dtype=torch.int64),
        eos=2,
        config=SearchConfig(**settings, seeds=seeds),
    )
    for row, seed in enumerate(seeds):
        alone = greedy(
            uneven,
            torch.zeros(1, 1, dtype=torch.int64),
            eos=2,
            config=SearchConfig(**settings, seeds=(seed,)),
        )
        assert alone.tokens[0] == together.tokens[row]
    assert len(set(together.tokens)) == 3


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ShapeError, match="1 seeds do not fit 2 rows"):
        greedy(
            uneven,
            torch.zeros(2, 1, dtype=torch.int64),
            eos=2,
            config=SearchConfig(temperature=1.0, seeds=(0,)),
        )
    with pytest.raises(ConfigError, match="without beams"):
        SearchConfig(beam_size=2, temperature=0.5)
    with pytest.raises(ConfigError, match="temperature is -1"):
        SearchConfig(temperature=-1)
    with pytest.raises(ConfigError, match="seeds are 0 or more"):
        SearchConfig(seeds=(-3,))
