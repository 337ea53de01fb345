"""Balanced weights: the shares of the gradient are the stated ones, whatever the losses' sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distill_parts import Net, batch, teacher
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo_core.distill import Balance, Objective, Student, Term, after
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.logits import kl
from zoo_core.errors import UsageError
from zoo_core.probe import Seen


def pull(direction: list[float]) -> Any:
    return lambda s, _: (s * torch.tensor(direction)).sum(1)


def gradient_of(objective: Objective, step: int = 0) -> Tensor:
    x = torch.zeros(1, 2, requires_grad=True)
    loss, _ = objective(Seen(x, {"x": x}), None, {}, step)
    (found,) = torch.autograd.grad(loss, x)
    return found[0]


@given(sizes=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), weights=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)))
def test_shares_follow_the_weights_and_the_sum_stays(sizes: tuple[float, float], weights: tuple[float, float]) -> None:
    terms = [
        Term("right", pull([sizes[0], 0.0]), "out", weight=weights[0]),
        Term("up", pull([0.0, sizes[1]]), "out", weight=weights[1]),
    ]
    plain, balanced = gradient_of(Objective(terms)), gradient_of(Objective(terms, balance=Balance("x")))
    torch.testing.assert_close(balanced / balanced.sum(), torch.tensor(weights) / sum(weights))
    torch.testing.assert_close(balanced.sum(), plain.sum())


def test_norms_are_averaged_and_measured_as_often_as_asked() -> None:
    size = [4.0]
    balance = Balance("x", decay=0.5, every=2)
    both = Objective(
        [Term("a", lambda s, _: size[0] * s[:, 0], "out"), Term("b", pull([0.0, 1.0]), "out")], balance=balance
    )
    gradient_of(both, 0)
    size[0] = 2.0
    gradient_of(both, 1)
    assert (float(balance.norm("a")), float(balance.norm("b"))) == (4, 1)
    gradient_of(both, 2)
    assert float(balance.norm("a")) == 3
    with torch.no_grad():  # an evaluation measures nothing
        x = torch.ones(1, 2)
        both(Seen(x, {"x": x}), None, {}, 4)
    assert float(balance.norm("a")) == 3


def test_terms_that_begin_later_or_give_no_gradient_are_left_as_they_are() -> None:
    terms = [
        Term("a", pull([2.0, 0.0]), "out"),
        Term("none", lambda s, _: 0 * s.detach()[:, 0], "out"),
        Term("later", pull([0.0, 1e-6]), "out", weight=after(1)),
    ]
    balance = Balance("x", most=50)
    both = Objective(terms, balance=balance)
    assert gradient_of(both, 0).tolist() == [1, 0]  # the half of the weight that has a gradient
    assert float(balance.norm("later")) == 0
    assert gradient_of(both, 1)[1] == pytest.approx(5e-5)  # 50 times, no more


def test_the_averages_are_saved_with_the_student_and_not_published() -> None:
    def made() -> tuple[Student, Objective]:
        terms = [Term("kd", kl, "out", "logits"), Term("feature", mse, "hidden", "hidden")]
        both = Objective(terms, balance=Balance("hidden"))
        return Student(Net(16), {"hidden": "hidden"}, both), both

    one, objective = made()
    objective(one(batch()["x"]), teacher()(batch()), batch(), 0)
    state = one.state_dict()
    assert float(state["balances.0.norm_kd"]) > 0
    assert not any("balance" in key for key in Student.published(state))
    other, again = made()
    other.load_state_dict(state)
    assert again.balance is not None
    assert torch.equal(again.balance.norm("kd"), state["balances.0.norm_kd"])
    assert objective.changes() == ["kd", "feature"], "a CUDA graph would keep the weights"


def test_what_cannot_be_balanced_is_refused() -> None:
    both = Objective([Term("a", pull([1.0, 0.0]), "out")], balance=Balance("y"))
    with pytest.raises(UsageError, match=r"The balance: the student has no point 'y'"):
        gradient_of(both)
    with pytest.raises(UsageError, match=r"decay=1.*out of range"):
        Balance("x", decay=1)
