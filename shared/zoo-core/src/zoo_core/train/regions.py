"""Compile a network in parts, for batches of many shapes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

VARIANTS = 64  # of one forward function: every shape of weights, train and eval, with and without gradients


def compile_parts(parts: Iterable[nn.Module]) -> None:
    """Compile each module in place, with the sizes of its inputs left open.

    Modules of one class share what was compiled if their weights have the same shapes. Names in the state dict stay.
    """
    from torch._dynamo import config  # imports the compiler

    config.recompile_limit = max(VARIANTS, config.recompile_limit)
    for part in parts:
        part.compile(dynamic=True)
