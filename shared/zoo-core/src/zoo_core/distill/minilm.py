"""MiniLM: the student learns how the teacher's last attention layer relates tokens to each other.

Wang et al., NeurIPS 2020, arXiv:2002.10957: L = L_AT + L_VR, the divergences of the attention distributions (q with k)
and of the value relations (v with v), of the last layer only (sections 3.1, 3.2). Maps are heads x tokens x tokens
whatever the width, so a narrower student needs no adapter, and it may have any number of layers; but as many heads as
the teacher. MiniLMv2 (Wang et al., Findings of ACL 2021, arXiv:2012.15828, section 3): q with q, k with k, v with v,
the heads of both cut anew into equally many relation heads, from a layer of one's choice.

A teacher assistant (section 3.3) is a stage of its own: teacher -> assistant of the teacher's depth and the student's
width -> student.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from zoo_core.distill.adapters import regroup
from zoo_core.distill.batches import Pick
from zoo_core.distill.losses.relations import Pair, Way, relation_kl
from zoo_core.distill.objective import Term
from zoo_core.distill.schedules import Schedule
from zoo_core.probe import Point

PAIRS = {"v1": (("q", "k"), ("v", "v")), "v2": (("q", "q"), ("k", "k"), ("v", "v"))}


def points(path: str) -> dict[str, Point]:
    """Return the points of an attention module that the terms compare: q, k and v, under these names."""
    return {f"minilm.{what}": Point(path, what) for what in ("q", "k", "v")}


def minilm(
    pairs: Literal["v1", "v2"] = "v1",
    *,
    relation_heads: int | None = None,
    weight: float | Schedule = 1.0,
    mask: Pick | None = None,
    way: Way = "auto",
) -> list[Term]:
    """Return the terms of MiniLM; student and teacher need the points of `points`.

    Args:
        pairs: which of q, k, v are related.
        relation_heads: cut both sides anew into so many; needed where their numbers of heads differ.
        weight: of each term.
        mask: which part of the batch says what tokens are real, (B, N).
        way: see `relation_kl`.
    """
    loss = partial(_relation, relation_heads=relation_heads, way=way)
    terms = []
    for x, y in PAIRS[pairs]:
        names = (f"minilm.{x}", f"minilm.{y}")
        terms.append(Term(f"relation_{x}{y}", loss, names, names, weight=weight, mask=mask))
    return terms


def _relation(
    student: Pair, teacher: Pair, *, mask: Tensor | None = None, relation_heads: int | None = None, way: Way = "auto"
) -> Tensor:
    if relation_heads is not None:
        student, teacher = ((regroup(x, relation_heads), regroup(y, relation_heads)) for x, y in (student, teacher))
    return relation_kl(student, teacher, mask=mask, way=way)
