"""What a conversion changed: measured errors, sizes, what was left out, and hashes of both states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

SCHEMA = "zoo-attn-report/1"
EXACT = 1e-10  # largest error in float64 at which a conversion counts as exact


@dataclass(frozen=True)
class Report:
    """How a converted layer relates to its source.

    Args:
        conversion: from what to what.
        exact: errors are below 1e-10 in float64 on all inputs tried, and nothing was left out.
        largest_error: of an output, absolute.
        relative_error: root mean square of the error over that of the output.
        cosine: between outputs, the smallest of a token.
        parameters: before and after.
        cache_values: numbers a token and layer in the cache, before and after.
        left_out: what was approximated, in words; empty when exact.
        discarded: singular values that were cut off.
        seconds: of the conversion.
        hashes: SHA-256 of both states.
    """

    conversion: str
    exact: bool
    largest_error: float
    relative_error: float
    cosine: float
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
        lines = [
            f"{self.conversion}: {'exact' if self.exact else 'approximate'}, largest error {self.largest_error:.1e}, "
            f"relative {self.relative_error:.1e}, least cosine {self.cosine:.6f}",
            f"parameters {self.parameters[0]:,} -> {self.parameters[1]:,}, "
            f"cache a token {self.cache_values[0]:,} -> {self.cache_values[1]:,} numbers",
        ]
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
    before: tuple[Callable[[Tensor], Tensor], Mapping[str, Tensor]],
    after: tuple[Callable[[Tensor], Tensor], Mapping[str, Tensor]],
    inputs: list[Tensor],
    *,
    cache_values: tuple[int, int],
    left_out: tuple[str, ...] = (),
    discarded: tuple[float, ...] = (),
    seconds: float = 0.0,
) -> Report:
    """Compare two layers on inputs, in float64.

    Args:
        conversion: for the report.
        before: function (B, N, D) -> (B, N, D) and state of the source.
        after: the same of the result.
        inputs: batches in float64, those used for calibration and others.
        cache_values: for the report.
        left_out: for the report.
        discarded: for the report.
        seconds: for the report.
    """
    truths, outs = [before[0](x) for x in inputs], [after[0](x) for x in inputs]
    errors = [out - truth for out, truth in zip(outs, truths, strict=True)]
    largest = max(float(error.abs().max()) for error in errors)
    squares = sum(float(error.square().sum()) for error in errors) / sum(float(t.square().sum()) for t in truths)
    pairs = zip(outs, truths, strict=True)
    cosine = min(float(torch.cosine_similarity(out, truth, dim=-1).min()) for out, truth in pairs)
    sizes = tuple(sum(x.numel() for x in state.values()) for state in (before[1], after[1]))
    return Report(
        conversion,
        largest < EXACT and not left_out,
        largest,
        squares**0.5,
        cosine,
        (sizes[0], sizes[1]),
        cache_values,
        left_out,
        discarded,
        seconds,
        (digest(before[1]), digest(after[1])),
    )
