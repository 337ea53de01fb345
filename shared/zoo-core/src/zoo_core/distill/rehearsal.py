"""The dry run of a distillation: one batch goes through, every term is looked at, and what cannot work is refused."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.distill.batches import Pick, pick
from zoo_core.distill.objective import Objective, Term
from zoo_core.distill.targets import pack
from zoo_core.distill.teacher import Teacher
from zoo_core.errors import UsageError, ZooError
from zoo_core.probe import Seen


@dataclass(frozen=True)
class TermRow:
    """What one term did: its value and gradient norm are those of weight 1, its share that of the weights."""

    name: str
    student: str
    teacher: str
    adapter: str
    value: float
    gradient: float
    weight: float
    share: float
    milliseconds: float


@dataclass(frozen=True)
class Rehearsal:
    """What the dry run found; its text is a table, a line a term."""

    rows: tuple[TermRow, ...]
    teacher_milliseconds: float
    teacher_bytes: int
    teacher_metric: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = ("term", "student", "teacher", "adapter", "value", "gradient", "weight", "share", "ms")
        lines = [head] + [
            (r.name, r.student, r.teacher, r.adapter, f"{r.value:.4g}", f"{r.gradient:.3g}", f"{r.weight:.4g}",
             f"{r.share:.0%}", f"{r.milliseconds:.1f}")
            for r in self.rows
        ]  # fmt: skip
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        padded = ("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)
        table = "\n".join(line.rstrip() for line in padded)
        metric = f", {self.teacher_metric}" if self.teacher_metric else ""
        took = f"{self.teacher_milliseconds:.1f} ms, {self.teacher_bytes} bytes a sample in a cache"
        return "\n".join([table, f"teacher  {took}{metric}", *(f"note: {note}" for note in self.notes)])


def rehearse(
    objective: Objective,
    student: nn.Module,
    teacher: Teacher | None,
    batch: Any,
    *,
    inputs: Pick,
    step: int = 0,
    idle: Collection[str] = (),
    teacher_metric: tuple[str, float, float] | None = None,
    tolerance: float = 0.01,
) -> Rehearsal:
    """Run one batch and look at every term, also at those whose weight is 0 at this step.

    Args:
        objective: the terms.
        student: a `Student`, in the mode that it trains in; nothing of it changes but batch statistics.
        teacher: if any.
        batch: one batch, on the student's device.
        inputs: which part of it the student sees.
        step: for the weights.
        idle: names of terms that may have no gradient.
        teacher_metric: name, value by our own evaluation, value that its manifest states; higher is better.
        tolerance: by how much of the stated value ours may be worse.

    Raises:
        UsageError: a term without any gradient, unless it is because the student starts as a copy of its teacher, which
            the text then says; shapes that do not fit; a teacher that shares weights with the student,
            draws random numbers, gives other outputs the second time, or is worse than its manifest says.
        ZooError: values that are not finite.
    """
    shown = ""
    if teacher_metric is not None:
        name, ours, stated = teacher_metric
        shown = f"{name} {ours:.4g} (its manifest says {stated:.4g})"
        if ours < stated * (1 - tolerance):
            raise UsageError(
                f"The teacher reaches {shown}.",
                "Is its input prepared as it was trained? Size, range, colour, cutting.",
            )
    taught, milliseconds = _taught(teacher, student, batch)
    seen: Seen = student(pick(batch, inputs))
    parameters = [p for p in student.parameters() if p.requires_grad]
    weights = objective.weights(step)
    looked_at, notes = [], []
    for term in objective.terms:
        begin = time.perf_counter()
        value, norm = _look(term, seen, taught, batch, step, parameters)
        looked_at.append((term, value, norm, (time.perf_counter() - begin) * 1e3))
        if _alike(term, seen, taught):
            notes.append(f"the term {term.name!r} begins at 0: the student starts as its teacher, a copy of itself")
        elif norm == 0 and term.name not in idle:
            raise UsageError(
                f"The term {term.name!r} has a gradient of 0 (its value is {value:.4g}): it would change nothing.",
                "Is its point behind a detach or in a frozen part, its mask empty, or the student its own teacher?",
            )
    total = sum(weights[term.name] * norm for term, _, norm, _ in looked_at) or 1.0
    rows = tuple(
        TermRow(
            term.name, _shape(seen, term.student), _shape(taught, term.teacher) if term.teacher else "the batch",
            _name(term.adapter), value, norm, weights[term.name], weights[term.name] * norm / total, ms,
        )
        for term, value, norm, ms in looked_at
    )  # fmt: skip
    stored = 0
    if taught is not None:
        tensors = [x for x in pack(taught.at).values() if x.ndim]
        stored = sum(x[0].numel() * min(x.element_size(), 4) for x in tensors)
    return Rehearsal(rows, milliseconds, stored, shown, tuple(notes))


def _look(
    term: Term, seen: Seen, taught: Seen | None, batch: Any, step: int, parameters: Sequence[Tensor]
) -> tuple[float, float]:
    """Return the mean loss and the norm of its gradient, as if this term were all there is."""
    alone = Objective([Term(**{**vars(term), "weight": 1.0})])
    loss, parts = alone(seen, taught, batch, step)
    value = float(parts[term.name])
    if not torch.isfinite(loss):
        raise ZooError(f"The term {term.name!r} is {value}.", "Look at its inputs; a teacher in fp16 may overflow.")
    if not loss.requires_grad:
        return value, 0.0
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    squares = [g.float().square().sum() for g in found if g is not None]
    return value, float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _alike(term: Term, seen: Seen, taught: Seen | None) -> bool:
    """Return whether student and teacher show the same numbers that do take a gradient."""
    if taught is None or not isinstance(term.teacher, str) or not isinstance(term.student, str) or term.adapter:
        return False
    ours, theirs = (s.out if n == "out" else s.at[n] for s, n in ((seen, term.student), (taught, term.teacher)))
    both = isinstance(ours, Tensor) and isinstance(theirs, Tensor) and ours.requires_grad and ours.shape == theirs.shape
    return both and torch.equal(ours, theirs)


def _taught(teacher: Teacher | None, student: nn.Module, batch: Any) -> tuple[Seen | None, float]:
    if teacher is None:
        return None, 0.0
    theirs = {x.data_ptr() for x in teacher.tensors() if x.numel()}
    if any(x.data_ptr() in theirs for x in student.parameters()):
        raise UsageError("Teacher and student are the same network.", "Give the teacher a copy.")
    before = torch.get_rng_state()
    begin = time.perf_counter()
    taught = teacher(batch)
    milliseconds = (time.perf_counter() - begin) * 1e3
    again = teacher(batch)
    if not torch.equal(before, torch.get_rng_state()):
        raise UsageError(
            "The teacher draws random numbers, though it is in eval mode.",
            "Some dropout is switched on by a constant: set its probability to 0.",
        )
    first, second = pack(taught.at), pack(again.at)
    for name, x in first.items():
        if not torch.allclose(x, second[name]):
            raise UsageError(f"The teacher's {name!r} differs from call to call.", "Is something in train mode?")
        if x.is_floating_point() and not x.isfinite().all():
            raise ZooError(f"The teacher's {name!r} is not finite.", "If it runs in fp16, use bf16-true or fp32.")
    return taught, milliseconds


def _shape(seen: Seen | None, names: Any) -> str:
    if seen is None or names is None:
        return "-"
    if isinstance(names, tuple):
        return " ".join(_shape(seen, name) for name in names)
    value = seen.out if names == "out" else seen.at[names]
    value = value[0] if isinstance(value, tuple) and value else value
    return "x".join(map(str, value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _name(adapter: nn.Module | None) -> str:
    return "-" if adapter is None else type(adapter).__name__
