"""Greedy search, drawn tokens and beam search over a fixed batch of rows, for any step function.

Nothing here knows of Whisper, audio or adapters. Rows keep their order, and beams move only among
the rows of their own utterance, so that what the callee keeps for each row (a cache, adapted
weights) stays with it. Finished rows are fed on, their output ignored; a greedy search drops them
when they are half of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hyperasr.errors import ConfigError, HyperASRError, ShapeError
from hyperasr.types import Decoded
from hyperasr.whisper.biasing import ExpectedWords
from hyperasr.whisper.stopping import StopAfterSound

Step = Callable[[Tensor], Tensor]
"""New tokens (n_rows, n_new) int64 -> logits after the last one (n_rows, n_vocab).

The callee remembers the tokens of earlier calls (a cache). The first call brings the prompt, every
later one a token a row.
"""

Reorder = Callable[[Tensor], None]
"""Row indices (n_rows,) int64: row i goes on from what was row `indices[i]`, same utterance."""

Keep = Callable[[Tensor], None]
"""Row indices (n,) int64 in order: the next calls bring these rows alone."""

_NONE = -1  # where a row holds no token


@dataclass(frozen=True)
class SearchConfig:
    """How tokens are searched."""

    beam_size: int = 1
    """Hypotheses kept for each utterance, at least 1."""
    max_tokens: int = 224
    """Most tokens decoded, end of text included, at least 1; half of Whisper's 448 positions."""
    suppress: tuple[int, ...] = ()
    """Token ids never decoded."""
    begin_suppress: tuple[int, ...] = ()
    """Token ids never decoded first, such as end of text or a blank."""
    prefix: tuple[int, ...] = ()
    """Token ids given before the prompt, such as start of previous text and that text."""
    temperature: float = 0.0
    """0 takes the most probable token; above 0 tokens are drawn, the more evenly the higher."""
    seeds: tuple[int, ...] = ()
    """With a temperature, a seed for each row: what a row draws depends on nothing else."""
    expected: tuple[tuple[int, ...], ...] = ()
    """Tokens of each expected word, the blank before it included; only with beams."""
    bonus: float = 0.0
    """Of each token of an expected word, in nats; see `hyperasr.whisper.biasing`."""
    stop: bool = True
    """With a margin of silence, end a text that begins again after the end of the sound; see
    `hyperasr.whisper.stopping`."""

    def __post_init__(self) -> None:
        for name in ("beam_size", "max_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 or more")
        if self.temperature and self.beam_size > 1:
            raise ConfigError("tokens are drawn without beams: set beam_size 1 or temperature 0")
        if self.expected and self.beam_size == 1:
            raise ConfigError("expected words need beams, such as beam_size 5")
        object.__setattr__(self, "expected", tuple(map(tuple, self.expected)))
        for name in ("suppress", "begin_suppress", "prefix", "seeds"):
            # A list would pass as well, but the config is to be hashable.
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if any(not isinstance(i, int) or i < 0 for i in getattr(self, name)):
                what = "seeds" if name == "seeds" else "token ids"
                raise ConfigError(f"{name} is {getattr(self, name)}; {what} are 0 or more")


def text_only(config: SearchConfig, eos: int, n_vocab: int) -> SearchConfig:
    """Return the config with every marker and timestamp suppressed.

    In every published Whisper the ids above end of text are markers and timestamps.
    """
    return replace(config, suppress=(*config.suppress, *range(eos + 1, n_vocab)))


@torch.no_grad()
def greedy(
    step: Step,
    prompt: Tensor,
    *,
    eos: int,
    config: SearchConfig,
    max_tokens: Tensor | None = None,
    stop: StopAfterSound | None = None,
    keep: Keep | None = None,
) -> Decoded:
    """Take the most probable token of each row, or draw one, until all rows have ended.

    Args:
        step: see `Step`; called with the same rows every time, but for `keep`.
        prompt: tokens given to each row (n_rows, n_prompt) int64.
        eos: id of the end of text.
        config: search settings; `beam_size` is not used. Log-probabilities are those of the model,
            at temperature 1, whatever tokens are drawn at.
        max_tokens: a limit for each row (n_rows,), on top of the config's; 0 decodes nothing.
        stop: ends texts that begin again; such a row is finished, and its end of text has the
            log-probability that it had there.
        keep: see `Keep`; called when half of the rows have ended. None goes on with all.
    Returns:
        Tokens, log-probabilities and scores of each row.
    Raises:
        ConfigError: a token id beyond the vocabulary.
        ShapeError: more or fewer seeds than rows.
        HyperASRError: a row's logits are not finite before it has ended.
    """
    limits, n_steps = _limits(prompt, config, max_tokens)
    n_rows, device = prompt.shape[0], prompt.device
    allowed = _LogitFilter(config, eos, device)
    tokens = torch.full((n_rows, n_steps), _NONE, dtype=torch.int64, device=device)
    logprobs = torch.zeros(n_rows, n_steps, device=device)
    of_end = torch.zeros_like(logprobs)
    done = limits < 1
    drawing = _Drawing(config, n_rows) if config.temperature else None
    new = _prefixed(prompt, config)
    rows = torch.arange(n_rows, device=device)  # of the batch, that are still fed
    for index in range(n_steps):
        logits = allowed(step(new), first=index == 0)
        # Of the logits: rounding makes ties of log-probabilities.
        shown = logits if drawing is None else drawing(logits)
        new = shown.argmax(dim=-1, keepdim=True)
        tokens[rows, index] = new[:, 0]
        known = logits.log_softmax(dim=-1)
        logprobs[rows, index] = known.gather(1, new)[:, 0]
        of_end[rows, index] = known[:, eos]
        ended = done[rows] | (new[:, 0] == eos) | (limits[rows] <= index + 1)
        if stop is not None:
            stop.look()
            for place, end in stop.ends(tokens[rows, : index + 1], skip=done[rows]).items():
                row = rows[place]
                tokens[row, end], logprobs[row, end] = eos, of_end[row, end]
                ended[place] = True
        done[rows] = ended
        left = (~ended).nonzero().flatten()
        if not len(left):
            break
        if keep is not None and 2 * len(left) <= len(rows):
            keep(left)
            rows, new = rows[left], new[left]
            if stop is not None:
                stop.keep(left)
            if drawing is not None:
                drawing.keep(left)
    # Rows that had ended were written on: their first end of text, or their limit, is where.
    beyond = torch.arange(n_steps, device=device) >= limits[:, None]
    decoded = _decoded(tokens.masked_fill(beyond, _NONE), logprobs, eos)
    _require_finite([i for i, score in enumerate(decoded.score) if math.isnan(score)])
    return decoded


@torch.no_grad()
def beam(
    step: Step,
    reorder: Reorder,
    prompt: Tensor,
    *,
    eos: int,
    config: SearchConfig,
    max_tokens: Tensor | None = None,
    stop: StopAfterSound | None = None,
    expected: ExpectedWords | None = None,
) -> Decoded:
    """Search with `config.beam_size` hypotheses for each utterance.

    Finds the tokens of transformers' ``generate(num_beams=..., early_stopping=False)``. Suppressed
    tokens take no probability (there: ``renormalize_logits=True``). An utterance stops when its
    best open hypothesis, scored at its present length, is no better than the worst of `beam_size`
    ended ones; what is still open at the limit ends there and competes as it is.

    Args:
        step: see `Step`; always called with n_utt * beam_size rows, those of an utterance adjacent.
        reorder: see `Reorder`; called between two steps.
        prompt: tokens given to each utterance (n_utt, n_prompt) int64.
        eos: id of the end of text.
        config: search settings.
        max_tokens: a limit for each utterance (n_utt,), on top of the config's; 0 decodes nothing.
        stop: drops hypotheses that begin again, in favour of those that ended there.
        expected: words whose tokens add to a hypothesis's score; log-probabilities stay the
            model's.
    Returns:
        The best hypothesis of each utterance.
    Raises:
        ConfigError: a token id beyond the vocabulary.
        HyperASRError: logits of an utterance are not finite before it has ended.
    """
    limits, n_steps = _limits(prompt, config, max_tokens)
    n_utt, k, device = prompt.shape[0], config.beam_size, prompt.device
    allowed = _LogitFilter(config, eos, device)
    running = _Hypotheses.none(n_utt, k, n_steps, device)
    finished = _Hypotheses.none(n_utt, k, n_steps, device)
    # One open hypothesis at first, else all beams would hold the same tokens.
    running.score[:, 0].masked_fill_(limits > 0, 0.0)
    broken = torch.zeros(n_utt, dtype=torch.bool, device=device)
    first_row = torch.arange(n_utt, device=device)[:, None] * k
    new = _prefixed(prompt, config).repeat_interleave(k, dim=0)
    for index in range(n_steps):
        logprobs = allowed(step(new), first=index == 0).log_softmax(dim=-1)
        more = None
        if expected is not None:
            more = expected(running.tokens[:, :, :index].flatten(0, 1)).view(n_utt, k, -1)
        candidates, parents = running.extended(logprobs.view(n_utt, k, -1), index, more)
        broken |= (running.score[:, 0] > -torch.inf) & candidates.score[:, 0].isnan()
        if stop is not None:
            stop.look()
            rows = first_row + parents
            candidates = _without_repeats(candidates, rows, finished, stop, index + 1)
        ends = (candidates.tokens[:, :, index] == eos) | (limits <= index + 1)[:, None]
        length = index + 1  # hypotheses are ranked by the mean of their log-probabilities
        # Only the first k of the 2 k candidates can end; the others keep k beams open if they do.
        finished = finished.joined(candidates.only(ends).first(k, length)).best(k)[0]
        running, chosen = candidates.only(~ends).best(k)
        improvable = running.score[:, 0] / length > finished.score[:, -1]
        if not bool(improvable.any()):
            break
        # An utterance that has ended has no open hypothesis, so nothing finishes in it any more.
        running.score.masked_fill_(~improvable[:, None], -torch.inf)
        rows = (first_row + parents.gather(1, chosen)).flatten()
        reorder(rows)
        if stop is not None:
            stop.reorder(rows)
        new = running.tokens[:, :, index].reshape(-1, 1)
    _require_finite(broken.nonzero().flatten().tolist())
    nothing = finished.score[:, :1] == -torch.inf
    return _decoded(finished.tokens[:, 0].masked_fill(nothing, _NONE), finished.logprobs[:, 0], eos)


def _without_repeats(
    candidates: _Hypotheses,
    rows: Tensor,
    finished: _Hypotheses,
    stop: StopAfterSound,
    n: int,
) -> _Hypotheses:
    """Leave out hypotheses of n tokens whose text begins again, where one of the utterance ended.

    Args:
        candidates: to be judged.
        rows: that each goes on from (n_utt, n_candidates).
        finished: those that have ended.
        stop: judges.
        n: tokens of each candidate.
    """
    nothing_else = (finished.score[:, :1] == -torch.inf).expand_as(candidates.score)
    skip = ~(candidates.score > -torch.inf) | nothing_else
    tokens = candidates.tokens[:, :, :n].flatten(0, 1)
    again = torch.zeros_like(skip.flatten())
    again[list(stop.ends(tokens, skip.flatten(), rows.flatten()))] = True
    return candidates.only(~again.view_as(skip))


@dataclass(frozen=True)
class _Hypotheses:
    """Several hypotheses of each utterance: score (n_utt, n), the rest (n_utt, n, n_steps)."""

    score: Tensor  # -inf where there is no hypothesis
    tokens: Tensor
    logprobs: Tensor

    @classmethod
    def none(cls, n_utt: int, n: int, n_steps: int, device: torch.device) -> _Hypotheses:
        return cls(
            torch.full((n_utt, n), -torch.inf, device=device),
            torch.full((n_utt, n, n_steps), _NONE, dtype=torch.int64, device=device),
            torch.zeros(n_utt, n, n_steps, device=device),
        )

    def extended(
        self, logprobs: Tensor, index: int, more: Tensor | None = None
    ) -> tuple[_Hypotheses, Tensor]:
        """Return the best 2 n with one more token, best first, and the beam each comes from.

        Args:
            logprobs: of the next token (n_utt, n, n_vocab).
            index: of that token.
            more: what counts beside them in the score, of the same shape.
        """
        n, n_vocab = logprobs.shape[1:]
        totals = logprobs + self.score[:, :, None]
        totals = (totals if more is None else totals + more).flatten(1)
        score, flat = totals.topk(min(2 * n, n * n_vocab), dim=1)
        parents = flat // n_vocab
        extended = self._at(parents)
        extended.tokens[:, :, index] = flat % n_vocab
        extended.logprobs[:, :, index] = logprobs.flatten(1).gather(1, flat)
        return replace(extended, score=score), parents

    def only(self, mask: Tensor) -> _Hypotheses:
        return replace(self, score=self.score.masked_fill(~mask, -torch.inf))

    def first(self, n: int, length: int) -> _Hypotheses:
        """Return the first n, their scores divided by the length."""
        return _Hypotheses(self.score[:, :n] / length, self.tokens[:, :n], self.logprobs[:, :n])

    def joined(self, other: _Hypotheses) -> _Hypotheses:
        return _Hypotheses(
            torch.cat([self.score, other.score], dim=1),
            torch.cat([self.tokens, other.tokens], dim=1),
            torch.cat([self.logprobs, other.logprobs], dim=1),
        )

    def best(self, n: int) -> tuple[_Hypotheses, Tensor]:
        """Return the n best, best first, and where they were."""
        index = self.score.topk(n, dim=1).indices
        return self._at(index), index

    def _at(self, index: Tensor) -> _Hypotheses:
        deep = index[:, :, None].expand(-1, -1, self.tokens.shape[2])
        return _Hypotheses(
            self.score.gather(1, index), self.tokens.gather(1, deep), self.logprobs.gather(1, deep)
        )


class _Drawing:
    """Draw tokens by adding Gumbel noise, each row from a generator of its own."""

    def __init__(self, config: SearchConfig, n_rows: int) -> None:
        if len(config.seeds) != n_rows:
            raise ShapeError(f"{len(config.seeds)} seeds do not fit {n_rows} rows; one a row")
        self.temperature = config.temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in config.seeds]

    def keep(self, rows: Tensor) -> None:
        self.generators = [self.generators[row] for row in rows.tolist()]

    def __call__(self, logits: Tensor) -> Tensor:
        # On the CPU, so that every device draws the same.
        noise = torch.stack([torch.rand(logits.shape[1], generator=g) for g in self.generators])
        gumbel = -(-noise.clamp_min(torch.finfo(noise.dtype).tiny).log()).log()
        return logits / self.temperature + gumbel.to(logits.device)


def _prefixed(prompt: Tensor, config: SearchConfig) -> Tensor:
    prefix = torch.tensor(config.prefix, dtype=prompt.dtype, device=prompt.device)
    return torch.cat([prefix.expand(prompt.shape[0], -1), prompt], dim=1)


class _LogitFilter:
    """Make logits float32 and rule out what is suppressed."""

    def __init__(self, config: SearchConfig, eos: int, device: torch.device) -> None:
        first = sorted({*config.suppress, *config.begin_suppress})
        self.highest = max([eos, *first])
        self.first = torch.tensor(first, dtype=torch.int64, device=device)
        self.later = torch.tensor(sorted({*config.suppress}), dtype=torch.int64, device=device)

    def __call__(self, logits: Tensor, *, first: bool) -> Tensor:
        if self.highest >= logits.shape[1]:
            raise ConfigError(
                f"token {self.highest} (eos or suppressed) is beyond the vocabulary of "
                f"{logits.shape[1]}; use the ids of this model's own tokenizer"
            )
        # Half precision keeps 8 or 11 bits: too few for sums of log-probabilities.
        logits = logits.float()
        ids = self.first if first else self.later
        # Out of place: the logits belong to the callee.
        return logits.index_fill(1, ids, -torch.inf) if len(ids) else logits


def _limits(prompt: Tensor, config: SearchConfig, max_tokens: Tensor | None) -> tuple[Tensor, int]:
    """Return the limit of each row (n_rows,), and the highest of them."""
    n_rows = prompt.shape[0]
    if max_tokens is None:
        max_tokens = torch.full((n_rows,), config.max_tokens)
    limits = max_tokens.to(prompt.device).clamp(0, config.max_tokens)
    return limits, int(limits.max()) if n_rows else 0


def _decoded(tokens: Tensor, logprobs: Tensor, eos: int) -> Decoded:
    """Cut each row at its end of text or where its tokens end, and score it."""
    texts, values, finished, scores = [], [], [], []
    for row, row_logprobs in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        n = next((i for i, token in enumerate(row) if token in (eos, _NONE)), len(row))
        ended = n < len(row) and row[n] == eos
        scored = row_logprobs[: n + ended]
        texts.append(tuple(row[:n]))
        values.append(tuple(row_logprobs[:n]))
        finished.append(ended)
        scores.append(math.fsum(scored) / len(scored) if scored else 0.0)
    return Decoded(tuple(texts), tuple(values), tuple(finished), tuple(scores))


def _require_finite(broken: list[int]) -> None:
    if broken:
        raise HyperASRError(
            f"no token has a finite probability in rows {broken}: the logits hold NaN or inf, or "
            "every token is suppressed; check the adapter's weights and the suppressed tokens"
        )
