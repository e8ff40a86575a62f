"""Search against transformers, against plain Python, and against exhaustive enumeration."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.types import Decoded, EncoderOutput
from hyperasr.whisper.decoder import DecoderStep
from hyperasr.whisper.search import SearchConfig, beam, greedy

EOS = 2
N_VOCAB = 200
PROMPT = (3, 10, 11)


class TableStep:
    """A model in which each utterance has its own logits after each prefix.

    Args:
        utterances: a key for each utterance; the same key means the same logits.
        n_vocab: number of tokens.
        rows_per_utt: beams of each utterance.
        blocked: share of the logits that are -inf.
        dtype: of the logits.
    """

    def __init__(
        self,
        utterances: Sequence[int],
        n_vocab: int,
        rows_per_utt: int = 1,
        blocked: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.keys = [key for key in utterances for _ in range(rows_per_utt)]
        self.rows_per_utt = rows_per_utt
        self.options = (n_vocab, blocked, dtype)
        self.prefixes: list[tuple[int, ...]] = [() for _ in self.keys]
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, tokens: Tensor) -> Tensor:
        self.calls.append(tuple(tokens.shape))
        rows = zip(self.prefixes, tokens.tolist(), strict=True)
        self.prefixes = [prefix + tuple(new) for prefix, new in rows]
        pairs = zip(self.keys, self.prefixes, strict=True)
        return torch.stack([table(key, prefix, *self.options) for key, prefix in pairs])

    def keep(self, rows: Tensor) -> None:
        self.keys = [self.keys[i] for i in rows.tolist()]
        self.prefixes = [self.prefixes[i] for i in rows.tolist()]

    def reorder(self, rows: Tensor) -> None:
        here = torch.arange(len(rows)) // self.rows_per_utt
        assert torch.equal(rows // self.rows_per_utt, here), "a beam left its utterance"
        self.prefixes = [self.prefixes[i] for i in rows.tolist()]


@cache
def table(
    key: int, prefix: tuple[int, ...], n_vocab: int, blocked: float, dtype: torch.dtype
) -> Tensor:
    """Logits (n_vocab,) after a prefix, prompt included; the same ones every time."""
    source = random.Random(repr((key, prefix)))
    logits = [source.gauss(0.0, 1.5) for _ in range(n_vocab)]
    for i in range(1, n_vocab):  # token 0 is always possible
        if source.random() < blocked:
            logits[i] = -math.inf
    return torch.tensor(logits, dtype=dtype)


def table_logprobs(
    key: int, prefix: tuple[int, ...], n_vocab: int, blocked: float = 0.0
) -> list[float]:
    """The same as float64 log-probabilities."""
    return table(key, prefix, n_vocab, blocked, torch.float32).double().log_softmax(-1).tolist()


def plain_beam(
    key: int, prompt: tuple[int, ...], eos: int, n_vocab: int, config: SearchConfig, **options: Any
) -> tuple[int, ...]:
    """Beam search of one utterance in plain Python lists: the slow, obvious twin."""
    k = config.beam_size
    running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, config.max_tokens + 1):
        candidates = [
            (total + logprob, (*tokens, token))
            for total, tokens in running
            for token, logprob in enumerate(
                table_logprobs(key, prompt + tokens, n_vocab, **options)
            )
            if logprob > -math.inf
        ]
        candidates = sorted(candidates, reverse=True)[: 2 * k]
        for total, tokens in candidates[:k]:
            if tokens[-1] == eos or length == config.max_tokens:
                finished.append((total / length, tokens))
        finished = sorted(finished, reverse=True)[:k]
        running = [c for c in candidates if c[1][-1] != eos][:k]
        if len(finished) == k and (not running or running[0][0] / length <= finished[-1][0]):
            break
    best = finished[0][1]
    return best[: best.index(eos)] if eos in best else best


def small_whisper(seed: int, eos_bias: float) -> Any:
    """A random Whisper of 1 s context; the higher the bias, the earlier its sequences end."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=N_VOCAB,
        num_mel_bins=80,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=50,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=EOS,
        decoder_start_token_id=3,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=0.2,  # large enough that logits depend on the audio
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whisper = WhisperForConditionalGeneration(config).eval()
    whisper.requires_grad_(False)
    whisper.model.decoder.embed_positions.weight.mul_(2.0)  # else it repeats a token for ever
    whisper.proj_out.bias = torch.nn.Parameter(torch.zeros(N_VOCAB), requires_grad=False)
    whisper.proj_out.bias[EOS] = eos_bias
    return whisper


def encode(whisper: Any, n_utt: int, seed: int = 0) -> Tensor:
    """Encoder states (n_utt, 50, 32) of random audio."""
    mel = torch.randn(n_utt, 80, 100, generator=torch.Generator().manual_seed(seed))
    return whisper.model.encoder(mel).last_hidden_state


def prompts(n_utt: int) -> Tensor:
    return torch.tensor([PROMPT]).expand(n_utt, -1)


def decode(
    whisper: Any, states: Tensor, config: SearchConfig, max_tokens: Tensor | None = None
) -> Decoded:
    """Our search on our steps of the decoder."""
    prompt = prompts(states.shape[0])
    lengths = torch.full((states.shape[0],), states.shape[1])
    step = DecoderStep(whisper, EncoderOutput(states, lengths), config.beam_size)
    if config.beam_size == 1:
        return greedy(step, prompt, eos=EOS, config=config, max_tokens=max_tokens)
    return beam(step, step.reorder, prompt, eos=EOS, config=config, max_tokens=max_tokens)


def theirs(whisper: Any, states: Tensor, config: SearchConfig) -> tuple[list[tuple], list[float]]:
    """Tokens and scores of transformers' own generate."""
    from transformers import GenerationConfig, GenerationMixin
    from transformers.modeling_outputs import BaseModelOutput

    settings: dict[str, Any] = {"num_beams": config.beam_size, "max_new_tokens": config.max_tokens}
    if config.beam_size > 1:
        settings |= {"early_stopping": False}
    if config.suppress:
        settings["suppress_tokens"] = list(config.suppress)
    if config.begin_suppress:
        settings["begin_suppress_tokens"] = list(config.begin_suppress)
    special = {"pad_token_id": 0, "eos_token_id": EOS, "decoder_start_token_id": 3}
    output: Any = GenerationMixin.generate(
        whisper,
        encoder_outputs=BaseModelOutput(states),
        decoder_input_ids=prompts(states.shape[0]),
        generation_config=GenerationConfig(
            **settings,
            **special,
            do_sample=False,
            renormalize_logits=True,
            return_dict_in_generate=True,
            output_scores=True,
        ),
    )
    texts = []
    for row in output.sequences[:, len(PROMPT) :].tolist():
        texts.append(tuple(row[: row.index(EOS)] if EOS in row else row))
    scores = output.sequences_scores.tolist() if config.beam_size > 1 else []
    return texts, scores


# Parity with transformers -----------------------------------------------------------------------


# Seed and bias of models whose rows end at different lengths, some at the limit.
MODELS = [(0, 3.5), (1, 3.0), (4, 3.0), (10, 2.0), (11, 4.0)]


@pytest.mark.parametrize("beam_size", [1, 2, 4])
@pytest.mark.parametrize(("seed", "eos_bias"), MODELS)
def test_tokens_and_scores_are_those_of_transformers(
    seed: int, eos_bias: float, beam_size: int
) -> None:
    whisper = small_whisper(seed, eos_bias)
    states = encode(whisper, 3, seed)
    config = SearchConfig(beam_size, max_tokens=16)
    ours = decode(whisper, states, config)
    tokens, scores = theirs(whisper, states, config)
    assert list(ours.tokens) == tokens
    if beam_size > 1:
        assert ours.score == pytest.approx(scores, abs=1e-4)
    assert len({len(text) for text in tokens}) > 1


@pytest.mark.parametrize("beam_size", [1, 3])
def test_suppressed_tokens_are_those_of_transformers(beam_size: int) -> None:
    whisper = small_whisper(3, 4.0)
    states = encode(whisper, 3)
    free = SearchConfig(beam_size, max_tokens=16)
    used = {t for row in decode(whisper, states, free).tokens for t in row}
    config = replace(free, suppress=tuple(sorted(used)))
    ours = decode(whisper, states, config)
    assert list(ours.tokens) == theirs(whisper, states, config)[0]
    assert used
    assert not used & {t for row in ours.tokens for t in row}


@pytest.mark.parametrize("beam_size", [1, 2])
def test_tokens_suppressed_at_the_begin_are_those_of_transformers(beam_size: int) -> None:
    whisper = small_whisper(0, 5.0)
    states = encode(whisper, 3)
    free = SearchConfig(beam_size, max_tokens=16)
    assert not all(decode(whisper, states, free).tokens)
    config = replace(free, begin_suppress=(EOS,))
    ours = decode(whisper, states, config)
    assert list(ours.tokens) == theirs(whisper, states, config)[0]
    assert all(ours.tokens)  # the end of text may not come first
    assert any(ours.finished)  # but it may come later


# Scores, and the cache ---------------------------------------------------------------------------


@pytest.mark.parametrize("beam_size", [1, 4])
def test_logprobs_are_those_of_one_pass_without_cache(beam_size: int) -> None:
    whisper = small_whisper(0, 4.0)
    states = encode(whisper, 3)
    ours = decode(whisper, states, SearchConfig(beam_size, max_tokens=16))
    for i, text in enumerate(ours.tokens):
        scored = list(text) + [EOS] * ours.finished[i]
        logits = whisper(
            encoder_outputs=(states[i : i + 1],), decoder_input_ids=torch.tensor([[*PROMPT, *text]])
        ).logits[0, len(PROMPT) - 1 :]
        expected = logits.log_softmax(-1)[range(len(scored)), scored]
        assert ours.logprobs[i] == pytest.approx(expected[: len(text)].tolist(), abs=1e-4)
        assert ours.score[i] == pytest.approx(float(expected.mean()), abs=1e-4)


def test_suppressed_tokens_take_no_probability() -> None:
    step = lambda tokens: torch.tensor([[5.0, 1.0, 0.0]]).expand(tokens.shape[0], -1)  # noqa: E731
    config = SearchConfig(max_tokens=1, suppress=(0,))
    ours = greedy(step, torch.tensor([[0]]), eos=2, config=config)
    assert ours.tokens == ((1,),)
    assert ours.logprobs[0][0] == pytest.approx(-math.log1p(math.exp(-1.0)))


# Slow, obvious twins -----------------------------------------------------------------------------


def test_a_wide_beam_finds_the_best_of_all_sequences() -> None:
    n_vocab, n_max, eos, keys = 4, 4, 1, range(6)
    # Wider than the number of sequences, so that nothing is pruned.
    config = SearchConfig(128, max_tokens=n_max)
    step = TableStep(keys, n_vocab, rows_per_utt=128)
    prompt = torch.zeros(len(keys), 1, dtype=torch.int64)
    ours = beam(step, step.reorder, prompt, eos=eos, config=config)

    def score(key: int, tokens: tuple[int, ...]) -> float:
        total = sum(
            table_logprobs(key, (0, *tokens[:i]), n_vocab)[token] for i, token in enumerate(tokens)
        )
        return total / len(tokens)

    sequences = [
        tokens
        for length in range(1, n_max + 1)
        for tokens in itertools.product(range(n_vocab), repeat=length)
        if eos not in tokens[:-1] and (tokens[-1] == eos or length == n_max)
    ]
    for key, text, ended in zip(keys, ours.tokens, ours.finished, strict=True):
        best = max(sequences, key=lambda tokens, key=key: score(key, tokens))  # type: ignore[misc]
        assert text + (eos,) * ended == best


@pytest.mark.parametrize("blocked", [0.0, 0.6])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 8])
def test_beam_does_what_plain_python_does(beam_size: int, blocked: float) -> None:
    keys, n_vocab, eos = range(12), 5, 1
    config = SearchConfig(beam_size, max_tokens=7)
    step = TableStep(keys, n_vocab, beam_size, blocked)
    prompt = torch.tensor([[0, 3]]).expand(len(keys), -1)
    ours = beam(step, step.reorder, prompt, eos=eos, config=config)
    expected = [plain_beam(key, (0, 3), eos, n_vocab, config, blocked=blocked) for key in keys]
    assert list(ours.tokens) == expected
    assert len({len(text) for text in expected}) > 2
    assert all(math.isfinite(p) for row in ours.logprobs for p in row)


@pytest.mark.parametrize("blocked", [0.0, 0.6])
def test_greedy_does_what_a_beam_of_one_does(blocked: float) -> None:
    keys, config = range(12), SearchConfig(max_tokens=7)
    prompt = torch.tensor([[0, 3]]).expand(len(keys), -1)
    fast, slow = TableStep(keys, 5, blocked=blocked), TableStep(keys, 5, blocked=blocked)
    ours = greedy(fast, prompt, eos=1, config=config)
    twin = beam(slow, slow.reorder, prompt, eos=1, config=config)
    assert (ours.tokens, ours.finished) == (twin.tokens, twin.finished)
    assert ours.score == pytest.approx(twin.score, abs=1e-6)
    assert fast.calls == slow.calls


# Rows --------------------------------------------------------------------------------------------


def table_decode(
    keys: Sequence[int], beam_size: int, max_tokens: Tensor | None = None, n_max: int = 8
) -> Decoded:
    step = TableStep(keys, 5, beam_size)
    prompt = torch.zeros(len(keys), 1, dtype=torch.int64)
    config = SearchConfig(beam_size, max_tokens=n_max)
    if beam_size == 1:
        return greedy(step, prompt, eos=1, config=config, max_tokens=max_tokens)
    return beam(step, step.reorder, prompt, eos=1, config=config, max_tokens=max_tokens)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_batch_mates_and_their_order_change_nothing(beam_size: int) -> None:
    together = table_decode(range(10), beam_size)
    backwards = table_decode(range(9, -1, -1), beam_size)
    alone = [table_decode([key], beam_size) for key in range(10)]
    assert together.tokens == backwards.tokens[::-1] == tuple(one.tokens[0] for one in alone)
    # Bit for bit: nothing of the search itself is reduced over the batch.
    assert together.logprobs == backwards.logprobs[::-1]
    assert together.logprobs == tuple(one.logprobs[0] for one in alone)
    assert len({len(text) for text in together.tokens}) > 2


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_that_have_ended_are_dropped(temperature: float) -> None:
    keys, limits = range(24), torch.tensor([0, 1, 30, 4] * 6)
    seeds = tuple(keys) if temperature else ()
    config = SearchConfig(max_tokens=12, temperature=temperature, seeds=seeds)
    prompt = torch.zeros(len(keys), 2, dtype=torch.int64)
    fast, slow = TableStep(keys, 5), TableStep(keys, 5)
    how: dict[str, Any] = {"eos": 1, "config": config, "max_tokens": limits}
    assert greedy(fast, prompt, keep=fast.keep, **how) == greedy(slow, prompt, **how)
    n_rows = [shape[0] for shape in fast.calls]
    assert len(n_rows) == len(slow.calls)
    assert n_rows == sorted(n_rows, reverse=True)
    assert n_rows[0] == 24
    assert 0 < n_rows[-1] <= 6


@pytest.mark.parametrize("beam_size", [1, 3])
def test_limits_of_rows(beam_size: int) -> None:
    limits = [0, 1, 2, 3, 5, 100, 4, 6]
    ours = table_decode(range(8), beam_size, torch.tensor(limits), n_max=7)
    for key, limit in enumerate(limits):
        if limit == 0:
            assert (ours.tokens[key], ours.finished[key], ours.score[key]) == ((), False, 0.0)
        else:
            alone = table_decode([key], beam_size, n_max=min(limit, 7))
            assert ours.tokens[key] == alone.tokens[0]
            assert ours.finished[key] == alone.finished[0]
            assert ours.score[key] == alone.score[0]
    cut = [len(t) == n for t, n in zip(ours.tokens, limits, strict=True) if n]
    assert any(cut)
    assert not all(cut)


def test_rows_stay_and_the_last_end_stops_the_search() -> None:
    ends_after = torch.tensor([1, 4, 2, 99])
    calls: list[tuple[int, ...]] = []

    def step(tokens: Tensor) -> Tensor:
        calls.append(tuple(tokens.shape))
        logits = torch.zeros(4, 4)
        logits[:, 0] = 1.0
        logits[ends_after < len(calls), 3] = 9.0
        return logits

    prompt = torch.zeros(4, 2, dtype=torch.int64)
    limits = torch.tensor([9, 9, 9, 3])  # the last row never ends, but is not waited for
    ours = greedy(step, prompt, eos=3, config=SearchConfig(), max_tokens=limits)
    assert ours.tokens == ((0,), (0,) * 4, (0,) * 2, (0,) * 3)
    assert ours.finished == (True, True, True, False)
    assert calls == [(4, 2)] + [(4, 1)] * 4


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_nothing_to_decode_calls_nothing(search: str) -> None:
    def step(tokens: Tensor) -> Tensor:
        raise AssertionError

    for n_rows, limits in ((2, torch.tensor([0, 0])), (0, None)):
        prompt = torch.zeros(n_rows, 1, dtype=torch.int64)
        options: dict[str, Any] = {"eos": 1, "config": SearchConfig(), "max_tokens": limits}
        if search == "greedy":
            ours = greedy(step, prompt, **options)
        else:
            ours = beam(step, lambda rows: None, prompt, **options)
        assert ours.tokens == ((),) * n_rows


# Numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beam_size", [1, 3])
def test_half_precision_logits_are_scored_in_float32(beam_size: int) -> None:
    step = TableStep(range(4), 50, beam_size, dtype=torch.bfloat16)
    prompt, config = torch.zeros(4, 1, dtype=torch.int64), SearchConfig(beam_size, max_tokens=6)
    if beam_size == 1:
        ours = greedy(step, prompt, eos=1, config=config)
    else:
        ours = beam(step, step.reorder, prompt, eos=1, config=config)
    for key, (text, logprobs) in enumerate(zip(ours.tokens, ours.logprobs, strict=True)):
        for i, token in enumerate(text):
            logits = table(key, (0, *text[:i]), 50, 0.0, torch.bfloat16)
            assert logprobs[i] == pytest.approx(float(logits.double().log_softmax(-1)[token]), 1e-6)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_logits_of_the_callee_are_left_alone(beam_size: int) -> None:
    logits = torch.randn(2 * beam_size, 6, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    config = SearchConfig(beam_size, max_tokens=3, suppress=(0, 3), begin_suppress=(4,))
    prompt = torch.zeros(2, 1, dtype=torch.int64)
    beam(lambda tokens: logits, lambda rows: None, prompt, eos=5, config=config)
    if beam_size == 1:
        greedy(lambda tokens: logits, prompt, eos=5, config=config)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_logits_that_are_not_finite_are_refused(beam_size: int, bad: float) -> None:
    config = SearchConfig(beam_size, max_tokens=4)
    prompt = torch.zeros(3, 1, dtype=torch.int64)

    def decode_with(bad_row: int, max_tokens: Tensor | None = None) -> Decoded:
        def step(tokens: Tensor) -> Tensor:
            logits = torch.zeros(3 * beam_size, 4)
            logits[bad_row * beam_size :][:beam_size, 2] = bad
            return logits

        options: dict[str, Any] = {"eos": 3, "config": config, "max_tokens": max_tokens}
        if beam_size == 1:
            return greedy(step, prompt, **options)
        return beam(step, lambda rows: None, prompt, **options)

    with pytest.raises(HyperASRError, match=r"rows \[1\]"):
        decode_with(bad_row=1)
    # A row that decodes nothing may hold anything.
    assert decode_with(bad_row=1, max_tokens=torch.tensor([4, 0, 4])).tokens[1] == ()


def test_suppressing_everything_is_refused() -> None:
    config = SearchConfig(suppress=(0, 1, 2))
    with pytest.raises(HyperASRError, match="every token is suppressed"):
        greedy(lambda t: torch.zeros(1, 3), torch.tensor([[0]]), eos=2, config=config)


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_size": 0},
        {"beam_size": 1.5},
        {"max_tokens": 0},
        {"suppress": (-1,)},
        {"begin_suppress": (3, -2)},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SearchConfig(**settings)


def test_a_config_given_lists_is_hashable() -> None:
    assert hash(SearchConfig(suppress=[1, 2])) == hash(SearchConfig(suppress=(1, 2)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("eos", "suppress"), [(5, ()), (1, (9,))], ids=["eos", "suppress"])
def test_tokens_beyond_the_vocabulary_are_refused(eos: int, suppress: tuple[int, ...]) -> None:
    config = SearchConfig(suppress=suppress)
    with pytest.raises(ConfigError):
        greedy(lambda t: torch.zeros(1, 5), torch.tensor([[0]]), eos=eos, config=config)
