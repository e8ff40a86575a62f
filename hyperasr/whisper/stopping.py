"""The end of a text that the decoder does not see: where it has been written, and begins again.

A published Whisper was trained on sound that silence fills up to 30 s. On the real length with a
short margin of silence it writes the right words, and then, in one utterance of six, the last
sentence or all of them once more. Two things tell that from a repetition that somebody said: the
decoder has already looked at the end of the sound, and the words that follow stand before. Somebody
who repeats themselves at the end is still heard: attention comes to the end with the last word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hyperasr.audio.mel import STATES_PER_SECOND

_N_WORDS = 3  # that have to come again; fewer where fewer were written before
# How far before the end of the sound attention lies with the last word, at most: its middle.
_BEFORE_END = STATES_PER_SECOND  # states: one second
_OF_SHORT = 3  # of short sound only the last third


def text_end(pieces: Sequence[str], fronts: Sequence[int], n_sounding: int) -> int | None:
    """Return how many tokens a text has that begins again after the sound; None where it does not.

    Args:
        pieces: text of each token, the blank before a word with it.
        fronts: furthest encoder state looked at when each token was decoded, 20 ms each.
        n_sounding: states up to the end of the sound.
    """
    if not pieces:
        return None
    end = n_sounding - min(_BEFORE_END, n_sounding // _OF_SHORT)
    starts = [i for i, piece in enumerate(pieces) if i == 0 or piece.startswith(" ")]
    stops = [*starts[1:], len(pieces)]
    words = [_key(pieces[a:b]) for a, b in zip(starts, stops, strict=True)]
    for index in range(1, len(words)):
        if fronts[starts[index] - 1] < end:
            continue
        n = min(_N_WORDS, index)
        again = words[index : index + n]
        if len(again) == n and any(words[i : i + n] == again for i in range(index - n + 1)):
            return starts[index]
    return None


def _key(pieces: Sequence[str]) -> str:
    return re.sub(r"[^\w']", "", "".join(pieces).lower())


class StopAfterSound:
    """Watches the rows of a search; see above.

    Args:
        looked: returns the encoder state that each row looked at last (n_rows,).
        piece: text of a token.
        eos: id of the end of text.
        n_sounding: encoder states up to the end of each row's sound (n_rows,).
    """

    def __init__(
        self,
        looked: Callable[[], Tensor],
        piece: Callable[[int], str],
        eos: int,
        n_sounding: Tensor,
    ) -> None:
        self.looked, self.piece, self.eos = looked, piece, eos
        self.n_sounding = n_sounding.tolist()
        self.fronts: Tensor | None = None  # (n_rows, n_tokens)

    def look(self) -> None:
        """Take in where the rows looked for the token that comes next; once a step."""
        now = self.looked()[:, None]
        if self.fronts is None:
            self.fronts = now
        else:
            furthest = torch.maximum(self.fronts[:, -1:], now)
            self.fronts = torch.cat([self.fronts, furthest], dim=1)

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from what was row `rows[i]`, (n_rows,) int64."""
        assert self.fronts is not None
        self.fronts = self.fronts.index_select(0, rows)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows (n,) int64 alone."""
        self.reorder(rows)
        self.n_sounding = [self.n_sounding[row] for row in rows.tolist()]

    def ends(self, tokens: Tensor, skip: Tensor, of_row: Tensor | None = None) -> dict[int, int]:
        """Return how many tokens the text has, by place, of texts that begin again.

        Args:
            tokens: of every text so far (n, n_tokens).
            skip: texts that are not to be judged (n,).
            of_row: the row that each text goes on from (n,); None where they are the rows.
        """
        assert self.fronts is not None
        ends = {}
        rows = range(len(tokens)) if of_row is None else of_row.tolist()
        for place in (~skip).nonzero().flatten().tolist():
            row = rows[place]
            n_sounding = self.n_sounding[row]
            *ids, newest = tokens[place].tolist()
            # Words are judged when they are whole, which the beginning of the next one tells.
            whole = newest == self.eos or self.piece(newest).startswith(" ")
            if not whole or self.fronts[row, -1] < n_sounding - _BEFORE_END:
                continue
            fronts = self.fronts[row].tolist()
            end = text_end([self.piece(i) for i in ids], fronts, n_sounding)
            if end is not None:
                ends[place] = end
        return ends
