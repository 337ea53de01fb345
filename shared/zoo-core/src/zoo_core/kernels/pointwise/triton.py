"""Gated 1x1 convolution of maps on tensor cores: a program makes all outputs of T pixels; gates go into the weight."""

# Triton's language has no type annotations of its own for what a kernel takes.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from zoo_core.kernels.maps import check_map, size_of

DEPTH = 64  # channels a step


@dataclass(frozen=True)
class Tile:
    """Shape of a program: pixels, pipeline depth, warps."""

    pixels: int = 64
    stages: int = 3
    warps: int = 4


@triton.jit
def _kernel(
    sources, weight, bias, out, gate, residual, H, W, slope, SOURCE_STRIDE,
    SOURCE_STEP: tl.constexpr, OUT_STEP: tl.constexpr, RESIDUAL_STEP: tl.constexpr,
    GROUP: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    GATED: tl.constexpr, ACTIVATE: tl.constexpr, ADD: tl.constexpr,
    PIXELS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    t = tl.minimum(tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), H * W - 1)
    q = (t // W + 1) * (W + 2) + t % W + 1  # position in the bordered map
    k = tl.arange(0, DEPTH)
    n = tl.arange(0, COUT)
    if ADD:  # early: its latency hides behind the product's
        added = tl.load(residual + q[:, None] * RESIDUAL_STEP + n[None, :])
    y = tl.zeros((PIXELS, COUT), tl.float32)
    for step in tl.range(0, CIN // DEPTH, num_stages=STAGES):
        c = step * DEPTH + k
        at = (c // GROUP).to(tl.int64) * SOURCE_STRIDE + c % GROUP
        x = tl.load(sources + q[:, None] * SOURCE_STEP + at[None, :])
        w = tl.load(weight + c[:, None] * COUT + n[None, :])
        if GATED:
            w = (w * tl.load(gate + c)[:, None]).to(weight.dtype.element_ty)
        y = tl.dot(x, w, y)
    y += tl.load(bias + n)[None, :]
    if ACTIVATE:
        y = tl.where(y > 0, y, slope * y)
    if ADD:
        y += added.to(tl.float32)
    inside = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS) < H * W
    tl.store(out + q[:, None] * OUT_STEP + n[None, :], y.to(out.dtype.element_ty), mask=inside[:, None])


def pointwise(
    sources: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    gate: Tensor | None,
    residual: Tensor | None,
    slope: float,
    *,
    tile: Tile = Tile(),
) -> None:
    """See `zoo_core.kernels.pointwise.pointwise`; `tile` is the shape of a program.

    Raises:
        ValueError: a map or the weight is laid out otherwise than documented.
    """
    height, width = size_of(sources)
    inputs, outputs = weight.shape
    group = inputs // sources.shape[0]
    check_map("sources", sources, group)
    check_map("out", out, outputs)
    if residual is not None:
        check_map("residual", residual, outputs)
    if (
        not weight.is_contiguous() or weight.dtype != sources.dtype or inputs % DEPTH or group & (group - 1)
        or outputs & (outputs - 1) or outputs < 16
    ):  # fmt: skip
        raise ValueError(f"weight {tuple(weight.shape)} {weight.dtype}: not packed for this kernel")
    _kernel[(triton.cdiv(height * width, tile.pixels),)](
        sources, weight, bias, out, gate, residual, height, width, slope, sources.stride(0),
        SOURCE_STEP=sources.stride(2), OUT_STEP=out.stride(1),
        RESIDUAL_STEP=0 if residual is None else residual.stride(1), GROUP=group, CIN=inputs, COUT=outputs,
        GATED=gate is not None, ACTIVATE=slope != 1.0, ADD=residual is not None,
        PIXELS=tile.pixels, DEPTH=DEPTH, STAGES=tile.stages, num_warps=tile.warps,
    )  # fmt: skip
