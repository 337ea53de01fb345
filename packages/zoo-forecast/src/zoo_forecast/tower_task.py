"""Teach the light tower to read as MiniLM does: modality distillation, text by text, without any series.

Teacher and student see the same texts, in which some words are replaced by any others, so that words which no text has
are learnt too. The student's states approach the teacher's (features), and so do the angles between them
(relations, as MiniLMv2 has it, arXiv:2012.15828): which piece belongs to which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from zoo_core.attention.stages import split_heads
from zoo_core.distill import Teacher
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.relations import relation_kl
from zoo_core.train import step_generator
from zoo_core.weights.eight_bits import compact
from zoo_forecast import minilm
from zoo_forecast.bert import BERT
from zoo_forecast.light_tower import LightTower
from zoo_forecast.small import AuroraSmall
from zoo_forecast.small_exam import Exam
from zoo_forecast.small_task import Recipe, adamw, cosine_rate
from zoo_forecast.words import CLS, Pieces, pieces

LONGEST = (48, 48, 48, 64, 64, 64, 128, minilm.PIECES)  # pieces of a text that are learnt at a time: one for each batch
CHANGED = 0.1  # share of the words that are replaced
FIRST_WORD = 1000  # pieces before it are signs and unused ones
RELATIONS = 12  # heads
RELATION_WEIGHT = 1.0


class Read(NamedTuple):
    """Texts of a batch: pieces (B, T), padded at the end, and lengths (B,) with [CLS] and [SEP]."""

    pieces: Tensor
    lengths: Tensor


class TowerTask:
    """One training problem for `zoo_core.train.fit`.

    Args:
        tower: the student, on the device.
        teacher: what it learns from, on the device.
        recipe: all keys.
        texts: to learn from.
        exam: events in phrases that are kept from learning.
        network: which forecasts them, or None.
        device: where all of it lives.
    """

    def __init__(
        self, tower: LightTower, teacher: BERT, recipe: Recipe, texts: Sequence[str], exam: Exam,
        network: AuroraSmall | None, device: torch.device,
    ) -> None:  # fmt: skip
        tower.begin_from(teacher.embeddings["word_embeddings"].weight)  # type: ignore[arg-type]
        self.module: nn.Module = tower
        self.recipe, self.exam, self.network, self.device = recipe, exam, network, device
        self.cut = [cut for text in dict.fromkeys(texts) if (cut := pieces(text, limit=minilm.PIECES))]
        self.vocabulary = tower.word_embeddings.num_embeddings
        self.tower = teacher
        self.teacher = Teacher(teacher, {}, inputs=lambda read: read)

    def fingerprint(self) -> str:
        """Identify all texts."""
        return hashlib.sha256(repr([cut.numbers for cut in self.cut]).encode()).hexdigest()

    def identities(self) -> dict[str, str]:
        """Identify the teacher."""
        return self.teacher.identities()

    def check_unchanged(self) -> None:
        """Raise if the teacher has moved."""
        self.teacher.check_unchanged()

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with 8-bit matrices."""
        return compact(tensors, but=minilm.PLACES)

    def optimizer(self) -> torch.optim.Optimizer:
        """See `adamw`."""
        return adamw(self.module, self.recipe, self.device)

    def learning_rate(self, step: int) -> float:
        """See `cosine_rate`."""
        return cosine_rate(self.recipe, step)

    def batch(self, step: int) -> Read:
        """Return texts or parts of texts, some of their words replaced."""
        draw = step_generator(self.recipe.seed, step)
        chosen = torch.randint(len(self.cut), (self.recipe.batch,), generator=draw).tolist()
        longest = LONGEST[int(torch.randint(len(LONGEST), (), generator=draw))]
        where = torch.rand(self.recipe.batch, generator=draw).tolist()
        read = _padded([_part(self.cut[n], longest, at) for n, at in zip(chosen, where, strict=True)])
        other = torch.randint(FIRST_WORD, self.vocabulary, read.pieces.shape, generator=draw)
        replaced = (torch.rand(read.pieces.shape, generator=draw) < CHANGED) & (read.pieces >= FIRST_WORD)
        return Read(torch.where(replaced, other, read.pieces), read.lengths)

    def loss(self, batch: Read) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean square of the states, over that of the teacher's, and the divergence of their relations."""
        taught = self.teacher(batch).out
        states = self.module(batch.pieces, batch.lengths).float()
        there = torch.arange(states.shape[1], device=states.device) < batch.lengths[:, None]
        features = mse(states, taught, mask=there).mean() / taught[there].var()
        own, given = (split_heads(x, RELATIONS) for x in (states, taught))
        relations = relation_kl((own, own), (given, given), mask=there).mean()
        return features + RELATION_WEIGHT * relations, {"features": features, "relations": relations}

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Return how far rows of unseen phrases are from MiniLM's (`rows`, relative; `cosine` of a text's mean).

        With a network, `text` is CRPS with over without texts read by the student, `text_minilm` by MiniLM.
        """
        assert isinstance(module, LightTower)  # noqa: S101 - for the type checker
        said = [question.text for question in self.exam.told if question.text]
        own, exact = (minilm.read(tower, said).float() for tower in (module, self.tower))
        there = exact.any(2)
        scores = {
            "rows": float((own - exact)[there].square().mean().sqrt() / exact[there].square().mean().sqrt()),
            "cosine": float(cosine_similarity(own.sum(1), exact.sum(1)).mean()),
        }
        if self.network is not None:
            for name, tower in {"text": module, "text_minilm": self.tower}.items():
                scores[name] = Exam([], self.exam.told, tower)(self.network)["text"]
        return scores


def _part(cut: Pieces, longest: int, where: float) -> tuple[int, ...]:
    """Return a text or, of one that is longer, a stretch; `where` in [0, 1) says which."""
    first = int(where * max(1, len(cut.numbers) - longest + 1))
    return (CLS, *cut.numbers[first + 1 : first + longest])


def _padded(texts: Sequence[Sequence[int]]) -> Read:
    lengths = torch.tensor([len(text) for text in texts])
    made = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    for row, text in enumerate(texts):
        made[row, : len(text)] = torch.tensor(text)
    return Read(made, lengths)
