"""The dry run, and the share of the gradient that each term has."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from distill_parts import Net, batch, labels, teacher
from torch import Tensor, nn

from zoo_core.distill import (
    Objective,
    Student,
    Teacher,
    Term,
    after,
)
from zoo_core.distill.adapters import linear as linear_adapter
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.logits import kl
from zoo_core.distill.rehearsal import rehearse
from zoo_core.distill.shares import cosines, gradients, share_logs, shares
from zoo_core.errors import UsageError, ZooError
from zoo_core.probe import Point, Seen


def goal() -> Objective:
    return Objective(
        [
            Term("task", labels, "out"),
            Term("kd", kl, "out", "logits", weight=after(10, 3.0)),
            Term("feature", mse, "hidden", "hidden", adapter=linear_adapter(8, 16)),
        ]
    )


def test_the_dry_run_tells_of_every_term() -> None:
    objective_ = goal()
    student = Student(Net(), {"hidden": "hidden"}, objective_)
    found = rehearse(objective_, student, teacher(), batch(), inputs="x", teacher_metric=("accuracy", 0.82, 0.82))
    task, kd, feature = found.rows
    assert (feature.student, feature.teacher, feature.adapter) == ("6x8", "6x16", "Linear")
    # a term that begins later is looked at, too
    assert (kd.weight, kd.share) == (0, 0)
    assert kd.gradient > 0
    assert task.share + feature.share == pytest.approx(1)
    text = str(found).splitlines()
    assert len(text) == 5
    assert text[-1].endswith("80 bytes a sample in a cache, accuracy 0.82 (its manifest says 0.82)")


def test_a_term_that_does_nothing_stops_the_dry_run() -> None:
    def stray(student: Tensor, other: Tensor) -> Tensor:
        return kl(student.detach(), other)

    student = Student(Net(), {"hidden": "hidden"})
    for term in (Term("kd", stray, "out", "logits"), Term("far", lambda s, t: kl(s, t) * 0, "out", "logits")):
        both = Objective([Term("task", labels, "out"), term])
        with pytest.raises(UsageError, match=rf"'{term.name}' has a gradient of 0"):
            rehearse(both, student, teacher(), batch(), inputs="x")
        assert rehearse(both, student, teacher(), batch(), inputs="x", idle=[term.name]).rows[1].gradient == 0
    frozen = Student(Net(), {"hidden": "hidden"})
    frozen.trains(["head.*"])
    with pytest.raises(UsageError, match="frozen part"):
        rehearse(Objective([Term("h", mse, "hidden", "out")]), frozen, small_teacher(), batch(), inputs="x")


def small_teacher() -> Teacher:
    return Teacher(Net(8, seed=5).hidden, {}, inputs="x")


class Restless(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer, self.calls = kind, nn.Linear(6, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.kind == "dropout":
            return nn.functional.dropout(self.layer(x), 0.5)  # training=True is its default
        return self.layer(x) * (self.calls if self.kind == "counts" else 1e38 * 1e38)


@pytest.mark.parametrize(
    ("kind", "message"), [("dropout", "draws random numbers"), ("counts", "from call to call"), ("inf", "not finite")]
)
def test_teachers_that_cannot_teach_stop_the_dry_run(kind: str, message: str) -> None:
    bad = Teacher(Restless(kind), {"logits": Point("")}, inputs="x")
    with pytest.raises(ZooError, match=message):
        rehearse(Objective([Term("kd", kl, "out", "logits")]), Student(Net(), {}), bad, batch(), inputs="x")


def test_a_teacher_below_its_manifest_and_one_that_is_the_student() -> None:
    objective_, student = Objective([Term("kd", kl, "out", "logits")]), Student(Net(), {})
    with pytest.raises(UsageError, match=r"accuracy 0.59 \(its manifest says 0.82\).*prepared"):
        rehearse(objective_, student, teacher(), batch(), inputs="x", teacher_metric=("accuracy", 0.59, 0.82))
    net = Net()
    same = Student(net, {})
    itself = Teacher(net, {"logits": Point("")}, inputs="x")
    with pytest.raises(UsageError, match="same network"):
        rehearse(objective_, same, itself, batch(), inputs="x")
    # from a copy, of the same file say: as it moves away, the teacher holds it
    copied = Teacher(copy.deepcopy(net), {"logits": Point("")}, inputs="x")
    net.requires_grad_(True)
    assert "'kd' begins at 0: the student starts as its teacher" in str(
        rehearse(objective_, same, copied, batch(), inputs="x")
    )


def test_shares_are_of_the_weighted_gradients() -> None:
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    student = Seen(x, {"x": x})

    def pulls(direction: list[float]) -> Callable[..., Tensor]:
        return lambda s, _: (s * torch.tensor(direction)).sum(1)

    three = Objective(
        [
            Term("right", pulls([3.0, 4.0]), "out", weight=2.0),
            Term("left", pulls([-3.0, -4.0]), "out"),
            Term("up", pulls([-4.0, 3.0]), "out", weight=after(9)),
        ]
    )
    vectors = gradients(three, student, None, {}, 0, at="x")
    assert vectors["right"].tolist() == [6, 8]
    assert {name: round(float(s), 6) for name, s in shares(vectors).items()} == {"right": 0.666667, "left": 0.333333}
    assert float(cosines(vectors)["right", "left"]) == pytest.approx(-1)
    assert float(cosines(gradients(three, student, None, {}, 9, at=[x]))["left", "up"]) == pytest.approx(0, abs=1e-7)
    logged = [share_logs(three, student, None, {}, step, at="x", every=3) for step in (3, 4)]
    assert float(logged[0]["share_right"]) == pytest.approx(2 / 3)
    assert torch.isnan(logged[0]["share_up"])
    assert torch.isnan(logged[1]["share_right"])
    with pytest.raises(UsageError, match="no point 'y'"):
        gradients(three, student, None, {}, 0, at="y")
