"""Points: names for tensors inside a module."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError

What = Literal["out", "in", "q", "k", "v", "head_out", "lse", "rows", "score", "weight", "gate"]
OURS: frozenset[str] = frozenset({"score", "weight", "gate"})
ATTENTION: frozenset[str] = frozenset({"q", "k", "v", "head_out", "lse", "rows"}) | OURS
Repeat = Literal["never", "first", "last", "all"]


@dataclass(frozen=True)
class Point:
    """A tensor inside a module, by the path of the submodule at which it appears.

    Args:
        path: dotted name of the submodule; "" is the probed module itself.
        what: `out` its output, `in` its (first) input; of an attention module: `q`, `k`, `v` (B, H, N, d) as they meet
            in the product, `head_out` (B, H, N, d) before the output projection, `lse` (B, H, N) the logarithm of each
            row's sum, `rows` (B, H, R, N) the attention of the queries in `rows`; of `zoo_core.attention.Attention`
            also `score` and `weight` (B, H, N, N), and the `gate` of a combination of heads that has one.
        item: which one, if that is a tuple (a number) or a mapping (a key), or which argument of `in`.
        repeat: if the submodule runs several times in one call: `never` is an error, `all` stacks to (calls, ...).
        rows: query numbers, for `rows`.
    """

    path: str
    what: What = "out"
    item: int | str | None = None
    repeat: Repeat = "never"
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        return (self.path or "(the module itself)") + ("" if self.what == "out" else f":{self.what}")


def submodule(module: nn.Module, path: str) -> nn.Module:
    """Return the submodule of a path.

    Raises:
        UsageError: there is none; names the three nearest.
    """
    known: dict[str, nn.Module] = dict(module.named_modules())
    if path not in known:
        near = nearest(path, known)
        raise UsageError(
            f"{type(module).__name__} has no module {path!r}.",
            f"The nearest are {', '.join(near)}; `zoo info ID --points` and output_shapes(module, input) list all.",
        )
    return known[path]


def output_shapes(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, tuple[int, ...]]:
    """Run a module once, and return the shape of each submodule's output by its path: the points that there are.

    Submodules that did not run, or whose output is no tensor (nor begins with one), are left out.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []
    for path, part in module.named_modules():

        def note(_: nn.Module, __: Any, output: Any, path: str = path) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, Tensor):
                shapes[path] = tuple(first.shape)

        handles.append(part.register_forward_hook(note))
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {path: shapes[path] for path, _ in module.named_modules() if path in shapes}


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the names most like a word, the best first."""
    return difflib.get_close_matches(word, sorted(name for name in known if name), n=count, cutoff=0.0)
