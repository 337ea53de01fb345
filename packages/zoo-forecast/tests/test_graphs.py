"""What is replayed is what would be computed, and what is recorded may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_aurora import tiny_aurora
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_core.nn.structure import tensors_in
from zoo_forecast import resize
from zoo_forecast.aurora import Aurora
from zoo_forecast.engine import Engine
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.mode import CORRECTED, OFFICIAL, Mode

TEXTS = ["A promotion starts on Monday.", "Outage.", "Prices fell by a fifth.", "The plant is closed until March."]


class OnTheDevice(TorchDispatchMode):
    """Refuses what a graph cannot hold: numbers that the host reads, and tensors of the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        seen = {tensor.device.type for tensor in tensors_in([list(args), kwargs, result])}
        assert seen <= {"cuda"}, f"{func} has tensors of {seen}"
        assert "_local_scalar_dense" not in str(func)
        return result


@pytest.fixture
def no_matrix_kept() -> Iterator[None]:
    """Tensors without numbers must not be kept for other tests."""
    resize._kept.cache_clear()
    yield
    resize._kept.cache_clear()


def as_if_on_cuda(module: nn.Module, dtype: torch.dtype) -> None:
    for part in module.modules():
        for kind in (part._parameters, part._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    like = torch.empty_like(tensor, device="cuda", dtype=dtype if tensor.is_floating_point() else None)
                    kind[name] = nn.Parameter(like, requires_grad=False) if kind is part._parameters else like


@pytest.mark.parametrize("mode", [CORRECTED, OFFICIAL])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("no_matrix_kept")
def test_the_engine_never_waits_for_the_device(dtype: torch.dtype, told: bool, mode: Mode) -> None:
    """Tensors without numbers stand for those of a GPU, so that this is seen without one."""
    module = tiny_aurora()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        as_if_on_cuda(module, dtype)
        engine = Engine(module, mode, shapes=0)
        pieces, lengths = (torch.ones(*size, dtype=torch.long, device="cuda") for size in ((3, 9), (3,)))
        series, noise = torch.ones(3, 100, device="cuda", dtype=dtype), torch.ones(3, 5, 2, 16, device="cuda")

        def run() -> Tensor:
            texts = engine.read_texts(pieces, lengths) if told else None
            return engine.paths(engine.read_series(series, texts, 2, 12), noise, 12)

        run()  # constants come from the host at the first run
        with OnTheDevice():
            assert run().shape == (3, 5, 24)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forecast_is_the_same_with_and_without_graphs(dtype: torch.dtype) -> None:
    module: Aurora = tiny_aurora().to("cuda", dtype)
    plain, graphs = Forecaster(module), Forecaster(module)
    plain.engine = Engine(module, CORRECTED, shapes=0)
    random = np.random.default_rng(0)
    # a shape comes first, to be recorded, to be replayed, and with others between
    for count, points, told in [(4, 100, True)] * 3 + [(2, 64, False)] * 3 + [(4, 100, True), (2, 64, False)]:
        series = random.normal(size=(count, points)).cumsum(1)
        texts = [f"{text} {random.integers(100)}." for text in TEXTS[:count]] if told else None
        ours, theirs = (one.predict(series, 20, texts=texts, num_samples=7).samples for one in (graphs, plain))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3 if dtype == torch.float32 else 0.1)
