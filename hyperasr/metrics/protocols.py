"""Scoring protocols by name: which reference, which normaliser, which rate comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts, lower_of, score
from hyperasr.metrics.normalisers import Normaliser, normaliser
from hyperasr.util.closest import closest


@dataclass(frozen=True)
class Protocol:
    """How hypotheses are scored; two error rates compare only under the same protocol.

    Attributes:
        name: of the protocol.
        normaliser_name: what both sides go through before they are compared.
        metrics: ``wer`` and ``cer``, the one that counts first.
        references: ``clean`` (what was meant), ``verbatim`` (what is heard, repetitions and part
            words included), or ``lower`` (of the two, the one that fits better).
        clip: whether the errors of an utterance count up to 100 % only.
    """

    name: str
    normaliser_name: str
    metrics: tuple[str, ...] = ("wer", "cer")
    references: str = "clean"
    clip: bool = False

    @property
    def normaliser(self) -> Normaliser:
        """What both sides go through."""
        return normaliser(self.normaliser_name)

    def fields(self) -> dict[str, Any]:
        """Return what every row of a result file says about its scoring."""
        norm = self.normaliser
        return {"protocol": self.name, "normaliser": {"name": norm.name, "hash": norm.hash}}

    def score(
        self,
        hypotheses: Sequence[str],
        clean: Sequence[str],
        verbatim: Sequence[str] | None = None,
        metric: str | None = None,
    ) -> list[EditCounts]:
        """Count the edits of every utterance.

        Args:
            hypotheses: what a system wrote, one text an utterance.
            clean, verbatim: the references; a protocol needs only those it names.
            metric: ``wer`` or ``cer``; None for the protocol's first.
        Raises:
            ShapeError: the lists differ in length.
            ConfigError: the verbatim references are missing, or a text is not a string.
        """
        metric = metric or self.metrics[0]
        if self.references == "clean":
            return score(clean, hypotheses, self.normaliser, metric)
        if verbatim is None:
            raise ConfigError(
                f"protocol {self.name!r} scores against verbatim references, and there are none; "
                "give them, or choose the protocol 'spoken'"
            )
        against_verbatim = score(verbatim, hypotheses, self.normaliser, metric)
        if self.references == "verbatim":
            return against_verbatim
        return lower_of(against_verbatim, score(clean, hypotheses, self.normaliser, metric))


PROTOCOLS = {
    made.name: made
    for made in (
        Protocol("spoken", "spoken"),
        Protocol("verbatim", "verbatim", references="verbatim"),
        Protocol("whisper", "whisper"),
        Protocol("spelled", "spelled"),
        Protocol("sap2", "whisper", ("cer", "wer"), references="lower", clip=True),
    )
}


def protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    - ``spoken``: the default. What was meant, no word deleted or respelled. WER first.
    - ``verbatim``: what is heard; a word broken off keeps its hyphen. WER first.
    - ``whisper``: as published Whisper tables: what was meant, through Whisper's English
      normaliser, which deletes fillers. WER first.
    - ``spelled``: as ``whisper``, with letters in a row and numbers in a row joined, for corpora of
      spelled names, codes, dates and telephone numbers such as AN4. WER first; a spelled name or
      a telephone number is one word.
    - ``sap2``: as the Speech Accessibility Project Challenge 2: CER first, errors of an utterance
      clipped at 100 %, the better of the verbatim and the clean reference. Two differences: the
      challenge adds rules of its own to Whisper's normaliser (it joins letters that are spelled,
      "t v" to "tv"), and words invented on an empty reference, which clip to 0 here, count there.

    Raises:
        ConfigError: no protocol has this name.
    Source: github.com/xiuwenz2/SAPC-template, utils/metrics, for ``sap2``.
    """
    if name not in PROTOCOLS:
        close = closest(name, PROTOCOLS)
        known = ", ".join(PROTOCOLS)
        raise ConfigError(f"no protocol is called {name!r}; did you mean {close!r}? ({known})")
    return PROTOCOLS[name]
