"""The whole network in 8 bits, as one graph that OpenVINO compiles: the fast way of `--precision int8`.

The graph is that of `backends.Folded`. What goes into a convolution or a linear layer is rounded to 8 bits between two
fixed bounds (beyond them it is clipped), weights by a scale an output channel; sums are exact integers, all else stays
float32. Gates and their convolutions, activations and the next rounding run as one operation where OpenVINO can join
them.

Bounds belong to a set of weights, like confidences: `python -m zoo_htr.calibrate` finds and keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo_core.errors import InputError
from zoo_core.nn.squeeze import SqueezeExcitation
from zoo_htr.backends import STEP, Bounds, Convolution, Folded, FoldedBlock
from zoo_htr.htr_jand import HTRJAND

Node: TypeAlias = Any  # openvino.Node and openvino.Output have no types here

LINES = 200  # that bounds are taken from
_KEPT = 90  # percent of the lines whose extremes lie within the bounds
_AT_ONCE = 16  # channels are filled up to multiples of what one instruction takes: OpenVINO does the rest one by one
_FAR = 1e9  # taken off the logits of keys that are padding


class Graph8:
    """See `backends.Folded`; its logits differ from that by what rounding to 8 bits changes.

    Args:
        network: that `backends.fits`. Its weights are copied.
        bounds: of these weights; None for float32, to compare with.
        threads: so many lines may be read at a time.

    Raises:
        InputError: the bounds are not those of such a network.
    """

    def __init__(self, network: HTRJAND, bounds: Bounds | None, *, threads: int = 1) -> None:
        import openvino as ov

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
        model = _Builder(network, bounds).model()
        compiled = ov.Core().compile_model(model, "CPU", settings)
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(threads):
            self._idle.put(compiled.create_infer_request())

    @property
    def described(self) -> str:
        """The engine in words."""
        return "OpenVINO, in 8 bits"

    def __call__(self, line: Tensor) -> Tensor:
        """Read a line; see `Folded.__call__`."""
        inputs, frames = _inputs(line.numpy())
        request = self._idle.get()
        try:
            # the request's memory is used again
            return torch.from_numpy(request.infer(inputs, share_inputs=True)[0][:frames].copy())
        finally:
            self._idle.put(request)


def find_bounds(network: HTRJAND, lines: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
    """Return bounds for the weights of a network: those that the extremes of nine lines of ten lie within.

    A line that goes beyond is clipped, which costs less than coarser steps for all.

    Args:
        network: that `backends.fits`.
        lines: (H, W) each, as `zoo_htr.normalise.standardise` gives them.
    """
    import openvino as ov
    from openvino import opset13 as op

    builder = _Builder(network, None)
    parameters = builder.model().get_parameters()
    ends = [
        reduce(node, _ints(range(rank)), keep_dims=False)
        for node, rank in builder.rounded.values()
        for reduce in (op.reduce_min, op.reduce_max)
    ]
    compiled = ov.Core().compile_model(ov.Model(ends, parameters), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    seen = np.array([list(compiled(_inputs(line.numpy())[0]).values()) for line in lines], np.float64)
    low, high = np.percentile(seen[:, ::2], 100 - _KEPT, axis=0), np.percentile(seen[:, 1::2], _KEPT, axis=0)
    ends_of = zip(builder.rounded, low.round(4).tolist(), high.round(4).tolist(), strict=True)
    return {name: (least, most) for name, least, most in ends_of}


class _Builder:
    """Builds the graph of a network; without bounds in float32."""

    def __init__(self, network: HTRJAND, bounds: Bounds | None) -> None:
        self.folded, self.height, self.bounds = Folded(network), network.height, bounds
        self.rounded: dict[str, tuple[Node, int]] = {}  # what is rounded to 8 bits, and its rank

    def model(self) -> Any:
        """Return the graph: what `_inputs` gives -> logits (T, V)."""
        import openvino as ov
        from openvino import opset13 as op

        folded = self.folded
        line = op.parameter([1, 1, -1, -1], np.float32)
        halves, quarters = (op.parameter([1, 1, 1, -1], np.float32) for _ in range(2))
        places = op.parameter([-1], np.float32)
        x, rows, across, known = line, self.height, 1, 1
        for number, stage in enumerate(folded.stages, 1):
            rows, across = rows // stage.conv.stride[0], across * stage.conv.stride[1]
            mask = halves if across == 2 else quarters
            channels = len(stage.conv.weight)
            wide = channels if stage.gate is None else _filled_up(channels)
            x = self.to8(x, f"stage{number}.conv", 4)
            x = self.conv(x, stage.conv, slice(0, channels), (wide, known))
            x = op.prelu(x, _floats(_filled(stage.slope, wide)))
            known = wide
            if stage.gate is None or stage.squeeze is None:
                break
            x = self.to8(op.multiply(x, mask), f"stage{number}.gate", 4)
            linear, opened = (
                self.conv(x, stage.gate, slice(half * channels, (half + 1) * channels), (wide, wide)) for half in (0, 1)
            )
            x = op.multiply(op.multiply(linear, op.sigmoid(opened)), mask)
            x = op.multiply(x, self.squeezed(x, rows, mask, stage.squeeze))
        frames = op.reshape(op.transpose(x, _ints([0, 3, 2, 1])), _ints([-1, folded.proj_weight.shape[1]]), False)
        x = _norm(self.linear(frames, folded.proj_weight, folded.proj_bias, "proj"), folded.proj_norm)
        padding = op.multiply(op.subtract(op.squeeze(quarters, _ints([0])), _floats(1)), _floats(_FAR))
        distance = op.subtract(places, op.unsqueeze(places, _ints([1])))
        for number, block in enumerate(folded.blocks, 1):
            x = self.block(x, block, f"block{number}", distance, padding)
        x = self.linear(_norm(x, folded.norm), folded.head.weight, folded.head.bias, "head")
        return ov.Model([x], [line, halves, quarters, places])

    def block(self, x: Node, block: FoldedBlock, name: str, distance: Node, padding: Node) -> Node:
        """Add what `FoldedBlock` computes: x (T, d); distance (T, T); padding (1, 1, T) is added to logits."""
        from openvino import opset13 as op

        near = len(block.decay)
        heads = 2 * near
        qkv = self.linear(_norm(x, block.norm1), block.qkv_weight, block.qkv_bias, f"{name}.qkv")
        qkv = op.transpose(op.reshape(qkv, _ints([0, 3, heads, -1]), True), _ints([1, 2, 0, 3]))
        q, k, v = (op.squeeze(part, _ints([0])) for part in op.split(qkv, _ints(0), 3).outputs())
        # mhsa's heads, which come first, have no decay
        decay, offset = (_floats(np.pad(_array(t), ((near, 0), (0, 0), (0, 0)))) for t in (-block.decay, block.offset))
        bias = op.add(op.multiply(op.abs(op.subtract(distance, offset)), decay), padding)
        weights = op.softmax(op.add(op.matmul(q, k, False, True), bias), 2)
        mixed = op.reshape(op.transpose(op.matmul(weights, v, False, False), _ints([1, 0, 2])), _ints([0, -1]), True)
        out = self.linear(mixed, block.out_weight, block.out_bias, f"{name}.out")
        p, difference, gate = op.split(out, _ints(1), 3).outputs()
        x = op.add(op.add(x, p), op.multiply(difference, op.sigmoid(gate)))
        y = op.swish(self.linear(_norm(x, block.norm2), block.ff1.weight, block.ff1.bias, f"{name}.ff1"))
        return op.add(x, self.linear(y, block.ff2.weight, block.ff2.bias, f"{name}.ff2"))

    def squeezed(self, x: Node, rows: int, mask: Node, squeeze: SqueezeExcitation) -> Node:
        """Return the gates (1, C, 1, 1) of squeeze-and-excitation for x of so many rows, zero where the mask is."""
        from openvino import opset13 as op

        count = op.multiply(op.reduce_sum(mask, _ints([2, 3]), False), _floats(rows))
        means = op.divide(op.reduce_sum(x, _ints([2, 3]), False), count)
        fc1, fc2 = squeeze.fc1, squeeze.fc2
        wide = _filled_up(fc1.in_features)
        first = np.pad(_array(fc1.weight), ((0, 0), (0, wide - fc1.in_features)))
        hidden = op.relu(op.add(op.matmul(means, _floats(first), False, True), _floats(_array(fc1.bias))))
        gates = op.matmul(hidden, _floats(_filled(fc2.weight, wide)), False, True)
        return op.unsqueeze(op.sigmoid(op.add(gates, _floats(_filled(fc2.bias, wide)))), _ints([2, 3]))

    def conv(self, x: Node, conv: Convolution, outputs: slice, filled_up: tuple[int, int]) -> Node:
        """Add some outputs of a convolution, outputs and inputs filled up with zeros to so many channels."""
        from openvino import opset13 as op

        weight = _array(conv.weight[outputs])
        more = [(0, count - known) for count, known in zip(filled_up, weight.shape[:2], strict=True)]
        weight = self.weight8(np.pad(weight, [*more, (0, 0), (0, 0)]))
        bias = _filled(conv.bias[outputs], filled_up[0]).reshape(1, -1, 1, 1)
        return op.add(op.convolution(x, weight, list(conv.stride), [1, 1], [1, 1], [1, 1]), _floats(bias))

    def linear(self, x: Node, weight: Tensor, bias: Tensor, name: str) -> Node:
        """Add a linear layer of x (T, I)."""
        from openvino import opset13 as op

        return op.add(op.matmul(self.to8(x, name, 2), self.weight8(_array(weight)), False, True), _floats(_array(bias)))

    def to8(self, x: Node, name: str, rank: int) -> Node:
        """Round x to 256 steps between its bounds, one of which is 0."""
        from openvino import opset13 as op

        self.rounded[name] = x, rank
        if self.bounds is None:
            return x
        if name not in self.bounds:
            raise InputError(f"The calibration has no bounds of {name}.", "python -m zoo_htr.calibrate makes one.")
        low, high = min(self.bounds[name][0], 0.0), max(self.bounds[name][1], 0.0)
        step = max(high - low, 1e-30) / 255
        ends = [_floats(step * (place - round(-low / step))) for place in (0, 255)]
        return op.fake_quantize(x, *ends, *ends, 256)

    def weight8(self, weight: NDArray[np.float32]) -> Node:
        """Return weights (O, ...), rounded to 255 steps an output if there are bounds."""
        from openvino import opset13 as op

        if self.bounds is None:
            return _floats(weight)
        most = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
        steps = np.maximum(most / 127, np.finfo(np.float32).tiny)
        levels = np.round(weight / steps).astype(np.int8)
        return op.multiply(op.convert(op.constant(levels), "f32"), _floats(steps))


def _inputs(line: NDArray[np.float32]) -> tuple[list[NDArray[np.float32]], int]:
    """Return what the graph takes for a line (H, W), on a canvas that is a multiple of `STEP`; and its frames."""
    height, width = line.shape
    canvas = -(-width // STEP) * STEP
    pixels = np.zeros((1, 1, height, canvas), np.float32)
    pixels[0, 0, :, :width] = line
    masks = []
    for stride in (2, 4):
        width = -(-width // 2)
        masks.append((np.arange(canvas // stride) < width).astype(np.float32)[None, None, None])
    return [pixels, *masks, np.arange(canvas // 4, dtype=np.float32)], width


def _norm(x: Node, norm: nn.LayerNorm) -> Node:
    from openvino import opset13 as op

    scaled = op.mvn(x, _ints([-1]), True, norm.eps, "INSIDE_SQRT")
    return op.add(op.multiply(scaled, _floats(_array(norm.weight))), _floats(_array(norm.bias)))


def _filled_up(channels: int) -> int:
    return -(-channels // _AT_ONCE) * _AT_ONCE


def _filled(values: Tensor, count: int) -> NDArray[np.float32]:
    """Return values (C, ...) with zeros behind, (count, ...)."""
    return np.pad(_array(values), ((0, count - len(values)), *((0, 0),) * (values.ndim - 1)))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)


def _floats(values: Any) -> Node:
    from openvino import opset13 as op

    return op.constant(np.ascontiguousarray(values, np.float32).reshape(np.shape(values)))


def _ints(values: Any) -> Node:
    from openvino import opset13 as op

    return op.constant(np.array(values, np.int64))
