"""Sections of the report: what is shown of each result file, as tables and figures.

`SECTIONS` lists them in the order of the page. A builder gets the rows of one file and returns
blocks; what a file does not hold is left out. Tables refuse rows of different protocols, and every
figure is of rows that stand in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval import report_figures as figures
from eval.forgetting import DEGRADATION, GAIN, TARGET_LOSS
from eval.report_angles import angle_blocks, sparsity_blocks
from eval.report_behaviour import guard_blocks
from eval.report_blocks import (
    Block,
    by_cohort,
    figure,
    from_table,
    generic_table,
    headline,
    label,
    picked,
    words_table,
)
from eval.report_errors import (
    atypical_of,
    difference_blocks,
    error_blocks,
    metric_of,
    stability_blocks,
)
from eval.report_severity import severity_blocks
from eval.report_speed import analysis_blocks, speed_blocks, training_blocks
from eval.report_sweep import sweep_blocks
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError

__all__ = ["SECTIONS", "Section", "generic_blocks"]

Row = Mapping[str, Any]
Rows = Sequence[Row]

_SHOWN_SCORES = ("token logprob", "disagreement", "combined")


@dataclass(frozen=True)
class Section:
    """One section and the result file it is made of.

    Attributes:
        result: name of the file without ending.
        title: of the section.
        about: what the reader is looking at, in a sentence or two.
        build: from rows to blocks.
        program: that makes the file, where it is not called like it.
    """

    result: str
    title: str
    about: str
    build: Callable[[Rows], list[Block]]
    program: str = ""

    @property
    def command(self) -> str:
        """What makes the file."""
        program = self.program or self.result
        return f"python -m eval.{program} --config eval/configs/{self.result}.yaml"


def zero_shot_blocks(rows: Rows) -> list[Block]:
    """Return errors, differences, and stability against plasticity."""
    return [*error_blocks(rows), *difference_blocks(rows), *stability_blocks(rows)]


def unadapted_blocks(rows: Rows) -> list[Block]:
    """Return errors, those of corpora and of further test sets apart, and how often both say the
    same."""
    blocks = [*error_blocks(rows), *difference_blocks(rows)]
    places = dict.fromkeys((r.get("corpus"), r.get("subset")) for r in rows)
    for corpus, subset in places:
        where: dict[str, Any] = {"corpus": corpus, "subset": subset, "metric": metric_of(rows)}
        if corpus or subset:
            name = ", ".join(part for part in (corpus, subset) if part)
            blocks.append(from_table(rows, name, by_cohort(rows), **where))
    same = [r for r in rows if r.get("measure") == "same_tokens"]
    if same:
        lines = tuple(
            tuple((text, "") for text in (label(r), r.get("corpus") or "", *_counts(r)))
            for r in same
        )
        header = ("speech", "corpus", "recordings", "at a limit", "of the others the same tokens")
        title = "Our search beside transformers' generate"
        blocks.append(Block("table", title, "", header, lines, n_names=2))
    return blocks


def _counts(row: Row) -> tuple[str, str, str]:
    return str(row["n_utterances"]), str(row["n_limited"]), str(row["n_same"])


def trimming_blocks(rows: Rows) -> list[Block]:
    """Return errors and differences; a name ends with what was trained on, and what is heard."""
    return [*error_blocks(rows), *difference_blocks(rows)]


def comparison_blocks(rows: Rows) -> list[Block]:
    """Return errors, differences to each reference, forgetting, people who enrolled, and costs."""
    blocks = error_blocks(rows)
    for against in dict.fromkeys(
        row["against"] for row in picked(rows, True, metric=metric_of(rows))
    ):
        blocks += difference_blocks(rows, against=against)
    blocks += stability_blocks(rows)
    blocks += forgetting_blocks(rows)
    if subsets := tuple(dict.fromkeys(r["subset"] for r in rows if r.get("subset"))):
        for cohort, domain in atypical_of(rows):
            own: dict[str, Any] = {"corpus": None, "cohort": cohort, "domain": domain}
            own |= {"subset": subsets, "metric": metric_of(rows)}
            if chosen := picked(rows, False, **own):
                title = f"People who enrolled, {label(chosen[0])}: what each own LoRA recognises"
                blocks.append(from_table(rows, title, ("subset",), **own))
    if any("cost" in row for row in rows):
        blocks.append(from_table(rows, "What it costs", show="cost"))
    return blocks


_FORGETTING = {
    DEGRADATION: (
        "Forgetting: typical speech, after minus before",
        "Backward degradation, in points: what a system adds to the backbone's error on typical "
        "speech.",
    ),
    (GAIN, TARGET_LOSS): (
        "Forgetting against a LoRA: what is kept, and what it costs in the new domain",
        "Backward gain: percent of the LoRA's degradation that a system avoids; 100 is no "
        "forgetting at all. Target loss: how many percent more errors than the LoRA it makes on "
        "atypical speech.",
    ),
}


def forgetting_blocks(rows: Rows) -> list[Block]:
    """Return the degradation on typical speech, and the gain and loss against a LoRA."""
    blocks = []
    for names, (title, about) in _FORGETTING.items():
        own: dict[str, Any] = {**headline(rows), "metric": names}
        if picked(rows, True, **own):
            columns = ("metric", *by_cohort(rows)[1:])
            made = from_table(rows, title, columns, differences=True, **own)
            header = tuple(name.replace("_", " ") for name in made.header)
            blocks.append(replace(made, header=header, note=about))
    return blocks


def loco_blocks(rows: Rows) -> list[Block]:
    """Return held-out cohorts, their differences, and typical speech of each fold."""
    held_out = [row for row in rows if row.get("cohort") != TYPICAL]
    blocks = [*error_blocks(held_out), *difference_blocks(held_out)]
    if any(row.get("cohort") == TYPICAL for row in rows):
        own: dict[str, Any] = {**headline(rows), "metric": metric_of(rows), "cohort": TYPICAL}
        blocks.append(
            from_table(rows, "Typical speech, by the cohort left out", ("held_out",), **own)
        )
    return blocks


def retention_blocks(rows: Rows) -> list[Block]:
    """Return typical speech before and after, and cohorts that a source was not trained for."""
    metric = metric_of(rows)
    typical: dict[str, Any] = {"corpus": None, "subset": None, "metric": metric, "cohort": TYPICAL}
    blocks = [from_table(rows, f"Typical speech, {metric.upper()}", ("domain",), **typical)]
    chosen = picked(rows, differences=True, severity=None, **typical)
    if chosen:
        domains = dict.fromkeys(r["domain"] for r in chosen)
        panels = [(d, [r for r in chosen if r["domain"] == d]) for d in domains]
        note = "A circle filled blue: typical speech got better; a square filled red: worse."
        blocks.append(figure("After minus before", note, figures.forest(chosen, panels)))
        title = "Typical speech, after minus before"
        blocks.append(from_table(rows, title, ("domain",), differences=True, **typical))
    other = [
        r
        for r in rows
        if r.get("trained_for") is False and r.get("cohort") not in (TYPICAL, "other_cohorts")
    ]
    own: dict[str, Any] = {**headline(rows), "metric": metric}
    if picked(other, True, **own):
        title = "Cohorts it was not trained for, after minus before"
        blocks.append(from_table(other, title, by_cohort(rows), differences=True, **own))
    return blocks


def calibration_blocks(rows: Rows) -> list[Block]:
    """Return measures of confidence, reliability, risk-coverage, and the consensus of samples."""
    measured = [
        {**r, "score": r["score"].replace("_", " ")} if "score" in r else r
        for r in rows
        if "measure" in r
    ]
    # Atypical speech stands first, all cohorts together where there are several.
    names = list(dict.fromkeys(label(r) for r in measured))
    group = next((n for n in names if n not in ("everybody", TYPICAL)), "everybody")
    own = [r for r in measured if label(r) == group]
    words = [r for r in own if r.get("level") == "word" and r["measure"] in _CONFIDENCE]
    if not words:
        raise ConfigError("it has no measures of confidence; it was made by another program")
    title = f"Confidence of words, {group} (AUROC: higher is better; the others: lower)"
    named = [{**r, "measure": _CONFIDENCE[r["measure"]]} for r in words]
    blocks = [
        words_table(named, title, ("score",), _ABOUT_MEASURES, percent=False, across="measure")
    ]
    kinds = [s for s in _SHOWN_SCORES if any(r["score"] == s for r in words)]
    bins = [
        r for r in words if r["measure"] == "ece_mass" and r["score"] in kinds and r.get("bins")
    ]
    if bins:
        note = "Bins of equal mass; on the diagonal a claim is kept, below it words were overrated."
        plot = figures.reliability_panels(bins)
        blocks.append(figure(f"Reliability of words, {group}", note, plot))
    for level, what in (("word", "words"), ("utterance", "utterances")):
        curves = [r for r in own if r["measure"] == "aurc" and r.get("level") == level]
        curves = [r for r in curves if r["score"] in kinds and r.get("curve")]
        if curves:
            note = "Error of what is kept when the least certain part is left out."
            plot = figures.risk_coverage_panels(curves)
            blocks.append(figure(f"Risk and coverage of {what}, {group}", note, plot))
    spread = [r for r in measured if r["measure"] == "spearman_with_severity"]
    if spread:
        title = "Uncertainty and severity, Spearman's correlation"
        spread = [{**r, "cohort": label(r)} for r in spread]
        blocks.append(words_table(spread, title, ("score",), percent=False, across="cohort"))
    if picked(rows, True, **headline(rows)):
        title = "Consensus and single samples against the posterior mean"
        where: dict[str, Any] = {**headline(rows), "metric": metric_of(rows)}
        blocks.append(from_table(rows, title, by_cohort(rows), differences=True, **where))
    return blocks


_CONFIDENCE = {
    "auroc": "AUROC",
    "ece_width": "ECE, equal width",
    "ece_mass": "ECE, equal mass",
    "nll": "NLL",
    "brier": "Brier",
    "aurc": "AURC",
}
_ABOUT_MEASURES = (
    "AUROC: the chance that a wrong word is less certain than a right one. ECE: mean gap between "
    "claim and truth, over bins. NLL and Brier: of the claim that a word is right. AURC: error of "
    "what is kept, mean over how much is kept. token logprob is the geometric mean probability "
    "of a word's tokens, disagreement the share of posterior samples that agree, combined both; "
    "fitted ones are calibrated on other speakers."
)


def generic_blocks(rows: Rows) -> list[Block]:
    """Return the rows of a file that the report knows nothing special about."""
    return [generic_table(rows, "Rows")]


SECTIONS = (
    Section(
        "unadapted",
        "The recogniser alone",
        "What everything is judged against: the frozen Whisper on 30 s of audio with our search "
        "and its limits, and as transformers runs it.",
        unadapted_blocks,
    ),
    Section(
        "zero_shot",
        "Zero-shot recognition",
        "Every system on the same recordings of speakers nobody trained on; shuffled and mean "
        "embeddings are controls.",
        zero_shot_blocks,
    ),
    Section(
        "beam",
        "Searching with a beam",
        "The same recordings decoded with five hypotheses at a time instead of one, for every "
        "system alike.",
        zero_shot_blocks,
        "zero_shot",
    ),
    Section(
        "continued",
        "Further stages of training",
        "What the hypernetworks gained from going on with sentences that nobody said, spliced from "
        "the training speakers' recordings, beside LoRAs for everybody that learned from the same.",
        zero_shot_blocks,
        "zero_shot",
    ),
    Section(
        "leave_one_cohort_out",
        "Leave one cohort out",
        "Each cohort is recognised by systems that were trained without it; an oracle saw it.",
        loco_blocks,
    ),
    Section(
        "comparison",
        "All methods on equal terms",
        "Every source of adaptation on the same test set, with what it costs and what it forgets.",
        comparison_blocks,
    ),
    Section(
        "training_cost",
        "What training costs",
        "Some steps of each training, one after the other, on the machine named below.",
        training_blocks,
    ),
    Section(
        "blora_sweep",
        "BLoRA: divergence and prior",
        "What the weight of the divergence and the width of the prior do to atypical and to "
        "typical speech, beside the LoRA of the same matrices, trained as long. Speakers "
        "are unseen.",
        sweep_blocks,
        "sweep",
    ),
    Section(
        "vi_lora_sweep",
        "VI LoRA: divergence and prior",
        "The same for the weight of VI LoRA's divergence, under one prior for all layers and under "
        "two.",
        sweep_blocks,
        "sweep",
    ),
    Section(
        "retention",
        "Do no harm",
        "Typical speech, and cohorts that a source was not trained for, before and after.",
        retention_blocks,
    ),
    Section(
        "severity",
        "Error against severity",
        "Who is served worst, by how much, and whether a system narrows the gap. Severity is the "
        "simulation's, or what a corpus says of its speakers.",
        severity_blocks,
    ),
    Section(
        "calibration",
        "Uncertainty",
        "Whether the system knows where it is wrong: confidence of words and utterances.",
        calibration_blocks,
    ),
    Section(
        "subspace_angles",
        "Which weights adapt, and how alike",
        "Principal angles between the subspaces of updates, beside those of random subspaces of "
        "the same shape, and how far each matrix moves.",
        angle_blocks,
    ),
    Section(
        "sparsity",
        "Sparsity",
        "How much of what was learned is near zero, in the updates and in their factors.",
        sparsity_blocks,
    ),
    Section(
        "guard",
        "Loop guard",
        "How often the guard against endless repetition fires, rightly and wrongly.",
        guard_blocks,
    ),
    Section(
        "trimming",
        "Hearing the real length only",
        "What encoding the real length of an utterance, instead of 30 s, does to accuracy: two "
        "recognisers, trained on one and on the other, each hearing both. A name ends with what "
        "its recogniser was trained on, and what it hears.",
        trimming_blocks,
    ),
    Section(
        "speed",
        "Speed",
        "Throughput on the machine named below.",
        speed_blocks,
    ),
    Section(
        "analysis_speed",
        "What the analysis costs",
        "Angles at the size of Whisper large-v3, and bootstrap intervals, on the machine named "
        "below.",
        analysis_blocks,
    ),
)
