"""Prefix beam search for CTC (Hannun et al., arXiv 1408.2873), with what a language model or a lexicon adds.

A prefix l has two probabilities: of all paths so far that read as l and end in a blank, p_b, or in its last symbol,
p_nb. With a frame's posteriors P, the last symbol e of l and "." for the values before the frame:

    p_b(l)    = P(blank) (p_b(l). + p_nb(l).)
    p_nb(l)   = P(e) p_nb(l). + (what l without e hands over by reading e)
    l hands over by reading c:  P(c) p_b(l).  if c = e,  else  P(c) (p_b(l). + p_nb(l).)

Prefixes are ranked by log(p_b + p_nb) + what the scorer gives + bonus * |l|; all in natural logarithms, float64.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo_htr.alphabet import BLANK

Floats = NDArray[np.float64]

WIDTH = 16
LEAST_LOG = -7.0  # symbols below this log posterior do not extend a prefix
SKIPPED = 0.9995  # frames whose blank is likelier than this only end the symbol before them
END = BLANK  # in a scorer's row the blank's place holds the end of the line
NEVER = -np.inf


class Scorer(Protocol):
    """What a language model, a lexicon or both say of the next symbol."""

    def start(self) -> Hashable:
        """Return the state at the begin of a line."""
        ...

    def row(self, state: Any) -> Floats:
        """Return the weighted log-score of each next symbol, (V,); at index 0 that of the end of the line."""
        ...

    def step(self, state: Any, symbol: int) -> Hashable:
        """Return the state after a symbol."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """One text that the search found.

    Args:
        label: symbol indices.
        acoustic: log p(label | line) in nats, over the paths that the search kept: a lower bound.
        score: what it was ranked by, with the scorer's part and the bonus.
    """

    label: tuple[int, ...]
    acoustic: float
    score: float


def beam_search(
    log_probs: NDArray[np.floating],
    scorer: Scorer | None = None,
    *,
    width: int = WIDTH,
    bonus: float = 0.0,
    least_log: float = LEAST_LOG,
    skipped: float = SKIPPED,
) -> list[Hypothesis]:
    """Search the likeliest texts of one line; with a width beyond all prefixes and nothing pruned it is exact.

    Args:
        log_probs: (T, V) log-softmax; symbols at -inf are never read.
        scorer: adds to the log-score of every symbol and of the line's end.
        width: how many prefixes are kept at each frame.
        bonus: nats a symbol, against the scorer's liking for short texts.
        least_log: symbols below it do not extend a prefix.
        skipped: frames whose blank is likelier only end the symbol before them; above 1 none is skipped.

    Returns:
        at most `width` texts, best first; none only where a scorer forbids every text that was kept.
    """
    logs = log_probs.astype(np.float64)
    tree = _Prefixes(scorer)
    node, parent, last = np.zeros(1, np.int64), np.full(1, -1), np.zeros(1, np.int64)
    with_blank, without = np.zeros(1), np.full(1, NEVER)
    language, rows = np.zeros(1), tree.rows([0], logs.shape[1])
    jumps = logs[:, BLANK] > np.log(skipped)
    place = np.full(logs.shape[1], -1)  # symbol -> its column among the frame's candidates

    for frame, jump in zip(logs, jumps, strict=True):
        total = np.logaddexp(with_blank, without)
        if jump:
            with_blank, without = total + frame[BLANK], np.full(len(total), NEVER)
            continue
        symbols = np.flatnonzero(frame[1:] > least_log) + 1
        chance = frame[symbols]
        stay_blank, stay = total + frame[BLANK], without + frame[last]
        handed = np.where(last[:, None] == symbols, with_blank[:, None], total[:, None]) + chance

        # a kept prefix takes what its own parent hands over, instead of growing a second time
        child, source = np.nonzero(parent[:, None] == node)
        if len(child):
            place[symbols] = np.arange(len(symbols))
            column = place[last[child]]
            place[symbols] = -1
            known = column >= 0
            child, source, column = child[known], source[known], column[known]
            stay[child] = np.logaddexp(stay[child], handed[source, column])
            handed[source, column] = NEVER

        grown = language[:, None] + bonus
        if scorer is not None:
            grown = grown + rows[:, symbols]
        ranks = np.concatenate([np.logaddexp(stay_blank, stay) + language, (handed + grown).ravel()])
        chosen = np.argpartition(-ranks, width - 1)[:width] if len(ranks) > width else np.arange(len(ranks))
        chosen = chosen[ranks[chosen] > NEVER]
        if not len(chosen):
            return []
        old, new = chosen[chosen < len(node)], chosen[chosen >= len(node)] - len(node)
        if not len(new):
            node, parent, last = node[old], parent[old], last[old]
            with_blank, without, language = stay_blank[old], stay[old], language[old]
            rows = rows[old] if scorer is not None else rows
            continue
        source, column = np.divmod(new, len(symbols))
        fresh = tree.grow(node[source].tolist(), symbols[column].tolist())
        with_blank = np.concatenate([stay_blank[old], np.full(len(new), NEVER)])
        without = np.concatenate([stay[old], handed[source, column]])
        extra = np.broadcast_to(grown, handed.shape)[source, column]
        language = np.concatenate([language[old], extra])
        if scorer is not None:
            rows = np.concatenate([rows[old], tree.rows(fresh, logs.shape[1])])
        parent = np.concatenate([parent[old], node[source]])
        last = np.concatenate([last[old], symbols[column]])
        node = np.concatenate([node[old], fresh])

    acoustic = np.logaddexp(with_blank, without)
    score = acoustic + language + (rows[:, END] if scorer is not None else 0.0)
    order = np.argsort(-score, kind="stable")
    return [
        Hypothesis(tree.label(int(node[i])), float(acoustic[i]), float(score[i])) for i in order if score[i] > NEVER
    ]


class _Prefixes:
    """All prefixes that were kept at some frame, as a tree; one that comes back is the same node again."""

    def __init__(self, scorer: Scorer | None) -> None:
        self.scorer = scorer
        self.parents, self.symbols = [-1], [BLANK]
        self.states: list[Hashable] = [scorer.start() if scorer else None]
        self.known: dict[tuple[int, int], int] = {}

    def grow(self, nodes: list[int], symbols: list[int]) -> list[int]:
        """Return the nodes of prefixes with a symbol more."""
        fresh = []
        for node, symbol in zip(nodes, symbols, strict=True):
            found = self.known.get((node, symbol))
            if found is None:
                found = self.known[node, symbol] = len(self.parents)
                self.parents.append(node)
                self.symbols.append(symbol)
                self.states.append(self.scorer.step(self.states[node], symbol) if self.scorer else None)
            fresh.append(found)
        return fresh

    def rows(self, nodes: list[int], symbols: int) -> Floats:
        """Return the scorer's rows (len(nodes), V); without a scorer, none that would be read."""
        if self.scorer is None:
            return np.zeros((len(nodes), 0))
        table = np.empty((len(nodes), symbols))
        for row, node in zip(table, nodes, strict=True):
            row[:] = self.scorer.row(self.states[node])
        return table

    def label(self, node: int) -> tuple[int, ...]:
        label = []
        while self.parents[node] >= 0:
            label.append(self.symbols[node])
            node = self.parents[node]
        return tuple(reversed(label))
