"""The band kernel agrees with its formula, and the formula with autograd: on CUDA for real, elsewhere interpreted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo_core.attention import Distance, Padding, Window, attend
from zoo_core.kernels.band import band, reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def inputs(
    batch: int = 2, heads: int = 4, key_heads: int = 2, tokens: int = 23, width: int = 8, value_width: int = 5
) -> list[Tensor]:
    shapes = (heads, width), (key_heads, width), (key_heads, value_width)
    qkv = [torch.randn(batch, h, tokens, w, device=DEVICE) for h, w in shapes]
    return [*qkv, torch.rand(heads, device=DEVICE), 2 * torch.randn(heads, device=DEVICE)]


def test_the_formula_is_attention_with_a_window_and_a_decay() -> None:
    q, k, v, lam, mu = (x.double().requires_grad_() for x in inputs())
    lengths = torch.tensor([23, 9], device=DEVICE)
    out, lse = reference.band(q, k, v, lam, mu, lengths, 0.4, 5, 3)
    mask, bias = Window(5, 3) & Padding(lengths), Distance("laplace", lam, mu)
    truth = attend(q, k, v, scale=0.4, mask=mask, bias=bias, need=("out", "lse"), backend="reference")
    assert truth.lse is not None
    torch.testing.assert_close(out, truth.out, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, truth.lse, rtol=0, atol=1e-12)
    weight, weight_lse = torch.randn_like(out), torch.randn_like(lse)
    finite = truth.lse.masked_fill(truth.lse.isneginf(), 0)
    gradients = torch.autograd.grad((truth.out * weight).sum() + (finite * weight_lse).sum(), (q, k, v, lam, mu))
    leaves = (x.detach() for x in (q, k, v, lam, mu))
    weight_lse = weight_lse.masked_fill(lse.isneginf(), 0)
    mine = reference.band_backward(weight, weight_lse, *leaves, lengths, out.detach(), lse.detach(), 0.4, 5, 3)
    for one, other in zip(mine, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.skipif(DEVICE == "cuda", reason="float64 is for the formula")
def test_the_operator_has_the_gradients_of_its_formula() -> None:
    leaves = [x.double().requires_grad_() for x in inputs(1, 2, 1, 6, 3, 2)]

    def run(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, lam, mu = leaves
        return band(q, k, v, lam, mu, left=2, right=3)

    assert torch.autograd.gradcheck(run, leaves)
    q, k, v, lam, mu = (x.detach() for x in leaves)
    lengths = torch.full((1,), 6, dtype=torch.int32)
    torch.library.opcheck(torch.ops.zoo.band, (q, k, v, lam, mu, lengths, 0.5, 2, 3))


def test_what_does_not_fit_is_said_in_words() -> None:
    q, k, v, lam, _ = inputs()
    with pytest.raises(ValueError, match="Hk dividing H"):
        band(q[:, :3], k, v, lam, left=1, right=1)
    with pytest.raises(ValueError, match=r"must have shape \(4,\)"):
        band(q, k, v, lam[:1], left=1, right=1)


CASES = [
    # tokens, left, right, width, value width, heads, key heads, lengths
    (23, 5, 3, 8, 5, 2, 1, (23, 9)),
    (70, 0, 0, 16, 16, 1, 1, (70, 70)),
    (65, 20, 100, 24, 40, 2, 2, (65, 1)),
    (33, 40, 0, 16, 16, 4, 2, (33, 0)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_kernel_agrees_with_its_formula(case: tuple[int, ...], dtype: torch.dtype) -> None:
    kernel = pytest.importorskip("zoo_core.kernels.band.triton", reason="Triton is not installed")
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        dtype = torch.float16  # the interpreter computes with numpy, which has no bf16
    tokens, left, right, width, value_width, heads, key_heads, lengths = case
    leaves = inputs(2, heads, key_heads, tokens, width, value_width)
    q, k, v = (x.to(dtype) for x in leaves[:3])
    lam, mu = leaves[3:]
    length = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    spoiled = torch.arange(tokens, device=DEVICE)[None, :] >= length[:, None]
    k, v = (x.masked_fill(spoiled[:, None, :, None], float("nan")) for x in (k, v))
    tile = kernel.Tile(queries=32, keys=16)
    scale = width**-0.5
    out, lse = kernel.band(q, k, v, lam, mu, length, scale, left, right, tile=tile)
    wide = [x.double() for x in (q, k, v, lam, mu)]
    truth, truth_lse = reference.band(*wide, length, scale, left, right)
    limit = 2e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=limit)
    torch.testing.assert_close(lse.double(), truth_lse, rtol=0, atol=limit)
    d_out, d_lse = torch.randn_like(truth), torch.randn_like(truth_lse).masked_fill(truth_lse.isneginf(), 0)
    mine = kernel.band_backward(
        d_out.to(dtype), d_lse.float(), q, k, v, lam, mu, length, out, lse, scale, left, right, tile=tile
    )
    gradients = reference.band_backward(
        d_out.to(dtype).double(), d_lse, *wide, length, truth, truth_lse, scale, left, right
    )
    for name, one, other in zip(("q", "k", "v", "lam", "mu"), mine, gradients, strict=True):
        assert one.isfinite().all(), name
        error = (one.double() - other).norm() / other.norm().clamp(min=1e-6)
        # lambda and mu are sums in fp32: that the output was rounded to half precision must not reach them
        limit = 2e-5 if dtype == torch.float32 else 1e-4 if name in ("lam", "mu") else 1e-2
        assert error < limit, f"d{name}: relative error {float(error):.1e}"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_bench_for_devices_runs_small_on_a_cpu(tmp_path: Path) -> None:
    tool = Path(__file__).parents[3] / "tools" / "bench_gpu_attention.py"
    arguments = ["--tiny", "--rounds", "1", "--case", "htr-decay", "--case", "band-4k", "--json", str(tmp_path)]
    done = subprocess.run([sys.executable, str(tool), *arguments], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert len(records) == 4
    assert all(record["agrees"] for record in records), done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_attend_by_the_band_kernel_on_a_device() -> None:
    q, k, v, weight = (torch.randn(2, h, 1500, 64, device="cuda", dtype=torch.bfloat16) for h in (8, 2, 2, 8))
    lam, mu = torch.rand(8, device="cuda"), torch.randn(8, device="cuda")
    mask = Window(128, 128) & Padding(torch.tensor([1500, 500], device="cuda"))

    def answers(backend: Any, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        decay = [x.to(torch.promote_types(dtype, torch.float32)).requires_grad_() for x in (lam, mu)]
        result = attend(*leaves, mask=mask, bias=Distance("laplace", *decay), need=("out", "lse"), backend=backend)
        assert result.lse is not None
        gradients = torch.autograd.grad(result.out, (*leaves, *decay), weight.to(dtype))
        return [result.out.detach(), result.lse.detach().masked_fill(result.lse.isneginf(), 0), *gradients]

    truth = answers("reference", torch.float64)
    errors = [
        [float((mine - exact).norm() / exact.norm()) for mine, exact in zip(found, truth, strict=True)]
        for found in (answers("band", torch.bfloat16), answers("reference", torch.bfloat16))
    ]
    # the reference computes in fp32 and rounds the end: twice its error is one more rounding on the way
    for name, mine, least in zip(("out", "lse", "dq", "dk", "dv", "dlam", "dmu"), *errors, strict=True):
        assert mine < 2 * least + 1e-4, f"{name}: {mine:.1e} from float64, the reference in bf16 {least:.1e}"
