"""What common batches are worth: the program from a start of the server to the result file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks import server
from eval.benchmarks.server import Callers, ServerConfig
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from tests.service.serving import running


def test_a_text_of_somebody_else_is_counted(random_model_folder: Path, voice: object) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    waves = [voice(0.7, 130.0), voice(2.0, 220.0)]  # type: ignore[operator]
    with running(model) as served:
        callers = Callers(served.address, waves)
        callers.at_once()
        callers.one_by_one()
        assert (callers.n_answered, callers.n_different, callers.failed) == (4, 0, [])
        assert len(set(callers.expected)) == 2
        callers.expected.reverse()
        callers.at_once()
        assert callers.n_different == 2
        callers.contents[0] = b"no sound"
        callers.one_by_one()
        assert callers.failed == [400]


def test_utterances_are_as_many_as_callers() -> None:
    waves = server.utterances(ServerConfig(n_callers=4, seconds=2.0))
    assert {len(wave) for wave in waves} == {32_000}
    assert len({wave.tobytes() for wave in waves}) == 4
    with pytest.raises(ConfigError, match="too few for 1000 callers"):
        server.utterances(ServerConfig(n_callers=1_000))


@pytest.mark.slow
def test_from_a_model_to_a_result_file(
    random_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServerConfig(
        str(random_model_folder),
        n_callers=2,
        seconds=0.5,
        rounds=2,
        requests=20,
        spoken=1,
        threads=1,
        out=tmp_path / "server.json",
    )
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setattr(server, "read_config", lambda kind: config)
    server.main()
    content = json.loads(config.out.read_text())
    (row,) = content["rows"]
    assert row["benchmark"] == "over_one_at_a_time"
    assert row["ratio"] == pytest.approx(row["seconds"][1] / row["seconds"][0], abs=1e-4)
    assert row["low"] <= row["ratio"] <= row["high"]
    served = content["served"]
    assert (served["n_answered"], served["n_different"], served["failed"]) == (20, 0, [])
    assert np.all(np.array(served["memory_mb"]) > 50)
    assert 0 < served["end_to_final_s"]["median"] < 60
