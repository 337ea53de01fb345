"""3x3 convolution of a map on tensor cores.

An implicit matrix product per group of R image rows: a program takes R x T output pixels. For each column shift and slice of
channels it fetches R + 2 rows of T pixels and the three weight slices of that column, and multiplies every row into the (up to three)
output rows that see it: 3 (R + 2) fetches instead of 9 R. The maps' zero border replaces all masks on loads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoo_core.kernels.conv3x3 import programs
from zoo_core.kernels.conv3x3.statistics import merge_and_gate, pixels_of, statistics
from zoo_core.kernels.maps import check_map, size_of


@dataclass(frozen=True)
class Tile:
    """Shape of a program: R rows of T pixels, slices of `depth` channels a step, pipeline depth, warps, which operand is pixels."""

    rows: int = 4
    columns: int = 64
    depth: int = 32
    slices: int = 1
    stages: int = 3
    warps: int = 4
    transposed: bool = False


@triton.jit
def _kernel(
    source, weight, bias, out, rest, residual, H, W, steps, slope,
    maps, weight1, bias1, weight2, bias2, gate, partials, ticket,
    SOURCE_STEP: tl.constexpr, OUT_STEP: tl.constexpr, REST_STEP: tl.constexpr, RESIDUAL_STEP: tl.constexpr,
    CIN: tl.constexpr, COUT: tl.constexpr, SPLIT: tl.constexpr, ACTIVATE: tl.constexpr, ADD: tl.constexpr,
    SCALE: tl.constexpr, GATE_CHANNELS: tl.constexpr, GATE_HIDDEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, SLICES: tl.constexpr, STAGES: tl.constexpr,
    TRANSPOSED: tl.constexpr, CHAINED: tl.constexpr,
):  # fmt: skip
    if CHAINED:  # started before the kernel that makes our inputs has ended: wait for it here
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    pitch = W + 2
    groups = (H + ROWS - 1) // ROWS
    # groups of ROWS image rows, laid side by side, are one long line; beyond its end the last pixel is repeated
    t = tl.minimum(tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), groups * W - 1)
    top = t // W * ROWS + 1
    q = top * pitch + t % W + 1  # position in the bordered map
    k = tl.arange(0, DEPTH)
    n = tl.arange(0, COUT)
    pixels = source + q[:, None] * SOURCE_STEP + k[None, :]
    weights = weight + k[:, None] * COUT + n[None, :]
    row = pitch * SOURCE_STEP
    SHAPE: tl.constexpr = (COUT, COLUMNS) if TRANSPOSED else (COLUMNS, COUT)
    y0 = tl.zeros(SHAPE, tl.float32)
    if ROWS >= 2:
        y1 = tl.zeros(SHAPE, tl.float32)
    if ROWS >= 4:
        y2 = tl.zeros(SHAPE, tl.float32)
        y3 = tl.zeros(SHAPE, tl.float32)
    # `steps` is 3 CIN / (DEPTH SLICES), unknown to the compiler: it would unroll, and the code would miss the instruction cache
    for step in tl.range(0, steps, num_stages=STAGES):
        for part in tl.static_range(SLICES):
            depth = step * (DEPTH * SLICES) + part * DEPTH
            dx = depth // CIN
            c = depth % CIN
            at = pixels + ((dx - 1) * SOURCE_STEP + c)
            of = weights + depth * COUT
            above = tl.load(of)
            same = tl.load(of + 3 * CIN * COUT)
            below = tl.load(of + 6 * CIN * COUT)
            x0 = tl.load(at - row)
            x1 = tl.load(at)
            x2 = tl.load(at + row)
            y0 = _three(x0, x1, x2, above, same, below, y0, TRANSPOSED)
            if ROWS >= 2:
                x3 = tl.load(at + 2 * row)
                y1 = _three(x1, x2, x3, above, same, below, y1, TRANSPOSED)
            if ROWS >= 4:
                x4 = tl.load(at + 3 * row)
                x5 = tl.load(at + 4 * row)
                y2 = _three(x2, x3, x4, above, same, below, y2, TRANSPOSED)
                y3 = _three(x3, x4, x5, above, same, below, y3, TRANSPOSED)
    offset = tl.load(bias + n)
    if GATE_CHANNELS == 0:
        for r in tl.static_range(ROWS):
            y = y0
            if r == 1:
                y = y1
            if r == 2:
                y = y2
            if r == 3:
                y = y3
            if TRANSPOSED:
                y = tl.trans(y)
            y += offset[None, :]
            if ACTIVATE:
                y = tl.where(y > 0, y, slope * y)
            p = (q + r * pitch)[:, None]
            inside = (top + r <= H)[:, None]
            if ADD:
                y += tl.load(residual + p * RESIDUAL_STEP + n[None, :], mask=inside, other=0.0).to(tl.float32)
            if SCALE > 0:
                _store_shuffled(y, out, r, groups, H, W, SCALE, ROWS, COLUMNS, COUT)
            else:
                to = out + p * OUT_STEP + n[None, :]
                if SPLIT < COUT:
                    to = tl.where((n < SPLIT)[None, :], to, rest + p * REST_STEP + (n - SPLIT)[None, :])
                tl.store(to, y.to(out.dtype.element_ty), mask=inside)
    else:  # four rows and no activation: store, then take part in the statistics
        live = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS) < groups * W
        y0 += offset[None, :]
        y1 += offset[None, :]
        y2 += offset[None, :]
        y3 += offset[None, :]
        m0 = live[:, None]
        m1 = m0 & (top + 1 <= H)[:, None]
        m2 = m0 & (top + 2 <= H)[:, None]
        m3 = m0 & (top + 3 <= H)[:, None]
        to = out + q[:, None] * OUT_STEP + n[None, :]
        tl.store(to, y0.to(out.dtype.element_ty), mask=m0)
        tl.store(to + pitch * OUT_STEP, y1.to(out.dtype.element_ty), mask=m1)
        tl.store(to + 2 * pitch * OUT_STEP, y2.to(out.dtype.element_ty), mask=m2)
        tl.store(to + 3 * pitch * OUT_STEP, y3.to(out.dtype.element_ty), mask=m3)
        count = pixels_of(tl.program_id(0), groups, H, W, ROWS, COLUMNS).to(tl.float32)
        program = partials + tl.program_id(0) * (2 * GATE_CHANNELS)
        own = GATE_CHANNELS - COUT + n
        mean, spread = statistics(y0, y1, y2, y3, m0, m1, m2, m3, count)
        tl.store(program + own, mean)
        tl.store(program + GATE_CHANNELS + own, spread)
        c = tl.arange(0, GATE_CHANNELS)
        others = c < GATE_CHANNELS - COUT
        u = maps + q[:, None] * OUT_STEP + c[None, :]
        u0 = tl.load(u, mask=m0 & others[None, :], other=0.0).to(tl.float32)
        u1 = tl.load(u + pitch * OUT_STEP, mask=m1 & others[None, :], other=0.0).to(tl.float32)
        u2 = tl.load(u + 2 * pitch * OUT_STEP, mask=m2 & others[None, :], other=0.0).to(tl.float32)
        u3 = tl.load(u + 3 * pitch * OUT_STEP, mask=m3 & others[None, :], other=0.0).to(tl.float32)
        mean, spread = statistics(u0, u1, u2, u3, m0, m1, m2, m3, count)
        tl.store(program + c, mean, mask=others)
        tl.store(program + GATE_CHANNELS + c, spread, mask=others)
        merge_and_gate(
            weight1, bias1, weight2, bias2, gate, partials, ticket, groups, H, W,
            GATE_CHANNELS, GATE_HIDDEN, ROWS, COLUMNS,
        )  # fmt: skip


@triton.jit
def _three(x0, x1, x2, above, same, below, y, TRANSPOSED: tl.constexpr):
    """One output row: the products of its three input rows, added to y."""
    if TRANSPOSED:
        y = tl.dot(tl.trans(above), tl.trans(x0), y)
        y = tl.dot(tl.trans(same), tl.trans(x1), y)
        y = tl.dot(tl.trans(below), tl.trans(x2), y)
    else:
        y = tl.dot(x0, above, y)
        y = tl.dot(x1, same, y)
        y = tl.dot(x2, below, y)
    return y


@triton.jit
def _store_shuffled(
    y, image, r, groups, H, W,
    SCALE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, COUT: tl.constexpr,
):  # fmt: skip
    """Write row r of a program's results (COLUMNS, COUT) as pixels of the image, in long runs along its lines."""
    BLOCK: tl.constexpr = 2 if SCALE == 2 else 4  # channels (colour, a) come in blocks of this many b, see pack_shuffle
    LINES: tl.constexpr = COUT // BLOCK
    y = tl.reshape(tl.permute(tl.reshape(y, (COLUMNS, LINES, BLOCK)), (1, 0, 2)), (LINES, COLUMNS * BLOCK))
    line = tl.arange(0, LINES)
    s = tl.arange(0, COLUMNS * BLOCK)
    t = tl.program_id(0) * COLUMNS + s // BLOCK
    b = s % BLOCK
    i = t // W * ROWS + r
    colour = line // SCALE
    row = (colour * H)[:, None] * SCALE + i[None, :] * SCALE + (line % SCALE)[:, None]
    at = row.to(tl.int64) * (W * SCALE) + (t % W * SCALE + b)[None, :]
    if image.dtype.element_ty == tl.uint8:
        y = tl.clamp(y * 255, 0.0, 255.0)
        y = (y + 12582912.0) - 12582912.0  # 1.5 * 2^23: rounds half to even
    mask = (line < 3 * SCALE)[:, None] & ((b < SCALE) & (t < groups * W) & (i < H))[None, :]
    tl.store(image + at, y.to(image.dtype.element_ty), mask=mask)


def _launch(
    source: Tensor, weight: Tensor, bias: Tensor, out: Tensor, *, rest: Tensor | None = None, residual: Tensor | None = None,
    slope: float = 1.0, scale: int = 0, gate: tuple[Tensor, ...] | None = None, maps: Tensor | None = None,
    tile: Tile | None, chained: bool,
) -> None:  # fmt: skip
    height, width = size_of(source)
    inputs, outputs = weight.shape[2:]
    check_map("source", source, inputs)
    if not weight.is_contiguous() or weight.dtype != source.dtype or inputs % 16 or outputs & (outputs - 1) or outputs < 16:
        raise ValueError(f"weight {tuple(weight.shape)} {weight.dtype}: not packed for this kernel")
    tile = tile or choose_tile(inputs, outputs)
    hidden, channels = gate[0].shape if gate else (0, 0)
    # a CPU tensor means Triton's interpreter, which knows no launch attributes
    options = {"num_warps": tile.warps, "launch_pdl": chained} if source.is_cuda else {}
    _kernel[(programs(height, width, tile.rows, tile.columns),)](
        source, weight, bias, out, rest, residual, height, width, 3 * inputs // (tile.depth * tile.slices), slope,
        maps, *(gate or [None] * 7),
        SOURCE_STEP=source.stride(1), OUT_STEP=0 if scale else out.stride(1),
        REST_STEP=0 if rest is None else rest.stride(1), RESIDUAL_STEP=0 if residual is None else residual.stride(1),
        CIN=inputs, COUT=outputs, SPLIT=outputs if rest is None else out.shape[-1], ACTIVATE=slope != 1.0,
        ADD=residual is not None, SCALE=scale, GATE_CHANNELS=channels, GATE_HIDDEN=hidden,
        ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, SLICES=tile.slices, STAGES=tile.stages,
        TRANSPOSED=tile.transposed, CHAINED=chained and source.is_cuda, **options,
    )  # fmt: skip


def choose_tile(inputs: int, outputs: int) -> Tile:
    """Return the tile that was fastest on an H200 for this shape of weights."""
    if outputs <= 16:
        return Tile(depth=16, stages=4)
    return Tile(depth=32 if inputs % 32 == 0 else 16)


def conv3x3(
    source: Tensor, weight: Tensor, bias: Tensor, out: Tensor, rest: Tensor | None, residual: Tensor | None, slope: float, *,
    tile: Tile | None = None, chained: bool = True,
) -> None:  # fmt: skip
    """See `zoo_core.kernels.conv3x3.conv3x3`.

    Args:
        tile: shape of a program; None chooses.
        chained: let this launch overlap the end of the one before (programmatic dependent launch).

    Raises:
        ValueError: a map or the weight is laid out otherwise than documented.
    """
    outputs = weight.shape[3]
    check_map("out", out, outputs if rest is None else None)
    if rest is not None:
        check_map("rest", rest, outputs - out.shape[-1])
    if residual is not None:
        check_map("residual", residual, outputs)
    _launch(source, weight, bias, out, rest=rest, residual=residual, slope=slope, tile=tile, chained=chained)


def conv3x3_gate(
    source: Tensor, weight: Tensor, bias: Tensor, maps: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor,
    gate: Tensor, partials: Tensor, ticket: Tensor, *, tile: Tile | None = None, chained: bool = True,
) -> None:  # fmt: skip
    """See `zoo_core.kernels.conv3x3.conv3x3_gate`; Args and Raises as for `conv3x3`; the tile has GATE_ROWS x GATE_COLUMNS."""
    check_map("maps", maps, weight1.shape[1])
    own = maps[..., maps.shape[-1] - weight.shape[3] :]
    values = (weight1, bias1, weight2, bias2, gate, partials, ticket)
    _launch(source, weight, bias, own, maps=maps, gate=values, tile=tile, chained=chained)


def conv3x3_shuffle(
    source: Tensor, weight: Tensor, bias: Tensor, image: Tensor, scale: int, *,
    tile: Tile | None = None, chained: bool = True,
) -> None:  # fmt: skip
    """See `zoo_core.kernels.conv3x3.conv3x3_shuffle`; Args and Raises as for `conv3x3`."""
    height, width = size_of(source)
    if image.shape != (3, scale * height, scale * width) or not image.is_contiguous():
        raise ValueError(f"image {tuple(image.shape)}: expected (3, {scale * height}, {scale * width}), contiguous")
    _launch(source, weight, bias, image, scale=scale, tile=tile, chained=chained)
