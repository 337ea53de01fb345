"""Attention modules of ours: they are asked by taps, which reach each call as an argument, so no kernel is opened.

What a probe's points and edits want of one layer is translated into `zoo_core.attention.Taps`, made anew for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.attention.biases import Bias
from zoo_core.attention.biases import KeyBias as KeyTerm
from zoo_core.attention.module import Attention
from zoo_core.attention.stages import Fused, Separate
from zoo_core.attention.taps import Taps
from zoo_core.errors import UsageError
from zoo_core.probe.edits import Edit, KeyBias, TowardValue
from zoo_core.probe.hooks import Call
from zoo_core.probe.points import ATTENTION, Point

EDITED = ATTENTION - {"lse", "rows"}  # a row or a sum of weights is read, not made


class Layer:
    """The two hooks of one layer.

    Args:
        layer: the module.
        call: where captured tensors go.
    """

    def __init__(self, layer: Attention, call: Call) -> None:
        self.call = call
        self.points: dict[str, Point] = {}
        self.edits: list[Edit] = []
        self.shares_evenly = isinstance(layer.stages[0], Separate | Fused)

    def capture(self, name: str, point: Point) -> None:
        """Add a point."""
        self.points[name] = point

    def edit(self, edit: Edit) -> None:
        """Add an edit, behind those that are there.

        Raises:
            UsageError: it cannot be made there.
        """
        what = edit.point.what
        if isinstance(edit.change, TowardValue):
            if what != "head_out":
                raise UsageError(f"TowardValue acts at head_out, not at {edit.point}.")
            if not self.shares_evenly:
                raise UsageError(
                    f"{edit.point}: its projection says itself which heads share a value.",
                    "TowardValue knows heads whose neighbours share one: edit head_out by a function.",
                )
        elif not isinstance(edit.change, KeyBias) and what not in EDITED:
            raise UsageError(
                f"{edit.point} cannot be edited.", f"Edits act at {', '.join(sorted(EDITED))}, in and out."
            )
        self.edits.append(edit)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run as a forward pre-hook with keywords: hand in the taps."""
        given = kwargs.get("taps")
        if given is not None and (given.capture or given.edit):
            raise UsageError("The call has taps of its own, and a probe looks here too.", "Use one of the two.")
        capture = self._captured() if self.call.taken is not None else {}
        kwargs = {**kwargs, "taps": Taps(capture, self._edited())}
        for edit in self.edits:
            if isinstance(edit.change, KeyBias):
                kwargs["bias"] = _biased(edit.change.b, args, kwargs)
        return args, kwargs

    def after(self, module: nn.Module, _: Any, output: Any) -> Any:
        """Run as a forward hook: take what was captured, and give back what a call without a probe gives."""
        if self.call.taken is None or not self.points:
            return output
        asked = self._captured()
        for name, point in self.points.items():
            tap = _tap(point)
            if tap not in output.aux:
                raise UsageError(f"{point}: this layer has no {tap}.", "Only a combination of heads with gates has.")
            self.call.take(name, point, module, output.aux[tap], _reader(point, asked[tap]), pick=True)
        return output._replace(aux={tap: x for tap, x in output.aux.items() if tap not in asked})

    def _captured(self) -> dict[str, Sequence[int] | None]:
        """Return the taps, and of weights which rows: those of all points together."""
        asked: dict[str, Sequence[int] | None] = {_tap(point): None for point in self.points.values()}
        rows = [point.rows for point in self.points.values() if point.what == "rows"]
        if rows and all(point.what != "weight" for point in self.points.values()):
            asked["weight"] = sorted({row for some in rows for row in some})
        return asked

    def _edited(self) -> dict[str, Callable[[Tensor], Tensor]]:
        value: list[Tensor] = []
        made: dict[str, list[Callable[[Tensor], Tensor]]] = {}
        for edit in self.edits:
            change = edit.applied
            if isinstance(change, KeyBias):
                continue
            if isinstance(edit.change, TowardValue):
                made.setdefault("v", [])
                made.setdefault("head_out", []).append(_Toward(change, value))
            else:
                made.setdefault(edit.point.what, []).append(change)
        if "v" in made:
            made["v"].append(_Kept(value))  # last: the value that the product meets
        return {tap: changes[0] if len(changes) == 1 else _InTurn(changes) for tap, changes in made.items()}


class _InTurn:
    def __init__(self, changes: list[Callable[[Tensor], Tensor]]) -> None:
        self.changes = changes

    def __call__(self, x: Tensor) -> Tensor:
        for change in self.changes:
            x = change(x)
        return x


class _Kept:
    def __init__(self, value: list[Tensor]) -> None:
        self.value = value

    def __call__(self, x: Tensor) -> Tensor:
        self.value.append(x)
        return x


class _Toward:
    def __init__(self, change: Callable[[Tensor, Tensor], Tensor], value: list[Tensor]) -> None:
        self.change, self.value = change, value

    def __call__(self, x: Tensor) -> Tensor:
        return self.change(x, self.value[-1])


def _tap(point: Point) -> str:
    return "weight" if point.what == "rows" else point.what


def _reader(point: Point, asked: Sequence[int] | None) -> Callable[[Tensor], Tensor]:
    if point.what != "rows":
        return lambda x: x
    places = list(point.rows) if asked is None else [list(asked).index(row) for row in point.rows]
    return lambda weights: weights[:, :, places]


def _biased(b: tuple[float, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bias:
    tokens: Tensor = kwargs["x"] if "x" in kwargs else args[0]
    context = kwargs.get("context", args[1] if len(args) > 1 else None)
    source = tokens if context is None else context
    if kwargs.get("cache") is None and len(b) != source.shape[1]:
        raise UsageError(
            f"A bias of {len(b)} keys was given for a sequence of {source.shape[1]}.",
            f"Tokens count from 0 to {source.shape[1] - 1}.",
        )
    added = KeyTerm(torch.tensor(b, dtype=source.dtype, device=source.device)[None, None])
    given = kwargs.get("bias")
    return added if given is None else given + added
