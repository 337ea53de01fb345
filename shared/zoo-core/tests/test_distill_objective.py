"""Schedules and objectives: the value that is minimised, and what is said of terms that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distill_parts import Net, batch, labels, teacher
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo_core.distill import (
    Objective,
    Student,
    Term,
    after,
    const,
    cosine,
    linear,
    steps,
)
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.logits import kl
from zoo_core.errors import UsageError
from zoo_core.probe import Seen

# -- schedules ---------------------------------------------------------------------------------------------------------


def test_schedules_at_their_corners() -> None:
    assert [linear(0, 50, 10, 20)(step) for step in (0, 10, 15, 20, 99)] == [0, 0, 25, 50, 50]
    assert [round(cosine(4, 2, 0, 10)(step), 6) for step in (0, 5, 10, 11)] == [4, 3, 2, 2]
    assert [steps(1, (5, 2), (9, 0))(step) for step in (0, 4, 5, 8, 9)] == [1, 1, 2, 2, 0]
    assert [after(3)(step) for step in (2, 3)] == [0, 1]
    assert const(7)(10**9) == 7
    assert linear(0, 1, 0, 9) == linear(0, 1, 0, 9)
    with pytest.raises(UsageError, match="goes nowhere"):
        linear(0, 1, 5, 5)
    with pytest.raises(UsageError, match="must rise"):
        steps(1, (5, 2), (3, 1))


@given(st.integers(0, 200), st.booleans())
def test_ramps_stay_between_their_ends_and_rise(step: int, bent: bool) -> None:
    ramp = (cosine if bent else linear)(0.25, 2.0, 20, 120)
    assert 0.25 <= ramp(step) <= ramp(step + 1) <= 2.0


# -- objective ---------------------------------------------------------------------------------------------------------


def seen(values: list[float]) -> Seen:
    return Seen(torch.tensor(values, requires_grad=True), {})


def as_they_are(student: Tensor, _: Any, *, mask: Tensor | None = None, times: float = 1.0) -> Tensor:
    return times * student if mask is None else times * student * mask.float().mean(1)


def test_the_value_is_the_weighted_mean_over_the_samples_that_count() -> None:
    data = {"some": torch.tensor([True, False, True]), "places": torch.tensor([[1, 1], [1, 1], [0, 0]])}
    both = Objective(
        [
            Term("all", as_they_are, "out", weight=2.0, constants={"times": linear(1, 3, 0, 2)}),
            Term("some", as_they_are, "out", weight=10.0, only="some"),
            Term("places", as_they_are, "out", mask=lambda b: b["places"]),
        ]
    )
    total, parts = both(seen([1.0, 2.0, 6.0]), None, data, 1)
    # a sample whose mask is empty does not count
    assert {name: float(value) for name, value in parts.items()} == {"all": 6.0, "some": 3.5, "places": 1.5}
    assert float(total.detach()) == 2 * 6 + 10 * 3.5 + 1.5


def test_nothing_counts_is_zero_and_not_nan() -> None:
    none = Objective([Term("t", as_they_are, "out", only="some"), Term("u", as_they_are, "out")])
    student = seen([torch.inf, 1.0])
    _, parts = none(student, None, {"some": torch.zeros(2)}, 0)
    assert float(parts["t"]) == 0
    only = Objective([Term("t", as_they_are, "out", only="some")])
    assert float(only(student, None, {"some": torch.tensor([0, 1])}, 0)[0].detach()) == 1.0


def test_weight_zero_is_not_computed() -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError("computed")

    later = Objective([Term("a", as_they_are, "out"), Term("b", never, "out", weight=after(5))])
    total, parts = later(seen([3.0]), None, {}, 4)
    assert float(total.detach()) == 3.0
    assert torch.isnan(parts["b"])
    with pytest.raises(AssertionError, match="computed"):
        later(seen([3.0]), None, {}, 5)
    with pytest.raises(UsageError, match="Every term has weight 0 at step 4"):
        Objective([Term("b", never, "out", weight=after(5))])(seen([1.0]), None, {}, 4)


def test_terms_that_change_with_the_step_are_known() -> None:
    # a CUDA graph would freeze them
    terms = [
        Term("a", kl, "out", weight=2.0, constants={"tau": linear(4, 1, 0, 9)}),
        Term("b", kl, "out", weight=const(1)),
        Term("c", kl, "out", weight=after(5)),
        Term("d", kl, "out", constants={"chunk": 3}),
    ]
    assert Objective(terms).changes() == ["a", "c"]


def test_micro_batches_add_up_to_the_batch() -> None:
    net, data = Net(), batch(6)
    goal = Objective([Term("task", labels, "out", only="labelled"), Term("plain", labels, "out", weight=0.3)])
    whole, _ = goal(Seen(net(data["x"]), {}), None, data, 0)
    expected = torch.autograd.grad(whole, list(net.parameters()))
    parts = [{key: x[rows] for key, x in data.items()} for rows in (slice(0, 1), slice(1, 6))]
    totals: dict[str, Tensor] = {}
    for part in parts:
        for name, count in goal.counts(part, len(part["x"]), 0).items():
            totals[name] = totals.get(name, torch.zeros(())) + count
    sums = [torch.zeros_like(p) for p in net.parameters()]
    for part in parts:
        loss, _ = goal(Seen(net(part["x"]), {}), None, part, 0, totals=totals)
        for total, g in zip(sums, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            total += g
    for a, b in zip(sums, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_losses_are_float32_whatever_the_precision_of_training() -> None:
    kinds = []

    def note(student: Tensor, other: Tensor) -> Tensor:
        kinds.append((student @ student.T).dtype)
        return kl(student, other)

    student = Student(Net(), {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = student(batch()["x"])
        assert out.out.dtype == torch.bfloat16
        total, _ = Objective([Term("kd", note, "out", "logits")])(out, teacher()(batch()), {}, 0)
    # the product stays what its inputs are: autocast is off; the loss widens
    assert kinds == [torch.bfloat16]
    assert total.dtype == torch.float32


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("t", kl, "out", "logit"), r"'t': the teacher has no point 'logit'. Did you mean 'logits'\?"),
        (Term("t", kl, "outt", "logits"), r"'t': the student has no point 'outt'. Did you mean 'out'\?"),
        (Term("t", mse, "hidden", "hidden"), r"'t' \(student 'hidden', teacher 'hidden'\).*linear\(8, 16\)"),
        (Term("t", lambda s, t: (s - t).mean(), "out", "logits"), "one number a sample"),
        (Term("t", kl, "out", "logits", only="labeled"), "no 'labeled'. Did you mean 'labelled'"),
        (Term("t", kl, "out", "logits", mask="id"), "no places inside a sample"),
        (Term("t", mse, "hidden", "hidden", adapter=nn.Linear(8, 16)), r"Student\(network, points, objective\)"),
    ],
)
def test_terms_that_do_not_fit_say_why(term: Term, message: str) -> None:
    student = Student(Net(), {"hidden": "hidden"})
    with pytest.raises(UsageError, match=message):
        Objective([term])(student(batch()["x"]), teacher()(batch()), batch(), 0)


def test_a_teacher_that_is_needed_and_names_that_clash() -> None:
    with pytest.raises(UsageError, match="needs a teacher"):
        Objective([Term("t", kl, "out", "logits")])(seen([1.0]), None, {}, 0)
    with pytest.raises(UsageError, match="different names"):
        Objective([Term("t", kl, "out"), Term("t", kl, "out")])
    with pytest.raises(UsageError, match="adapter for several points"):
        Term("t", kl, ("q", "k"), adapter=nn.Identity())
