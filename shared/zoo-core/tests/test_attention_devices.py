"""Attention on a CUDA device: backends near the formula in bf16, and FlexAttention compiled for many kinds of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo_core.attention import Causal, Distance, Document, LowRank, Padding, Sink, Window, attend
from zoo_core.attention.backends import flex
from zoo_core.attention.dispatch import BACKENDS
from zoo_core.errors import UsageError
from zoo_core.io.packs import packs_root

ROOT = packs_root()
FILE = ROOT / "attention" / "golden" / "attention_golden.safetensors" if ROOT else None
LIMIT, SLOPE = 5e-3, 2e-2  # relative errors of values and of gradients


def drawn(tokens: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"x.{name}": torch.randn(2, 4, tokens, 32, generator=generator) for name in "qkv"}


def calls(tensors: dict[str, Tensor], device: str) -> list[tuple[str, tuple[Tensor, ...], dict[str, Any]]]:
    """Return calls by the prefix of their q, k, v."""
    found = []
    masks = (None, Causal(), Padding([150, 90]), Causal() & (Sink(4) | Window(15, 0)), Document([0] * 70 + [1] * 80))
    given = [("x", {"mask": mask}) for mask in masks]
    if "decay.lam" in tensors:
        lam = tensors["decay.lam"].to(device)
        given += [("decay", {"bias": Distance("laplace", lam), "mask": mask}) for mask in (None, Window(5, 5))]
        a, b, w = (tensors[f"lowrank_bias.{name}"].to(device, torch.bfloat16) for name in ("a_vision", "a_text", "w"))
        given += [
            ("decay", {"bias": Distance("gauss", lam)}),
            ("lse", {}),
            ("lowrank_bias", {"bias": LowRank(a, b, w)}),
        ]
    for prefix, options in given:
        q, k, v = (tensors[f"{prefix}.{name}"].to(device, torch.bfloat16) for name in "qkv")
        found.append((f"{prefix} {options}", (q, k, v), options))
    return found


def compared(backend: str, device: str) -> int:
    """Compare a backend with the formula in float64 on the same rounded numbers; return how many calls it could run."""
    tensors = drawn(150) | (load_file(FILE) if FILE is not None and FILE.exists() else {})
    ran = 0
    for name, given, options in calls(tensors, device):
        leaves = [x.clone().requires_grad_() for x in given]
        try:
            out = attend(*leaves, backend=backend, **options).out  # type: ignore[arg-type]
        except UsageError:
            continue
        ran += 1
        exact = [x.double().requires_grad_() for x in given]
        truth = attend(*exact, backend="reference", **options).out
        weight = torch.randn_like(truth)
        mine = [out.detach(), *torch.autograd.grad((out.double() * weight).sum(), leaves)]
        others = [truth.detach(), *torch.autograd.grad((truth * weight).sum(), exact)]
        for what, one, other in zip(("out", "dq", "dk", "dv"), mine, others, strict=True):
            error = float((one.double() - other).norm() / other.norm())
            assert error < (LIMIT if what == "out" else SLOPE), f"{backend}, {name}: {what} is off by {error:.1e}"
    return ran


@pytest.mark.parametrize("backend", ["chunked", "sdpa"])
def test_half_precision_here(backend: str) -> None:
    assert compared(backend, "cpu") >= 5


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_decay_from_far_keys_alone_is_not_rounded_away(device: str) -> None:
    """As in a line's padding: bf16 knows -50 and -50.25, and nothing between."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    q, k, v = (x.to(device, torch.bfloat16) for x in drawn(64).values())
    lam, mu = (torch.full((4,), value, device=device, requires_grad=True) for value in (0.83, 0.3))
    near = torch.arange(64, device=device) < 12
    options: dict[str, Any] = {"bias": Distance("laplace", lam, mu), "mask": near}
    out = attend(q, k, v, backend="sdpa", **options).out
    truth = attend(q.double(), k.double(), v.double(), backend="reference", **options).out
    assert float((out.double() - truth).detach()[:, :, 40:].norm() / truth.detach()[:, :, 40:].norm()) < LIMIT


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of what it uses itself
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_on_a_device(backend: str) -> None:
    assert compared(backend, "cuda") >= 3


def test_flex_attention_is_compiled_for_more_kinds_than_pytorch_keeps_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    strict: Callable[..., Any] = torch.compile(flex_attention, dynamic=False, fullgraph=True, backend="eager")
    monkeypatch.setattr(flex, "_compiled", lambda: strict)
    for tokens in range(2, 14):
        q = torch.randn(1, 1, tokens, 16)
        out = flex.compiled(q, q, q)  # with fullgraph it would refuse, not fall back
        torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, q, q))


def test_the_numbers_of_a_mask_are_on_the_device_before_flex_attention_is_compiled() -> None:
    # the meta device stands for CUDA, a checkpoint for the kernel: both refuse to bring a tensor to a device meanwhile
    device = torch.device("meta")
    index = torch.zeros(1, dtype=torch.int64, device=device)
    for mask in (Padding([150, 90]), Causal() & ~Document([0] * 70 + [1] * 80)):
        allowed = flex.block_mask(mask, 150, 150, device).mask_mod

        def asked(i: Tensor, allowed: Callable[..., Tensor] = allowed) -> Tensor:
            seen: Tensor = checkpoint(lambda x: allowed(x, x, x, x), i, use_reentrant=False)  # type: ignore[no-untyped-call]
            return seen

        assert torch.compile(asked, backend="eager", fullgraph=True)(index).shape == (1,)


def test_flex_attention_is_compiled_once_for_a_kind_of_mask_and_not_for_its_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._dynamo.utils import counters
    from torch.nn.attention.flex_attention import flex_attention

    torch.compiler.reset()
    strict: Callable[..., Any] = torch.compile(flex_attention, dynamic=False, fullgraph=True, backend="eager")
    monkeypatch.setattr(flex, "_compiled", lambda: strict)
    monkeypatch.setattr(flex, "uncompiled", flex.compiled)
    counters.clear()
    q = torch.randn(2, 2, 150, 16)
    for length in (150, 80, 20):
        options: dict[str, Any] = {
            "mask": Causal() & Padding([150, length]), "bias": Distance("laplace", torch.rand(2)),
        }  # fmt: skip
        out = attend(q, q, q, backend="flex", **options).out
        torch.testing.assert_close(out, attend(q, q, q, backend="reference", **options).out)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("compiled", [False, True])
def test_scores_far_below_zero_have_gradients(device: str, *, compiled: bool) -> None:
    """64 keys and a mask: cuDNN's own gradient is NaN here, which ended a training after an hour."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 4, 64, 32, generator=generator) for _ in "qkv"]
    given[0][..., 0], given[1][..., 0] = 1.0, -120 * 32**0.5  # every score near -120
    leaves = [x.to(device, torch.bfloat16).requires_grad_() for x in given]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    keep = torch.ones(2, 1, 1, 64, dtype=torch.bool, device=device)

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, mask=keep, backend="sdpa").out

    (torch.compile(mix) if compiled else mix)(*leaves).double().square().sum().backward()
    attend(*exact, mask=keep, backend="reference").out.square().sum().backward()
    for mine, truth in zip(leaves, exact, strict=True):
        assert mine.grad is not None
        assert truth.grad is not None
        assert mine.grad.isfinite().all()
        # the first channel's gradient is a sum of large numbers that cancel
        one, other = mine.grad[..., 1:].double(), truth.grad[..., 1:]
        assert float((one - other).norm() / other.norm()) < SLOPE
