"""The second reference of a view: what is heard, beside what was meant."""

from __future__ import annotations

from hyperasr.audio.reading import load
from hyperasr.cohorts.acoustics import change_speed
from hyperasr.cohorts.simulate import simulate
from hyperasr.cohorts.views import View

__all__ = ["verbatim_text"]


def verbatim_text(view: View) -> str:
    """Return the verbatim transcript of a view: repetitions, part-words and fillers included.

    Raises:
        AudioError: the recording cannot be read.
    """
    u = view.utterance
    if not view.simulates:
        return u.text or u.text_clean or ""
    waveform = load(u.path, start_s=u.start_s, end_s=u.end_s)
    if view.speed != 1.0:
        waveform = change_speed(waveform, view.speed)
    assert view.severity is not None
    meant = u.text_clean or u.text or ""
    made = simulate(
        waveform, meant, view.cohort, view.severity, seed=view.seed, speaker=view.person
    )
    return made.verbatim
