"""Words that are expected: a bonus for the tokens that spell them, in beam search.

Shallow fusion with a prefix tree over tokens (Zhao et al. 2019, "Shallow-fusion end-to-end
contextual biasing", Interspeech): every token on the way along an expected word adds the bonus to
a hypothesis's score; one that leaves the word unfinished gives it back. So a word is favoured as a
whole, and only where the sound leaves it open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

WORD_STARTS = ("\u0120", "\u010a", "\u0109")  # blank, line end, tab in byte-level BPE


def word_starts(vocabulary: Mapping[str, int], eos: int, n_vocab: int) -> Tensor:
    """Return whether a token begins a word, is a mark, or ends the text (n_vocab,) bool."""
    starts = torch.ones(n_vocab, dtype=torch.bool)
    for name, token in vocabulary.items():
        if token < eos and name[:1].isalnum() and name[0] not in WORD_STARTS:
            starts[token] = False
    return starts


class _Node:
    """A place in the tree: a beginning of expected words, `depth` tokens long.

    Attributes:
        children: next node by token.
        is_word: whether an expected word ends here.
        whole: tokens of the longest expected word that the beginning holds before its last one.
    """

    def __init__(self, depth: int = 0) -> None:
        self.children: dict[int, _Node] = {}
        self.depth, self.is_word, self.whole = depth, False, 0


class ExpectedWords:
    """Says what each token adds to the score of a hypothesis.

    Args:
        words: tokens of each, with the blank before it; of one word or several.
        starts: whether a token begins a word, or ends the text (n_vocab,) bool.
        bonus: of a token of an expected word, in nats.
    """

    def __init__(self, words: Iterable[Sequence[int]], starts: Tensor, bonus: float) -> None:
        self.root, self.starts, self.bonus = _Node(), starts.cpu(), bonus
        for word in words:
            node = self.root
            for token in word:
                node = node.children.setdefault(int(token), _Node(node.depth + 1))
            node.is_word = bool(word)
        waiting = [self.root]  # not by recursion: a phrase may have thousands of tokens
        while waiting:
            node = waiting.pop()
            for token, child in node.children.items():
                ended = node.is_word and bool(self.starts[token])
                child.whole = node.depth if ended else node.whole
                waiting.append(child)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the bonus of every next token.

        Args:
            tokens: of each hypothesis so far (n_rows, n_tokens).
        Returns:
            (n_rows, n_vocab) float32, in nats; negative where a bonus is given back.
        """
        added = torch.zeros(len(tokens), len(self.starts))
        for row, node in zip(added, map(self._node, tokens.tolist()), strict=True):
            if node is not self.root:
                # A whole word keeps its bonus where the next one begins: not `cat` in `catalog`.
                kept = node.depth if node.is_word else node.whole
                row[:] = torch.where(self.starts, kept - node.depth, node.whole - node.depth)
            for token, child in self.root.children.items():
                row[token] += child.depth
            for token, child in node.children.items():
                row[token] = child.depth - node.depth
        return added.mul_(self.bonus).to(tokens.device)

    def _node(self, tokens: Iterable[int]) -> _Node:
        """Return the node that a text ends at; the root where it ends in no expected beginning."""
        node = self.root
        for token in tokens:
            node = node.children.get(token) or self.root.children.get(token) or self.root
        return node
