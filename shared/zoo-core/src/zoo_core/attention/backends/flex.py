"""torch's FlexAttention: tiles that a mask leaves empty are skipped; which they are is arithmetic, not a table.

The tiles of a mask are kept for later calls; on CUDA the kernel is compiled once for a kind of mask and shapes. On CPU
it runs uncompiled and forward only, to check what it would compute.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from zoo_core.attention.backends.sdpa import with_columns
from zoo_core.attention.biases import Distance
from zoo_core.attention.call import Call, Result, grouped
from zoo_core.attention.masks import FULL, PARTIAL, TILE, Mask
from zoo_core.attention.values import Pairs

LEAST_WIDTH = 16  # of a head, on CUDA: below it PyTorch 2.11 fails to compile
KINDS = 256  # of masks, shapes and types that are kept compiled


def refusal(call: Call) -> str:
    """Return why it cannot run a call."""
    if find_spec("torch.nn.attention.flex_attention") is None:
        return "this torch has no FlexAttention"
    parts = call.bias.parts() if call.bias else ()
    if call.device.type == "cuda" and min(call.q.shape[-1], call.v.shape[-1]) < LEAST_WIDTH:
        return f"its kernel wants at least {LEAST_WIDTH} channels a head"
    if call.device.type != "cuda" and call.grad:
        return "FlexAttention has no backward on CPU"
    if why := call.unfused():
        return why
    if parts and call.scale <= 0:
        return "the scale is not above 0"
    if not all(isinstance(part, Distance) or part.folds(call.q.dtype, causal=False) for part in parts):
        return "a bias given as a table is read whole anyway"
    if call.grad and any(x.requires_grad for part in parts if isinstance(part, Distance) for x in part.tensors()):
        return "it has no gradient of a decay that is learnt"
    return ""


def run(call: Call) -> Result:
    """Compute a call."""
    call = call.without_dead_keys()
    parts = call.bias.parts() if call.bias else ()
    decays = [part for part in parts if isinstance(part, Distance)]
    if len(decays) < len(parts):
        call = with_columns(call, tuple(part for part in parts if not isinstance(part, Distance)))
    shared = call.key_heads == call.value_heads == grouped(call.q.shape[1], call.k.shape[1])
    if not shared:
        keys, values = call.per_query_head()
        call = replace(call, k=keys, v=values)
    shift = call.shift

    def decayed(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        for part in decays:
            score = score + part.at(Pairs(b, h, i, j, shift)).to(score.dtype)
        return score

    tiles = None
    if call.mask is not None:
        tiles = block_mask(call.mask, call.q.shape[2], call.k.shape[2], call.device)
    out, lse = _kernel(
        call, score_mod=decayed if decays else None, block_mask=tiles, enable_gqa=call.k.shape[1] < call.q.shape[1]
    )
    return Result(out, lse if "lse" in call.need else None)


def _kernel(call: Call, **options: Any) -> tuple[Tensor, Tensor | None]:
    from torch.nn.attention import flex_attention as flex

    attention: Any = compiled if call.device.type == "cuda" else uncompiled
    options["scale"] = call.scale
    if "lse" not in call.need:
        return attention(call.q, call.k, call.v, **options), None
    if "return_aux" in inspect.signature(flex.flex_attention).parameters:
        out, aux = attention(call.q, call.k, call.v, return_aux=flex.AuxRequest(lse=True), **options)
        return out, aux.lse
    out, lse = attention(call.q, call.k, call.v, return_lse=True, **options)
    return out, lse


def uncompiled(*given: Any, **options: Any) -> Any:
    """Run FlexAttention without its kernel: on scores of all pairs."""
    from torch.nn.attention.flex_attention import flex_attention

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(*given, **options)


def compiled(*given: Any, **options: Any) -> Any:
    """Run FlexAttention's kernel, compiled for this kind of mask, these shapes and types if it was not yet.

    PyTorch stops to compile a function after 8 kinds, and would then quietly compute scores of all pairs; so it would
    where it cannot trace a mask, and it is told to say so instead.
    """
    if torch.compiler.is_compiling():
        return _compiled()(*given, **options)
    from torch._dynamo import config

    with config.patch(recompile_limit=KINDS, accumulated_recompile_limit=KINDS):
        return _compiled()(*given, **options)


@cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


@lru_cache(maxsize=64)
def block_mask(mask: Mask, queries: int, keys: int, device: torch.device) -> Any:
    """Return FlexAttention's form of a mask, from the arithmetic of `Mask.grid`."""
    from torch.nn.attention.flex_attention import BlockMask

    shift = keys - queries
    # Asked about one pair, the mask brings its numbers to the device now: within the compiled kernel it would be a side
    # effect, at which PyTorch gives the kernel up.
    mask.at(Pairs.grid(torch.zeros(1, dtype=torch.int64, device=device), 1, shift=shift, device=device))

    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return mask.at(Pairs(b, h, i, j, shift))

    grid = mask.grid(queries, keys, TILE, TILE)

    def listed(state: int) -> tuple[Tensor, Tensor]:
        there = grid == state
        order = torch.argsort(there.to(torch.int8), dim=-1, descending=True, stable=True)
        return there.sum(-1).to(device, torch.int32), order.to(device, torch.int32)

    partial, full = listed(PARTIAL), listed(FULL)
    return BlockMask.from_kv_blocks(*partial, *full, BLOCK_SIZE=TILE, mask_mod=allowed, seq_lengths=(queries, keys))
