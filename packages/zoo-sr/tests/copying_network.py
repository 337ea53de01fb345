"""An IMDN whose output is known: every pixel of the input, repeated scale x scale times.

What a test then sees in the output is what the code around the network did. The blocks are random and run, but nothing
of them reaches the output.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo_core.catalog import CatalogEntry, find
from zoo_sr.imdn import IMDN
from zoo_sr.options import SROptions
from zoo_sr.predict import SRPredictor


def copying_network(scale: int = 4) -> IMDN:
    torch.manual_seed(0)
    network = IMDN(scale=scale, channels=16, blocks=1).eval()
    first, last = network.fea_conv, network.upsampler[0]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        for layer in (first, network.LR_conv, last):
            layer.weight.zero_()
            layer.bias.zero_()  # type: ignore[union-attr]
        for colour in range(3):
            first.weight[colour, colour, 1, 1] = 1
            last.weight[colour * scale**2 : (colour + 1) * scale**2, colour, 1, 1] = 1
    return network


def entry_of(model: str = "imdn-x4", **changes: Any) -> CatalogEntry:
    entry = find(model)
    return CatalogEntry(entry.manifest.model_copy(update=changes), entry.package, entry.folder)


def predictor_of(network: nn.Module, model: str = "imdn-x4", precision: str = "fp32", **options: Any) -> SRPredictor:
    return SRPredictor.open(
        entry_of(model), network, device=torch.device("cpu"), precision=precision, options=SROptions(**options)
    )


def photo() -> Path:
    return Path(__file__).parents[3] / "examples" / "photo.png"
