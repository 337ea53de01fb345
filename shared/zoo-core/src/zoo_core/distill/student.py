"""The student: a probe that also holds the adapters: one module for DDP, averaging and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from zoo_core.distill.objective import ADAPTED, Objective
from zoo_core.errors import UsageError
from zoo_core.probe import AttentionView, Edit, Point, Probe, Seen
from zoo_core.probe.points import nearest

NETWORK = "module."


class Student(Probe):
    """What is trained: a network, hooks at its points, and the adapters of the terms.

    Args:
        module: the network.
        points: as for a probe.
        objectives: whose adapters these are; all of a run's stages, so that its checkpoints have the same keys.
        edits: as for a probe.
        views: as for a probe.

    Attributes:
        adapters: by the name of their term; trained and saved, never published.
    """

    def __init__(
        self,
        module: nn.Module,
        points: Mapping[str, Point | str],
        objectives: Objective | Sequence[Objective] = (),
        edits: Sequence[Edit] = (),
        *,
        views: Mapping[str, AttentionView] | None = None,
    ) -> None:
        super().__init__(module, points, edits, views=views)
        several = (objectives,) if isinstance(objectives, Objective) else tuple(objectives)
        self.adapters = nn.ModuleDict()
        self._adapted: dict[str, str] = {}
        for term in (term for objective in several for term in objective.terms):
            if term.adapter is None:
                continue
            if self.adapters.get_submodule(term.name) is not term.adapter if term.name in self.adapters else False:
                raise UsageError(f"Two terms named {term.name!r} have different adapters.", "Rename one.")
            self.adapters[term.name] = term.adapter
            self._adapted[term.name] = str(term.student)
        self._frozen: list[nn.Module] = []

    def forward(self, *args: Any, **kwargs: Any) -> Seen:
        """Call the network, then the adapters; what an adapter makes stands at "TERM/adapted"."""
        seen = super().forward(*args, **kwargs)
        made = {}
        for term, point in self._adapted.items():
            source = seen.out if point == "out" else seen.at.get(point)
            if not isinstance(source, Tensor):
                raise UsageError(f"The adapter of the term {term!r} needs a tensor at {point!r}, and there is none.")
            made[term + ADAPTED] = self.adapters[term](source)
        return Seen(seen.out, {**seen.at, **made})

    @staticmethod
    def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's own tensors from a state dict of the student: no adapters, the network's names."""
        return {key.removeprefix(NETWORK): tensor for key, tensor in tensors.items() if key.startswith(NETWORK)}

    def trains(self, train: Iterable[str] = ("*",), freeze: Iterable[str] = ()) -> list[str]:
        """Choose what trains: parameters whose name in the network matches a glob of `train` and none of `freeze`.

        Frozen submodules also stay in eval mode, so that their statistics do not move. Adapters train.

        Returns:
            the names that train.

        Raises:
            UsageError: a glob matches nothing.
        """
        train, freeze = list(train), list(freeze)
        names = [name for name, _ in self.module.named_parameters()]
        for glob in (*train, *freeze):
            if not any(fnmatchcase(name, glob) for name in names):
                near = ", ".join(nearest(glob, names))
                raise UsageError(f"No parameter's name matches {glob!r}.", f"The nearest are {near}.")
        chosen = []
        for name, parameter in self.module.named_parameters():
            wanted = any(fnmatchcase(name, g) for g in train) and not any(fnmatchcase(name, g) for g in freeze)
            parameter.requires_grad_(wanted)
            if wanted:
                chosen.append(name)
        self._frozen = [
            m for m in self.module.modules() if (own := list(m.parameters())) and not any(p.requires_grad for p in own)
        ]
        self.train(self.training)
        return chosen

    def train(self, mode: bool = True) -> Student:
        """Set the mode; what is frozen stays in eval mode."""
        super().train(mode)
        for module in getattr(self, "_frozen", []):
            module.eval()
        return self
