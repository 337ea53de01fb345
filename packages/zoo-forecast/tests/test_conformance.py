from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tiny_aurora import TINY
from tiny_small import TINY as SMALL
from torch import Tensor, nn

from zoo_core.catalog import CatalogEntry
from zoo_core.testing.conformance import Conformance
from zoo_forecast.aurora import Aurora
from zoo_forecast.engine import Engine
from zoo_forecast.mode import CORRECTED


class TestConformance(Conformance):
    package = "zoo_forecast"

    @classmethod
    def small_config(cls, entry: CatalogEntry) -> Mapping[str, Any]:
        return TINY if entry.manifest.id == "aurora-base" else SMALL

    @classmethod
    def example_input(cls, entry: CatalogEntry, *, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, 6 * TINY["token_length"], generator=generator).cumsum(1)

    @classmethod
    def example_file(cls, entry: CatalogEntry, folder: Path) -> Path:
        path = folder / "good.csv"
        rows = [f"a,2024-01-{day:02},{day % 7}" for day in range(1, 32)]
        path.write_text("\n".join(["item_id,timestamp,target", *rows, ""]), encoding="utf-8")
        return path

    @classmethod
    def compute(cls, module: nn.Module, batch: Tensor) -> Tensor:
        if isinstance(module, Aurora):
            return Engine(module, CORRECTED).read_series(batch, None, 3, module.token_length).conditions
        return super().compute(module, batch)
