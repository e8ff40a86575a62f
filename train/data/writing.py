"""Texts as Whisper itself writes them, and what the unadapted Whisper says of every token.

    python -m train.data.writing --manifest runs/data/train.jsonl --out runs/data/written.jsonl

Most references have neither capitals nor punctuation; a decoder that is trained on them gives up
its own way of writing, and with it what it knows of language. Here a reference keeps its words and
takes capitals, punctuation and figures from what the unadapted backbone (30 s of audio, greedy)
writes for the recording, word by word along their alignment. Typical rows in which the two differ
too much are left out; a recorded row of any other cohort never is: where alignment fails, it is
written as one sentence. A row without a reference gets what the backbone wrote.

Beside the manifest, ``OUT.lines.jsonl`` holds a line a row, which is written as the work goes on,
so that an interrupted run continues: the reference, what the backbone wrote, the new text, how it
came about, and the backbone's most probable tokens after each token of the new text, which training
can take for a teacher (`train.data.teacher`). A row whose reference has changed is written again.
Rows in other languages than English are left out.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from hyperasr.audio.mel import N_SAMPLES
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import word_edits
from hyperasr.metrics.normalisers import normaliser
from hyperasr.model import token_limits
from hyperasr.transcription.enrolment import sentence
from hyperasr.types import EncoderOutput, Utterance
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.decoder import DecoderStep
from hyperasr.whisper.search import SearchConfig, text_only
from train.data.views import is_english
from train.loop.program import read_config, run_program

log = logging.getLogger("train.data.writing")
_BATCH = 16
# Of the words. Above it the recording and its text are hardly of one another.
_MOST_ERRORS = 0.5
N_KEPT = 20
"""Most probable tokens that are kept after each token; the others are one more class."""


@dataclass(frozen=True)
class WritingConfig:
    """Whose texts, written by whom."""

    manifest: Path
    """Rows with or without references."""
    out: Path
    """Manifest of the same rows with Whisper's writing."""
    backbone: str = "tiny.en"
    """The Whisper whose writing it is."""


@dataclass(frozen=True)
class _Piece:
    """A word of what Whisper wrote, or a part of one at a hyphen."""

    form: str  # as written, marks included
    key: str  # what is compared: lower case, without marks around it
    glued: bool  # whether it follows the piece before it without a blank


def own_writing(reference: str, hypothesis: str) -> str | None:
    """Return the words of a reference, in any writing, as Whisper's hypothesis writes them.

    None where fewer than half of the words are alike.
    """
    # The one that also knows what people spell and count out.
    alike = normaliser("spelled")
    if word_edits(alike(reference), alike(hypothesis)).rate > _MOST_ERRORS:
        return None
    theirs = _pieces(hypothesis)
    ours = [_Piece(w, _key(w), False) for w in reference.split() if _key(w)]
    if not ours or not theirs:
        return None
    pieces: list[_Piece] = []
    for own, other in _blocks(ours, theirs):
        pieces += _merged(own, other, pieces)
    text = "".join(p.form if p.glued else f" {p.form}" for p in pieces).strip()
    return text[:1].upper() + text[1:] if hypothesis[:1].isupper() else text


def _key(word: str) -> str:
    return re.sub(r"^[^\w]+|[^\w]+$", "", word.lower())


def _pieces(text: str) -> list[_Piece]:
    """Cut a text at blanks and hyphens; marks that stand alone go to the word before them."""
    pieces: list[_Piece] = []
    for word in text.split():
        for index, form in enumerate(re.findall(r"[^-]+-*|-+", word)):
            key = _key(form)
            if key:
                pieces.append(_Piece(form, key, index > 0))
            elif pieces:
                blank = "" if index else " "
                pieces[-1] = replace(pieces[-1], form=f"{pieces[-1].form}{blank}{form}")
    return pieces


def _blocks(
    ours: list[_Piece], theirs: list[_Piece]
) -> Iterator[tuple[list[_Piece], list[_Piece]]]:
    """Yield pairs of equal pieces, and between them whatever stands on either side."""
    keys = (" ".join(piece.key for piece in side) for side in (ours, theirs))
    own: list[_Piece] = []
    other: list[_Piece] = []
    for chunk in jiwer.process_words(*keys).alignments[0]:
        mine = ours[chunk.ref_start_idx : chunk.ref_end_idx]
        yours = theirs[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type != "equal":
            own, other = own + mine, other + yours
            continue
        if own or other:
            yield own, other
            own, other = [], []
        for pair in zip(mine, yours, strict=True):
            yield [pair[0]], [pair[1]]
    if own or other:
        yield own, other


def _merged(own: list[_Piece], other: list[_Piece], before: list[_Piece]) -> list[_Piece]:
    """Return the words of one block; `before` is what is written already."""
    alike = normaliser("spelled")
    if own and other:
        spoken, written = (" ".join(p.form for p in part) for part in (own, other))
        if [p.key for p in own] == [p.key for p in other] or alike(spoken) == alike(written):
            return other
    if not own:
        mark = re.search(r"[.?!,]+$", other[-1].form)
        if mark and before and before[-1].form[-1].isalnum():
            before[-1] = replace(before[-1], form=before[-1].form + mark[0])
        return []
    merged = []
    alike_long = len(own) == len(other)
    for index, piece in enumerate(own):
        form = "I" + piece.key[1:] if re.match(r"i($|')", piece.key) else piece.key
        # Word by word where there are as many; else the ends of both belong together.
        starts, ends = alike_long or index == 0, alike_long or index == len(own) - 1
        if other and (starts or ends):
            twin = other[index] if alike_long else other[0 if index == 0 else -1]
            if starts and re.sub(r"^\W+", "", twin.form)[:1].isupper():
                form = form[:1].upper() + form[1:]
            if ends and (mark := re.search(r"[.?!,;:]+$", twin.form)):
                form += mark[0]
        merged.append(_Piece(form, piece.key, False))
    return merged


def lines_beside(manifest: Path) -> Path:
    """Return where the lines of a written manifest are."""
    return manifest.with_name(f"{manifest.name.removesuffix('.jsonl')}.lines.jsonl")


def write(rows: Sequence[Utterance], out: Path, backbone: Backbone) -> list[Utterance]:
    """Write the lines that are missing, then the manifest; print counts by cohort, return its rows.

    The backbone is the one whose writing it is, on 30 s.

    Raises:
        ConfigError: the lines there are of another Whisper, or no row is in English.
    """
    lines = lines_beside(out)
    line_of = _known(lines, backbone)
    english = [row for row in rows if is_english(row)]
    if rows and not english:
        raise ConfigError(f"{out}: the manifest has no row in English, and training is in English")
    todo = [row for row in english if not _is_written(row, line_of.get(row.id))]
    lines.parent.mkdir(parents=True, exist_ok=True)
    with lines.open("a", encoding="utf-8") as file:
        if not file.tell():
            file.write(json.dumps({"fingerprint": backbone.fingerprint(), "kept": N_KEPT}) + "\n")
        for start in track(range(0, len(todo), _BATCH), "writing"):
            for line in written(backbone, todo[start : start + _BATCH]):
                line_of[line["id"]] = line
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    kept = [
        replace(
            row,
            text=line_of[row.id]["text"],
            text_clean=None,
            extra={**(row.extra or {}), "reference": _reference(row)},
        )
        for row in english
        if line_of[row.id]["text"] is not None
    ]
    write_manifest(out, kept)
    outcomes = Counter((row.cohort, line_of[row.id]["how"]) for row in english)
    outcomes += Counter((r.cohort, "left out, not in English") for r in rows if not is_english(r))
    for (cohort, how), n in sorted(outcomes.items()):
        print(f"{cohort}: {n} {how}")
    print(f"{out}: {len(kept)} of {len(rows)} rows", flush=True)
    return kept


def _reference(row: Utterance) -> str:
    return row.text_clean or row.text or ""


def _is_written(row: Utterance, line: dict[str, Any] | None) -> bool:
    """Whether a line is of a row's present reference; lines before 2026-11-30 do not say."""
    return line is not None and line.get("reference", _reference(row)) == _reference(row)


def _known(path: Path, backbone: Backbone) -> dict[str, dict[str, Any]]:
    """Return the lines that an earlier run of the same Whisper wrote, a torn last one left out.

    Raises:
        ConfigError: another Whisper wrote them.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    lines = [json.loads(line) for line in whole.splitlines()]
    if not lines:
        return {}
    if lines[0].get("fingerprint") != backbone.fingerprint():
        raise ConfigError(f"{path} was written by another Whisper; remove it, or write elsewhere")
    # Of a row that was written again the last line counts.
    return {line["id"]: line for line in lines if "id" in line}


@torch.inference_mode()
def written(backbone: Backbone, rows: Sequence[Utterance]) -> list[dict[str, Any]]:
    """Return a line for each row: hypothesis, text, how it came about, the teacher's tokens."""
    waveforms = [load(r.path, start_s=r.start_s, end_s=r.end_s, channel=r.channel) for r in rows]
    mel, n_frames = backbone.features([waveform[:N_SAMPLES] for waveform in waveforms])
    encoded = backbone.encode(mel, n_frames)
    vocabulary = int(backbone.whisper.config.vocab_size)
    search = text_only(SearchConfig(), backbone.eos, vocabulary)
    decoded = backbone.generate(encoded, search, max_tokens=token_limits((n_frames + 1) // 2))
    lines = []
    for row, tokens in zip(rows, decoded.tokens, strict=True):
        hypothesis = backbone.text(tokens)
        text, how = _target(row, hypothesis)
        line = {"id": row.id, "reference": _reference(row), "hypothesis": hypothesis}
        lines.append({**line, "text": text, "how": how})
    told = [i for i, line in enumerate(lines) if line["text"]]
    if not told:
        return lines
    part = encoded.select(torch.tensor(told, dtype=torch.long))
    taught = _teach(backbone, part, [lines[i]["text"] for i in told])
    for i, fields in zip(told, taught, strict=True):
        lines[i].update(fields)
    return lines


def _teach(backbone: Backbone, encoded: EncoderOutput, texts: list[str]) -> list[dict[str, Any]]:
    """Return the most probable tokens after the prompt and after each token of each text."""
    tokens, n_tokens, n_prompt = backbone.targets(texts)
    first = n_prompt - 1  # its state tells the first token of the text
    hidden = DecoderStep(backbone.whisper, encoded, cached=False).hidden(tokens[:, :-1])
    taught = []
    for row, n in zip(hidden, n_tokens.tolist(), strict=True):
        logits = backbone.whisper.proj_out(row[first : n - 1]).float()
        top = logits.log_softmax(-1).topk(min(N_KEPT, logits.shape[1]))
        taught.append(
            {"tokens": _packed(top.indices, "<i4"), "logprobs": _packed(top.values, "<f2")}
        )
    return taught


def _packed(tensor: Tensor, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(tensor.cpu().numpy().astype(dtype))).decode()


def _target(row: Utterance, hypothesis: str) -> tuple[str | None, str]:
    """Return the text to train on (None: leave the row out), and how it came about."""
    reference = _reference(row)
    if not reference:
        return (hypothesis or None), "without a reference, as Whisper wrote"
    written = own_writing(reference, hypothesis)
    if written is not None:
        return written, "in Whisper's writing"
    if row.cohort == TYPICAL:
        return None, "left out, too different"
    return sentence(reference), "written as one sentence"


def main() -> None:
    """Read a manifest, write it as Whisper writes."""
    config = read_config(WritingConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    backbone = Backbone.from_pretrained(config.backbone, audio_context="full")
    write(read_manifest(config.manifest), config.out, backbone)


if __name__ == "__main__":
    run_program(main)
