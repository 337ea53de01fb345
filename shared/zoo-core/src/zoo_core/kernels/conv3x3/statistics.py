"""Channel statistics in the epilogue of a convolution, and the gates of contrast-aware attention from them.

Every program leaves mean and sum of squared deviations of its pixels; the last one to finish (an integer ticket tells) merges them
in a fixed order by the formula of Chan, Golub and LeVeque (1979). No floating atomics: the same input gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pixels_of(program, groups, H, W, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """How many pixels of the image a program (a number or a tensor of numbers) holds."""
    begin = tl.minimum(program * COLUMNS, groups * W)
    end = tl.minimum(begin + COLUMNS, groups * W)
    last = (groups - 1) * W  # where the last group of rows begins, which may have fewer than ROWS
    full = tl.minimum(end, last) - tl.minimum(begin, last)
    return full * ROWS + (end - begin - full) * (H - (groups - 1) * ROWS)


@triton.jit
def statistics(x0, x1, x2, x3, m0, m1, m2, m3, count):
    """Mean and sum of squared deviations per column of four tiles, over the rows that their masks keep: two-pass."""
    total = tl.where(m0, x0, 0.0) + tl.where(m1, x1, 0.0) + tl.where(m2, x2, 0.0) + tl.where(m3, x3, 0.0)
    mean = tl.sum(total, 0) / count
    d0 = tl.where(m0, x0 - mean[None, :], 0.0)
    d1 = tl.where(m1, x1 - mean[None, :], 0.0)
    d2 = tl.where(m2, x2 - mean[None, :], 0.0)
    d3 = tl.where(m3, x3 - mean[None, :], 0.0)
    return mean, tl.sum(d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3, 0)


@triton.jit
def merge_and_gate(
    weight1, bias1, weight2, bias2, gate, partials, ticket, groups, H, W,
    CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """In the last program to arrive: merge all partial statistics and write gate = sigmoid(W2 relu(W1 (mean + std) + b1) + b2)."""
    BLOCK: tl.constexpr = 64
    c = tl.arange(0, CHANNELS)
    h = tl.arange(0, HIDDEN)
    narrow = tl.load(weight1 + h[:, None] * CHANNELS + c[None, :])  # early: their latency hides behind the ticket's
    narrow_bias = tl.load(bias1 + h)
    wide = tl.load(weight2 + c[:, None] * HIDDEN + h[None, :])
    wide_bias = tl.load(bias2 + c)
    tl.debug_barrier()  # all warps have stored before one thread takes the ticket, which publishes the stores
    if tl.atomic_add(ticket, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.store(ticket, 0)
        mean = tl.zeros((CHANNELS,), tl.float32)
        spread = tl.zeros((CHANNELS,), tl.float32)
        before = 0.0
        for start in tl.range(0, tl.num_programs(0), BLOCK):
            p = start + tl.arange(0, BLOCK)
            count = pixels_of(p, groups, H, W, ROWS, COLUMNS).to(tl.float32)  # 0 beyond the last program
            there = (p < tl.num_programs(0))[:, None]
            at = partials + p[:, None] * (2 * CHANNELS) + c[None, :]
            means = tl.load(at, mask=there, other=0.0, cache_modifier=".cg")
            spreads = tl.load(at + CHANNELS, mask=there, other=0.0, cache_modifier=".cg")
            here = tl.sum(count, 0)
            mean_here = tl.sum(means * count[:, None], 0) / here
            away = means - mean_here[None, :]
            step = mean_here - mean
            mean += step * (here / (before + here))
            spread += tl.sum(spreads + away * away * count[:, None], 0) + step * step * (before * here / (before + here))
            before += here
        pooled = mean + tl.sqrt(spread / before)
        hidden = tl.maximum(tl.sum(narrow * pooled[None, :], 1) + narrow_bias, 0.0)
        z = tl.sum(wide * hidden[None, :], 1) + wide_bias
        tl.store(gate + c, 1 / (1 + tl.exp(-z)))
