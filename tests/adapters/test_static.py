"""Static LoRA: global, by cohort, by speaker."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hyperasr.adapters import StaticLoRA, StaticLoRAConfig, lora
from hyperasr.errors import ConfigError

FC1 = {"decoder.fc1": lora.TargetShape(2, 32, 128)}
COHORTS = ("stuttering", "dysarthria", "typical")
BY_COHORT = StaticLoRAConfig(rank=3, alpha=6.0, by="cohort", groups=COHORTS)


def run(whisper: Any, factors: Any = None, rows: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    inputs = {
        "encoder_outputs": (torch.randn(rows, 6, 32, generator=g),),
        "decoder_input_ids": torch.randint(4, 200, (rows, 5), generator=g),
        "use_cache": False,
    }
    if factors is None:
        return whisper(**inputs).logits
    with lora.using(whisper, factors):
        return whisper(**inputs).logits


def test_global_factors_are_shared(tiny_whisper: Any) -> None:
    source = StaticLoRA(StaticLoRAConfig(rank=3, alpha=6.0), FC1)
    torch.nn.init.normal_(source.B["decoder_fc1"], generator=torch.Generator().manual_seed(1))
    factors = source(torch.randn(4, 9), groups=["anything"])
    assert factors.shared
    assert factors.n_utt == 1
    assert factors.scaling == 2.0
    assert factors["decoder.fc1"].A.shape == (2, 1, 3, 32)
    adapted = run(tiny_whisper, factors)
    assert (adapted - run(tiny_whisper)).abs().max() > 0.01
    with lora.merged(tiny_whisper, factors):
        torch.testing.assert_close(adapted, run(tiny_whisper), atol=1e-4, rtol=1e-4)


def test_groups_select_their_rows() -> None:
    source = StaticLoRA(BY_COHORT, FC1)
    factors = source(groups=["typical", "stuttering", "typical"])
    assert not factors.shared
    a = source.A["decoder_fc1"]
    assert torch.equal(factors["decoder.fc1"].A, a[:, [2, 0, 2]])
    assert not torch.equal(a[:, 0], a[:, 2])
    assert not torch.equal(a[0], a[1])


def test_gradients_reach_the_groups_of_the_batch_only(tiny_whisper: Any) -> None:
    tiny_whisper.requires_grad_(False)
    source = StaticLoRA(BY_COHORT, FC1)
    torch.nn.init.normal_(source.B["decoder_fc1"], generator=torch.Generator().manual_seed(1))
    groups = ["typical", "stuttering", "typical", "typical"]
    run(tiny_whisper, source(groups=groups)).square().mean().backward()
    for parameter in source.parameters():
        norms = parameter.grad.flatten(2).norm(dim=(0, 2))
        assert norms[0] > 0
        assert norms[1] == 0
        assert norms[2] > 0
    assert all(p.grad is None for p in tiny_whisper.parameters())


def test_budget_by_hand() -> None:
    one = StaticLoRA(StaticLoRAConfig(rank=3), FC1).budget(1_000_000)
    n_source = 3 * 2 * (32 + 128)
    assert f"source {n_source} parameters (0.096 % of the backbone's 1,000,000)" in one
    assert "generates 0 per utterance" in one
    assert f"source {3 * n_source:,} " in StaticLoRA(BY_COHORT, FC1).budget(1_000_000)


def test_initial_values_follow_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again = StaticLoRA(BY_COHORT, FC1), StaticLoRA(BY_COHORT, FC1)
    other = StaticLoRA(BY_COHORT, FC1, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.A["decoder_fc1"], again.A["decoder_fc1"])
    assert not torch.equal(first.A["decoder_fc1"], other.A["decoder_fc1"])
    assert 0.9 * 32**-0.5 < first.A["decoder_fc1"].abs().max() <= 32**-0.5


@pytest.mark.parametrize("groups", [None, [], "typical"])
def test_missing_groups(groups: Any) -> None:
    with pytest.raises(ConfigError, match="need groups"):
        StaticLoRA(BY_COHORT, FC1)(groups=groups)


@pytest.mark.parametrize(
    ("config", "group", "closest"),
    [
        (BY_COHORT, "stutter", "stuttering"),
        (StaticLoRAConfig(by="speaker", groups=("ann", "bob")), "anna", "ann"),
    ],
)
def test_unknown_group(config: StaticLoRAConfig, group: str, closest: str) -> None:
    message = f"no factors for {config.by} '{group}'.*'{closest}'"
    with pytest.raises(ConfigError, match=message):
        StaticLoRA(config, FC1)(groups=[config.groups[0], group])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": -1.0}, "alpha"),
        ({"by": "session"}, "by must be one of"),
        ({"by": "cohort"}, "needs groups"),
        ({"groups": ("a",)}, "leave groups empty"),
        ({"by": "speaker", "groups": ("a", "a")}, "twice"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StaticLoRAConfig(**settings)
