"""Students and teachers: who trains, who is saved, who moves."""

from __future__ import annotations

import pytest
import torch
from distill_parts import Net, batch, labels, teacher
from torch import nn

from zoo_core.distill import (
    Objective,
    Student,
    Teacher,
    Term,
    TopK,
)
from zoo_core.distill.adapters import linear as linear_adapter
from zoo_core.distill.fingerprint import told
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.logits import kl
from zoo_core.errors import UsageError, ZooError
from zoo_core.probe import Edit, Point

# -- student -----------------------------------------------------------------------------------------------------------


def test_adapters_train_with_the_student_and_are_not_published() -> None:
    goal = Objective([Term("feature", mse, "hidden", "hidden", adapter=linear_adapter(8, 16))])
    student = Student(Net(), {"hidden": "hidden"}, goal)
    loss, _ = goal(student(batch()["x"]), teacher()(batch()), batch(), 0)
    loss.backward()
    assert student.adapters["feature"].weight.grad is not None
    assert set(Student.published(student.state_dict())) == set(Net().state_dict())
    # two stages may share a term, adapter included
    again = Objective([*goal.terms, Term("task", labels, "out")])
    assert set(Student(Net(), {"hidden": "hidden"}, [goal, again]).adapters) == {"feature"}
    other = Objective([Term("feature", mse, "hidden", "hidden", adapter=linear_adapter(8, 16))])
    with pytest.raises(UsageError, match="different adapters"):
        Student(Net(), {"hidden": "hidden"}, [goal, other])


def test_a_student_may_learn_from_its_own_average() -> None:
    goal = Objective([Term("task", labels, "out"), Term("self", kl, "out", "ema:out"), Term("h", mse, "h", "ema:h")])
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
    student = Student(net, {"h": "0"}, goal, follow=0.9)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], 0.5)
    average = {name: x.clone() for name, x in net.state_dict().items()}
    for step in range(4):
        for name, x in net.state_dict().items():
            average[name] = 0.9 * average[name] + 0.1 * x if x.is_floating_point() else x.clone()
        loss, parts = goal(student(batch()["x"]), None, batch(), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(parts["h"]) > 0
    for name, x in student.follower.module.state_dict().items():  # type: ignore[union-attr]
        torch.testing.assert_close(x, average[name])
    # saved, not trained, not published; still in evaluation
    assert "follower.module.0.weight" in student.state_dict()
    assert set(Student.published(student.state_dict())) == set(net.state_dict())
    before = {name: x.clone() for name, x in student.state_dict().items()}
    student.eval()(batch()["x"])
    assert all(torch.equal(before[name], x) for name, x in student.state_dict().items())
    with pytest.raises(UsageError, match=r"student with follow= has no point 'ema:out'"):
        goal(Student(net, {"h": "0"}, goal)(batch()["x"]), None, batch(), 0)


def test_what_is_frozen_stays_and_globs_that_match_nothing_are_refused() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    student = Student(net, {})
    assert student.trains(freeze=["0.*", "1.*"]) == ["2.weight", "2.bias"]
    student.train()
    before = net[1].running_mean.clone()
    student(torch.randn(8, 6) + 3)
    assert torch.equal(net[1].running_mean, before)
    assert student.trains() == [name for name, _ in net.named_parameters()]
    student(torch.randn(8, 6) + 3)
    assert not torch.equal(net[1].running_mean, before)
    with pytest.raises(UsageError, match=r"matches 'heads\.\*'.*nearest"):
        student.trains(["heads.*"])


# -- teacher -----------------------------------------------------------------------------------------------------------


def test_a_teacher_is_part_of_nothing() -> None:
    module = nn.Linear(2, 2)
    module.teacher = teacher()  # type: ignore[assignment]
    assert set(module.state_dict()) == {"weight", "bias"}
    assert len(list(module.parameters())) == 2
    assert len(list(module.modules())) == 1


def test_a_teacher_has_no_gradient_no_dropout_and_no_part_in_the_generator() -> None:
    one = Teacher(Net(16, dropout=0.5, seed=9).train(), {"logits": Point("")}, inputs="x")
    state = torch.get_rng_state()
    taught = one(batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(taught.at["logits"], one(batch()).at["logits"])
    assert not taught.at["logits"].requires_grad
    # multiplied with what needs a gradient (tensors of inference mode may not be)
    weight = torch.ones(4, requires_grad=True)
    (taught.at["logits"] * weight).sum().backward()


def test_the_fingerprint_is_of_everything_that_decides_the_output() -> None:
    base = teacher().fingerprint
    assert base == teacher().fingerprint
    changed = Net(16, seed=9)
    with torch.no_grad():
        changed.head[1].bias[0] += 1e-6
    others = [
        teacher(precision="bf16-true").fingerprint,
        teacher(preprocessing="letterbox 2").fingerprint,
        teacher(edits=[Edit(Point("hidden"), torch.tanh)]).fingerprint,
        teacher(transforms={"logits": TopK(2)}).fingerprint,
        Teacher(changed, {"logits": Point(""), "hidden": "hidden"}, inputs="x").fingerprint,
        Teacher(Net(16, seed=9), {"logits": Point("")}, inputs="x").fingerprint,
    ]
    assert len({base, *others}) == 1 + len(others)
    # the same in another process: no address of an object in it
    assert "0x" not in told(Edit(Point("hidden"), torch.tanh))
    with pytest.raises(UsageError, match="cannot be told"):
        teacher(transforms={"logits": lambda x: x})


def test_a_teacher_that_moves_is_noticed() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    one = Teacher(net, {"y": "1"}, inputs="x")
    one(batch())
    one.check_unchanged()
    net.train()(batch()["x"])
    with pytest.raises(ZooError, match="has changed during training"):
        one.check_unchanged()


def test_half_precision_and_autocast_of_the_student_do_not_reach_it() -> None:
    low = teacher(precision="bf16-true")(batch())
    assert low.at["logits"].dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert teacher()(batch()).at["logits"].dtype == torch.float32
