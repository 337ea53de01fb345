"""3x3 convolution of a map on tensor cores. Forward only: nothing that uses it is trained through it.

An implicit matrix product per group of R image rows: a program makes R x T output pixels. For each column shift and
slice of channels it fetches R + 2 rows of T pixels and the three weight slices of that column, and multiplies every
row into the (up to three) output rows that see it: 3 (R + 2) fetches instead of 9 R. The maps' zero border replaces
all masks on loads.
"""

# Triton's language has no type annotations of its own for what a kernel takes.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from zoo_core.kernels.conv3x3.layout import COLUMNS, ROWS, programs
from zoo_core.kernels.conv3x3.statistics import gate_of, moments_of, pixels_of
from zoo_core.kernels.maps import check_map, size_of


@dataclass(frozen=True)
class Tile:
    """Shape of a program: rows (1, 2 or 4) of so many pixels, channels a step, pipeline depth, warps."""

    rows: int = ROWS
    columns: int = COLUMNS
    depth: int = 16
    stages: int = 3
    warps: int = 4


@triton.jit
def _kernel(
    source, weight, bias, out, rest, residual, H, W, steps, slope,
    moments, weight1, bias1, weight2, bias2, gate, tickets,
    SOURCE_STEP: tl.constexpr, OUT_STEP: tl.constexpr, REST_STEP: tl.constexpr, RESIDUAL_STEP: tl.constexpr,
    CIN: tl.constexpr, COUT: tl.constexpr, SPLIT: tl.constexpr, ACTIVATE: tl.constexpr, ADD: tl.constexpr,
    SCALE: tl.constexpr, MEASURED: tl.constexpr, HIDDEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    pitch = W + 2
    groups = (H + ROWS - 1) // ROWS
    # groups of ROWS image rows, laid side by side, are one long line; beyond its end the last pixel is repeated
    line = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    t = tl.minimum(line, groups * W - 1)
    top = t // W * ROWS + 1
    q = top * pitch + t % W + 1  # position in the bordered map
    k = tl.arange(0, DEPTH)
    n = tl.arange(0, COUT)
    pixels = source + q[:, None] * SOURCE_STEP + k[None, :]
    weights = weight + k[:, None] * COUT + n[None, :]
    row = pitch * SOURCE_STEP
    y0 = tl.zeros((COLUMNS, COUT), tl.float32)
    y1 = tl.zeros((COLUMNS, COUT), tl.float32)  # what ROWS does not need, the compiler drops
    y2 = tl.zeros((COLUMNS, COUT), tl.float32)
    y3 = tl.zeros((COLUMNS, COUT), tl.float32)
    # `steps` is 3 CIN / DEPTH, unknown to the compiler: it would unroll the loop, and 100 kB of code would miss the
    # instruction cache
    for step in tl.range(0, steps, num_stages=STAGES):
        dx = step // (CIN // DEPTH)
        c = step % (CIN // DEPTH) * DEPTH
        at = pixels + ((dx - 1) * SOURCE_STEP + c)
        of = weights + (dx * CIN + c) * COUT
        above = tl.load(of)
        same = tl.load(of + 3 * CIN * COUT)
        below = tl.load(of + 6 * CIN * COUT)
        x0 = tl.load(at - row)
        x1 = tl.load(at)
        x2 = tl.load(at + row)
        y0 = tl.dot(x2, below, tl.dot(x1, same, tl.dot(x0, above, y0)))
        if ROWS >= 2:
            x3 = tl.load(at + 2 * row)
            y1 = tl.dot(x3, below, tl.dot(x2, same, tl.dot(x1, above, y1)))
        if ROWS >= 4:
            x4 = tl.load(at + 3 * row)
            x5 = tl.load(at + 4 * row)
            y2 = tl.dot(x4, below, tl.dot(x3, same, tl.dot(x2, above, y2)))
            y3 = tl.dot(x5, below, tl.dot(x4, same, tl.dot(x3, above, y3)))
    offset = tl.load(bias + n)[None, :]
    y0 += offset
    y1 += offset
    y2 += offset
    y3 += offset
    if ACTIVATE:
        y0 = tl.where(y0 > 0, y0, slope * y0)
        y1 = tl.where(y1 > 0, y1, slope * y1)
        y2 = tl.where(y2 > 0, y2, slope * y2)
        y3 = tl.where(y3 > 0, y3, slope * y3)
    for r in tl.static_range(ROWS):
        y = y0
        if r == 1:
            y = y1
        if r == 2:
            y = y2
        if r == 3:
            y = y3
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
    # MEASURED: how many channels the moments are of; ours are the first SPLIT outputs, and stand where `moments` points
    if MEASURED > 0:
        count = pixels_of(tl.program_id(0), groups, H, W, ROWS, COLUMNS).to(tl.float32)
        y0, y1, y2, y3 = _first(y0, SPLIT), _first(y1, SPLIT), _first(y2, SPLIT), _first(y3, SPLIT)
        mean, spread = moments_of(y0, y1, y2, y3, line < groups * W, H + 1 - top, count)
        own = moments + tl.program_id(0) * (2 * MEASURED) + tl.arange(0, SPLIT)
        tl.store(own, mean)
        tl.store(own + MEASURED, spread)
    if HIDDEN > 0:
        first = moments - (MEASURED - SPLIT)
        gate_of(first, weight1, bias1, weight2, bias2, gate, tickets, groups, H, W, MEASURED, HIDDEN, ROWS, COLUMNS)


@triton.jit
def _first(y, N: tl.constexpr):
    """The first N columns of a tile, N a power of 2: a choice of registers, nothing moves."""
    if y.shape[1] > N:
        halves = tl.permute(tl.reshape(y, (y.shape[0], 2, y.shape[1] // 2)), (0, 2, 1))
        y, _ = tl.split(halves)
        y = _first(y, N)
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
    source: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    *,
    rest: Tensor | None = None,
    residual: Tensor | None = None,
    slope: float = 1.0,
    scale: int = 0,
    moments: Tensor | None = None,
    gate: tuple[Tensor, ...] | None = None,
    tile: Tile | None = None,
) -> None:
    height, width = size_of(source)
    inputs, outputs = weight.shape[2:]
    check_map("source", source, inputs)
    if (
        not weight.is_contiguous()
        or weight.dtype != source.dtype
        or inputs % 16
        or outputs & (outputs - 1)
        or outputs < 16
    ):
        raise ValueError(f"weight {tuple(weight.shape)} {weight.dtype}: not packed for this kernel")
    if tile is None:  # fastest on an H200; two rows where the work is small
        tile = Tile(rows=2 if inputs == 16 and moments is None else ROWS, depth=32 if inputs % 32 == 0 else 16)
    if moments is not None and (tile.rows, tile.columns) != (ROWS, COLUMNS):
        raise ValueError(f"{tile}: the moments are those of {ROWS} x {COLUMNS} pixels")
    _kernel[(programs(height, width, tile.rows, tile.columns),)](
        source, weight, bias, out, rest, residual, height, width, 3 * inputs // tile.depth, slope,
        moments, *(gate or [None] * 6),
        SOURCE_STEP=source.stride(1), OUT_STEP=0 if scale else out.stride(1),
        REST_STEP=0 if rest is None else rest.stride(1), RESIDUAL_STEP=0 if residual is None else residual.stride(1),
        CIN=inputs, COUT=outputs, SPLIT=outputs if rest is None else out.shape[-1], ACTIVATE=slope != 1.0,
        ADD=residual is not None, SCALE=scale, MEASURED=0 if moments is None else moments.stride(1),
        HIDDEN=len(gate[1]) if gate else 0, ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, STAGES=tile.stages,
        num_warps=tile.warps,
    )  # fmt: skip


def conv3x3(
    source: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    rest: Tensor | None,
    residual: Tensor | None,
    slope: float,
    moments: Tensor | None,
    *,
    tile: Tile | None = None,
) -> None:
    """See `zoo_core.kernels.conv3x3.conv3x3`; `tile` is the shape of a program, None chooses.

    Raises:
        ValueError: a map, the weight or the moments are laid out otherwise than documented.
    """
    outputs = weight.shape[3]
    check_map("out", out, outputs if rest is None else None)
    if rest is not None:
        check_map("rest", rest, outputs - out.shape[-1])
    if residual is not None:
        check_map("residual", residual, outputs)
        if moments is not None:
            raise ValueError("moments are taken before a residual is added; ask for one of the two")
    _launch(source, weight, bias, out, rest=rest, residual=residual, slope=slope, moments=moments, tile=tile)


def conv3x3_gate(
    source: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    gate: Tensor,
    moments: Tensor,
    tickets: Tensor,
    *,
    tile: Tile | None = None,
) -> None:
    """See `zoo_core.kernels.conv3x3.conv3x3_gate`; the rest as for `conv3x3`."""
    check_map("out", out, weight.shape[3])
    own = moments[..., moments.shape[-1] - weight.shape[3] :]
    _launch(
        source, weight, bias, out, moments=own, gate=(weight1, bias1, weight2, bias2, gate, tickets), tile=tile
    )  # fmt: skip


def conv3x3_shuffle(source: Tensor, weight: Tensor, bias: Tensor, image: Tensor, scale: int) -> None:
    """See `zoo_core.kernels.conv3x3.conv3x3_shuffle`; Raises as for `conv3x3`."""
    height, width = size_of(source)
    if image.shape != (3, scale * height, scale * width) or not image.is_contiguous():
        raise ValueError(f"image {tuple(image.shape)}: expected (3, {scale * height}, {scale * width}), contiguous")
    _launch(source, weight, bias, image, scale=scale)
