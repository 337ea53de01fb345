"""The student: a probe that also holds the adapters: one module for DDP, averaging and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.distill.objective import ADAPTED, OWN_AVERAGE, Objective
from zoo_core.errors import UsageError
from zoo_core.probe import AttentionView, Edit, Point, Probe, Seen
from zoo_core.probe.points import nearest

NETWORK = "module."


class Student(Probe):
    """What is trained: a network, hooks at its points, and the adapters of the terms.

    Args:
        module: the network.
        points: as for a probe.
        objectives: whose adapters and balances are saved with it; all of a run's stages, so that its checkpoints have
            the same keys.
        edits: as for a probe.
        views: as for a probe.
        follow: d in (0, 1): the student's own average, e <- d e + (1 - d) w before each step, is a teacher, too; its
            points and output are named "ema:NAME" and "ema:out". It is part of the state, since nothing else could
            restore it, and is not published.

    Attributes:
        adapters: by the name of their term; trained and saved, never published.
        follower: the average, or None.
    """

    def __init__(
        self,
        module: nn.Module,
        points: Mapping[str, Point | str],
        objectives: Objective | Sequence[Objective] = (),
        edits: Sequence[Edit] = (),
        *,
        views: Mapping[str, AttentionView] | None = None,
        follow: float | None = None,
    ) -> None:
        # before the hooks are set: it gets its own
        twin = None if follow is None else copy.deepcopy(module).requires_grad_(False)
        super().__init__(module, points, edits, views=views)
        self.follow = follow
        self.follower = None if twin is None else Probe(twin, points, edits, views=views).eval()
        several = (objectives,) if isinstance(objectives, Objective) else tuple(objectives)
        balances = {id(b): b for objective in several if (b := objective.balance) is not None}
        self.balances = nn.ModuleList(balances.values())
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
        made: dict[str, Any] = {}
        if self.follower is not None:
            made = self._followed(*args, **kwargs)
        seen = super().forward(*args, **kwargs)
        for term, point in self._adapted.items():
            source = seen.out if point == "out" else seen.at.get(point)
            if not isinstance(source, Tensor):
                raise UsageError(f"The adapter of the term {term!r} needs a tensor at {point!r}, and there is none.")
            made[term + ADAPTED] = self.adapters[term](source)
        return Seen(seen.out, {**seen.at, **made})

    @torch.no_grad()
    def _followed(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        assert self.follower is not None  # noqa: S101 (for mypy)
        assert self.follow is not None  # noqa: S101
        if self.training:
            theirs = self.module.state_dict(keep_vars=True)
            for name, mine in self.follower.module.state_dict(keep_vars=True).items():
                if mine.is_floating_point():
                    mine.lerp_(theirs[name], 1 - self.follow)
                else:
                    mine.copy_(theirs[name])
        seen = self.follower(*args, **kwargs)
        return {OWN_AVERAGE + "out": seen.out, **{OWN_AVERAGE + name: value for name, value in seen.at.items()}}

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
        if getattr(self, "follower", None) is not None:
            self.follower.eval()  # type: ignore[union-attr]
        for module in getattr(self, "_frozen", []):
            module.eval()
        return self
