"""TransMLA (Meng and others, arXiv:2502.07864, code MuLabPKU/TransMLA): grouped-query attention as latent attention.

Keys and values of all heads, side by side, are one latent c = W_down x of width r = Hk d + Hk dv. Each query head h
reads it through up-projections that select its group's block: k_h = U_h c, v_h = V_h c. Absorbed, attention runs with
ONE key and value head: scores (U_h^T q_h) . c, outputs V_h (A_h c). This file has what is exact in the paper:

1. merging without positions,
2. merging with rotary positions, applied block by block to the latent and to the lifted queries,
3. RoRoPE: one orthogonal matrix for each frequency mixes the heads of the latent, the same for real and imaginary part,
4. cutting the latent to a rank that keys and values have anyway (no positions); below it, PCA, with its error reported.

Dropping positions from most of the latent, as the paper goes on to do, is an approximation and not here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo_core.attention.atoms import Causal
from zoo_core.attention.call import Result
from zoo_core.attention.masks import Mask
from zoo_core.attention.module import Attention
from zoo_core.attention.positions import RoPE
from zoo_core.attention.report import Mapped, Report, measure
from zoo_core.attention.stages import merge_heads, split_heads
from zoo_core.attention.taps import Taps, tapped

DAMPING = 0.01  # of the mean of a Gram matrix's diagonal


class LatentAttention(nn.Module):
    """Attention to a latent that all heads share; a cache keeps r numbers a token.

    Args:
        dim: D.
        heads: H, of queries.
        head_dim: d.
        v_head_dim: dv.
        rank: r.
        rope: rotary positions of the first `rotary` entries of the latent, in blocks of d; or None.
        rotary: a multiple of d.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        head_dim: int,
        v_head_dim: int,
        rank: int,
        rope: RoPE | None = None,
        rotary: int = 0,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.rope, self.rotary = heads, head_dim, rope, rotary
        self.q = nn.Linear(dim, heads * head_dim, bias=False)
        self.down = nn.Linear(dim, rank, bias=False)
        self.key_up = nn.Parameter(torch.randn(heads, head_dim, rank) / rank**0.5)
        self.value_up = nn.Parameter(torch.randn(heads, v_head_dim, rank) / rank**0.5)
        self.output = nn.Linear(heads * v_head_dim, dim, bias=False)

    def forward(self, x: Tensor, *, mask: Mask | None = None) -> Tensor:
        """Mix tokens x (B, N, D)."""
        return self.mapped(x, Taps(), mask=mask).out

    def mapped(self, x: Tensor, taps: Taps, *, mask: Mask | None = None) -> Result:
        """Mix tokens x (B, N, D), and return what taps capture beside them."""
        latent = self.down(x)[:, None]  # (B, 1, N, r)
        lifted = torch.einsum("bhnd,hdr->bhnr", split_heads(self.q(x), self.heads), self.key_up)
        seen = tapped(taps, self._turned(lifted), self._turned(latent), latent, mask=mask, scale=self.head_dim**-0.5)
        out = self.output(merge_heads(torch.einsum("bhnr,her->bhne", seen.out, self.value_up)))
        return seen._replace(out=out)

    def _turned(self, x: Tensor) -> Tensor:
        if self.rope is None:
            return x
        blocks = x[..., : self.rotary].reshape(*x.shape[:-1], -1, self.head_dim).transpose(2, 3)
        turned = self.rope(blocks, torch.arange(x.shape[2], device=x.device)).transpose(2, 3).flatten(-2)
        return torch.cat([turned, x[..., self.rotary :]], -1)


def gqa_to_mla(
    state: Mapping[str, Tensor],
    source: Attention,
    *,
    rank: int | None = None,
    calibration: Tensor | None = None,
    held_out: Tensor | None = None,
) -> tuple[dict[str, Tensor], LatentAttention, Report]:
    """Turn grouped-query attention into latent attention.

    Args:
        state: of `source`; stays untouched. Float64 inside, whatever it is.
        source: an `Attention` with `Separate()`, no bias, and `RoPE` or no positions.
        rank: r; None keeps Hk (d + dv), which is always exact. Smaller only without positions.
        calibration: (B, N, D) inputs that decide which directions a smaller rank keeps; None: the weights alone do.
        held_out: (B, N, D) other inputs on which errors are measured too.

    Returns:
        state of the result, an empty module for it (float64), and the report.

    Raises:
        ValueError: a rank that cannot be, or positions together with a rank.
    """
    begin = time.perf_counter()
    sizes, rope = source.sizes, source.rope
    weights = {name: x.detach().double() for name, x in state.items()}
    groups, share = sizes.kv_heads, sizes.heads // sizes.kv_heads
    key_width, whole = groups * sizes.head_dim, groups * (sizes.head_dim + sizes.v_head_dim)
    if rank is not None and not 0 < rank <= whole:
        raise ValueError(f"rank {rank}: keys and values of {groups} heads have width {whole}; give 1 to {whole}")
    if rank is not None and rope is not None and rank < whole:
        raise ValueError("a smaller rank mixes entries that turn at different rates: exact only without positions")
    down = torch.cat([weights["project.k.weight"], weights["project.v.weight"]])
    key_up = torch.zeros(sizes.heads, sizes.head_dim, whole, dtype=torch.float64)
    value_up = torch.zeros(sizes.heads, sizes.v_head_dim, whole, dtype=torch.float64)
    for head in range(sizes.heads):
        at = head // share
        key_up[head, :, at * sizes.head_dim : (at + 1) * sizes.head_dim] = torch.eye(sizes.head_dim)
        begin_v = key_width + at * sizes.v_head_dim
        value_up[head, :, begin_v : begin_v + sizes.v_head_dim] = torch.eye(sizes.v_head_dim)
    discarded: Tensor = torch.zeros(0)
    if rank is not None and rank < whole:
        rows = down if calibration is None else down @ calibration.double().flatten(0, 1).T
        basis, values, _ = torch.linalg.svd(rows, full_matrices=False)
        if basis.shape[1] < rank:
            raise ValueError(f"rank {rank} from {rows.shape[1]} tokens of calibration: give at least {rank}")
        kept, discarded = basis[:, :rank], values[rank:]
        discarded = discarded[discarded > 1e-12 * values[0]]
        down, key_up, value_up = kept.T @ down, key_up @ kept, value_up @ kept
    result = {
        "q.weight": weights["project.q.weight"],
        "down.weight": down,
        "key_up": key_up,
        "value_up": value_up,
        "output.weight": weights["output.weight"],
    }
    module = LatentAttention(
        sizes.dim,
        sizes.heads,
        head_dim=sizes.head_dim,
        v_head_dim=sizes.v_head_dim,
        rank=len(down),
        rope=rope,
        rotary=key_width if rope else 0,
    ).double()
    module.load_state_dict(result)
    seconds = time.perf_counter() - begin
    before = Attention.from_description(source.describe()).double()
    before.load_state_dict(weights)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(2, 16, sizes.dim, generator=generator, dtype=torch.float64)
    given = {"random": random, "calibration": calibration, "held out": held_out}
    maps = Taps(("score", "weight"))

    def truth(x: Tensor) -> Mapped:
        mixed = before(x, mask=Causal(), taps=maps)
        return Mapped(mixed.x, **mixed.aux)

    def made(x: Tensor) -> Mapped:
        result = module.mapped(x, maps, mask=Causal())
        return Mapped(result.out, **result.aux)

    report = measure(
        f"GQA {sizes.heads}/{groups} x {sizes.head_dim} -> MLA {len(down)}",
        (truth, weights),
        (made, result),
        {name: x.double() for name, x in given.items() if x is not None},
        cache_values=(whole, len(down)),
        left_out=(f"{len(discarded)} directions of keys and values",) if len(discarded) else (),
        discarded=tuple(discarded.tolist()),
        seconds=seconds,
    )
    return {name: x.to(state["output.weight"].dtype) for name, x in result.items()}, module, report


def principal_rotations(keys: Tensor, rope: RoPE) -> Tensor:
    """Return RoRoPE's matrices (F, Hk, Hk), which gather the energy of each frequency in the first heads.

    Args:
        keys: (M, Hk, d) before positions, of calibration tokens.
        rope: says which entries pair.
    """
    real, imaginary = _pairs(keys, rope)  # (M, Hk, F) each
    gram = sum(torch.einsum("mhf,mgf->fhg", part, part) for part in (real, imaginary))
    assert isinstance(gram, Tensor)  # noqa: S101 - the sum of two is not the number 0
    energy = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    gram = gram + DAMPING * energy * torch.eye(gram.shape[1], dtype=gram.dtype)
    rotations: Tensor = torch.linalg.eigh(gram).eigenvectors.flip(-1)
    return rotations


def rotate(state: Mapping[str, Tensor], rotations: Tensor, rope: RoPE, *, kv_heads: int) -> dict[str, Tensor]:
    """Mix the heads of the latent's key part, each frequency by its own orthogonal matrix: outputs stay the same.

    Args:
        state: of a `LatentAttention` made by `gqa_to_mla`; stays untouched.
        rotations: (F, Hk, Hk) for real and imaginary part alike.
        rope: of the layer.
        kv_heads: Hk.
    """
    d = 2 * rotations.shape[0]
    rotary = kv_heads * d

    def mixed(x: Tensor) -> Tensor:  # (..., rotary) along the last dimension
        parts = _pairs(x[..., :rotary].reshape(*x.shape[:-1], kv_heads, d), rope)
        turned = [torch.einsum("...hf,fhg->...gf", part, rotations.to(x.dtype)) for part in parts]
        joined = torch.cat(turned, -1) if rope.pairing == "half" else torch.stack(turned, -1).flatten(-2)
        return torch.cat([joined.flatten(-2), x[..., rotary:]], -1)

    result = {name: x.clone() for name, x in state.items()}
    result["down.weight"] = mixed(state["down.weight"].T).T
    result["key_up"] = mixed(state["key_up"])
    return result


def _pairs(x: Tensor, rope: RoPE) -> tuple[Tensor, Tensor]:
    """Return the first and the second entries of the pairs that turn together."""
    if rope.pairing == "half":
        half = x.shape[-1] // 2
        return x[..., :half], x[..., half:]
    return x[..., ::2], x[..., 1::2]
