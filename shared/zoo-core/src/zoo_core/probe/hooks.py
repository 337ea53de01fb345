"""The hooks of a probe: small objects, not closures, so that a deep copy of a probe has hooks of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError, ZooError
from zoo_core.probe.points import Point
from zoo_core.probe.views import Argument, Border, Masks

Read = Callable[[Tensor], Tensor]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Taken:
    """What one call has captured so far."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.versions: list[tuple[Point, Tensor, int]] = []
        self.with_grad = torch.is_grad_enabled()

    def check_unchanged(self) -> None:
        """Refuse tensors that were changed in place after they had been captured."""
        for point, tensor, version in self.versions:
            if tensor._version != version:
                raise ZooError(
                    f"The tensor at {point} was changed in place after it had been captured.",
                    "Take the point after that operation, or write the operation without the in-place form.",
                )


class Call:
    """The call that is going on, if any. Hooks also run outside of one: in evaluations, when a part is recomputed."""

    def __init__(self, *, copies: bool) -> None:
        self.copies = copies
        self.taken: Taken | None = None

    def open(self) -> Taken:
        """Begin; return what will be filled."""
        self.taken = Taken()
        return self.taken

    def close(self) -> None:
        """End: from now on hooks capture nothing."""
        self.taken = None

    def take(self, name: str, point: Point, module: nn.Module, value: Any, read: Read, *, pick: bool) -> Tensor | None:
        """Note a tensor, if a call is going on; return what goes on in its place, if anything does.

        Where a later module may work in place, an output is kept and its copy goes on: what is kept lies on the way to
        the network's output, and so does its gradient. What cannot be replaced is copied instead.
        """
        taken = self.taken
        if taken is None:
            return None
        if taken.with_grad and not torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
            raise ZooError(
                f"The tensor at {point} has no gradient, though what comes before it is trained.",
                "Is it inside a reentrant checkpoint? Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False).",
            )
        original = _tensor(value, point, pick=pick)
        tensor = read(original)
        passed = None
        if self.copies and tensor is original:
            if pick and value is original:
                passed = original.clone()
            else:
                tensor = tensor.clone()
        if not torch.compiler.is_compiling() and not tensor.is_inference():
            taken.versions.append((point, tensor, tensor._version))
        taken.values.setdefault(name, []).append(tensor)
        return passed


class CaptureOut:
    """Captures a module's output."""

    def __init__(self, call: Call, name: str, point: Point, read: Read) -> None:
        self.call, self.name, self.point, self.read = call, name, point, read

    def __call__(self, module: nn.Module, _: Any, output: Any) -> Tensor | None:
        """Run as a forward hook."""
        return self.call.take(self.name, self.point, module, output, self.read, pick=True)


class CaptureIn:
    """Captures an argument of a module."""

    def __init__(self, call: Call, name: str, point: Point, read: Read, argument: Argument) -> None:
        self.call, self.name, self.point, self.read, self.argument = call, name, point, read, argument

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run as a forward pre-hook with keywords."""
        if self.call.taken is not None:
            value = argument_of(args, kwargs, self.argument, self.point)
            self.call.take(self.name, self.point, module, value, self.read, pick=False)


class ChangeOut:
    """Changes a module's output."""

    def __init__(self, change: Any, border: Border) -> None:
        self.change, self.border = change, border

    def __call__(self, module: nn.Module, _: Any, output: Any) -> Any:
        """Run as a forward hook."""
        assert self.border.write is not None  # noqa: S101 (for mypy)
        first = output[0] if isinstance(output, tuple) else output
        edited = self.border.write(self.change(self.border.read(first)))
        if not isinstance(output, tuple):
            return edited
        rest = (edited, *output[1:])
        return type(output)(*rest) if hasattr(output, "_fields") else rest  # a named tuple stays one


class ChangeIn:
    """Changes the first argument of a module."""

    def __init__(self, change: Any, border: Border) -> None:
        self.change, self.border = change, border

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Run as a forward pre-hook with keywords."""
        assert self.border.write is not None  # noqa: S101 (for mypy)
        if not args:
            raise UsageError(f"{type(module).__name__} got no positional argument that could be edited.")
        return (self.border.write(self.change(self.border.read(args[0]))), *args[1:]), kwargs


class HeldValue:
    """`TowardValue` needs the value, which passes first: it is kept from there until the output passes."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor], read: Read) -> None:
        self.change, self.read = change, read
        self.value: Tensor | None = None

    def keep(self, module: nn.Module, _: Any, output: Tensor) -> None:
        """Run as a forward hook of the projection to values."""
        self.value = self.read(output)

    def __call__(self, head_out: Tensor) -> Tensor:
        """Edit, and let the value go."""
        assert self.value is not None  # noqa: S101 (the projection ran before)
        value, self.value = self.value, None
        return self.change(head_out, value)


class AddBias:
    """Adds a bias of keys to the argument that a module adds to its scores."""

    def __init__(self, b: tuple[float, ...], masks: Masks) -> None:
        self.b, self.masks = b, masks

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Run as a forward pre-hook with keywords."""
        (place, dimension), (position, name) = self.masks.tokens, self.masks.arguments[0]
        tokens: Tensor = args[place[0]] if place[0] < len(args) else kwargs[place[1]]
        keys = tokens.shape[dimension]
        if len(self.b) != keys:
            raise UsageError(
                f"A bias of {len(self.b)} keys was given for a sequence of {keys}.",
                f"Tokens count from 0 to {keys - 1}.",
            )
        bias = tokens.new_tensor(self.b)
        bias = bias.expand(keys, keys) if self.masks.flat else bias[None, None, None].expand(1, 1, keys, keys)
        given = args[position] if position < len(args) else kwargs.get(name)
        if given is not None:
            if not given.is_floating_point():
                raise UsageError("A bias of keys cannot be added to a mask of booleans.", "Give the mask as numbers.")
            bias = bias + given
        if position < len(args):
            return (*args[:position], bias, *args[position + 1 :]), kwargs
        return args, {**kwargs, name: bias}


class NoMasks:
    """Refuses a masked call: rows of attention are computed from q and k alone."""

    def __init__(self, masks: Masks, what: str) -> None:
        self.masks, self.what = masks, what

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run as a forward pre-hook with keywords."""
        for position, name in self.masks.arguments:
            given = args[position] if position < len(args) else kwargs.get(name)
            if given is not None and given is not False:
                raise UsageError(
                    f"{self.what} is computed without masks, and this call gives {name}.",
                    "Take q and k, and apply the mask to their product.",
                )


def argument_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], argument: Argument, point: Point) -> Any:
    """Return an argument by its number, else by its name, else the only tensor among the named ones."""
    position, name = argument
    if position < len(args):
        return args[position]
    if name in kwargs:
        return kwargs[name]
    tensors = [value for value in kwargs.values() if isinstance(value, Tensor)]
    if position == 0 and len(tensors) == 1:
        return tensors[0]
    raise UsageError(
        f"{point}: the module was called without such an argument.",
        f"Its named ones are {', '.join(kwargs) or 'none'}: say which with `item`.",
    )


def _tensor(value: Any, point: Point, *, pick: bool) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        if pick and point.item is not None:
            value = value[point.item]
        elif isinstance(value, tuple | list):
            value = value[0]
        elif isinstance(value, Mapping) and len(value) == 1:
            value = next(iter(value.values()))
    except (KeyError, IndexError) as error:
        raise UsageError(f"{point}: there is no item {point.item!r}.") from error
    if not isinstance(value, Tensor):
        names = f" with the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
        raise UsageError(
            f"{point} holds a {type(value).__name__}{names}, not a tensor.", "Say which with `item`, or go deeper."
        )
    return value
