"""Agreement with the golden pack: float64 formulas, below 2e-6 in fp32 for every backend that can run."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo_core.attention import (
    Attention,
    Causal,
    Distance,
    Document,
    KeyBias,
    LowRank,
    RoPE,
    Sink,
    Taps,
    Window,
    attend,
    attention_map,
)
from zoo_core.attention.blockwise import StridedBlock, Tile3D
from zoo_core.attention.grids import Circle2D
from zoo_core.attention.masks import Mask
from zoo_core.attention.papers.grouped_differential import Difference, grouped_differential, sharing, subtract
from zoo_core.attention.papers.mixture_of_heads import MixtureOfHeads
from zoo_core.attention.positions import relative_bias
from zoo_core.attention.stages import Fused, Projection, Sizes, merge_heads, split_heads
from zoo_core.io.packs import packs_root
from zoo_core.nn.contrast import ContrastAwareAttention
from zoo_core.nn.squeeze import SqueezeExcitation

ROOT = packs_root()
FILE = ROOT / "attention" / "golden" / "attention_golden.safetensors" if ROOT else None
pytestmark = pytest.mark.skipif(FILE is None or not FILE.exists(), reason="the golden pack is not here: set ZOO_PACKS")
TOLERANCE = 2e-6
ABLE = ("reference", "chunked", "sdpa")


class Case:
    """The tensors of one case of the pack, as attributes."""

    def __init__(self, tensors: dict[str, Tensor], name: str) -> None:
        self._tensors, self._name = tensors, name

    def __getattr__(self, argument: str) -> Tensor:
        return self._tensors[f"{self._name}.{argument}"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    assert FILE is not None
    return load_file(FILE)


def near(out: Tensor, truth: Tensor) -> None:
    torch.testing.assert_close(out, truth, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("backend", ABLE)
@pytest.mark.parametrize(
    ("name", "kind", "mask"),
    [
        ("out_laplace", "laplace", None),
        ("out_laplace_causal", "laplace", Causal()),
        ("out_band5", "laplace", Window(5, 5)),
        ("out_gauss", "gauss", None),
    ],
)
def test_decay(tensors: dict[str, Tensor], backend: str, name: str, kind: str, mask: Mask | None) -> None:
    case = Case(tensors, "decay")
    bias = Distance(kind, case.lam)
    near(attend(case.q, case.k, case.v, mask=mask, bias=bias, backend=backend).out, getattr(case, name))


@pytest.mark.parametrize("backend", ABLE)
def test_lse(tensors: dict[str, Tensor], backend: str) -> None:
    case = Case(tensors, "lse")
    result = attend(case.q, case.k, case.v, need=("out", "lse"), backend=backend)
    near(result.out, case.out)
    near(result.lse, case.lse)


@pytest.mark.parametrize("backend", ABLE)
def test_low_rank_bias(tensors: dict[str, Tensor], backend: str) -> None:
    case = Case(tensors, "lowrank_bias")
    bias = LowRank(case.a_vision, case.a_text, case.w)
    near(attend(case.q, case.k, case.v, bias=bias, backend=backend).out, case.out)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("streaming_s4_r16", Causal() & (Sink(4) | Window(15, 0))),
        ("circle_8x8_r3", Circle2D(8, 8, 3)),
        ("s2_h4_stride4_local2_block4", StridedBlock(4, 4, 4, local=2) & Causal()),
        ("tile_f8_t8_k2", Tile3D(8, 8, 2)),
        ("doc", Document([0] * 20 + [1] * 20 + [2] * 20 + [3] * 4)),
    ],
)
def test_masks(tensors: dict[str, Tensor], name: str, mask: Mask) -> None:
    truth = getattr(Case(tensors, "masks"), name).bool()
    held = mask.dense(64, 64, heads=mask.shape[1])[0]
    assert torch.equal(held, truth.reshape(held.shape))


@pytest.mark.parametrize("backend", ABLE)
@pytest.mark.parametrize(
    ("name", "mask", "rope"),
    [("out_nope_causal", Causal(), None), ("out_nope_full", None, None), ("out_rope_causal", Causal(), RoPE())],
)
def test_grouped_query_attention(
    tensors: dict[str, Tensor], backend: str, name: str, mask: Mask | None, rope: RoPE | None
) -> None:
    case = Case(tensors, "gqa")
    layer = Attention(64, 8, kv_heads=2, position=rope)
    layer.load_state_dict(
        {
            "project.q.weight": case.wq,
            "project.k.weight": case.wk,
            "project.v.weight": case.wv,
            "output.weight": case.wo,
        }
    )
    near(layer(case.x, mask=mask).x, getattr(case, name))
    q, k, v, _ = layer.project(case.x, case.x)
    if rope is not None:
        q, k = rope(q, torch.arange(24)), rope(k, torch.arange(24))
    near(layer.output(merge_heads(attend(q, k, v, mask=mask, backend=backend).out)), getattr(case, name))


@pytest.mark.parametrize("backend", ABLE)
def test_grouped_differential_attention(tensors: dict[str, Tensor], backend: str) -> None:
    case = Case(tensors, "gda")
    combine = Difference(4, layer=3).build(Sizes(64, 10, 2, 8, 16))
    combine.load_state_dict(
        {
            "lambda_q1": case.lambda_q1,
            "lambda_k1": case.lambda_k1,
            "lambda_q2": case.lambda_q2,
            "lambda_k2": case.lambda_k2,
            "subln.weight": case.subln,
        }
    )
    near(combine.lam()[None], case.lambda_full)
    q = torch.cat([case.q_signal.unflatten(1, (2, 4)), case.q_noise[:, :, None]], 2).flatten(1, 2)
    k = torch.cat([case.k_signal, case.k_noise], 1)
    heads = attend(q, k, case.v, mask=Causal(), kv_map=sharing(2, 4), backend=backend).out
    near(subtract(heads, 4, combine.lam()), case.out_pre_norm)
    near(combine(heads, heads, Taps()).x, merge_heads(case.out))
    whole = grouped_differential(
        case.q_signal, case.q_noise, case.k_signal, case.k_noise, case.v, case.lambda_full, mask=Causal()
    )
    near(whole, case.out_pre_norm)


def test_mixture_of_heads(tensors: dict[str, Tensor]) -> None:
    case = Case(tensors, "moh")
    layer = Attention(64, 8, project=Fused(bias=False), combine=MixtureOfHeads(3, 3), output=Projection(bias=True))
    state = {"project.qkv.weight": case.w_qkv, "output.weight": case.w_proj, "output.bias": case.b_proj}
    routers = {"combine.wg.weight": case.wg, "combine.wg_0.weight": case.wg_0, "combine.wg_1.weight": case.wg_1}
    layer.load_state_dict(state | routers)
    mixed = layer(case.x, taps=Taps(("gate",)))
    near(mixed.aux["gate"], case.gates)
    near(mixed.aux["load_balance"][None], case.aux)
    near(mixed.x, case.out)
    everything = Attention(64, 8, project=Fused(bias=False), combine=MixtureOfHeads(3, 5), output=Projection(bias=True))
    everything.load_state_dict(state | {name: torch.zeros_like(x) for name, x in routers.items()})
    near(everything(case.x).x, case.out_zero_router_all_heads)


@pytest.mark.parametrize("backend", ABLE)
def test_relative_positions(tensors: dict[str, Tensor], backend: str) -> None:
    case = Case(tensors, "rel_xl")
    bias = relative_bias(case.q + case.v_bias[:, None], case.rel, keys=12)
    near(attend(case.q + case.u[:, None], case.k, case.v, bias=bias, backend=backend).out, case.out)


@pytest.mark.parametrize("backend", ABLE)
def test_a_bias_by_key_and_a_mask_that_data_chose(tensors: dict[str, Tensor], backend: str) -> None:
    """Dynamic mask attention, whose mask and bias are inputs here."""
    case = Case(tensors, "dma")
    delta = case.v.transpose(1, 2).flatten(2) @ case.w_dt.T
    near((case.A * torch.nn.functional.softplus(delta)).transpose(1, 2), case.bias)
    shared = case.bias.repeat_interleave(2, 1)
    keep = case.keep.bool().repeat_interleave(2, 1)
    near(attend(case.q, case.k, case.v, mask=keep, bias=KeyBias(shared), backend=backend).out, case.out)


def test_heads_are_mixed_by_their_tokens(tensors: dict[str, Tensor]) -> None:
    """A Kronecker mix of heads is one small product on the tensor that taps and combinations see."""
    case = Case(tensors, "kron")
    heads = split_heads(case.z, 4)
    near(merge_heads(torch.einsum("gh,bhnd->bgnd", case.w_heads, heads)), case.out)


def test_channel_attention(tensors: dict[str, Tensor]) -> None:
    case = Case(tensors, "channel_attn")
    squeeze = SqueezeExcitation(32, 2)
    weights = {"weight": case.w_down, "bias": case.b_down}, {"weight": case.w_up, "bias": case.b_up}
    squeeze.fc1.load_state_dict(weights[0])
    squeeze.fc2.load_state_dict(weights[1])
    near(squeeze(case.x), case.out_se)
    contrast = ContrastAwareAttention(32)
    for number, part in zip((0, 2), weights, strict=True):
        contrast.conv_du[number].load_state_dict({"weight": part["weight"][:, :, None, None], "bias": part["bias"]})
    near(contrast(case.x), case.out_cca)


@pytest.mark.parametrize(("p", "name"), [(1, "at_abs_l2"), (2, "at_sq_l2"), (4, "at_p4_l2")])
def test_spatial_maps(tensors: dict[str, Tensor], p: int, name: str) -> None:
    case = Case(tensors, "spatial_map")
    near(attention_map(case.x, p).flatten(1), getattr(case, name))
