"""Doing it all again: order, resuming, what makes a step run anew, failures, and the real list."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from eval import reproduce
from eval.reproduce import CONFIG, ReproduceConfig, arguments, ready, run_all
from eval.steps import Step, content_hash
from hyperasr.errors import ConfigError
from train.program import read_config

ROOT = Path(__file__).parents[2]
QUIET = Console(quiet=True)


def writes(name: str, makes: str, *needs: str, **more: Any) -> Step:
    """A step that adds a line to the file it makes."""
    code = f"open('{makes}', 'a').write('made\\n'); print('hello')"
    run = f"python -c {shlex.quote(code)}"
    return Step(name, run, (Path(makes),), 0.01, needs=tuple(map(Path, needs)), **more)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def times(name: str) -> int:
    return len(Path(name).read_text().splitlines())


def test_steps_run_once_and_again_only_where_something_changed() -> None:
    Path("a.yaml").write_text("x: 1\n")
    steps = (
        writes("first", "one", inputs=(Path("a.yaml"),)),
        writes("second", "two", "one"),
        writes("third", "three"),
    )
    config = ReproduceConfig(steps)
    assert run_all(config, QUIET) == 3
    assert Path("runs/reproduce/first.log").read_text() == "hello\n"
    assert run_all(config, QUIET) == 0
    # A changed input: the step itself, and what stands on what it makes; not the third.
    Path("a.yaml").write_text("x: 2\n")
    assert run_all(config, QUIET) == 2
    assert [times(name) for name in ("one", "two", "three")] == [2, 2, 1]
    # What was made is gone.
    Path("three").unlink()
    assert run_all(config, QUIET) == 1
    # Another command of the same name.
    code = shlex.quote("open('three', 'w').write('x')")
    changed = Step("third", f"python -c {code}", (Path("three"),), 0.01)
    assert run_all(ReproduceConfig((*steps[:2], changed)), QUIET) == 1
    assert Path("three").read_text() == "x"


def test_it_stops_at_the_first_failure_and_goes_on_from_there() -> None:
    code = "import os, sys; print('no luck'); sys.exit(0 if os.path.exists('luck') else 3)"
    gate = Step("gate", f"python -c {shlex.quote(code)}", (Path("one"),), 0.01)
    config = ReproduceConfig((writes("first", "one"), gate, writes("last", "two")))
    with pytest.raises(
        ConfigError, match=r"step gate failed \(status 3\).*gate\.log.*no luck"
    ) as e:
        run_all(config, QUIET)
    assert "\n" not in str(e.value)
    assert not Path("two").exists()
    Path("luck").touch()
    assert run_all(config, QUIET) == 2
    assert times("one") == 1


def test_a_step_that_makes_nothing_has_failed() -> None:
    lazy = Step("lazy", "python -c pass", (Path("nothing"),), 0.01)
    with pytest.raises(ConfigError, match=r"step lazy failed \(no nothing\)"):
        run_all(ReproduceConfig((lazy,)), QUIET)
    assert not Path("runs/reproduce/lazy.json").exists()


def test_parts_choose_and_missing_needs_are_told_before_anything_runs() -> None:
    steps = (
        writes("train", "model", part="adapters"),
        writes("free", "free"),
        writes("score", "table", "model"),
    )
    with pytest.raises(ConfigError, match=r"step score needs model.*step train of part 'adapters'"):
        run_all(ReproduceConfig(steps), QUIET)
    assert not Path("free").exists()
    assert run_all(ReproduceConfig(steps, parts=("adapters", "evaluate")), QUIET) == 3


def test_always_means_always() -> None:
    config = ReproduceConfig((writes("page", "page", always=True),))
    assert [run_all(config, QUIET) for _ in range(2)] == [1, 1]


def test_folders_of_corpora_are_put_in_or_asked_for() -> None:
    step = Step("speech", "python -m x --an4 {an4}", (Path("o"),), 1, part="recordings")
    config = ReproduceConfig((step,), parts=("recordings",))
    with pytest.raises(ConfigError, match="give --an4 FOLDER"):
        run_all(config, QUIET)
    config = ReproduceConfig((step,), an4=Path("with space"))
    assert config.command_of(step) == [sys.executable, "-m", "x", "--an4", "with space"]
    many = Step("many", "torchrun -m x", (Path("o"),), 1)
    assert config.command_of(many)[1:] == ["-m", "torch.distributed.run", "-m", "x"]


def test_steps_run_beside_each_other_where_nothing_is_in_the_way() -> None:
    # Each waits for the file of the other, so both end only if they run at the same time.
    def meets(mine: str, other: str) -> Step:
        code = (
            f"import os, time; open('{mine}', 'w').write('x')\n"
            f"while not os.path.exists('{other}'): time.sleep(0.02)"
        )
        return Step(mine, f"python -c {shlex.quote(code)}", (Path(mine),), 0.01)

    last = writes("last", "three", "one", "two")
    assert run_all(ReproduceConfig((meets("one", "two"), meets("two", "one"), last)), QUIET) == 3


def test_what_may_start_next() -> None:
    one, two = writes("one", "1"), writes("two", "2", "1")
    three, four = writes("three", "3"), writes("four", "4", "2")
    alone, after = writes("alone", "5", alone=True), writes("after", "6")
    steps = [two, three, four, alone, after]
    assert ready([one, *steps], [], 2) is one
    assert ready(steps, [one], 2) is three, "two needs what one makes"
    assert ready(steps, [one], 1) is None
    assert ready([two, four], [one], 3) is None, "four needs what nobody has started"
    assert ready([alone, after], [four], 2) is None
    assert ready([two, alone, after], [one], 2) is None, "nothing overtakes what runs alone"
    assert ready([alone, after], [], 2) is alone
    assert ready([after], [alone], 2) is None
    assert ready([], [], 2) is None
    named = writes("named", "7", inputs=(Path("1"),))
    assert ready([named], [one], 2) is None, "what one reads may not be changing"


def test_a_step_beside_a_failing_one_comes_to_its_end() -> None:
    code = "import time; time.sleep(1); open('slow', 'w').write('x')"
    slow = Step("slow", f"python -c {shlex.quote(code)}", (Path("slow"),), 0.01)
    fails = Step("fails", "python -c 1/0", (Path("never"),), 0.01)
    config = ReproduceConfig((fails, slow, writes("later", "late")))
    with pytest.raises(ConfigError, match="step fails failed"):
        run_all(config, QUIET)
    assert Path("runs/reproduce/slow.json").exists()
    assert not Path("late").exists()


def test_the_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    config = ReproduceConfig((writes("a", "x"),))
    assert config.environment_of(writes("a", "x"))["OMP_NUM_THREADS"] == "4"
    assert config.environment_of(writes("a", "x", alone=True))["OMP_NUM_THREADS"] == "8"
    assert "OMP_NUM_THREADS" not in config.environment_of(Step("t", "torchrun x", (Path("o"),), 1))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert config.environment_of(writes("a", "x"))["OMP_NUM_THREADS"] == "3", "as the user says"


def test_the_list_tells_what_is_done_and_its_own_time(capsys) -> None:
    config = ReproduceConfig((writes("first", "one"), writes("second", "two", part="adapters")))
    run_all(config, QUIET)
    marker = Path("runs/reproduce/first.json")
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "seconds": 1020.0}))
    console = Console(width=200)
    reproduce.print_steps(config, console)
    text = capsys.readouterr().out
    assert re.search(r"first .* 17 .* done", text)
    assert re.search(r"second .* not asked for", text)
    assert "about 0 minutes to run" in text


def test_a_folder_hash_sees_names_and_contents() -> None:
    Path("d/e").mkdir(parents=True)
    Path("d/e/x").write_text("1")
    first = content_hash(Path("d"))
    Path("d/e/x").write_text("2")
    second = content_hash(Path("d"))
    Path("d/e/x").rename("d/e/y")
    third = content_hash(Path("d"))
    assert len({first, second, third}) == 3
    # Of recordings the size counts.
    Path("d/a.wav").write_bytes(b"12")
    fourth = content_hash(Path("d"))
    Path("d/a.wav").write_bytes(b"34")
    assert content_hash(Path("d")) == fourth != third
    Path("d/a.wav").write_bytes(b"345")
    assert content_hash(Path("d")) != fourth


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": ()}, "there are no steps; give --config"),
        ({"processes": 0}, "processes is 0"),
        ({"parts": ("all",)}, "parts are backbone, recordings, adapters, evaluate, not all"),
        ({"steps": (writes("a", "x"), writes("a", "y"))}, "two steps are called 'a'"),
    ],
)
def test_bad_settings_are_refused(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ReproduceConfig(**{"steps": (writes("s", "x"),), **values})


def test_bad_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="step a: the part is one of"):
        writes("a", "x", part="everything")
    with pytest.raises(ConfigError, match="step a needs a command"):
        Step("a", "python", (), 1)


def test_arguments_name_the_file_and_let_list_stand_alone() -> None:
    assert arguments(["--list"]) == ["--config", CONFIG, "--list=true"]
    assert arguments(["--list", "false"])[2:] == ["--list", "false"]
    assert arguments(["--config=x.yaml", "--list", "--an4", "a"]) == [
        "--config=x.yaml",
        "--list=true",
        "--an4",
        "a",
    ]


@pytest.fixture
def real() -> ReproduceConfig:
    """The committed list."""
    return read_config(ReproduceConfig, ["--config", str(ROOT / CONFIG)])


def test_every_command_of_the_list_exists_and_is_in_order(real) -> None:
    made: set[Path] = set()
    for step in real.steps:
        words = shlex.split(step.run)
        module = words[words.index("-m") + 1]
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
        named = [Path(word) for word in words if word.endswith(".yaml")]
        for path in (*named, *step.inputs):
            assert (ROOT / path).is_file(), path
        makers = {path for other in real.steps for path in other.makes}
        for path in step.needs:
            assert path in made or path not in makers or (ROOT / path).exists(), (step.name, path)
        made.update(step.makes)


def test_what_an_evaluation_reads_stands_among_its_needs(real) -> None:
    for step in real.steps:
        if step.part != "evaluate":
            continue  # the trainings that an evaluation makes for itself
        config = next((w for w in shlex.split(step.run) if w.startswith("eval/configs")), None)
        bench = yaml.safe_load((ROOT / config).read_text()).get("bench", {}) if config else {}
        for path in bench.get("systems", {}).values():
            assert Path(path) in step.needs, (step.name, path)


def test_every_evaluation_with_a_configuration_is_a_step(real) -> None:
    run = {word for step in real.steps for word in shlex.split(step.run)}
    there = {f"eval/configs/{path.name}" for path in (ROOT / "eval/configs").glob("*.yaml")}
    assert there - run == {"eval/configs/reproduce.yaml"}


def test_every_result_of_the_readme_is_made_by_a_step(real) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    made = {str(path) for step in real.steps for path in step.makes}
    assert set(re.findall(r"<!-- table: (\S+)", readme)) <= made


def test_the_evaluation_takes_less_than_two_hours(real) -> None:
    alone = sum(step.minutes for step in real.chosen() if step.alone)
    shared = sum(step.minutes for step in real.chosen() if not step.alone)
    assert alone + shared / real.processes < 120


def test_what_measures_time_runs_alone(real) -> None:
    timed = {"speed", "training_cost", "analysis_speed"}
    assert timed <= {step.name for step in real.steps if step.alone}
    assert all(step.alone for step in real.steps if step.always or "torchrun" in step.run)
