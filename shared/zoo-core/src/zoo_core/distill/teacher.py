"""The teacher: a frozen network that hands out tensors at its points, part of nothing that is trained or saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn

from zoo_core.distill.batches import Pick, pick
from zoo_core.distill.cache import TeacherCache
from zoo_core.distill.fingerprint import of_state, of_texts, told
from zoo_core.errors import UsageError, ZooError
from zoo_core.probe import AttentionView, Edit, Point, Probe, Seen
from zoo_core.weights.build import build, locate

Precision = Literal["fp32", "bf16-true", "fp16-true"]
TYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16-true": torch.bfloat16, "fp16-true": torch.float16}


class Teacher:
    """Gives the tensors at a frozen network's points for a batch: detached, without gradient, in eval mode.

    A plain object: assigned to a module it is no child of it, so no state dict, optimiser, average or summary ever
    holds it. (Not `inference_mode`: its tensors may not meet those that need a gradient.)

    Args:
        module: the network; it is frozen. Give a copy if something else trains it.
        points: as for a probe; the output is "out".
        inputs: which part of a batch it sees.
        precision: `bf16-true` and `fp16-true` convert weights and inputs.
        transforms: point -> what is made of its tensor (`TopK`, ...), as a value whose text tells all of it.
        edits: as for a probe.
        views: as for a probe.
        preprocessing: name and version of what makes its inputs, for the fingerprint.
        compile: whether it is compiled.
        cache: outputs that were written down before; see `TeacherCache`.
        keys: which part of a batch names its samples, for the cache.
        lengths: which part of a batch tells the frames of each sample, (B,); the cache then keeps no padding.
        fill: compute what the cache lacks, and add it; without it, that is an error.

    Raises:
        UsageError: no such point; a cache of another teacher.
    """

    def __init__(
        self,
        module: nn.Module,
        points: Mapping[str, Point | str],
        *,
        inputs: Pick,
        precision: Precision = "fp32",
        transforms: Mapping[str, Callable[[Tensor], Any]] | None = None,
        edits: Sequence[Edit] = (),
        views: Mapping[str, AttentionView] | None = None,
        preprocessing: str = "",
        compile: bool = False,
        cache: TeacherCache | None = None,
        keys: Pick | None = None,
        lengths: Pick | None = None,
        fill: bool = False,
    ) -> None:
        module = module.eval().requires_grad_(False)
        if precision != "fp32":
            module = module.to(TYPES[precision])
        self._probe = (Probe(module, points, edits, views=views).eval(),)
        self._run: Any = torch.compile(self._probe[0]) if compile else self._probe[0]
        self.inputs, self.precision, self.keys, self.lengths, self.fill = inputs, precision, keys, lengths, fill
        self.preprocessing = preprocessing
        self._told = [precision, preprocessing, *sorted(f"{n}={told(p)}" for n, p in self._probe[0].points.items())]
        self.transforms = dict(transforms or {})
        self._told += [f"{name}->{told(change)}" for name, change in sorted(self.transforms.items())]
        self._told += [told(edit) for edit in self._probe[0].edits]
        self._state = of_state(module)
        self._device = next((p.device for p in module.parameters()), None)
        self.cache = cache
        if cache is not None:
            if keys is None:
                raise UsageError("A teacher with a cache must know the samples' names.", "Give `keys`.")
            cache.check_teacher(self.fingerprint)

    @classmethod
    def open(cls, name: str | Path, points: Mapping[str, Point | str], *, inputs: Pick, **options: Any) -> Teacher:
        """Open an installed model, or a safetensors file of one, as a teacher.

        Args:
            name: model id or file.
            points: as for the class.
            inputs: as for the class.
            options: as for the class.

        Raises:
            UsageError: no such model or point.
            WeightsError: no weights, or weights of no installed model.
        """
        entry, found = locate(name)
        module = build(entry, found, device=torch.device("cpu"), dtype=torch.float32)
        return cls(module, points, inputs=inputs, **options)

    @property
    def fingerprint(self) -> str:
        """A sha256 of weights, buffers, points, edits, precision and preprocessing."""
        return of_texts([self._state, *self._told])

    @property
    def identity(self) -> str:
        """The fingerprint, and how exact the cache is if its numbers are not the teacher's own."""
        exact = self.cache is None or self.cache.exact
        return self.fingerprint if exact else f"{self.fingerprint} {self.cache.form}"  # type: ignore[union-attr]

    def identities(self, name: str = "teacher") -> dict[str, str]:
        """Return `identity` under a name, and what it is made of, so that a refused resume can say what has changed."""
        points = [f"{n}={told(p)}" for n, p in sorted(self._probe[0].points.items())]
        parts = {
            "weights": self._state,
            "precision": self.precision,
            "preprocessing": self.preprocessing or "none",
            "points": of_texts(points),
            "transforms and edits": of_texts(self._told[2 + len(points) :]),
            "cache": "none" if self.cache is None else self.cache.form,
        }
        return {name: self.identity, **{f"{name}.{part}": value for part, value in parts.items()}}

    def __call__(self, batch: Any) -> Seen:
        """Return what the teacher sees in a batch: from the cache where it has it, else computed.

        Raises:
            InputError: the cache lacks samples, and `fill` is off.
        """
        if self.cache is None:
            return self.compute(pick(batch, self.inputs))
        names = pick(batch, self.keys or "")
        missing = self.cache.missing(names)
        if missing and not self.fill:
            raise self.cache.lacks(missing)
        x = pick(batch, self.inputs)
        frames = None if self.lengths is None else pick(batch, self.lengths)
        if missing:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                raise UsageError("Several processes cannot fill one cache.", "Fill it in a run of one process first.")
            self.cache.add(names, self.compute(x), lengths=frames)
        return Seen(None, self.cache.read(names, device=_device_of(x)))

    @torch.no_grad()
    def compute(self, inputs: Any) -> Seen:
        """Run the network on inputs: a tensor, a tuple of arguments or a mapping of named ones."""
        args, kwargs = _arguments(inputs)
        device = _device_of(inputs)
        if self._device is not None and device != self._device:
            self._probe[0].to(device)
            self._device = device
        if self.precision != "fp32":
            kind = TYPES[self.precision]
            args = tuple(_cast(x, kind) for x in args)
            kwargs = {key: _cast(x, kind) for key, x in kwargs.items()}
        # the student's autocast does not reach it: it has a precision of its own
        with torch.autocast(device.type, enabled=False):
            seen: Seen = self._run(*args, **kwargs)
        at: dict[str, Any] = {name: x.detach() for name, x in seen.at.items()}
        for name, change in self.transforms.items():
            at[name] = change(at[name])
        return Seen(seen.out, at)

    def tensors(self) -> list[Tensor]:
        """Return its weights and buffers."""
        module = self._probe[0].module
        return [*module.parameters(), *module.buffers()]

    def check_unchanged(self) -> None:
        """Raise if a weight or buffer has moved since the beginning (batch norm's statistics, say)."""
        module: nn.Module = self._probe[0].module
        if of_state(module) != self._state:
            raise ZooError(
                "The teacher has changed during training: a weight or buffer is not what it was.",
                "Give it a network of its own, not one that something else trains or runs in train mode.",
            )


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _cast(x: Any, kind: torch.dtype) -> Any:
    return x.to(kind) if isinstance(x, Tensor) and x.is_floating_point() else x


def _device_of(inputs: Any) -> torch.device:
    args, kwargs = _arguments(inputs)
    return next((x.device for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), torch.device("cpu"))
