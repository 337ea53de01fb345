"""One training step: forward, backward, update; plain or as a replayed CUDA graph. No host waits for a device here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo_core.nn.structure import map_tensors, tensors_in
from zoo_core.train.generators import kept_generators
from zoo_core.train.log import GRADIENT_NORM

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from zoo_core.train.recipe import TrainRecipe
    from zoo_core.train.task import Task

AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
WARM_UP_STEPS = 3


class Step:
    """Runs steps and remembers what they reported.

    Args:
        task: with `module` wrapped by Fabric.
        recipe: precision, clip_norm, graph.
        optimizer: over the parameters of the task's module.
        fabric: for the device and the backward pass.

    Attributes:
        names: of the reported scalars, `loss` first, `gradient_norm` before clipping last if the recipe clips; known
            after the first step.
        scaler: the gradient scaler of fp16 training.
    """

    def __init__(self, task: Task, recipe: TrainRecipe, optimizer: Optimizer, fabric: Fabric) -> None:
        self.task, self.optimizer, self.fabric = task, optimizer, fabric
        self.clip_norm = recipe.clip_norm
        self.names: list[str] = []
        self.autocast_dtype = AUTOCAST.get(recipe.precision)
        self.scaler = torch.amp.GradScaler(fabric.device.type) if recipe.precision == "fp16" else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._forward_backward = _Graphed(self) if recipe.graph else self._eager

    def __call__(self, batch: Any, learning_rate: float) -> Tensor:
        """Update the weights with one batch; return the reported scalars (len(names),), float32, on the device.

        The returned tensor may be overwritten by the next step.
        """
        values = self._forward_backward(batch)
        for group in self.optimizer.param_groups:
            rate = learning_rate * group.get("lr_scale", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self.clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
            values = torch.cat([values, self._reported(norm.detach().float()).reshape(1)])
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        return values

    def _reported(self, norm: Tensor) -> Tensor:
        """Return the norm for the log: infinite if it is no number, NaN in a step that the scaler leaves out."""
        if self.scaler is not None:  # fp16 has overflowed, as it may
            return norm.where(norm.isfinite(), torch.nan)
        return norm.nan_to_num(nan=torch.inf, posinf=torch.inf)

    def _eager(self, batch: Any) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        return self.forward_backward(batch)

    def forward_backward(self, batch: Any) -> Tensor:
        """Leave the gradients of one batch in the parameters; return the reported scalars."""
        device = self.fabric.device
        with torch.autocast(device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            loss, logs = self.task.loss(batch)
        self.names = ["loss", *logs, *([] if self.clip_norm is None else [GRADIENT_NORM])]
        self.fabric.backward(loss if self.scaler is None else self.scaler.scale(loss))
        return torch.stack([value.detach().float().reshape(()) for value in (loss, *logs.values())])


class _Graphed:
    """Forward and backward, captured once for each shape of batch and replayed with each batch copied in.

    The gradients live in the graphs' memory and are overwritten by each replay, so nothing ever clears them; before an
    update the parameters get those of the graph that ran. All graphs share one pool of memory: only one runs at a time,
    and what outlives a replay (gradients, reported values) is held, so that no other graph is given its place.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.graphs: dict[tuple[torch.Size, ...], _Graph] = {}
        self.pool: Any = None
        self.stream: torch.cuda.Stream | None = None

    def __call__(self, batch: Any) -> Tensor:
        inputs = tensors_in(batch)
        shapes = tuple(tensor.shape for tensor in inputs)
        graph = self.graphs.get(shapes)
        if graph is None:
            graph = self.graphs[shapes] = self._captured(batch)
        else:
            for target, source in zip(graph.inputs, inputs, strict=True):
                target.copy_(source, non_blocking=True)
        for parameter, gradient in zip(self.step.parameters, graph.gradients, strict=True):
            parameter.grad = gradient
        graph.graph.replay()
        return graph.values

    def _captured(self, batch: Any) -> _Graph:
        """Warm up on a side stream, undo what that changed, and record."""
        step, optimizer = self.step, self.step.optimizer
        static = map_tensors(torch.clone, batch)
        buffers = [(buffer, buffer.clone()) for buffer in step.task.module.buffers()]
        if self.stream is None:
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.current_stream())
        with kept_generators(), torch.cuda.stream(self.stream):
            for _ in range(WARM_UP_STEPS):
                optimizer.zero_grad(set_to_none=True)
                step.forward_backward(static)
        torch.cuda.current_stream().wait_stream(self.stream)
        # no gradient may exist while recording: the graph then makes its own and later overwrites them
        optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        # the stream of the warm-up, on which autograd has put its gradient accumulators
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            values = step.forward_backward(static)
        self.pool = self.pool or graph.pool()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        return _Graph(graph, tensors_in(static), values, [parameter.grad for parameter in step.parameters])


@dataclass(frozen=True)
class _Graph:
    """A captured step and its tensors: what is copied in, what is reported, the gradients in the parameters' order."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    values: Tensor
    gradients: list[Tensor | None]
