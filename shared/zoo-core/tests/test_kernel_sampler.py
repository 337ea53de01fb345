"""The sampler kernel agrees with its formula in float64: on CUDA for real, elsewhere through Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo_core.kernels.sampler import reference, sampler

pytest.importorskip("triton", reason="Triton is not installed: only the reference can run here")
from zoo_core.kernels.sampler import triton as kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# the interpreter computes with numpy, which has no bf16
HALF, NEAR = (torch.bfloat16, 5e-3) if DEVICE == "cuda" else (torch.float16, 7e-4)


def inputs(
    samples: int, tokens: int, points: int, width: int = 32, *, steps: int = 3, blocks: int = 2
) -> tuple[Tensor, ...]:
    """Arguments of the operator in float64, whose values are of half precision, so that rounding them is no error."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=draw)).to(HALF).double().to(DEVICE)

    modulations = normal(3 * blocks + 2, steps, tokens, width, scale=0.5)
    modulations[::3] += 1  # factors
    modulations[2] = 0  # a gate that is shut, as all are in a fresh network
    return (
        normal(samples, tokens, points),
        modulations.to(HALF).double(),
        normal(width, points, scale=points**-0.5),
        normal(width),
        normal(2 * blocks, width, width, scale=width**-0.5),
        normal(2 * blocks, width),
        normal(points, width, scale=width**-0.5),
    )


def rounded(given: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (given[0].float(), *(tensor.to(dtype) for tensor in given[1:]))


def error(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape
    assert found.dtype == torch.float32
    return float((found.double() - truth).norm() / truth.norm())


# samples, tokens, points, channels: one of each; no power of two; more than one program a token; more than one turn
@pytest.mark.parametrize("shape", [(1, 1, 1, 32), (5, 3, 24, 16), (37, 2, 16, 32), (16, 1, 7, 256)], ids=str)
@pytest.mark.parametrize("official", [False, True])
def test_the_kernel_agrees_with_its_formula(shape: tuple[int, int, int, int], official: bool) -> None:
    given = inputs(*shape)
    truth = reference.sampler(*given, official)
    assert error(kernel.sampler(*rounded(given, HALF), official), truth) < NEAR
    if DEVICE == "cpu":
        assert error(kernel.sampler(*rounded(given, torch.float32), official), truth) < 1e-6


def test_a_path_does_not_depend_on_the_others() -> None:
    start, modulations, *weights = rounded(inputs(20, 3, 16), HALF)
    together = kernel.sampler(start, modulations, *weights, False)
    others = torch.full_like(start, float("nan"))
    others[17, 1] = start[17, 1]
    assert torch.equal(kernel.sampler(others, modulations, *weights, False)[17, 1], together[17, 1])
    alone = kernel.sampler(start[17:18, 1:2], modulations[:, :, 1:2], *weights, False)
    assert torch.equal(alone[0, 0], together[17, 1])


def test_the_operator_on_a_cpu_is_the_formula_and_what_the_compiler_is_told_is_true() -> None:
    given = rounded(tuple(tensor.cpu() for tensor in inputs(3, 2, 5)), torch.bfloat16)
    assert torch.equal(sampler(*given, official=True), reference.sampler(*given, True))
    torch.library.opcheck(torch.ops.zoo.sampler, (*given, False))


def test_what_does_not_fit_is_said_in_words() -> None:
    with pytest.raises(ValueError, match="48 channels"):
        kernel.sampler(*rounded(inputs(1, 1, 4, width=48), HALF), False)
    if DEVICE == "cuda":
        with pytest.raises(ValueError, match="bf16 or fp16"):
            kernel.sampler(*rounded(inputs(1, 1, 4), torch.float32), False)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("width", kernel.WIDTHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_at_auroras_size_every_tile_agrees(width: int, dtype: torch.dtype) -> None:
    given = inputs(100, 4, 48, 256, steps=50, blocks=3)
    given = (given[0], *(tensor.to(dtype).double() for tensor in given[1:]))
    truth = reference.sampler(*given, False)
    found = kernel.sampler(*rounded(given, dtype), False, width=width)
    assert error(found, truth) < (5e-3 if dtype == torch.bfloat16 else 7e-4)
    again = kernel.sampler(*rounded(given, dtype), False, width=width)
    assert torch.equal(found, again)
