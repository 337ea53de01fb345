"""The tests are no package (import-mode importlib); modules beside them are found by their folder."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from tiny_aurora import TINY, tiny_aurora

from zoo_core.weights.build import CONFIG
from zoo_core.weights.files import write_tensors
from zoo_forecast.forecaster import Forecaster


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(tiny_aurora())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_tensors(path, tiny_aurora().state_dict(), {CONFIG: json.dumps(TINY)})
    return path
