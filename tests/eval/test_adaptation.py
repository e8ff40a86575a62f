"""Angles between groups: what is put in comes out, and intervals draw whole speakers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eval.lib.adaptation import (
    AngleSettings,
    Who,
    pair_interval,
    size_rows,
    update_rows,
    weight_rows,
)
from hyperasr.adapters.lora import delta_weight
from hyperasr.errors import ConfigError
from hyperasr.types import LayerFactors, LoRAFactors

SETTINGS = AngleSettings(
    ranks=(1, 2), weight_ranks=(3,), n_null=200, n_splits=4, n_resamples=50, seed=1
)


def cohort_factors(generator: torch.Generator, who: Who, turn: float) -> LoRAFactors:
    """Updates that read from one plane a cohort, the planes `turn` apart, in bases of their own."""
    frame = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0]
    first = frame[:, :2]
    second = math.cos(turn) * first + math.sin(turn) * frame[:, 2:4]
    planes = {"stuttering": first, "typical": second}
    n = len(who.speakers)
    A = torch.stack([planes[c].mT for c in who.cohorts])
    mixing = torch.randn(n, 2, 2, generator=generator)
    B = torch.randn(n, 30, 2, generator=generator)
    pair = LayerFactors((mixing @ A)[None], B[None])
    return LoRAFactors({"decoder.fc1": pair}, scaling=0.5)


@pytest.fixture
def who() -> Who:
    """Four voices, each typical and stuttering, three utterances of each person."""
    rows = [(s, c) for s in "abcd" for c in ("stuttering", "typical") for _ in range(3)]
    speakers, cohorts = [r[0] for r in rows], [r[1] for r in rows]
    return Who(speakers, [f"{s}-{c}" for s, c in rows], cohorts)


def test_planes_of_cohorts_are_found_at_every_level(generator, who) -> None:
    turn = math.radians(35)
    rows = update_rows(cohort_factors(generator, who, turn), who, SETTINGS)
    row_space = {
        (r["level"], r["relation"], r["cohort"], r["with_cohort"]): r
        for r in rows
        if r["space"] == "row" and r["rank"] == 2
    }
    for level in ("utterance", "cohort"):
        apart = row_space[level, "other_cohort", "stuttering", "typical"]
        assert apart["value"] == pytest.approx(35, abs=1e-3)
        assert apart["overlap"] == pytest.approx(math.cos(turn) ** 2, abs=1e-4)
    assert row_space["utterance", "same_voice", "stuttering", "typical"]["value"] == pytest.approx(
        35, abs=1e-3
    )
    for level, relation in (
        ("utterance", "same_person"),
        ("utterance", "same_cohort"),
        ("cohort", "split_half"),
    ):
        for cohort in ("stuttering", "typical"):
            assert row_space[level, relation, cohort, cohort]["value"] < 1e-2
    # What they write into is random: as far apart as chance has it.
    written = [r for r in rows if r["space"] == "column" and r["relation"] == "same_cohort"]
    for row in written:
        if row["level"] == "utterance":
            assert row["value"] == pytest.approx(row["null"], abs=8)
        assert row["null_overlap"] == pytest.approx(row["null_overlap_expected"], abs=0.02)


def test_pairs_are_counted(generator, who) -> None:
    rows = update_rows(cohort_factors(generator, who, 0.3), who, SETTINGS)
    n = {
        (r["level"], r["relation"]): r["n_pairs"]
        for r in rows
        if r["space"] == "row" and r["rank"] == 1 and r["cohort"] == "stuttering"
    }
    assert n["utterance", "same_person"] == 4 * 3
    assert n["utterance", "same_cohort"] == 6 * 9
    assert n["utterance", "same_voice"] == 4 * 9
    assert n["utterance", "other_cohort"] == 12 * 9
    assert n["cohort", "other_cohort"] == 1
    assert n["cohort", "split_half"] == 4


def test_the_interval_of_a_mean_over_pairs_is_that_of_drawing_speakers_one_by_one() -> None:
    rng = np.random.default_rng(0)
    speakers = [s for s in "abcdef" for _ in range(3)]
    pairs = [(i, j) for i in range(18) for j in range(i + 1, 18)]
    level = {s: rng.normal() for s in "abcdef"}
    values = np.array([level[speakers[i]] + level[speakers[j]] for i, j in pairs])
    first, second = ([speakers[p[side]] for p in pairs] for side in (0, 1))
    found = pair_interval(values, first, second, n_resamples=4000, seed=0)
    means = []
    for _ in range(4000):
        times = {s: 0 for s in "abcdef"}
        for s in rng.choice(list("abcdef"), 6):
            times[s] += 1
        weights = np.array(
            [
                times[a] if a == b else times[a] * times[b]
                for a, b in zip(first, second, strict=True)
            ]
        )
        means.append((weights * values).sum() / weights.sum())
    low, high = np.percentile(means, [2.5, 97.5])
    assert found["low"] == pytest.approx(low, abs=0.06)
    assert found["high"] == pytest.approx(high, abs=0.06)
    assert "one speaker" in pair_interval(values[:1], ["a"], ["a"])["reason"]


def test_sizes_are_those_of_the_full_matrices(generator, tiny_whisper) -> None:
    linears = [layer.fc1 for layer in tiny_whisper.model.decoder.layers]
    A = torch.randn(2, 4, 3, 32, generator=generator)
    B = 0.1 * torch.randn(2, 4, 128, 3, generator=generator)
    factors = LoRAFactors({"decoder.fc1": LayerFactors(A, B)}, scaling=2.0)
    who = Who(list("abab"), list("abab"), ["stuttering"] * 2 + ["typical"] * 2)
    rows = size_rows(factors, tiny_whisper, who, 20)
    for layer, linear in enumerate(linears):
        norms = delta_weight(factors, "decoder.fc1", layer).flatten(1).norm(dim=1)
        each = (norms / linear.weight.norm()).tolist()
        found = {
            r["cohort"]: r["value"]
            for r in rows
            if r["measure"] == "relative_norm" and r["layer"] == layer
        }
        assert found["all"] == pytest.approx(np.mean(each), rel=1e-5)
        assert found["typical"] == pytest.approx(np.mean(each[2:]), rel=1e-5)
    shared = LoRAFactors(
        {"decoder.fc1": LayerFactors(A[:, :1], B[:, :1])}, scaling=2.0, shared=True
    )
    assert {r["cohort"] for r in size_rows(shared, tiny_whisper, None, 20)} == {"all"}


def test_weights_turn_as_far_as_their_full_svd_says(generator, tiny_whisper) -> None:
    A = torch.randn(2, 2, 2, 32, generator=generator)
    B = 0.1 * torch.randn(2, 2, 128, 2, generator=generator)
    factors = LoRAFactors({"decoder.fc1": LayerFactors(A, B)})
    rows = weight_rows(factors, tiny_whisper, Who("ab", "ab", ["typical"] * 2), SETTINGS)
    for layer, module in enumerate(tiny_whisper.model.decoder.layers):
        weight = module.fc1.weight.detach().double()
        means = []
        for delta in delta_weight(factors, "decoder.fc1", layer).double():
            v, w = (torch.linalg.svd(m)[2][:3] for m in (weight, weight + delta))
            cosines = torch.linalg.svdvals(v @ w.mT).clamp(max=1)
            means.append(float(torch.rad2deg(torch.acos(cosines)).mean()))
        row = next(
            r for r in rows if (r["layer"], r["space"], r["cohort"]) == (layer, "row", "all")
        )
        assert row["value"] == pytest.approx(np.mean(means), abs=1e-5)


def test_bad_input_is_one_clear_error(generator, who) -> None:
    factors = cohort_factors(generator, who, 0.3)
    with pytest.raises(ConfigError, match=r"layer 0, .*NaN"):
        update_rows(factors.map(lambda t: t * float("nan")), who, SETTINGS)
    with pytest.raises(ConfigError, match="layer 0, of utterance 0 has rank 2"):
        update_rows(factors, who, AngleSettings(ranks=(3,)))
    with pytest.raises(ConfigError, match="ranks"):
        AngleSettings(ranks=())
