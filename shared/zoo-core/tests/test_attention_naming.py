"""Layers of others become ours by their state dict, and what does not fit is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo_core.attention import Attention
from zoo_core.attention.naming import renamed
from zoo_core.attention.stages import Fused, Projection, Separate

X = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(0))


def ours(fused: bool, **options: object) -> Attention:
    stage = Fused(bias=True) if fused else Separate(bias=True)
    return Attention(24, 4, project=stage, output=Projection(bias=True), **options).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("fused", [True, False])
def test_timms_and_torchs_layers_compute_the_same_under_our_names(fused: bool) -> None:
    from timm.layers import Attention as Timm

    layer = ours(fused)
    theirs = Timm(24, 4, qkv_bias=True).eval()
    state = {f"blocks.0.attn.{key}": x for key, x in theirs.state_dict().items()} | {"head.weight": torch.zeros(1)}
    layer.load_state_dict(renamed(state, layer, prefix="blocks.0.attn."))
    torch.testing.assert_close(layer(X).x, theirs(X), rtol=0, atol=1e-6)
    whole = nn.MultiheadAttention(24, 4, batch_first=True).eval()
    layer.load_state_dict(renamed(whole.state_dict(), layer))
    torch.testing.assert_close(layer(X).x, whole(X, X, X)[0], rtol=0, atol=1e-6)


def test_berts_layer_and_one_with_shared_keys() -> None:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertSelfAttention

    config = BertConfig(hidden_size=24, num_attention_heads=4)
    config._attn_implementation = "eager"
    bert, dense = BertSelfAttention(config).eval(), nn.Linear(24, 24)
    state = {f"self.{key}": x for key, x in bert.state_dict().items()}
    state |= {f"output.dense.{key}": x for key, x in dense.state_dict().items()}
    layer = ours(False)
    layer.load_state_dict(renamed(state, layer))
    torch.testing.assert_close(layer(X).x, dense(bert(X)[0]), rtol=0, atol=1e-6)
    # Llama: fewer key heads, no bias; and back and forth between our own two forms
    one, two = Attention(24, 4, kv_heads=2), Attention(24, 4, kv_heads=2, project=Fused(bias=False))
    names = {"project.q": "q_proj", "project.k": "k_proj", "project.v": "v_proj", "output": "o_proj"}
    llama = {f"{names[key.removesuffix('.weight')]}.weight": x for key, x in one.state_dict().items()}
    two.load_state_dict(renamed(llama, two))
    torch.testing.assert_close(two(X).x, one(X).x)
    back = renamed(two.state_dict(), one)
    assert all(torch.equal(back[key], x) for key, x in one.state_dict().items())


def test_what_does_not_fit_is_named() -> None:
    layer = ours(False)
    state = renamed(ours(True).state_dict(), layer)
    with pytest.raises(
        ValueError, match=r"keys output.bias.*project.q.weigth.*are of no known layout \(zoo, separate, "
    ):
        renamed({**state, "project.q.weigth": X}, layer)
    with pytest.raises(ValueError, match=r"keys that begin with 'attn\.' \(there are none\) are of no known layout"):
        renamed(state, layer, prefix="attn.")
    with pytest.raises(ValueError, match=r"project.q.bias is missing, not \(24,\)"):
        renamed({key: x for key, x in state.items() if key != "project.q.bias"}, layer)
    with pytest.raises(ValueError, match=r"qkv.weight has 72 rows, but q, k and v of the layer have \(24, 12, 12\)"):
        renamed({"qkv.weight": torch.zeros(72, 24), "proj.weight": torch.zeros(24, 24)}, ours(False, kv_heads=2))
