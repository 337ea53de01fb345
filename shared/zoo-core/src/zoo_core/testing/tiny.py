"""A package with one tiny model, written into a folder: a folder on the import path is all it takes to install it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.catalog import CatalogEntry
from zoo_core.manifest import read_manifest

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "zoo_tiny"
MODEL = "tiny-x1"
PARAMETERS = 227

_NET = '''\
"""Two convolutions: as small as a model of images gets."""

from torch import Tensor, nn


class Tiny(nn.Module):
    """(N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())
'''

_CONVERT = '''\
"""The checkpoints of another trainer of the same net, who calls the layers `head` and `tail`."""

from torch import Tensor
from zoo_core.weights.convert import Recognised

LAYERS = {"head": "first", "tail": "last"}
NAMES = {f"{theirs}.{p}": f"{ours}.{p}" for theirs, ours in LAYERS.items() for p in ("weight", "bias")}


def recognise(tensors: dict[str, Tensor]) -> Recognised | None:
    missing = tuple(key for key in NAMES if key not in tensors)
    if len(missing) == len(NAMES):
        return None
    ours = {NAMES[key]: tensor for key, tensor in tensors.items() if key in NAMES}
    return Recognised("tiny-x1", ours, "Tiny, of another trainer", missing)
'''


@dataclass(frozen=True)
class TinyPackage:
    """Where the package lies: `folder` goes on the import path, `entry` is its model as the catalog would give it."""

    folder: Path
    entry: CatalogEntry


def tiny_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Return the state dict of the tiny model with random values."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shapes = {"first.weight": (4, 3, 3, 3), "first.bias": (4,), "last.weight": (3, 4, 3, 3), "last.bias": (3,)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def tiny_weights(seed: int = 0) -> bytes:
    """Return `tiny_tensors` as a safetensors file."""
    from safetensors.torch import save

    return save(tiny_tensors(seed), metadata={"format": "pt"})


def weight_set(data: bytes, **changes: Any) -> dict[str, Any]:
    """Return an embedded weight set for the bytes of a file, with some keys changed."""
    return {
        "source": "embedded",
        "file": "tiny-x1.safetensors",
        "size_bytes": len(data),
        "sha256": sha256(data).hexdigest(),
        "licence": "Apache-2.0",
        "trained_on": "random numbers",
        **changes,
    }


def write_package(
    folder: Path, weights: Sequence[Mapping[str, Any]] = (), *, embedded: Mapping[str, bytes] | None = None
) -> TinyPackage:
    """Write the package.

    Args:
        folder: goes on the import path; made if it is missing.
        weights: the weight sets of its manifest.
        embedded: the files of its weights folder, by name.
    """
    package = folder / PACKAGE
    manifest = {
        "format": 1,
        "id": MODEL,
        "aliases": ["tiny"],
        "task": "super-resolution",
        "summary": "Two convolutions, for tests",
        "entry": {"model": f"{PACKAGE}.net:Tiny", "convert": f"{PACKAGE}.convert:recognise"},
        "config": {"width": 4},
        "inputs": {"kind": "image", "channels": 3, "range": [0, 1], "colour": "rgb"},
        "outputs": {"kind": "image", "channels": 3, "range": [0, 1], "colour": "rgb", "scale": 1},
        "weights": list(weights),
        "parameters": PARAMETERS,
        "paper": {"title": "None", "id": "none", "year": 2026},
    }
    texts = {
        package / "__init__.py": "",
        package / "net.py": _NET,
        package / "convert.py": _CONVERT,
        package / "manifests" / f"{MODEL}.json": json.dumps(manifest, indent=2),
        # what an installer would leave behind, so that the entry point is found
        folder / f"{PACKAGE}-1.0.dist-info" / "METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n",
        folder / f"{PACKAGE}-1.0.dist-info" / "entry_points.txt": f"[zoo.packages]\ntiny = {PACKAGE}\n",
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name, data in (embedded or {}).items():
        path = package / "weights" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    manifest_path = package / "manifests" / f"{MODEL}.json"
    return TinyPackage(folder, CatalogEntry(read_manifest(manifest_path, package=PACKAGE), PACKAGE, package))
