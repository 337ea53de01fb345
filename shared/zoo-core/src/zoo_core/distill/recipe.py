"""The section `distill` of a recipe: terms, schedules and adapters by name, as data; never a class path.

    distill:
      teacher: yolov4-voc                     # a model id or a safetensors file
      cache: kd-cache                         # where its outputs are written down; leave out: it runs along
      points: {p3: neck.p3}                   # PATH, or PATH:q, PATH:head_out, ... of an attention module
      terms:
        at: {loss: spatial_attention, at: p3, p: 2, weight: {linear: [0, 50, 0, 1000]}}
      balance: {at: p3}                       # weights are shares of the gradient there; leave out: plain factors
      stages:
        - {name: warm, steps: 1000, train: ["neck.*"]}
        - {name: all, steps: 100000, until: {metric: map50, patience: 5}}

A term's `at` names the point of both; `student` and `teacher` name different ones. What else stands there are constants
of the loss. A package passes its own losses beside the ones of this room.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from zoo_core.distill.adapters import ADAPTERS
from zoo_core.distill.balance import Balance
from zoo_core.distill.losses import ctc, distribution, features, logits, relations, sparse
from zoo_core.distill.objective import Loss, Objective, Term
from zoo_core.distill.schedules import Schedule, after, const, cosine, linear, steps
from zoo_core.distill.stages import Plateau, Stage
from zoo_core.errors import UsageError, did_you_mean
from zoo_core.probe import Point
from zoo_core.probe.points import What

LOSSES: dict[str, Loss] = {
    function.__name__: function
    for function in (
        logits.kl, logits.reverse_kl, logits.jsd, logits.bce, logits.mse_logits, logits.mixture_kl,
        sparse.sparse_kl, features.mse, features.l1, features.smooth_l1, features.cosine, features.fd, features.cwd,
        features.spatial_attention, relations.relation_kl, ctc.ctc_frames, distribution.mmd_mean, distribution.gram,
    )
}  # fmt: skip
SCHEDULES: dict[str, Any] = {"const": const, "linear": linear, "cosine": cosine, "steps": steps, "after": after}
OF_A_TERM = {"loss", "at", "student", "teacher", "weight", "adapter", "mask", "only"}


class UntilRecipe(BaseModel):
    """When a stage ends before its last step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str = Field(description="of the evaluation")
    patience: int = Field(gt=0, description="evaluations without a new best")
    higher: bool = Field(True, description="whether higher is better")


class StageRecipe(BaseModel):
    """One stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="of its folder")
    steps: int = Field(gt=0, description="at most")
    until: UntilRecipe | None = Field(None, description="may end it earlier")
    train: tuple[str, ...] = Field(("*",), description="globs of parameter names that train")
    freeze: tuple[str, ...] = Field((), description="globs of those that do not")
    optimizer: Literal["new", "keep"] = Field("new", description="whether it begins anew")


class BalanceRecipe(BaseModel):
    """See `zoo_core.distill.balance`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: str = Field(description="point of the student, the last that all terms share")
    decay: float = Field(0.99, ge=0, lt=1, description="of the average of gradient norms")
    every: int = Field(1, gt=0, description="steps between two measurements")


class DistillRecipe(BaseModel):
    """A section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str | None = Field(None, description="a model id or a safetensors file")
    cache: Path | None = Field(None, description="folder of the teacher's outputs; none: it runs along")
    precision: Literal["fp32", "bf16-true", "fp16-true"] = Field("fp32", description="of the teacher")
    points: dict[str, str] = Field(default_factory=dict, description="name: PATH or PATH:q, of student and teacher")
    terms: dict[str, dict[str, Any]] = Field(default_factory=dict, description="see the module")
    balance: BalanceRecipe | None = Field(None, description="weights become shares of the gradient")
    stages: tuple[StageRecipe, ...] = Field((), description="none: one, to the end")


def point(text: str) -> Point:
    """Return the point that "PATH" or "PATH:what" names."""
    path, colon, what = text.rpartition(":")
    if not colon:
        return Point(text)
    if what not in get_args(What):
        raise UsageError(f"{text!r}: a module has no {what!r}.", did_you_mean(what, get_args(What)))
    return Point(path, what)  # type: ignore[arg-type]


def schedule(value: Any, *, where: str) -> float | Schedule:
    """Return a number, or the schedule that {name: [arguments]} means."""
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Mapping) and len(value) == 1:
        name, arguments = next(iter(value.items()))
        if name not in SCHEDULES:
            raise UsageError(f"{where}: there is no schedule {name!r}.", did_you_mean(str(name), SCHEDULES))
        arguments = arguments if isinstance(arguments, list | tuple) else [arguments]
        made: Schedule = _called(SCHEDULES[name], [tuple(a) if isinstance(a, list) else a for a in arguments], where)
        return made
    raise UsageError(f"{where}: {value!r} is neither a number nor a schedule.", "Write {linear: [0, 1, 0, 1000]}.")


def objective(recipe: DistillRecipe, task: list[Term], *, losses: Mapping[str, Loss] | None = None) -> Objective:
    """Return the terms of the task itself and those of the recipe.

    Args:
        recipe: the section.
        task: what is minimised anyway.
        losses: the package's own, by name.

    Raises:
        UsageError: an unknown name or key; says where, and the nearest.
    """
    known = {**LOSSES, **(losses or {})}
    balance = Balance(**recipe.balance.model_dump()) if recipe.balance is not None else None
    return Objective([*task, *(_term(name, data, known) for name, data in recipe.terms.items())], balance=balance)


def stages(recipe: DistillRecipe) -> list[Stage]:
    """Return the stages of a recipe."""
    return [
        Stage(
            s.name, s.steps, until=Plateau(s.until.metric, s.until.patience, s.until.higher) if s.until else None,
            train=s.train, freeze=s.freeze, optimizer=s.optimizer,
        )
        for s in recipe.stages
    ]  # fmt: skip


def _term(name: str, data: dict[str, Any], known: Mapping[str, Loss]) -> Term:
    where = f"distill.terms.{name}"
    loss_name = str(data.get("loss"))
    if loss_name not in known:
        raise UsageError(f"{where}: there is no loss {loss_name!r}.", did_you_mean(loss_name, known))
    loss = known[loss_name]
    allowed = {
        parameter.name
        for parameter in inspect.signature(loss).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name != "mask"
    }
    for key in data.keys() - OF_A_TERM - allowed:
        raise UsageError(f"{where}: there is no key {key!r}.", did_you_mean(key, OF_A_TERM | allowed))
    if "at" not in data and not {"student", "teacher"} <= data.keys():
        raise UsageError(f"{where} says no point.", "Write at: NAME, or student: NAME and teacher: NAME.")
    constants = {
        key: schedule(value, where=f"{where}.{key}") if isinstance(value, Mapping) else value
        for key, value in data.items()
        if key in allowed
    }
    adapter = None
    if "adapter" in data:
        if not isinstance(data["adapter"], Mapping) or len(data["adapter"]) != 1:
            raise UsageError(f"{where}.adapter: {data['adapter']!r} is no adapter.", "Write {linear: [64, 128]}.")
        kind, widths = next(iter(data["adapter"].items()))
        if kind not in ADAPTERS:
            raise UsageError(f"{where}: there is no adapter {kind!r}.", did_you_mean(str(kind), ADAPTERS))
        adapter = _called(ADAPTERS[kind], widths, where)
    return Term(
        name, loss, _names(data.get("student", data.get("at"))), _names(data.get("teacher", data.get("at"))),
        adapter=adapter, weight=schedule(data.get("weight", 1.0), where=f"{where}.weight"), mask=data.get("mask"),
        only=data.get("only"), constants=constants,
    )  # fmt: skip


def _names(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _called(function: Any, arguments: Any, where: str) -> Any:
    try:
        return function(*arguments)
    except TypeError as error:
        names = ", ".join(inspect.signature(function).parameters)
        raise UsageError(f"{where}: {function.__name__} takes ({names}), got {arguments}.") from error
