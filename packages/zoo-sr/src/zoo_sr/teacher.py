"""A trained network as a teacher: it enlarges each training photo once, whole, so that a step costs what it always did.

Whole photos give its gates the statistics that they have in use, and the average over the 8 flips and rotations is
better than one pass. Outputs are kept as bytes beside the true pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_core.catalog import find
from zoo_core.errors import UsageError
from zoo_core.weights.build import build, locate
from zoo_core.weights.files import sha256_of
from zoo_core.weights.find import find as find_weights
from zoo_sr.sweep import NotFiniteError


def weight_file(name: Path) -> Path:
    """Return the file of a model id's weights, or `name` itself if it is a file name with a suffix."""
    return name if name.suffix else find_weights(find(str(name))).path


class Teacher:
    """Enlarges batches of whole photos.

    Args:
        network: (N, 3, H, W) in [0, 1] -> (N, 3, s H, s W).
        sha256: of its weight file.
        ensemble: whether it averages over the 8 flips and rotations.
    """

    def __init__(self, network: nn.Module, sha256: str, *, ensemble: bool) -> None:
        self.network, self.sha256, self.ensemble = network.eval().requires_grad_(False), sha256, ensemble

    @classmethod
    def open(cls, name: Path, *, scale: int, ensemble: bool, device: torch.device) -> Teacher:
        """Open a teacher.

        Args:
            name: a model id, or a safetensors file; whose weights those are is seen from their keys and shapes.
            scale: the student's.
            ensemble: see the class.
            device: where it runs.

        Raises:
            UsageError: it enlarges by another factor, or does not work on [0, 1].
            WeightsError: no weights, or of no installed model.
        """
        entry, found = locate(name)
        manifest = entry.manifest
        if manifest.outputs.scale != scale or manifest.inputs.range != (0, 1):
            raise UsageError(
                f"teacher={name} is {manifest.id}, which cannot teach a model that enlarges {scale} times.",
                f"Name one that enlarges {scale} times and works on [0, 1].",
            )
        network = build(entry, found, device=device, dtype=torch.float32).to(memory_format=torch.channels_last)
        return cls(network, sha256_of(found.path), ensemble=ensemble)

    @torch.no_grad()
    def enlarge(self, low: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, 3, s H, s W) uint8; on CUDA under fp16 autocast.

        Raises:
            NotFiniteError: the network gave NaN or infinity.
        """
        image = low.float() / 255
        with torch.autocast(low.device.type, dtype=torch.float16, enabled=low.device.type == "cuda"):
            output = averaged(self.network, image) if self.ensemble else self.network(image).float()
        if not output.isfinite().all():
            raise NotFiniteError("The teacher's output is not finite.", "Look at its weights.")
        return (output.clamp(0, 1) * 255).round().byte()


def averaged(network: nn.Module, image: Tensor) -> Tensor:
    """Average over the 8 flips and rotations: (N, 3, H, W) -> (N, 3, s H, s W), float32.

    The same as `framing.self_ensemble`, on the device, in two batches: as it lies, and transposed.
    """
    halves: list[Tensor] = []
    for turned in (image, image.mT):
        views = torch.cat([turned, turned.flip(2), turned.flip(3), turned.flip(2, 3)])
        straight, upended, mirrored, both = network(views).float().chunk(4)
        halves.append(straight + upended.flip(2) + mirrored.flip(3) + both.flip(2, 3))
    return (halves[0] + halves[1].mT) / 8
