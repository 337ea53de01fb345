"""CUDA graphs: `captured` records one, `Graphs` makes of a function one for each shape that comes twice.

Many small kernels take longer to launch than to run; a graph launches all of them at once. Recording one runs the
function twice more, so what comes once only is launched kernel by kernel. Both give the same bits: the kernels are the
same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from zoo_core.nn.structure import map_tensors

Result = TypeVar("Result")


def captured(
    function: Callable[[], Result], device: torch.device | str, *, pool: Any = None, warm_ups: int = 1
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Record what a function launches, after it has run on another stream.

    Args:
        function: may neither wait for the device nor read anything of the host but constants. What it computes with
            must stay where it is: every replay reads and writes the same places.
        device: a CUDA device.
        pool: where earlier graphs work, as their `pool()` gives it, and this one may too: its replays overwrite what
            theirs left there, but for tensors that are held. None: memory of its own.
        warm_ups: how often the function runs before it is recorded: what compiles, or what a library sets up at its
            first call, must not happen inside of a graph.

    Returns:
        the graph, and what the function returned: tensors without values until the graph is replayed, and filled anew
        by every replay.
    """
    with torch.cuda.device(device):
        side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warm_ups):
                function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            result = function()
    return graph, result


class Graphs(Generic[Result]):
    """Call it as the function; on a CPU it is the function itself.

    Args:
        function: of tensors (or None) by place and of constants by name; returns tensors, or a tuple of them. Neither
            may it wait for the device, nor read anything of the host but constants. What it computes with besides, such
            as weights, must stay where it is.
        shapes: how many kinds of arguments are known at a time; the one not used for longest goes. 0 records nothing.
    """

    def __init__(self, function: Callable[..., Result], *, shapes: int = 8) -> None:
        self.function, self.shapes = function, shapes
        self._known: OrderedDict[Hashable, _Recorded | None] = OrderedDict()
        # shared: a result is copied before another graph runs, so that they may work in the same memory
        self._pool: Any = None

    def __call__(self, *tensors: Tensor | None, **constants: Hashable) -> Result:
        """Return what the function returns, in memory of its own."""
        if not self.shapes or any(tensor is not None and not tensor.is_cuda for tensor in tensors):
            return self.function(*tensors, **constants)
        with torch.inference_mode():  # tensors of a graph are made in it, and may be written to in it alone
            return self._replayed(tensors, constants)

    def _replayed(self, tensors: tuple[Tensor | None, ...], constants: dict[str, Hashable]) -> Result:
        kinds = tuple(None if one is None else (one.shape, one.dtype, one.device) for one in tensors)
        key = (kinds, tuple(sorted(constants.items())))
        if key not in self._known:
            while len(self._known) >= self.shapes:
                self._known.popitem(last=False)
            self._known[key] = None
            return self.function(*tensors, **constants)
        self._known.move_to_end(key)
        recorded = self._known[key]
        if recorded is None:
            recorded = self._known[key] = self._record(tensors, constants)
        for held, given in zip(recorded.tensors, tensors, strict=True):
            if held is not None and given is not None:
                held.copy_(given)
        recorded.graph.replay()
        copied: Result = map_tensors(torch.clone, recorded.result)
        return copied

    def _record(self, tensors: tuple[Tensor | None, ...], constants: dict[str, Hashable]) -> _Recorded:
        device = next(one.device for one in tensors if one is not None)
        held = tuple(None if one is None else one.clone() for one in tensors)
        graph, result = captured(lambda: self.function(*held, **constants), device, pool=self._pool)
        self._pool = self._pool or graph.pool()
        return _Recorded(graph, held, result)


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    tensors: tuple[Tensor | None, ...]  # what it reads
    result: object  # what it fills; held, so that no other graph's result is given its place
