"""Golden examples: an input and the output that published weights give for it.

One file for each weight set, `golden/ID.safetensors` in the package (`golden/ID.SET.safetensors` for a set that is not
called default), with the tensors `input` and `output`. The conformance suite compares with it, and publishing uploads
it, so that everybody can see whether weights still give what they gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError, WeightsError
from zoo_core.manifest import WeightSet

if TYPE_CHECKING:
    from torch import Tensor, nn

GOLDEN_SEED = 0
GOLDEN_TOLERANCE = 1e-4  # of the largest value: other CPUs add up in another order


def golden_path(entry: CatalogEntry, weight_set: WeightSet) -> Path:
    """Return where the package keeps the golden example of a weight set; it need not exist."""
    name = entry.manifest.id if weight_set.name == "default" else f"{entry.manifest.id}.{weight_set.name}"
    return entry.folder / "golden" / f"{name}.safetensors"


def example_input(entry: CatalogEntry, *, seed: int = GOLDEN_SEED) -> Tensor:
    """Return a random image, (1, C, H, W) in the range of the manifest; its sides are about 24 and 32 pixels.

    A line has the height of the manifest, and 64 columns. Of series there are two random walks of 288 points, (2, 288).

    Raises:
        UsageError: the model takes something else, or the manifest lacks channels or height.
    """
    import torch

    port = entry.manifest.inputs
    if port.kind == "series":
        walks = torch.randn(2, 288, generator=torch.Generator().manual_seed(seed)).cumsum(1)
        return (walks - walks.mean(1, keepdim=True)) / walks.std(1, keepdim=True)
    sides = {"image": (24, 32), "line": (port.height or 0, 64)}.get(port.kind, (0, 0))
    if 0 in sides or port.channels is None:
        raise UsageError(
            f"{entry.manifest.id} takes a {port.kind}: no golden example can be made up.", "Give --golden FILE."
        )
    low, high = port.range or (0.0, 1.0)
    step = port.multiple_of
    height, width = (-(-side // step) * step for side in sides)
    noise = torch.rand(1, port.channels, height, width, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * noise


def make_golden(entry: CatalogEntry, module: nn.Module) -> dict[str, Tensor]:
    """Return `example_input` as `input`, and the model's `output` for it.

    Raises:
        UsageError: as `example_input`, or a network of series lacks `on_series`.
    """
    import torch

    image = example_input(entry)
    if entry.manifest.inputs.kind == "series" and not hasattr(module, "on_series"):
        raise UsageError(f"{entry.manifest.id} has no method on_series: no golden example can be made up.")
    with torch.inference_mode():
        return {"input": image, "output": answer(module, image).clone()}


def answer(module: nn.Module, given: Tensor) -> Tensor:
    """Return what is compared of a network's output for one tensor.

    A network that reads more than one tensor has a method `on_series`, which makes the rest of a series.
    """
    return main_output(getattr(module, "on_series", module)(given))


def main_output(output: Any) -> Tensor:
    """Return what a network gives, or the first of several: what is compared."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


def golden_difference(module: nn.Module, example: Mapping[str, Tensor], *, what: str) -> float:
    """Return the largest difference from the golden output, as a share of its largest value.

    Raises:
        WeightsError: the example lacks `input` or `output`, or the output has another shape.
    """
    import torch

    if example.keys() != {"input", "output"}:
        raise WeightsError(f"{what} holds {', '.join(sorted(example))}.", "A golden file holds `input` and `output`.")
    with torch.inference_mode():
        output = answer(module, example["input"])
    golden = example["output"]
    if output.shape != golden.shape:
        raise WeightsError(
            f"{what}: the output has shape {tuple(golden.shape)}, the model gives {tuple(output.shape)}."
        )
    return float((output - golden).abs().max() / golden.abs().max().clamp_min(1e-12))
