"""The probe: a module together with hooks that hand out, or change, the tensors at its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo_core.attention.module import Attention
from zoo_core.errors import UsageError
from zoo_core.probe.edits import Edit, KeyBias, TowardValue
from zoo_core.probe.hooks import AddBias, Call, CaptureIn, CaptureOut, ChangeIn, ChangeOut, HeldValue, NoMasks
from zoo_core.probe.own import Layer
from zoo_core.probe.points import ATTENTION, OURS, Point, submodule
from zoo_core.probe.views import AttentionView, Border, attention_rows, attention_view, log_sum

NOWHERE = 10**6  # the number of an argument that is given by name alone


class Seen(NamedTuple):
    """What a probe returns: the module's output, and the tensors at its points by name."""

    out: Any
    at: dict[str, Any]


class Probe(nn.Module):
    """A module whose call also returns the tensors at named points.

    Hooks are set once, here, and write into a dict that is made in each call and returned: nothing stays behind, all
    tensors are outputs (which DDP and `torch.compile` need), and activation checkpointing may run a part again.
    With edits, the captured tensor is the edited one. Where a later module may work in place, a copy goes on.

    Args:
        module: any module. It keeps its hooks as long as it lives; `probe.remove()` takes them away.
        points: name -> point, or path of a submodule whose output is meant.
        edits: changes, made in this order.
        views: path -> view of an attention module that `attention_view` does not know.

    Attributes:
        module: the module.

    Raises:
        UsageError: no such submodule; a point of attention at what is no attention; an edit that cannot be made there.
    """

    def __init__(
        self,
        module: nn.Module,
        points: Mapping[str, Point | str],
        edits: Sequence[Edit] = (),
        *,
        views: Mapping[str, AttentionView] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.points = {name: Point(p) if isinstance(p, str) else p for name, p in points.items()}
        self.edits = tuple(edits)
        if "out" in self.points:
            raise UsageError("A point cannot be named 'out': that is the output itself.", "Choose another name.")
        self._views = dict(views or {})
        self._call = Call(copies=any(getattr(m, "inplace", False) for m in module.modules()))
        self._handles: list[Any] = []
        self._ours: dict[str, Layer] = {}
        for edit in self.edits:
            self._edit(edit)
        for name, point in self.points.items():
            self._capture(name, point)

    def forward(self, *args: Any, **kwargs: Any) -> Seen:
        """Call the module.

        Raises:
            UsageError: a point was not reached, or more than once without `repeat`; what is there is no tensor.
            ZooError: the tensor there has lost its gradient, or was changed in place.
        """
        if not self.points:
            return Seen(self.module(*args, **kwargs), {})
        taken = self._call.open()
        try:
            out = self.module(*args, **kwargs)
        finally:
            self._call.close()
        if not torch.compiler.is_compiling():
            taken.check_unchanged()
        return Seen(out, {name: self._finished(name, point, taken.values) for name, point in self.points.items()})

    def remove(self) -> None:
        """Take all hooks from the module."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    # -- hooks --------------------------------------------------------------------------------------------------------

    def _capture(self, name: str, point: Point) -> None:
        module = submodule(self.module, point.path)
        if point.what not in ATTENTION:
            border = Border(module, "in" if point.what == "in" else "out", _as_it_is)
            self._listen(name, border, point)
            return
        if isinstance(module, Attention):
            self._our(point.path, module).capture(name, point)
            return
        view = self._view(point.path, module)
        if point.what in OURS:
            raise UsageError(
                f"{point}: {type(module).__name__} never shows that to a hook.",
                "Take q, k and v, or rows; or replace the module by zoo_core.attention.",
            )
        if point.what in ("lse", "rows"):
            if view.masks is not None:
                self._before(module, NoMasks(view.masks, str(point)))
            self._listen(f"{name}/q", view.q, point)
            self._listen(f"{name}/k", view.k, point)
            return
        border = getattr(view, point.what)
        if border is None:
            raise UsageError(
                f"{point}: {type(module).__name__} never shows the heads' output to a hook.",
                "Take q, k and v, or replace the module by zoo_core.attention.",
            )
        self._listen(name, border, point)

    def _listen(self, name: str, border: Border, point: Point) -> None:
        if border.side == "out":
            self._after(border.module, CaptureOut(self._call, name, point, border.read))
            return
        argument = border.argument
        if point.what == "in" and point.item is not None:
            argument = (point.item, "") if isinstance(point.item, int) else (NOWHERE, point.item)
        self._before(border.module, CaptureIn(self._call, name, point, border.read, argument))

    def _edit(self, edit: Edit) -> None:
        point, change = edit.point, edit.applied
        module = submodule(self.module, point.path)
        toward = isinstance(edit.change, TowardValue)
        if isinstance(module, Attention) and (isinstance(change, KeyBias) or point.what not in ("in", "out")):
            self._our(point.path, module).edit(edit)
            return
        if isinstance(change, KeyBias):
            masks = self._view(point.path, module).masks
            if masks is None:
                raise UsageError(f"{point}: {type(module).__name__} takes no bias of its scores.")
            self._before(module, AddBias(change.b, masks))
            return
        if point.what in ("in", "out"):
            if toward:
                raise UsageError(f"TowardValue acts at head_out, not at {point}.")
            border: Border | None = Border(module, "in" if point.what == "in" else "out", _as_it_is, _as_it_is)
        elif point.what == "head_out":
            view = self._view(point.path, module)
            border = view.head_out
            if border is None:
                raise UsageError(
                    f"{point}: {type(module).__name__} never shows the heads' output to a hook: no edit.",
                    "Replace the module by zoo_core.attention.",
                )
            if toward:
                change = HeldValue(change, view.v.read)
                # the value passes before the output does, in the same call
                if view.v.side == "out":
                    self._after(view.v.module, change.keep)
        else:
            raise UsageError(f"{point} cannot be edited.", "Edits act at in, out and head_out; KeyBias at in.")
        assert border is not None  # noqa: S101 (for mypy)
        if border.side == "out":
            self._after(border.module, ChangeOut(change, border))
        else:
            self._before(border.module, ChangeIn(change, border))

    def _after(self, module: nn.Module, hook: Any) -> None:
        self._handles.append(module.register_forward_hook(hook))

    def _before(self, module: nn.Module, hook: Any) -> None:
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _our(self, path: str, module: Attention) -> Layer:
        if path not in self._ours:
            layer = self._ours[path] = Layer(module, self._call)
            self._before(module, layer.before)
            self._after(module, layer.after)
        return self._ours[path]

    def _view(self, path: str, module: nn.Module) -> AttentionView:
        return self._views.get(path) or attention_view(module)

    # -- after the call -----------------------------------------------------------------------------------------------

    def _finished(self, name: str, point: Point, values: dict[str, list[Tensor]]) -> Tensor:
        if point.what in ("lse", "rows") and point.path not in self._ours:
            q, k = self._one(f"{name}/q", point, values), self._one(f"{name}/k", point, values)
            scale = self._view(point.path, submodule(self.module, point.path)).scale
            return log_sum(q, k, scale) if point.what == "lse" else attention_rows(q, k, point.rows, scale)
        return self._one(name, point, values)

    @staticmethod
    def _one(name: str, point: Point, values: dict[str, list[Tensor]]) -> Tensor:
        found = values.get(name, [])
        if not found:
            raise UsageError(
                f"The point {point} was not reached in this call.", "Is that part of the module switched off?"
            )
        if point.repeat == "all":
            return torch.stack(found)
        if len(found) > 1 and point.repeat == "never":
            raise UsageError(
                f"The point {point} was reached {len(found)} times in one call.",
                "Say which with repeat='first', 'last' or 'all'.",
            )
        return found[0] if point.repeat == "first" else found[-1]


def _as_it_is(x: Tensor) -> Tensor:
    return x
