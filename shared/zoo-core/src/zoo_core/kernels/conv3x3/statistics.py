"""Channel statistics in the epilogue of a convolution, and the gates of contrast-aware attention from them.

Every program leaves mean and sum of squared deviations ("moments") of its pixels. Of the last convolution, the last
program to finish among 16 neighbours merges theirs, and the last of those merges all, always in the same order, by
the formula of Chan, Golub and LeVeque (1979). Integer tickets tell who is last; there are no floating atomics: the
same input gives the same bits.
"""

# Triton's language has no type annotations of its own for what a kernel takes.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl

from zoo_core.kernels.conv3x3.layout import NEIGHBOURS

_NEIGHBOURS = tl.constexpr(NEIGHBOURS)


@triton.jit
def pixels_of(program, groups, H, W, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """How many pixels of the image a program (a number or a tensor of numbers) holds."""
    begin = tl.minimum(program * COLUMNS, groups * W)
    end = tl.minimum(begin + COLUMNS, groups * W)
    last = (groups - 1) * W  # where the last group of rows begins, which may have fewer than ROWS
    full = tl.minimum(end, last) - tl.minimum(begin, last)
    return full * ROWS + (end - begin - full) * (H - (groups - 1) * ROWS)


@triton.jit
def moments_of(x0, x1, x2, x3, live, rows, count):
    """Mean and sum of squared deviations per column of four tiles, of which `rows` are inside the image: two-pass."""
    m0 = live[:, None]
    m1 = m0 & (rows > 1)[:, None]
    m2 = m0 & (rows > 2)[:, None]
    m3 = m0 & (rows > 3)[:, None]
    total = tl.where(m0, x0, 0.0) + tl.where(m1, x1, 0.0) + tl.where(m2, x2, 0.0) + tl.where(m3, x3, 0.0)
    mean = tl.sum(total, 0) / count
    d0 = tl.where(m0, x0 - mean[None, :], 0.0)
    d1 = tl.where(m1, x1 - mean[None, :], 0.0)
    d2 = tl.where(m2, x2 - mean[None, :], 0.0)
    d3 = tl.where(m3, x3 - mean[None, :], 0.0)
    return mean, tl.sum(d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3, 0)


@triton.jit
def _merged(
    moments, first, number, groups, H, W,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean and variance over `number` programs of ROWS x COLUMNS pixels; `moments` points at program `first`."""
    c = tl.arange(0, CHANNELS)
    mean = tl.zeros((CHANNELS,), tl.float32)
    spread = tl.zeros((CHANNELS,), tl.float32)
    before = 0.0
    for start in tl.range(0, number, BLOCK):
        p = start + tl.arange(0, BLOCK)
        there = p < number
        count = tl.where(there, pixels_of(first + p, groups, H, W, ROWS, COLUMNS), 0).to(tl.float32)
        at = moments + p[:, None] * (2 * CHANNELS) + c[None, :]
        means = tl.load(
            at, mask=there[:, None], other=0.0, cache_modifier=".cg"
        )  # .cg: other programs wrote them just now
        spreads = tl.load(at + CHANNELS, mask=there[:, None], other=0.0, cache_modifier=".cg")
        here = tl.sum(count, 0)
        mean_here = tl.sum(means * count[:, None], 0) / here
        away = means - mean_here[None, :]
        step = mean_here - mean
        mean += step * (here / (before + here))
        spread += tl.sum(spreads + away * away * count[:, None], 0) + step * step * (before * here / (before + here))
        before += here
    return mean, spread / before


@triton.jit
def gate_of(
    moments, weight1, bias1, weight2, bias2, gate, tickets, groups, H, W,
    CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """In the last program to arrive: gate = sigmoid(W2 relu(W1 (mean + std) + b1) + b2). All store moments first."""
    number = tl.num_programs(0)
    neighbourhood = tl.program_id(0) // _NEIGHBOURS
    first = neighbourhood * _NEIGHBOURS
    members = tl.minimum(number - first, _NEIGHBOURS)
    c = tl.arange(0, CHANNELS)
    tl.debug_barrier()  # all warps have stored before one thread takes the ticket, which publishes the stores
    if tl.atomic_add(tickets + 1 + neighbourhood, 1, sem="acq_rel") == members - 1:
        tl.store(tickets + 1 + neighbourhood, 0)
        h = tl.arange(0, HIDDEN)
        narrow = tl.load(weight1 + h[:, None] * CHANNELS + c[None, :])  # early: their latency hides behind the merges'
        narrow_bias = tl.load(bias1 + h)
        wide = tl.load(weight2 + c[:, None] * HIDDEN + h[None, :])
        wide_bias = tl.load(bias2 + c)
        mean, variance = _merged(
            moments + first * (2 * CHANNELS), first, members, groups, H, W, CHANNELS, _NEIGHBOURS, ROWS, COLUMNS
        )  # fmt: skip
        together = moments + number * (2 * CHANNELS)  # behind those of the programs: those of the neighbourhoods
        pixels = pixels_of(neighbourhood, groups, H, W, ROWS, COLUMNS * _NEIGHBOURS)
        tl.store(together + neighbourhood * (2 * CHANNELS) + c, mean)
        tl.store(together + neighbourhood * (2 * CHANNELS) + CHANNELS + c, variance * pixels)
        tl.debug_barrier()
        neighbourhoods = (number + _NEIGHBOURS - 1) // _NEIGHBOURS
        if tl.atomic_add(tickets, 1, sem="acq_rel") == neighbourhoods - 1:
            tl.store(tickets, 0)
            mean, variance = _merged(
                together, 0, neighbourhoods, groups, H, W, CHANNELS, 32, ROWS, COLUMNS * _NEIGHBOURS
            )  # fmt: skip
            pooled = mean + tl.sqrt(variance)
            hidden = tl.maximum(tl.sum(narrow * pooled[None, :], 1) + narrow_bias, 0.0)
            z = tl.sum(wide * hidden[None, :], 1) + wide_bias
            tl.store(gate + c, 1 / (1 + tl.exp(-z)))
