"""More kinds of teachers: several at once, and none in memory at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo_core.distill.batches import Pick, pick
from zoo_core.distill.cache import TeacherCache
from zoo_core.distill.fingerprint import of_texts
from zoo_core.distill.teacher import Teacher
from zoo_core.probe import Seen


class Teaches(Protocol):
    """What an objective's teacher must be able to do."""

    @property
    def identity(self) -> str:
        """What it is, for a run's record and its resume."""
        ...

    def identities(self, name: str = "teacher") -> dict[str, str]:
        """Return `identity` under a name, and under names that begin with it and a dot what it is made of."""
        ...

    def __call__(self, batch: Any) -> Seen:
        """Return what it sees in a batch."""
        ...


class Teachers:
    """Several teachers as one: the point `feat` of the teacher `clip` is "clip:feat".

    For several teachers of one label space and temperature, `losses.logits.mixture` makes one target of them, which
    gives the gradient of all for the price of one.

    Args:
        teachers: by name.
    """

    def __init__(self, teachers: Mapping[str, Teaches]) -> None:
        self.teachers = dict(teachers)

    @property
    def identity(self) -> str:
        """A sha256 of theirs."""
        return of_texts(f"{name} {teacher.identity}" for name, teacher in sorted(self.teachers.items()))

    def identities(self, name: str = "teacher") -> dict[str, str]:
        """Return the identity of all under a name, and of each under its own."""
        parts = [teacher.identities(f"{name}.{own}") for own, teacher in sorted(self.teachers.items())]
        return {name: self.identity, **{key: value for part in parts for key, value in part.items()}}

    def __call__(self, batch: Any) -> Seen:
        """Return what all of them see; there is no one output."""
        at = {}
        for name, teacher in self.teachers.items():
            seen = teacher(batch)
            at.update({f"{name}:{point}": value for point, value in seen.at.items()})
        return Seen(None, at)


class CrossFitted:
    """Teachers that each left out one part of the data: a sample is taught by the one that has not learnt it.

    A network that knows a sample by heart repeats its label; one that has not seen it says what the sample looks like.

    Args:
        teachers: in the order of the parts that they left out, with the same points.
        part: which part of a batch tells where each sample belongs, (B,) int64.
    """

    def __init__(self, teachers: Sequence[Teacher], part: Pick) -> None:
        self.teachers, self.part = list(teachers), part

    @property
    def identity(self) -> str:
        """A sha256 of theirs, in order."""
        return of_texts(teacher.identity for teacher in self.teachers)

    def identities(self, name: str = "teacher") -> dict[str, str]:
        """Return the identity of all under a name, and of each under its number."""
        parts = [teacher.identities(f"{name}.{number}") for number, teacher in enumerate(self.teachers)]
        return {name: self.identity, **{key: value for part in parts for key, value in part.items()}}

    def __call__(self, batch: Any) -> Seen:
        """Return at every point what each sample's own teacher sees: all see the whole batch, so shapes stay fixed."""
        part = pick(batch, self.part)
        rows = torch.arange(len(part), device=part.device)
        every = [teacher(batch).at for teacher in self.teachers]
        return Seen(None, {name: torch.stack([at[name] for at in every])[part, rows] for name in every[0]})

    def check_unchanged(self) -> None:
        """Raise if a weight or buffer of one of them has moved."""
        for teacher in self.teachers:
            teacher.check_unchanged()


class CachedTeacher:
    """A teacher of whom only the cache is left: no network in memory, and none needed.

    Args:
        cache: with the outputs of all samples.
        keys: which part of a batch names its samples.
    """

    def __init__(self, cache: TeacherCache, keys: Pick) -> None:
        self.cache, self.keys = cache, keys

    @property
    def identity(self) -> str:
        """As of the teacher that wrote it, so that a run may go on with either (from fp32; other forms say theirs)."""
        header = self.cache.header
        return header.teacher if self.cache.exact else f"{header.teacher} {header.form}"

    def identities(self, name: str = "teacher") -> dict[str, str]:
        """Return `identity` under a name; of what it was made is not in the cache."""
        return {name: self.identity, f"{name}.cache": self.cache.form}

    def __call__(self, batch: Any) -> Seen:
        """Return what was written down.

        Raises:
            InputError: it lacks samples; names the first three.
        """
        names = pick(batch, self.keys)
        device = names.device if isinstance(names, Tensor) else torch.device("cpu")
        return Seen(None, self.cache.read(names, device=device))
