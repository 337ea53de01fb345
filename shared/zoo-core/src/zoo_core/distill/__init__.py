"""Learn from other networks: a teacher's logits, features, relations or distributions (docs/distill.md).

A student and a teacher are plain networks with points (`zoo_core.probe`); a `Term` is a loss between tensors at points,
with a weight that may be a schedule; an `Objective` is a weighted sum of terms. In a task of `zoo_core.train`::

    teacher = Teacher(large, {"logits": Point("")}, inputs="images")
    objective = Objective([
        Term("task", cross_entropy_of_labels, "out"),
        Term("kd", kl, "out", "logits", weight=linear(0, 1, 0, 1000), constants={"tau": 2.0}),
    ])
    student = Student(small, {}, objective)

    def loss(self, batch):
        return objective(self.module(batch["images"]), teacher(batch), batch, batch["step"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.distill.balance import Balance
    from zoo_core.distill.cache import TeacherCache, write_cache
    from zoo_core.distill.objective import Objective, Term
    from zoo_core.distill.schedules import after, const, cosine, linear, steps
    from zoo_core.distill.student import Student
    from zoo_core.distill.targets import Sparse, TopK
    from zoo_core.distill.teacher import Teacher
    from zoo_core.distill.teachers import CachedTeacher, CrossFitted, Teachers

_LAZY = {
    "Balance": "balance",
    "CachedTeacher": "teachers",
    "CrossFitted": "teachers",
    "Objective": "objective",
    "Sparse": "targets",
    "Student": "student",
    "Teacher": "teacher",
    "TeacherCache": "cache",
    "Teachers": "teachers",
    "Term": "objective",
    "TopK": "targets",
    "after": "schedules",
    "const": "schedules",
    "cosine": "schedules",
    "linear": "schedules",
    "steps": "schedules",
    "write_cache": "cache",
}
__all__ = [
    "Balance",
    "CachedTeacher",
    "CrossFitted",
    "Objective",
    "Sparse",
    "Student",
    "Teacher",
    "TeacherCache",
    "Teachers",
    "Term",
    "TopK",
    "after",
    "const",
    "cosine",
    "linear",
    "steps",
    "write_cache",
]


def __getattr__(name: str) -> Any:
    # a recipe's schedules can be read without torch
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
