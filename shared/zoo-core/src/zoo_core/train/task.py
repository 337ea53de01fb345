"""What the loop asks of a package."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer


class Task(Protocol):
    """One training problem: a plain object with these members. `zoo_core.train` shows a whole one."""

    module: nn.Module
    """What is trained, averaged and saved. During a run the loop puts its wrapped (DDP, compiled) form here."""

    def optimizer(self) -> Optimizer:
        """Return a new optimiser over the parameters, which are on their device. On CUDA, ask for `fused=True`."""
        ...

    def learning_rate(self, step: int) -> float:
        """Return the rate of step number `step`, counted from 0. A parameter group's own `lr_scale` multiplies it."""
        ...

    def batch(self, step: int) -> Any:
        """Return the whole batch of this step: tensors, or dicts, lists, tuples and dataclasses of them.

        A pure function of (seed, step): `order.Order` and `order.step_generator` help. Never of state: resuming,
        workers and devices rely on it.
        """
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise (a mean over the batch) and scalars to log. Calls `self.module`."""
        ...

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Return metrics of `module` (the averaged weights, eval mode, gradients off)."""
        ...

    def fingerprint(self) -> str:
        """Return a hash that changes with the data."""
        ...


@runtime_checkable
class DescribesBatches(Protocol):
    """A task that can name the samples of a step, for the message about a NaN."""

    def describe(self, step: int) -> str:
        """Return the names of the samples of this step's batch."""
        ...


@runtime_checkable
class PublishesPart(Protocol):
    """A task whose module holds more than what is published: adapters of a distillation, say."""

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is published of a state dict of the module, under the names it shall have."""
        ...


@runtime_checkable
class LearnsFromOthers(Protocol):
    """A task that depends on more than recipe and data: on a teacher, say. A run is only resumed with the same ones."""

    def identities(self) -> dict[str, str]:
        """Return what it depends on: a name -> a hash of its content.

        "NAME.PART" -> what a part of it is; parts decide nothing, and say what has changed where the whole has.
        """
        ...


@runtime_checkable
class FillsCache(Protocol):
    """A task that keeps what its teacher gives, for a recipe with `stage=cache`."""

    def fill_cache(self) -> Generator[tuple[int, int]]:
        """Write down what is missing; yield how many samples are there, and of how many. It may be stopped anywhere."""
        ...


@runtime_checkable
class WatchesOthers(Protocol):
    """A task that learns from something which must not move, such as a teacher's batch norm; asked when a run ends."""

    def check_unchanged(self) -> None:
        """Raise if it has moved."""
        ...


@runtime_checkable
class Rehearses(Protocol):
    """A task with more to look at in a dry run than time and memory."""

    def rehearse(self, batch: Any) -> str:
        """Return what there is to say about a batch, which is on its device; raise if the run cannot work."""
        ...


@runtime_checkable
class Configures(Protocol):
    """A task whose network is not quite that of the manifest: an alphabet that has grown, say."""

    def config(self) -> dict[str, Any]:
        """Return constructor arguments that differ from the manifest's; they travel in the weight file, as JSON."""
        ...


@runtime_checkable
class CompilesParts(Protocol):
    """A task whose module is compiled in parts, for batches of many shapes.

    One graph of the whole takes minutes, and again for each shape; a part that occurs often is compiled once, with its
    sizes left open.
    """

    def parts(self) -> list[nn.Module]:
        """Return the modules to compile, each by itself; what lies between them runs as it is."""
        ...
