"""Every YAML is read by its program: unknown keys and impossible values would raise."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.speed import SpeedConfig
from eval.zero_shot import ZeroShotConfig
from hyperasr.config import parse
from train.backbone import BackboneConfig
from train.baselines import FineTuneConfig
from train.meta import MetaConfig
from train.recordings import RecordingsConfig

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "backbone": BackboneConfig,
    "decoder_ft": FineTuneConfig,
    "recordings": RecordingsConfig,
    "speed": SpeedConfig,
    "zero_shot": ZeroShotConfig,
}


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("train/configs/*.yaml"), *ROOT.glob("eval/configs/*.yaml")]),
    ids=lambda p: p.stem,
)
def test_config_is_valid(path) -> None:
    config = parse(PROGRAMS.get(path.stem, MetaConfig), ["--config", str(path)])
    assert config.out
