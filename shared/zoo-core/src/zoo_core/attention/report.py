"""What a conversion changed: measured errors, sizes, what was left out, and hashes of both states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

SCHEMA = "zoo-attn-report/1"
EXACT = 1e-10  # largest error in float64 at which a conversion counts as exact


class Mapped(NamedTuple):
    """What a layer makes of a batch: out (B, N, D), scores and weights (B, H, N, N)."""

    out: Tensor
    score: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Errors:
    """How far a converted layer is from its source on one batch.

    Args:
        largest: of an output, absolute.
        relative: root mean square of the outputs' error over that of the output.
        cosine: between outputs, the smallest of a token.
        score: largest error of a score that counts.
        divergence: KL of the source's weights from the result's, in nats, the mean over rows.
    """

    largest: float
    relative: float
    cosine: float
    score: float
    divergence: float

    @classmethod
    def between(cls, truth: Mapped, made: Mapped) -> Errors:
        """Compare two layers' results."""
        error = made.out - truth.out
        counts = truth.score.isfinite()
        divergence = torch.where(counts, truth.weight * (truth.weight.log() - made.weight.log()), 0.0)
        return cls(
            float(error.abs().max()),
            float(error.norm() / truth.out.norm()),
            float(torch.cosine_similarity(made.out, truth.out, dim=-1).min()),
            float((made.score - truth.score)[counts].abs().max()),
            float(divergence.nan_to_num(0.0).sum(-1).mean()),  # 0 log 0
        )


@dataclass(frozen=True)
class Report:
    """How a converted layer relates to its source.

    Args:
        conversion: from what to what.
        exact: errors are below 1e-10 in float64 on all inputs tried, and nothing was left out.
        errors: by batch: `random`, and `calibration` and `held out` where they were given.
        parameters: before and after.
        cache_values: numbers a token and layer in the cache, before and after.
        left_out: what was approximated, in words; empty when exact.
        discarded: singular values that were cut off.
        seconds: of the conversion.
        hashes: SHA-256 of both states.
    """

    conversion: str
    exact: bool
    errors: Mapping[str, Errors]
    parameters: tuple[int, int]
    cache_values: tuple[int, int]
    left_out: tuple[str, ...]
    discarded: tuple[float, ...]
    seconds: float
    hashes: tuple[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {"schema": SCHEMA, **json.loads(json.dumps(asdict(self)))}

    def __str__(self) -> str:
        lines = [f"{self.conversion}: {'exact' if self.exact else 'approximate'}"]
        lines += [
            f"{name}: largest error {e.largest:.1e}, relative {e.relative:.1e}, least cosine {e.cosine:.6f}, "
            f"of a score {e.score:.1e}, divergence of weights {e.divergence:.1e}"
            for name, e in self.errors.items()
        ]
        lines.append(
            f"parameters {self.parameters[0]:,} -> {self.parameters[1]:,}, "
            f"cache a token {self.cache_values[0]:,} -> {self.cache_values[1]:,} numbers"
        )
        return "\n".join([*lines, *(f"left out: {words}" for words in self.left_out)])


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and numbers of a state."""
    total = hashlib.sha256()
    for name in sorted(state):
        x = state[name].detach().cpu().contiguous()
        total.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        total.update(x.view(torch.uint8).numpy().tobytes() if x.numel() else b"")
    return total.hexdigest()


@torch.no_grad()
def measure(
    conversion: str,
    before: tuple[Callable[[Tensor], Mapped], Mapping[str, Tensor]],
    after: tuple[Callable[[Tensor], Mapped], Mapping[str, Tensor]],
    inputs: Mapping[str, Tensor],
    *,
    cache_values: tuple[int, int],
    left_out: tuple[str, ...] = (),
    discarded: tuple[float, ...] = (),
    seconds: float = 0.0,
) -> Report:
    """Compare two layers on inputs, in float64.

    Args:
        conversion: for the report.
        before: function of (B, N, D) and state of the source.
        after: the same of the result.
        inputs: batches in float64 by name, those used for calibration and others.
        cache_values: for the report.
        left_out: for the report.
        discarded: for the report.
        seconds: for the report.
    """
    errors = {name: Errors.between(before[0](x), after[0](x)) for name, x in inputs.items()}
    sizes = tuple(sum(x.numel() for x in state.values()) for state in (before[1], after[1]))
    return Report(
        conversion,
        max(error.largest for error in errors.values()) < EXACT and not left_out,
        errors,
        (sizes[0], sizes[1]),
        cache_values,
        left_out,
        discarded,
        seconds,
        (digest(before[1]), digest(after[1])),
    )
