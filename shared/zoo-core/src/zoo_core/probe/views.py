"""Views: where q, k, v and the heads' output appear in attention modules that are not ours, one function a family.

All of these tensors lie at the borders of submodules, so fused attention stays fused. A view says which border, and how
to turn what passes there into (B, H, N, d); norms between projection and product are applied again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from zoo_core.attention.backends.chunked import log_sums
from zoo_core.attention.call import Call, make_call
from zoo_core.attention.dispatch import run
from zoo_core.attention.stages import merge_heads, split_heads
from zoo_core.errors import UsageError

Argument: TypeAlias = tuple[int, str]


@dataclass(frozen=True)
class Border:
    """A place where a tensor passes.

    Args:
        module: at whose border.
        side: `in` or `out`.
        read: what passes, (B, N, C), to (B, H, N, d).
        write: and back, where it may be edited.
        argument: number and name of the argument, for `in`.
    """

    module: nn.Module
    side: Literal["in", "out"]
    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], Tensor] | None = None
    argument: Argument = (0, "")


@dataclass(frozen=True)
class Masks:
    """The arguments by which an attention module is told what may see what.

    Args:
        arguments: number and name of each; the first is added to the scores.
        tokens: number and name of the argument that holds the keys' tokens, and which of its dimensions counts them.
        flat: whether the first one is (N, N); else it is broadcast against (B, H, N, N).
    """

    arguments: tuple[Argument, ...]
    tokens: tuple[Argument, int] = ((0, "hidden_states"), 1)
    flat: bool = False


@dataclass(frozen=True)
class AttentionView:
    """An attention module as probes see it.

    Args:
        heads: query heads H.
        kv_heads: key and value heads.
        width: d, of a head.
        scale: of the product q k^T.
        q: queries (B, H, N, d), as they meet in the product.
        k: keys (B, Hkv, N, d).
        v: values (B, Hkv, N, d).
        head_out: A v (B, H, N, d), before the output projection; None where no submodule's border shows it.
        masks: its arguments that are masks; None if it has none.
    """

    heads: int
    kv_heads: int
    width: int
    scale: float
    q: Border
    k: Border
    v: Border
    head_out: Border | None
    masks: Masks | None


def attention_view(module: nn.Module) -> AttentionView:
    """Return the view of a known attention module: timm's, BERT's and ViT's of transformers, torch's own.

    Raises:
        UsageError: it is none of them, or a variant whose q and k cannot be read at a border.
    """
    kind = type(module)
    family = kind.__module__.partition(".")[0]
    if isinstance(module, nn.MultiheadAttention):
        return _torch(module)
    if family == "timm" and kind.__name__ == "Attention" and hasattr(module, "qkv"):
        return _timm(module)
    if family == "transformers" and kind.__name__ in {"BertSelfAttention", "ViTSelfAttention"}:
        return _separate(module, ("query", "key", "value"), int(module.attention_head_size))  # type: ignore[arg-type]
    if family == "transformers" and kind.__name__ == "ViTAttention" and hasattr(module, "o_proj"):
        return _separate(module, ("q_proj", "k_proj", "v_proj"), int(module.head_dim))  # type: ignore[arg-type]
    raise UsageError(
        f"{kind.__module__}.{kind.__name__} is no attention module that a probe knows.",
        "Give the path of the attention module itself, or an AttentionView of it in `views`.",
    )


def _timm(module: Any) -> AttentionView:
    heads = module.num_heads
    q_norm, k_norm = module.q_norm, module.k_norm

    def part(number: int, norm: nn.Module | None = None) -> Border:
        def read(qkv: Tensor) -> Tensor:
            x: Tensor = qkv.reshape(*qkv.shape[:-1], 3, heads, -1)[:, :, number].transpose(1, 2)
            return x if norm is None else norm(x)

        return Border(module.qkv, "out", read)

    # `norm` (an identity, mostly) comes first after the product, then a gate, then the projection
    after = module.norm if hasattr(module, "norm") else module.proj
    out = Border(after, "in", partial(split_heads, heads=heads), merge_heads)
    width = module.head_dim
    masks = Masks(((1, "attn_mask"), (2, "is_causal")), tokens=((0, "x"), 1))
    return AttentionView(heads, heads, width, width**-0.5, part(0, q_norm), part(1, k_norm), part(2), out, masks)


def _separate(module: Any, names: tuple[str, str, str], width: int) -> AttentionView:
    heads = module.num_attention_heads
    q, k, v = (Border(getattr(module, name), "out", partial(split_heads, heads=heads)) for name in names)
    if hasattr(module, "o_proj"):
        out = Border(module.o_proj, "in", partial(split_heads, heads=heads), merge_heads)
    else:  # the projection lies outside: the module's own output is A v
        out = Border(module, "out", partial(split_heads, heads=heads), merge_heads)
    return AttentionView(heads, heads, width, width**-0.5, q, k, v, out, Masks(((1, "attention_mask"),)))


def _torch(module: nn.MultiheadAttention) -> AttentionView:
    """It projects without calling a submodule: q, k and v are computed again from its inputs."""
    if module.bias_k is not None or module.add_zero_attn:
        raise UsageError(
            "A probe does not know torch.nn.MultiheadAttention with add_bias_kv or add_zero_attn.",
            "Give an AttentionView of it in `views`.",
        )
    heads, dim = module.num_heads, module.embed_dim

    def part(number: int, name: str) -> Border:
        def read(x: Tensor) -> Tensor:
            if x.ndim != 3:
                raise UsageError("A probe reads torch.nn.MultiheadAttention with a batch only, got no batch dimension.")
            x = x if module.batch_first else x.transpose(0, 1)
            rows = slice(number * dim, (number + 1) * dim)
            whole = module.in_proj_weight
            weight = (
                (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)[number]
                if whole is None
                else whole[rows]
            )
            bias = None if module.in_proj_bias is None else module.in_proj_bias[rows]
            return split_heads(functional.linear(x, weight, bias), heads)

        return Border(module, "in", read, argument=(number, name))

    width = dim // heads
    q, k, v = (part(number, name) for number, name in enumerate(("query", "key", "value")))
    masks = Masks(
        ((5, "attn_mask"), (3, "key_padding_mask")), tokens=((1, "key"), 1 if module.batch_first else 0), flat=True
    )
    return AttentionView(heads, heads, width, width**-0.5, q, k, v, None, masks)


def log_sum(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Return the logarithm of each row's sum of exp(scale q k^T): (B, H, N), at least fp32, in blocks of rows."""
    return log_sums(_product(q, k, scale))


def attention_rows(q: Tensor, k: Tensor, rows: tuple[int, ...], scale: float) -> Tensor:
    """Return softmax(scale q_r k^T) for some queries r: (B, H, R, N), at least fp32; no other row is computed.

    Raises:
        UsageError: a row outside the sequence.
    """
    if not rows or min(rows) < 0 or max(rows) >= q.shape[-2]:
        raise UsageError(f"Rows {rows} were asked for, and there are {q.shape[-2]} queries.", "Rows count from 0.")
    return run(_product(q[..., list(rows), :], k, scale, "weights"), "reference").aux["weights"]


def _product(q: Tensor, k: Tensor, scale: float, *need: str) -> Call:
    return make_call(q, k, k, scale=scale, mask=None, bias=None, kv_map=None, normalise="softmax", need=need)
