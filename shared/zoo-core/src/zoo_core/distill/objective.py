"""What is minimised: a weighted sum of terms, each a loss between tensors of the student and of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.distributed
from torch import Tensor, nn

from zoo_core.distill.balance import Balance
from zoo_core.distill.batches import Pick, pick
from zoo_core.distill.schedules import Constant, Schedule, at
from zoo_core.errors import UsageError, ZooError, did_you_mean
from zoo_core.probe import Seen

Loss: TypeAlias = Callable[..., Tensor]
Names: TypeAlias = str | tuple[str, ...]
OWN_AVERAGE = "ema:"  # points of the student's own average, which the student hands out
ADAPTED = "/adapted"  # where a student puts what a term's adapter made


@dataclass(frozen=True, eq=False)
class Term:
    """One part of an objective.

    Args:
        name: in logs and messages.
        loss: (student, teacher, *, mask, constants) -> (B,); see `zoo_core.distill.losses`.
        student: name of the student's point, "out" for its output; several make a tuple of tensors.
        teacher: name of the teacher's point, likewise ("ema:NAME": of the student's own average); None: the loss gets
            the batch instead, for the labels.
        adapter: a module that is applied to the student's tensor and trained with it; see `Student`.
        weight: a number or a schedule; where it is 0 the loss is not computed.
        mask: which part of the batch says what counts inside a sample: (B, places...), True or a weight.
        only: which part of the batch says what samples count: (B,), True or a weight.
        constants: of the loss; numbers may be schedules.
    """

    name: str
    loss: Loss
    student: Names
    teacher: Names | None = None
    adapter: nn.Module | None = None
    weight: float | Schedule = 1.0
    mask: Pick | None = None
    only: Pick | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.adapter is not None and not isinstance(self.student, str):
            raise UsageError(f"The term {self.name!r} has an adapter for several points.", "An adapter takes one.")


class Objective:
    """A weighted sum of terms.

    The value is sum_k w_k(step) (sum_i m_ki l_ki) / (sum_i m_ki), with l_ki the loss of sample i and m_ki whether (or
    how much) it counts. The sums of m go over all processes, and the value is multiplied by their number, because DDP
    averages gradients: any split of a batch gives the gradient of the whole. (A mean of means does not, where masks
    differ.)

    Args:
        terms: at least one, of different names.
        balance: scales the weights so that the shares of the gradient follow them; None: weights are as they are.

    Raises:
        UsageError: a name is given twice, or there is no term.
    """

    def __init__(self, terms: Sequence[Term], *, balance: Balance | None = None) -> None:
        self.terms = tuple(terms)
        self.balance = balance
        names = [term.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"An objective needs terms of different names, got {names}.")
        for name in names if balance is not None else ():
            balance.know(name)  # type: ignore[union-attr]

    def adapters(self) -> dict[str, nn.Module]:
        """Return the adapters by the name of their term."""
        return {term.name: term.adapter for term in self.terms if term.adapter is not None}

    def weights(self, step: int) -> dict[str, float]:
        """Return the weight of each term at a step."""
        return {term.name: float(at(term.weight, step)) for term in self.terms}

    def changes(self) -> list[str]:
        """Return the names of the terms with a weight or constant that depends on the step."""
        return [
            t.name for t in self.terms
            if self.balance is not None
            or any(isinstance(x, Schedule) and not isinstance(x, Constant) for x in (t.weight, *t.constants.values()))
        ]  # fmt: skip

    def __call__(
        self, student: Seen, teacher: Seen | None, batch: Any, step: int, *, totals: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise, and the unweighted value of each term to log (NaN where it was not computed).

        Args:
            student: of this process's samples.
            teacher: of the same samples; None if no term needs it.
            batch: their labels and masks.
            step: the global step, counted from 0.
            totals: by term, the sum of m over all micro-batches and processes, where a step has several micro-batches
                (`counts` makes them); the values then add up.

        Raises:
            UsageError: a point is missing, or shapes do not fit; names the term and what to do.
        """
        device_type = _device(student)
        weights = self.weights(step)
        if device_type == "cuda" and torch.cuda.is_current_stream_capturing() and self.changes():
            raise UsageError(
                f"A CUDA graph would keep the weights of step {step} for ever: {', '.join(self.changes())} change.",
                "Set graph=false, or make their weights and constants plain numbers.",
            )
        # losses are float32 whatever the training's precision
        with torch.autocast(device_type, enabled=False):
            values, shares = self.per_sample(student, teacher, batch, step)
            if not values:
                raise UsageError(
                    f"Every term has weight 0 at step {step}.", "Nothing would be learned: give one a weight."
                )
            counts = _over_processes(torch.stack([share.sum() for share in shares.values()]))
            processes = _processes()
            parts = {term.name: torch.full((), torch.nan, device=counts.device) for term in self.terms}
            reduced: dict[str, Tensor] = {}
            for count, (name, value) in zip(counts, values.items(), strict=True):
                whole = count if totals is None else totals[name]
                share = shares[name]
                kept = torch.where(share > 0, value, 0.0) * share
                reduced[name] = processes * kept.sum() / torch.where(whole > 0, whole, 1.0)
                parts[name] = reduced[name].detach()
            scales = self._scales(reduced, student, step)
            total = torch.zeros((), device=counts.device)
            for name, part in reduced.items():
                total = total + weights[name] * scales.get(name, 1.0) * part
            return total + self._kept_alive(student, weights), parts

    def per_sample(
        self, student: Seen, teacher: Seen | None, batch: Any, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return, by term of a weight other than 0, the loss of each sample and how much it counts, all (B,)."""
        weights = self.weights(step)
        values, shares = {}, {}
        for term in self.terms:
            if weights[term.name] == 0:
                continue
            value = self._value(term, student, teacher, batch, step)
            values[term.name] = value
            shares[term.name] = _share(term, batch, value)
        return values, shares

    def counts(self, batch: Any, samples: int, step: int) -> dict[str, Tensor]:
        """Return how many samples of this micro-batch count for each term; add them up for `totals`."""
        weights = self.weights(step)
        like = torch.empty(samples)
        return {t.name: _share(t, batch, like).sum() for t in self.terms if weights[t.name] != 0}

    def _value(self, term: Term, student: Seen, teacher: Seen | None, batch: Any, step: int) -> Tensor:
        name = term.student
        if term.adapter is not None:
            name = f"{term.name}{ADAPTED}"
            if name not in student.at:
                raise UsageError(
                    f"The term {term.name!r} has an adapter, and the student did not apply it.",
                    "Make the student with Student(network, points, objective), so that adapters train with it.",
                )
        ours = _named(student, name, f"The term {term.name!r}", "student")
        if term.teacher is None:
            theirs = batch
        elif isinstance(term.teacher, str) and term.teacher.startswith(OWN_AVERAGE):
            theirs = _named(student, term.teacher, f"The term {term.name!r}", "student with follow=")
        elif teacher is None:
            raise UsageError(f"The term {term.name!r} needs a teacher.", "Call the objective with what a teacher saw.")
        else:
            theirs = _named(teacher, term.teacher, f"The term {term.name!r}", "teacher")
        constants = {key: at(v, step) if isinstance(v, Schedule) else v for key, v in term.constants.items()}
        if term.mask is not None:
            constants["mask"] = pick(batch, term.mask)
        try:
            value = term.loss(ours, theirs, **constants)
        except ZooError as error:
            place = (
                f"student {term.student!r}, teacher {term.teacher!r}" if term.teacher else f"student {term.student!r}"
            )
            raise type(error)(f"The term {term.name!r} ({place}): {error.message}", error.remedy) from error
        if value.ndim != 1:
            raise UsageError(
                f"The loss of the term {term.name!r} gave a value of shape {tuple(value.shape)}.",
                "A loss gives one number a sample: (B,). The objective averages.",
            )
        return value

    def _scales(self, parts: Mapping[str, Tensor], student: Seen, step: int) -> Mapping[str, Tensor]:
        """Return what a balance multiplies the weights by."""
        if self.balance is None:
            return {}
        point = _named(student, self.balance.at, "The balance", "student")
        if step % self.balance.every == 0 and torch.is_grad_enabled():
            self.balance.update(parts, point)
        weights = self.weights(step)
        return self.balance.factors({name: weights[name] for name in parts})

    def _kept_alive(self, student: Seen, weights: Mapping[str, float]) -> Tensor | float:
        """Adapters of terms of weight 0 get gradients of 0: DDP waits for the gradient of every parameter.

        In a single process too, so that both do the same (an optimiser's weight decay, say).
        """
        idle = [t.name for t in self.terms if t.adapter is not None and weights[t.name] == 0]
        return sum((0.0 * student.at[name + ADAPTED].sum() for name in idle), start=0.0)


def _named(seen: Seen, names: Names, who: str, side: str) -> Any:
    if isinstance(names, tuple):
        return tuple(_named(seen, name, who, side) for name in names)
    if names == "out":
        if seen.out is None:  # what comes from a cache has points alone
            raise UsageError(f"{who}: the {side} has no output here.", 'Make it a point, as in {"logits": Point("")}.')
        return seen.out
    if names not in seen.at:
        known = [name for name in seen.at if not name.endswith(ADAPTED)]
        raise UsageError(f"{who}: the {side} has no point {names!r}.", did_you_mean(names, ["out", *known]))
    return seen.at[names]


def _share(term: Term, batch: Any, value: Tensor) -> Tensor:
    """Return how much each sample counts: `only`, and whether its mask leaves anything."""
    share = torch.ones_like(value, requires_grad=False)
    if term.only is not None:
        share = share * pick(batch, term.only).to(share)
    if term.mask is not None:
        mask: Tensor = pick(batch, term.mask)
        share = share * (mask.flatten(1) > 0).any(dim=1).to(share)
    return share


def _processes() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def _over_processes(counts: Tensor) -> Tensor:
    counts = counts.detach()
    if _processes() > 1:
        torch.distributed.all_reduce(counts)
    return counts


def _device(student: Seen) -> str:
    for value in (student.out, *student.at.values()):
        if isinstance(value, Tensor):
            return value.device.type
    return "cpu"
