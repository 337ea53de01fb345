"""DuoAttention (Xiao and others, arXiv:2410.10819, code mit-han-lab/duo-attention): which heads need the whole past.

Every key head has a gate alpha in [0, 1], first 1: out = alpha full + (1 - alpha) streaming, streaming being the first
tokens and the last ones. Gates alone are learnt, so that the final hidden states stay and few gates do:
loss = mean over labelled tokens of ||h - h_full||^2 / width + 0.05 mean |alpha|. Heads of small gates then stream.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo_core.attention.atoms import Causal
from zoo_core.attention.module import Attention
from zoo_core.attention.plans import Head, Plan
from zoo_core.attention.taps import Taps
from zoo_core.errors import InputError

FLOOR = 0.1  # of the learning rate at both ends of the trapezoid
MOST_BYTES = 1 << 20


def gated(
    layer: Attention,
    x: Tensor,
    alpha: Tensor,
    *,
    sink: int,
    recent: int,
    teacher: Tensor | None = None,
) -> Tensor:
    """Return a causal layer's output when each key head is between full and streaming.

    Args:
        layer: any `Attention`.
        x: (B, N, D).
        alpha: (Hk,) gates.
        sink: first tokens that a streaming head keeps.
        recent: last ones.
        teacher: (B, Hq, Nq, dv), heads of the untouched model: the authors' code mixes these in; None: the layer's own
            full attention, as the formula says.
    """
    full = teacher
    if full is None:
        full = layer(x, mask=Causal(), taps=Taps(("head_out",))).aux["head_out"]
    weights = alpha.repeat_interleave(layer.sizes.heads // layer.sizes.kv_heads)[:, None, None]

    def mixed(streaming: Tensor) -> Tensor:
        return weights * full + (1 - weights) * streaming

    mask = Causal() & Head("stream", sink, recent).mask()
    out: Tensor = layer(x, mask=mask, taps=Taps(edit={"head_out": mixed})).x
    return out


def learn_gates(
    forward: Callable[[Tensor, Tensor | None], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    layers: int,
    kv_heads: int,
    steps: int,
    rate: float = 0.02,
    penalty: float = 0.05,
) -> Tensor:
    """Return learnt gates (layers, Hk); the model itself is not trained.

    Args:
        forward: (tokens, gates (layers, Hk) or None for the untouched model) -> final hidden states (B, N, D).
        batches: tokens, and (B, N) bool which positions count.
        layers: of the model.
        kv_heads: of each layer.
        steps: of AdamW, at most; fewer if batches run out.
        rate: highest learning rate: up over the first fifth of the steps, down over the last.
        penalty: weight of mean |alpha|.
    """
    gates = torch.ones(layers, kv_heads, requires_grad=True)
    optimiser = torch.optim.AdamW([gates], rate, weight_decay=0)
    fifth = max(1, steps // 5)
    for step, (tokens, counted) in zip(range(steps), batches, strict=False):
        ramp = min(1.0, (step + 1) / fifth, (steps - step) / fifth)
        optimiser.param_groups[0]["lr"] = rate * max(FLOOR, ramp)
        with torch.no_grad():
            truth = forward(tokens, None)
        error = (forward(tokens, gates) - truth).square().mean(-1)
        loss = error[counted].mean() + penalty * gates.abs().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            gates.clamp_(0, 1)
    return gates.detach()


def plan_of(gates: Tensor, sparsity: float, *, sink: int = 64, recent: int = 256) -> Plan:
    """Return the plan in which the heads of the smallest gates stream.

    Args:
        gates: (layers, Hk) in [0, 1].
        sparsity: share of the heads that stream, rounded down to heads; of equal gates the first ones.
        sink: of streaming heads.
        recent: of streaming heads.

    Raises:
        ValueError: a gate or the sparsity is outside [0, 1].
    """
    if not bool(((gates >= 0) & (gates <= 1)).all()):
        raise ValueError(f"gates run from {float(gates.min()):g} to {float(gates.max()):g}, but must be in [0, 1]")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity}, but must be in [0, 1]")
    order = gates.flatten().sort(stable=True).indices
    streaming = set(order[: math.floor(sparsity * gates.numel())].tolist())
    heads = [Head("stream", sink, recent) if n in streaming else Head() for n in range(gates.numel())]
    width = gates.shape[1]
    rows = tuple(tuple(heads[n : n + width]) for n in range(0, len(heads), width))
    return Plan(rows, f"DuoAttention, sparsity {sparsity:g}")


def open_duo(folder: Path, sparsity: float, *, use: Literal["training", "deployment"] = "deployment") -> Plan:
    """Read a published pattern: full_attention_heads.tsv (layers x key heads) and config.json.

    Args:
        folder: with both files.
        sparsity: share of the heads that stream.
        use: deployment takes config.json's deploy sizes where it has them, or sink_size and recent_size.

    Raises:
        InputError: a file is missing or is no such file.
    """
    try:
        for name in ("full_attention_heads.tsv", "config.json"):
            if (folder / name).stat().st_size > MOST_BYTES:
                raise ValueError(f"{name} is too large")
        text = (folder / "full_attention_heads.tsv").read_text(encoding="utf-8")
        gates = torch.tensor([[float(cell) for cell in line.split("\t")] for line in text.splitlines() if line.strip()])
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = ("sink_size", "recent_size")
        if use == "deployment" and "deploy_sink_size" in config:
            names = ("deploy_sink_size", "deploy_recent_size")
        sink, recent = (int(config[name]) for name in names)
        # learnt gates leave [0, 1] by a rounding
        return plan_of(gates.clamp(0, 1), sparsity, sink=sink, recent=recent)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds no DuoAttention pattern: {error}.",
            "It should hold full_attention_heads.tsv and config.json with sink_size and recent_size.",
        ) from error
