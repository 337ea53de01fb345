"""The sampler with what does not depend on the sample folded out: the same tokens as `flow.sample`, faster.

Time and condition modulate the net's norms. They differ by step and token, not by sample, so all modulations are made
before the loop, once a token and step instead of once a sample too: 69 % of the work is gone at 100 samples. The
weights of the norms are folded into them as well. On a GPU the whole loop is one CUDA graph, see
`zoo_core.nn.graphs`; `fused` makes one kernel of it, for half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from zoo_core.kernels.sampler import sampler as kernel
from zoo_forecast.flow import EPSILON, FlowNet, Sampler, step

TOKENS = 512  # sampled at a time: their modulations take 290 MB at the official size


class Modulations(NamedTuple):
    """What multiplies and what is added, for each step and token: (steps, N, d) each.

    Args:
        blocks: factor, shift and gate of each residual block.
        final: factor and shift of the last layer.
    """

    blocks: list[tuple[Tensor, Tensor, Tensor]]
    final: tuple[Tensor, Tensor]


def fold(net: FlowNet, z: Tensor, steps: int) -> Modulations:
    """Return all modulations of `steps` steps for the conditions z (N, d)."""
    t = torch.arange(steps, device=z.device)[:, None] / steps
    guide = net.guide(t, z)  # (steps, N, d)
    blocks = []
    for block in net.res_blocks:
        shift, scale, gate = block.modulation(guide).chunk(3, -1)  # type: ignore[operator]
        factor = 1 + scale
        norm: Any = block.in_ln
        # (LN(h) weight + bias) factor + shift
        blocks.append((norm.weight * factor, torch.addcmul(shift, norm.bias, factor), gate))
    shift, scale = net.final_layer.modulation(guide).chunk(2, -1)
    return Modulations(blocks, (1 + scale, shift))


def sample(net: FlowNet, start: Tensor, z: Tensor, *, steps: int, sampler: Sampler) -> Tensor:
    """Follow the flow. Arguments and result as of `flow.sample`; x is kept in the type of `start`."""
    return _in_parts(_follow, net, start, z, steps, sampler)


def fused(net: FlowNet, start: Tensor, z: Tensor, *, steps: int, sampler: Sampler) -> Tensor:
    """Follow the flow, all steps in one kernel. As `sample`; on CUDA `start` is fp32, the rest bf16 or fp16."""
    return _in_parts(_fused, net, start, z, steps, sampler)


def _in_parts(
    follow: Callable[..., Tensor], net: FlowNet, start: Tensor, z: Tensor, steps: int, sampler: Sampler
) -> Tensor:
    parts = [
        follow(net, some, fold(net, its, steps), steps, sampler)
        for some, its in zip(torch.split(start, TOKENS, 1), torch.split(z, TOKENS), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _follow(net: FlowNet, start: Tensor, modulations: Modulations, steps: int, sampler: Sampler) -> Tensor:
    x, width = start, (net.input_proj.out_features,)
    for index in range(steps):
        h = net.input_proj(x.to(net.input_proj.weight.dtype))
        for block, (factor, shift, gate) in zip(net.res_blocks, modulations.blocks, strict=True):
            normed = torch.addcmul(shift[index], layer_norm(h, width, eps=EPSILON), factor[index])
            h = torch.addcmul(h, gate[index], block.mlp(normed))  # type: ignore[operator]
        factor, shift = modulations.final
        normed = torch.addcmul(shift[index], layer_norm(h, width, eps=EPSILON), factor[index])
        x = step(sampler, x, net.final_layer.linear(normed).to(x.dtype), start, index, steps)
    return x


def _fused(net: FlowNet, start: Tensor, modulations: Modulations, steps: int, sampler: Sampler) -> Tensor:
    layers: list[Any] = [layer for block in net.res_blocks for layer in (block.mlp[0], block.mlp[2])]  # type: ignore[index]
    return kernel(
        start,
        torch.stack([vector for kind in (*modulations.blocks, modulations.final) for vector in kind]),
        net.input_proj.weight,
        net.input_proj.bias,
        torch.stack([layer.weight for layer in layers]),
        torch.stack([layer.bias for layer in layers]),
        net.final_layer.linear.weight,
        official=sampler == "official",
    )
