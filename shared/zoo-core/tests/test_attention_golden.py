"""Agreement with the golden pack: float64 formulas, below 2e-6 in fp32 for every backend that can run."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo_core.attention import (
    Causal,
    Distance,
    Document,
    LowRank,
    Sink,
    Window,
    attend,
)
from zoo_core.attention.blockwise import Circle2D, StridedBlock, Tile3D
from zoo_core.attention.masks import Mask
from zoo_core.io.packs import packs_root

ROOT = packs_root()
FILE = ROOT / "attention" / "golden" / "attention_golden.safetensors" if ROOT else None
pytestmark = pytest.mark.skipif(FILE is None or not FILE.exists(), reason="the golden pack is not here: set ZOO_PACKS")
TOLERANCE = 2e-6
ABLE = ("reference", "chunked", "sdpa")


class Case:
    """The tensors of one case of the pack, as attributes."""

    def __init__(self, tensors: dict[str, Tensor], name: str) -> None:
        self._tensors, self._name = tensors, name

    def __getattr__(self, argument: str) -> Tensor:
        return self._tensors[f"{self._name}.{argument}"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    assert FILE is not None
    return load_file(FILE)


def near(out: Tensor, truth: Tensor) -> None:
    torch.testing.assert_close(out, truth, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("backend", ABLE)
@pytest.mark.parametrize(
    ("name", "kind", "mask"),
    [
        ("out_laplace", "laplace", None),
        ("out_laplace_causal", "laplace", Causal()),
        ("out_band5", "laplace", Window(5, 5)),
        ("out_gauss", "gauss", None),
    ],
)
def test_decay(tensors: dict[str, Tensor], backend: str, name: str, kind: str, mask: Mask | None) -> None:
    case = Case(tensors, "decay")
    bias = Distance(kind, case.lam)
    near(attend(case.q, case.k, case.v, mask=mask, bias=bias, backend=backend).out, getattr(case, name))


@pytest.mark.parametrize("backend", ABLE)
def test_lse(tensors: dict[str, Tensor], backend: str) -> None:
    case = Case(tensors, "lse")
    result = attend(case.q, case.k, case.v, need=("out", "lse"), backend=backend)
    near(result.out, case.out)
    near(result.lse, case.lse)


@pytest.mark.parametrize("backend", ABLE)
def test_low_rank_bias(tensors: dict[str, Tensor], backend: str) -> None:
    case = Case(tensors, "lowrank_bias")
    bias = LowRank(case.a_vision, case.a_text, case.w)
    near(attend(case.q, case.k, case.v, bias=bias, backend=backend).out, case.out)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("streaming_s4_r16", Causal() & (Sink(4) | Window(15, 0))),
        ("circle_8x8_r3", Circle2D(8, 8, 3)),
        ("s2_h4_stride4_local2_block4", StridedBlock(4, 4, 4, local=2) & Causal()),
        ("tile_f8_t8_k2", Tile3D(8, 8, 2)),
        ("doc", Document([0] * 20 + [1] * 20 + [2] * 20 + [3] * 4)),
    ],
)
def test_masks(tensors: dict[str, Tensor], name: str, mask: Mask) -> None:
    truth = getattr(Case(tensors, "masks"), name).bool()
    held = mask.dense(64, 64, heads=mask.shape[1])[0]
    assert torch.equal(held, truth.reshape(held.shape))
