"""How hard each term pulls: gradients of the weighted terms, one by one.

A term whose gradient is nothing does nothing, whatever its value; and two terms whose gradients point against each
other on shared weights disturb each other. Both are seen here, for the price of a backward pass a term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_core.distill.objective import Objective
from zoo_core.errors import UsageError
from zoo_core.probe import Seen


def gradients(
    objective: Objective, student: Seen, teacher: Seen | None, batch: Any, step: int, *, at: str | Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the gradient of each term times its weight, as one vector; the graph stays for the backward pass to come.

    Args:
        objective: the terms; those of weight 0 at this step are left out.
        student: as for the objective.
        teacher: likewise.
        batch: likewise.
        step: likewise.
        at: a point of the student, best the last that all terms share; or parameters.
    """
    if isinstance(at, str):
        if at not in student.at:
            raise UsageError(f"The student has no point {at!r}.", f"Its points are {', '.join(student.at) or 'none'}.")
        at = [student.at[at]]
    places = list(at)
    weights = objective.weights(step)
    values, shares = objective.per_sample(student, teacher, batch, step)
    found = {}
    for name, value in values.items():
        share = shares[name]
        whole = torch.where(share > 0, value, 0.0) * share
        loss = weights[name] * whole.sum() / share.sum().clamp(min=1e-12)
        parts: Sequence[Tensor | None] = [None] * len(places)
        if loss.requires_grad:
            parts = torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)
        flat = [torch.zeros_like(x).flatten() if g is None else g.flatten() for g, x in zip(parts, places, strict=True)]
        found[name] = torch.cat(flat).float()
    return found


def shares(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ||g_k|| / sum ||g||, scalars that sum to 1 (0 where all are 0), from what `gradients` gave."""
    norms = {name: vector.norm() for name, vector in vectors.items()}
    total = torch.stack(list(norms.values())).sum().clamp(min=1e-30)
    return {name: norm / total for name, norm in norms.items()}


def cosines(vectors: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Return the cosine between the gradients of each two terms: below 0 they pull against each other."""
    names = list(vectors)
    return {
        (one, two): torch.nn.functional.cosine_similarity(vectors[one], vectors[two], dim=0)
        for number, one in enumerate(names)
        for two in names[number + 1 :]
    }


def share_logs(
    objective: Objective, student: Seen, teacher: Seen | None, batch: Any, step: int, *, at: str, every: int
) -> dict[str, Tensor]:
    """Return `share_TERM` for a task to log, computed every so many steps and NaN in between (which logs leave out)."""
    idle = torch.full((), torch.nan)
    logs = {f"share_{term.name}": idle for term in objective.terms}
    if step % every == 0:
        vectors = gradients(objective, student, teacher, batch, step, at=at)
        logs |= {f"share_{name}": share for name, share in shares(vectors).items()}
    return logs
