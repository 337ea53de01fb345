"""Which lines a step sees: phases, curriculum, balance of corpora, batches of like widths.

All of it is a function of (seed, step). Samples are drawn for a pool of batches at once, sorted by width and cut into
batches, whose order is then shuffled: little padding, yet no step knows what comes.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_core.train.order import step_generator
from zoo_htr.augment import UNIFORMS, Choice, draw, still
from zoo_htr.data import Line, LineStore

Floats = NDArray[np.float64]

POOL = 50  # batches that are drawn together
CANVASES = (96, 160, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 1920, 2432)  # widths of batches
JOINED_SHARE = 0.1  # of the samples are two lines of one writer
LONGEST_JOINED = 1600  # columns
FIRST_SHARE = 0.2  # of the lines, the easiest, that a curriculum begins with
ALL_FROM = 0.6  # of the phase, from where on it has all lines
_OWN = 6  # uniform numbers of a sample that are not the augmentation's


@dataclass(frozen=True)
class Phases:
    """How a run goes from synthetic to real lines.

    Args:
        synthetic: share of the steps with synthetic lines only (S0).
        mixed: share of the steps in which the synthetic part of a batch falls from 50 to 15 % (S1).
        rest: synthetic share of the samples after that (S2).
        curriculum: whether S1 begins with the easiest real lines.
        replay: share of the real samples that come from the replay lines.
    """

    synthetic: float
    mixed: float
    rest: float
    curriculum: bool
    replay: float = 0.0

    def synthetic_share(self, progress: float) -> float:
        """Return the share of synthetic samples at a progress in [0, 1] of the run."""
        if progress < self.synthetic:
            return 1.0
        within = (progress - self.synthetic) / self.mixed if self.mixed else 1.0
        return 0.5 - 0.35 * within if within < 1 else self.rest

    def easiest(self, progress: float) -> float:
        """Return the share c(u) = min(1, sqrt(c0^2 + (1 - c0^2) u / 0.6)) of the real lines, easiest first."""
        if not self.curriculum or not self.mixed:
            return 1.0
        u = max(0.0, (progress - self.synthetic) / self.mixed)
        return float(min(1.0, (FIRST_SHARE**2 + (1 - FIRST_SHARE**2) * u / ALL_FROM) ** 0.5))


def difficulty(lines: list[Line]) -> Floats:
    """Return 0.4 z(characters) + 0.3 z(-columns a character) + 0.3 z(mean -log p(character)), (N,)."""
    counts = Counter(char for line in lines for char in line.text)
    total = sum(counts.values())
    rarity = [sum(-math.log(counts[char] / total) for char in line.text) / len(line.text) for line in lines]
    length = [float(len(line.text)) for line in lines]
    dense = [-line.pixels.shape[1] / len(line.text) for line in lines]

    def z(values: Floats | list[float]) -> Floats:
        array = np.asarray(values, dtype=np.float64)
        scaled: Floats = (array - array.mean()) / max(array.std(), 1e-9)
        return scaled

    hard: Floats = 0.4 * z(length) + 0.3 * z(dense) + 0.3 * z(rarity)
    return hard


class Batch(NamedTuple):
    """What a step needs to make its lines on the device; little to copy.

    Args:
        choice: which lines, see `augment.Choice`.
        parameters: (B, P), what happens to them.
        canvas: (1, W) nothing but the width of the batch: equal shapes may share a graph.
        step: which one.
    """

    choice: Choice
    parameters: Tensor
    canvas: Tensor
    step: int


class Schedule:
    """Draws the batches of a run.

    Args:
        store: all lines, in the order of `real`, `synthetic`, `replay`.
        real: lines that count.
        synthetic: rendered ones, may be none.
        replay: of the data that a network was trained on before, may be none.
        phases: the plan.
        steps: of the whole run.
        batch: B.
        seed: of every draw.
        augment: whether lines are changed and joined.
    """

    def __init__(
        self,
        store: LineStore,
        real: list[Line],
        synthetic: list[Line],
        replay: list[Line],
        *,
        phases: Phases,
        steps: int,
        batch: int,
        seed: int,
        augment: bool,
    ) -> None:
        self.store, self.phases, self.steps, self.batch, self.seed = store, phases, steps, batch, seed
        self.augment = augment
        self.real = _by_corpus(real, 0)
        self.synthetic = _by_corpus(synthetic, len(real))
        self.replay = _by_corpus(replay, len(real) + len(synthetic))
        self.mates = _writers([*real, *synthetic, *replay])
        self._pool: tuple[int, list[Batch]] = (-1, [])

    def draw(self, step: int) -> Batch:
        """Return the batch of a step."""
        number, within = divmod(step, POOL)
        if self._pool[0] != number:
            self._pool = number, self._drawn(number)
        return self._pool[1][within]

    def _drawn(self, number: int) -> list[Batch]:
        generator = step_generator(self.seed, number)
        random = torch.rand(POOL * self.batch, _OWN + UNIFORMS, generator=generator)
        line = self._lines(random[:, 0], random[:, 1], min(1.0, number * POOL / self.steps))
        gap = (12 + 18 * random[:, 3]).long()
        second = self._seconds(line, gap, random[:, 2], random[:, 4])
        other = (random[:, 5] * len(self.store)).long()
        joined, behind = second >= 0, second.clamp_min(0)
        widths, needed = self.store.widths_cpu[line], self.store.needed_cpu[line]
        widths = torch.where(joined, widths + gap + self.store.widths_cpu[behind], widths)
        needed = torch.where(joined, needed + 1 + self.store.needed_cpu[behind], needed)
        parameters = draw(widths, needed, random[:, _OWN:]) if self.augment else still(widths)
        room = torch.maximum(widths, parameters[:, 0].long())
        order = room.argsort(stable=True)
        batches = []
        for rows in order.view(POOL, self.batch):
            widest = int(room[rows].max())
            canvas = next(width for width in CANVASES if width >= widest)
            choice = Choice(line[rows], second[rows], gap[rows], other[rows])
            batches.append(Batch(choice, parameters[rows], torch.zeros(1, canvas), 0))
        shuffled = torch.randperm(POOL, generator=generator).tolist()
        return [batches[i]._replace(step=number * POOL + place) for place, i in enumerate(shuffled)]

    def _lines(self, kind: Tensor, place: Tensor, progress: float) -> Tensor:
        """Choose lines by two uniform numbers each: the corpus by the first, the line in it by the second."""
        share = self.phases.synthetic_share(progress) if self.synthetic else 0.0
        replay = self.phases.replay if self.replay else 0.0
        easiest = self.phases.easiest(progress)
        corpora, shares = [], []
        for group, part, fraction in (
            (self.real, (1 - share) * (1 - replay), easiest),
            (self.synthetic, share, 1.0),
            (self.replay, (1 - share) * replay, 1.0),
        ):
            roots = [len(indices) ** 0.5 for indices in group]
            for indices, root in zip(group, roots, strict=True):
                corpora.append(indices[: max(1, round(fraction * len(indices)))])
                shares.append(part * root / sum(roots))
        edges = torch.tensor(shares, dtype=torch.float64).cumsum(0)
        chosen = torch.searchsorted(edges, kind.double() * edges[-1], right=True).clamp_max(len(corpora) - 1)
        sizes = torch.tensor([len(indices) for indices in corpora])
        starts = sizes.cumsum(0) - sizes
        return torch.cat(corpora)[starts[chosen] + (place * sizes[chosen]).long()]

    def _seconds(self, line: Tensor, gap: Tensor, kind: Tensor, place: Tensor) -> Tensor:
        """Choose lines of the same writers to write behind some of the lines; -1 for the others."""
        order, starts, counts = self.mates
        second = order[starts[line] + (place * counts[line]).long()]
        widths, lengths = self.store.widths_cpu, self.store.lengths_cpu
        fits = (widths[line] + gap + widths[second] <= LONGEST_JOINED) & (
            lengths[line] + lengths[second] + 1 <= self.store.labels.shape[1]
        )
        wanted = (kind < JOINED_SHARE) & (second != line) & fits & (counts[line] > 1)
        return torch.where(wanted & self.augment & (self.store.space is not None), second, -1)

    def describe(self, step: int) -> str:
        """Name the lines of a step."""
        return ", ".join(self.store.names[i] for i in self.draw(step).choice.line.tolist())


def _by_corpus(lines: list[Line], first: int) -> list[Tensor]:
    """Return for each corpus the numbers of its lines, easiest first."""
    if not lines:
        return []
    hard = difficulty(lines)
    corpora = sorted({line.corpus for line in lines})
    members = [[i for i, line in enumerate(lines) if line.corpus == corpus] for corpus in corpora]
    return [torch.tensor(sorted(own, key=lambda i: (hard[i], i))) + first for own in members]


def _writers(lines: list[Line]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lines ordered by writer, and for each line where its writer begins there and how many lines they have.

    A line without a writer is alone.
    """
    names = [f"{line.corpus}\0{line.writer}" if line.writer else f"\0{i}" for i, line in enumerate(lines)]
    order = sorted(range(len(lines)), key=lambda i: (names[i], i))
    starts, counts = torch.zeros(len(lines), dtype=torch.long), torch.zeros(len(lines), dtype=torch.long)
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or names[order[end]] != names[order[begin]]:
            own = torch.tensor(order[begin:end])
            starts[own], counts[own] = begin, end - begin
            begin = end
    return torch.tensor(order), starts, counts
