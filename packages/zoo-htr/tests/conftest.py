"""The tests are no package (import-mode importlib); modules beside them are found by their folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights: what is read is nonsense, where it is read and what becomes of it is not."""
    import torch
    from page_data import MODEL

    from zoo_core.catalog import find
    from zoo_core.weights.build import construct
    from zoo_core.weights.files import write_tensors

    path = tmp_path_factory.mktemp("weights") / "fresh.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_tensors(path, construct(find(MODEL)).state_dict(), {})
    return path


@pytest.fixture(scope="session")
def opened(weights: Path) -> Callable[..., Any]:
    """Open the student with these weights and options of the test's choice."""
    from page_data import MODEL

    from zoo_core.predict import load

    def make(**options: Any) -> Any:
        return load(MODEL, device="cpu", weights=weights, **options)

    return make
