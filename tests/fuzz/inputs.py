"""Bad inputs, each made of a seed alone: recordings, manifests, settings, options, adapters."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hyperasr.cli.parser import _COMMANDS

Draw = random.Random
RATE = 16_000
CONTAINERS = ("wav", "float.wav", "flac", "mp3", "ogg", "m4a")
FORMATS = ("txt", "json", "srt", "vtt", "csv", "textgrid", "chat", "html")
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 1e308, -1e-9, 10**400, float("nan"), float("inf")),
    *("", " ", "a", "null", "../../up", "/dev/null", "/", ".", "-", "stuttering", "typical", "en"),
    *("\x00", "a\nb", "\x1b[2J", "\u202egpj", "\ud800", "é" * 300, "x" * 5_000),
    *([], [1], ["a", None], {}, {"a": {"b": [1]}}),
)
USUAL_VALUES = (
    *(*FORMATS, "kaldi", "peft", "a.wav", "stuttering", "both", "clean", "int8", "full", "trimmed"),
    *("1", "2", "0.5", "[1]", "[0.2]", "tiny.en", "cpu", "typical", "en", "true", "null", "go on"),
)
PLACES = ("out", "", "-", "a.wav", "a.wav/below")
ODD_LINES = (
    *("batch_size: [", "- 1", "\t", "a: &a [*a]", "? :", "---", "x: *y", "mode: {", "3: 3", ": :"),
    *("beam_size: !!python/object:os.system x", "prompt: !!binary x", "<<: 3", "null: 1", "\x07"),
    *("sources: [a]", "config: c.yaml", "seed: 0x", "temperatures: [.nan]", "é: \u2028"),
)


def recordings(folder: Path) -> dict[str, bytes]:
    """Return half a second of speech-like sound in every container."""
    t = np.arange(RATE // 2) / RATE
    buzz = sum(np.sin(2 * np.pi * k * 120 * t) / k for k in range(1, 15))
    sound = (0.15 * buzz * (1 + np.sin(2 * np.pi * 3 * t))).astype(np.float32)
    made = {}
    for name in CONTAINERS:
        path = folder / f"base.{name}"
        if name == "m4a":
            _write_m4a(path, sound)
        else:
            soundfile.write(path, sound, RATE, subtype="FLOAT" if "float" in name else None)
        made[name] = path.read_bytes()
    return made


def _write_m4a(path: Path, sound: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def spoilt(content: bytes, draw: Draw) -> bytes:
    """Return bytes with some changed, cut off, put in or added, most of them near the beginning."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        end = max(1, min(len(data), draw.choice((16, 64, 400, len(data)))))
        at = draw.randrange(end)
        change = draw.randrange(6)
        if change <= 1:
            for _ in range(draw.choice((1, 4, 16))):
                at = draw.randrange(end)
                data[at : at + 1] = bytes([draw.randrange(256)])
        elif change == 2:
            data[at : at + 4] = draw.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00" * 4))
        elif change == 3:
            del data[draw.randrange(len(data) + 1) :]
        elif change == 4:
            data += draw.randbytes(draw.choice((1, 100, 5_000))) + bytes(draw.choice((0, 9_999)))
        else:
            data[at:at] = data[at : at + draw.choice((1, 50, 2_000))]
    return bytes(data)


def odd(values: Any, draw: Draw) -> Any:
    """Return JSON values with one of them, at any depth, gone, renamed or odd."""
    if isinstance(values, list) and values and draw.random() < 0.7:
        at = draw.randrange(len(values))
        return [odd(v, draw) if i == at else v for i, v in enumerate(values)]
    if not isinstance(values, dict) or not values or draw.random() < 0.05:
        return draw.choice(ODD_VALUES)
    changed, key = dict(values), draw.choice(list(values))
    change = draw.randrange(5)
    if change == 0:
        del changed[key]
    elif change == 1:
        changed[str(draw.choice(ODD_VALUES))[:50]] = changed[key]
    else:
        changed[key] = odd(values[key], draw)
    return changed


class Case:
    """One bad input: files in `folder`, and the arguments of the command line.

    Args:
        base: recordings by container.
        model: folder of an adapter model.
        folder: empty; the command runs in it and may write to ``out`` in it alone.
        draw: of this input alone.
    """

    def __init__(self, base: dict[str, bytes], model: Path, folder: Path, draw: Draw) -> None:
        self.base, self.model, self.folder, self.draw = base, model, folder, draw

    def _write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name

    def _with_file(self, name: str) -> list[str]:
        """Return a command that reads the recording."""
        form = self.draw.choice(FORMATS)
        return self.draw.choice(
            (
                ["transcribe", name, "--format", form, "--out", "out"],
                ["transcribe", name, "--mode", "both"],
                ["transcribe", ".", "--out", "out", "--compare"],
                ["simulate", name, "--cohort", "stuttering", "--text", "go on", "--out", "out"],
            )
        )

    def recording(self) -> list[str]:
        container = self.draw.choice(CONTAINERS)
        content = spoilt(self.base[container], self.draw)
        ending = self.draw.choice((container, container, "wav", "txt"))
        return self._with_file(self._write(f"a.{ending}", content))

    def manifest(self) -> list[str]:
        draw = self.draw
        self._write("a.wav", self.base["wav"])
        row = {
            "id": "a", "path": "a.wav", "text": "go on", "text_clean": "go", "speaker": "s",
            "cohort": "typical", "etiology": "none", "severity": 0.5, "language": "en",
            "split": "test", "source": "x", "domain": "recorded", "start_s": 0.1, "end_s": 0.4,
            "extra": {"channel": "0"},
        }  # fmt: skip
        rows = [odd(row, draw), {"id": "b", "path": "a.wav"}]
        if draw.random() < 0.1:
            text = "[" * 100_000
        else:
            text = "\n".join(json.dumps(r, ensure_ascii=draw.random() < 0.5) for r in rows)
        content = text.encode("utf-8", "surrogatepass")
        name = self._write("m.jsonl", spoilt(content, draw) if draw.random() < 0.4 else content)
        form = draw.choice(FORMATS)
        return draw.choice(
            (
                ["transcribe", name, "--format", form, "--out", "out"],
                ["transcribe", name],
                ["convert", name, "--to", draw.choice(("kaldi", "lhotse")), "--out", "out"],
                ["simulate", name, "--cohorts", "all", "--out", "out"],
            )
        )

    def settings(self) -> list[str]:
        self._write("a.wav", self.base["wav"])
        names = self._option_names("transcribe")
        lines = []
        for _ in range(self.draw.choice((1, 1, 2, 4))):
            odd_value = json.dumps(self.draw.choice(ODD_VALUES), ensure_ascii=False)
            value = self.draw.choice((odd_value, *self.draw.sample(USUAL_VALUES, 2)))
            line = f"{self.draw.choice(names).replace('-', '_')}: {value}"
            lines.append(self.draw.choice((*[line] * 4, self.draw.choice(ODD_LINES))))
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        if self.draw.random() < 0.2:
            content = spoilt(content, self.draw)
        self._write("c.yaml", content)
        return ["transcribe", "a.wav", "--config", "c.yaml", "--out", "out"]

    def options(self) -> list[str]:
        draw = self.draw
        self._write("a.wav", self.base["wav"])
        command = draw.choice(
            [name for name in _COMMANDS if name not in ("prepare", "demo", "serve")]
        )
        argv = [command]
        if draw.random() < 0.8:
            argv += [draw.choice(("a.wav", "a.wav", "none.wav", "torgo", str(self.model)))]
        for _ in range(draw.randrange(4)):
            name = draw.choice(self._option_names(command))
            if name in ("workers", "help"):
                continue
            value = str(draw.choice(draw.choice((ODD_VALUES, USUAL_VALUES))))
            # No program can be given these.
            value = value.replace("\x00", "").encode("utf-8", "replace").decode()
            if name == "out":
                value = draw.choice(PLACES)
            if value == "/":
                value = "/dev/null"  # as a source it would be every recording of the machine
            forms = ([f"--{name}", value], [f"--{name}={value}"], [f"--{name}"], [value])
            argv += draw.choice(forms)
        if command == "export":  # other engines take their own time
            argv += ["--max-word-difference", "null"]
        outs = [i for i, word in enumerate(argv[:-1]) if word == "--out"]
        for i in outs:  # where it may write is not for chance to say
            argv[i + 1] = argv[i + 1] if argv[i + 1] in PLACES else "out"
        return [*argv, "--out", "out"] if not outs and draw.random() < 0.5 else argv

    def adapter(self) -> list[str]:
        self._write("a.wav", self.base["wav"])
        shutil.copytree(self.model, self.folder / "model")
        config, weights = self.folder / "model/config.json", self.folder / "model/model.safetensors"
        head = json.loads(config.read_text())
        head["backbone"] = str((self.model / head["backbone"]).resolve())
        part = self.draw.choice(("", "speaker", "source"))
        if self.draw.random() < 0.5:
            head = {**head, part: odd(head[part], self.draw)} if part else odd(head, self.draw)
        elif self.draw.random() < 0.7:
            weights.write_bytes(spoilt(weights.read_bytes(), self.draw))
        text = json.dumps(head).encode()
        config.write_bytes(spoilt(text, self.draw) if self.draw.random() < 0.2 else text)
        return self.draw.choice(
            (["inspect", "model"], ["transcribe", "a.wav", "--model", "model", "--out", "out"])
        )

    def _option_names(self, command: str) -> list[str]:
        known = _COMMANDS[command][0]()._option_string_actions
        names = [name.removeprefix("--") for name in known if name.startswith("--")]
        return [name for name in names if name != "cluster"]  # Ray takes a minute to start


KINDS: dict[str, Callable[[Case], list[str]]] = {
    "recording": Case.recording,
    "manifest": Case.manifest,
    "settings": Case.settings,
    "options": Case.options,
    "adapter": Case.adapter,
}
