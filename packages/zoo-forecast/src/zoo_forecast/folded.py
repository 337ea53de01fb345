"""The sampler with what does not depend on the sample folded out: the same tokens as `flow.sample`, faster.

Time and condition modulate the net's norms. They differ by step and token, not by sample, so all modulations are made
before the loop, once a token and step instead of once a sample too: 69 % of the work is gone at 100 samples. The
weights of the norms are folded into them as well. On a GPU the whole loop is one CUDA graph (`Graphs`): the loop is
many small kernels, whose launches would take longer than they do.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

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
    parts = [
        _follow(net, some, fold(net, its, steps), steps, sampler)
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


class Graphs:
    """The sampler as CUDA graphs, one for each shape; on a CPU it is `sample`.

    The graph of a shape is recorded when it is first asked for, which takes as long as some runs.

    Args:
        net: f, whose weights must stay where they are and keep their values.
        shapes: how many shapes are kept; the one not used for longest goes.
    """

    def __init__(self, net: FlowNet, *, shapes: int = 4) -> None:
        self.net, self.shapes = net, shapes
        self._recorded: OrderedDict[tuple[object, ...], _Recorded] = OrderedDict()

    @torch.inference_mode()  # tensors of a graph are made in it, and may be written to in it alone
    def __call__(self, start: Tensor, z: Tensor, *, steps: int, sampler: Sampler) -> Tensor:
        """Follow the flow. Arguments and result as of `flow.sample`."""
        if start.device.type != "cuda":
            return sample(self.net, start, z, steps=steps, sampler=sampler)
        key = (start.shape, start.dtype, z.dtype, start.device, steps, sampler)
        if key not in self._recorded:
            while len(self._recorded) >= self.shapes:
                self._recorded.popitem(last=False)
            self._recorded[key] = _record(self.net, start, z, steps, sampler)
        self._recorded.move_to_end(key)
        recorded = self._recorded[key]
        recorded.start.copy_(start)
        recorded.z.copy_(z)
        recorded.graph.replay()
        return recorded.out.clone()


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    start: Tensor
    z: Tensor
    out: Tensor


def _record(net: FlowNet, start: Tensor, z: Tensor, steps: int, sampler: Sampler) -> _Recorded:
    start, z = start.clone(), z.clone()
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # what a library sets up at its first call must not happen inside of a graph
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        sample(net, start, z, steps=min(steps, 2), sampler=sampler)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = sample(net, start, z, steps=steps, sampler=sampler)
    return _Recorded(graph, start, z, out)
