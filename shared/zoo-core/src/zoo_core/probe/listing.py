"""All points of a model: what `zoo info ID --points` prints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo_core.attention.module import Attention
from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError
from zoo_core.probe.points import ATTENTION, OURS, output_shapes
from zoo_core.probe.views import attention_view
from zoo_core.weights.build import construct


@dataclass(frozen=True)
class Place:
    """A submodule that runs.

    Args:
        path: of the submodule, as a point names it.
        kind: its class.
        shape: of its output.
        shows: what else than `in` and `out` a point may name there.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    shows: tuple[str, ...]


def places(module: nn.Module, *inputs: Tensor) -> list[Place]:
    """Run a module once and return its submodules whose output is a tensor, from the outside in."""
    parts = dict(module.named_modules())
    shapes = output_shapes(module, *inputs)
    return [Place(path, type(parts[path]).__name__, shape, _shows(parts[path])) for path, shape in shapes.items()]


def places_of(entry: CatalogEntry) -> list[Place]:
    """Return the places of an installed model for an input of the size at which its manifest counts FLOPs.

    Nothing is computed and no weights are needed.

    Raises:
        UsageError: its manifest states no such size.
    """
    flops = entry.manifest.flops
    if flops is None:
        raise UsageError(
            f"{entry.manifest.id} states no size of an input, so the shapes of its points are not known.",
            "zoo_core.probe.output_shapes(module, input) lists them for an input of yours.",
        )
    with torch.device("meta"):
        return places(construct(entry).eval(), torch.empty(flops.at))


def _shows(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, Attention):
        return tuple(sorted(ATTENTION - (set() if module.combine is not None else {"gate"})))
    try:
        view = attention_view(module)
    except UsageError:
        return ()
    return tuple(sorted(ATTENTION - OURS - (set() if view.head_out is not None else {"head_out"})))
