"""The module: stages that can be replaced, positions, descriptions, plans."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo_core.attention
from zoo_core.attention import (
    Attention,
    Causal,
    Decay,
    Distance,
    KeyBias,
    Padding,
    Plan,
    RoPE,
    Sink,
    Taps,
    Window,
    alibi,
    attend,
    attention_map,
)
from zoo_core.attention.biases import Bias
from zoo_core.attention.plans import Head, open_plan
from zoo_core.attention.positions import repair
from zoo_core.attention.stages import Fused, Projection
from zoo_core.attention.values import Pairs
from zoo_core.errors import InputError
from zoo_core.nn.contrast import channel_statistics
from zoo_core.nn.squeeze import SqueezeExcitation


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_multi_head_attention_is_torchs() -> None:
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    ours = Attention(32, 4, project=Fused(), output=Projection(bias=True))
    with torch.no_grad():
        theirs.in_proj_bias.normal_()
        theirs.out_proj.bias.normal_()
    ours.load_state_dict(
        {
            "project.qkv.weight": theirs.in_proj_weight,
            "project.qkv.bias": theirs.in_proj_bias,
            "output.weight": theirs.out_proj.weight,
            "output.bias": theirs.out_proj.bias,
        }
    )
    x, lengths = torch.randn(3, 9, 32), [9, 5, 1]
    padded = torch.arange(9) >= torch.tensor(lengths)[:, None]
    truth, weights = theirs(x, x, x, key_padding_mask=padded, average_attn_weights=False)
    mixed = ours(x, mask=Padding(lengths), taps=Taps({"weight": None}))
    torch.testing.assert_close(mixed.x, truth, rtol=0, atol=2e-6)
    torch.testing.assert_close(mixed.aux["weight"], weights, rtol=0, atol=1e-6)


def test_a_description_goes_through_json_and_back() -> None:
    layers = [
        Attention(32, 4),
        Attention(30, 6, kv_heads=2, head_dim=8, position=RoPE(5e5, "interleaved", 4), name="blocks.0"),
        Attention(32, 4, project=Fused(bias=False), position=Decay("gauss", (0.1,)), output=Projection(bias=True)),
    ]
    described = [layer.describe() for layer in layers]
    for layer, description in zip(layers, described, strict=True):
        again = Attention.from_description(json.loads(json.dumps(description)))
        assert again.describe() == description
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in layer.state_dict().items()
        }
    assert described[0] != described[1]
    with pytest.raises(ValueError, match=r"the stage 'Fuse'\. Did you mean 'Fused'"):
        Attention.from_description({**described[0], "project": {"stage": "Fuse"}})
    with pytest.raises(ValueError, match="format None"):
        Attention.from_description({"dim": 3})


def test_decay_learns_where_to_look() -> None:
    layer = Attention(16, 4, position=Decay())
    mixed = layer(torch.randn(2, 12, 16), mask=Padding([12, 7]))
    mixed.x.square().sum().backward()
    assert layer.decay is not None
    for parameter in layer.decay.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rotary_scores_depend_on_distance_alone(pairing: str) -> None:
    rope = RoPE(pairing=pairing)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        return float((rope(q, torch.tensor([i])) * rope(k, torch.tensor([j]))).sum())

    assert score(5, 3) == pytest.approx(score(105, 103))
    assert score(5, 3) != pytest.approx(score(5, 4))


@pytest.mark.parametrize("source", ["half", "interleaved"])
def test_weights_repaired_for_another_pairing_give_the_same_scores(source: str) -> None:
    target = "interleaved" if source == "half" else "half"
    x, weight = torch.randn(1, 6, 16), torch.randn(2, 24, 16)
    places = torch.arange(6)

    def scores(pairing: str, weights: list[Tensor]) -> Tensor:
        q, k = (RoPE(pairing=pairing)((x @ w.T).unflatten(-1, (3, 8)).transpose(1, 2), places) for w in weights)
        return q @ k.mT

    moved = [repair(w, 3, source, target) for w in weight]
    torch.testing.assert_close(scores(target, moved), scores(source, list(weight)))
    assert not torch.allclose(scores(target, list(weight)), scores(source, list(weight)))
    assert torch.equal(repair(moved[0], 3, target, source), weight[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lam", [1e-4, 1e-2, 0.1])
def test_folded_biases_are_the_biases(dtype: torch.dtype, lam: float) -> None:
    pairs = Pairs.grid(512, 512, heads=2)
    lams, mus = torch.tensor([lam, lam / 2], dtype=torch.float64), torch.tensor([0.0, 3.0], dtype=torch.float64)
    biases: list[tuple[Bias, bool]] = [(Distance("laplace", lams), True), (Distance("gauss", lams, mus), False)]
    biases.append((KeyBias(torch.randn(1, 2, 512)), False))
    folded = 0
    for bias, causal in biases:
        if not bias.folds(dtype, causal=causal):
            continue
        folded += 1
        queries, keys, row = bias.fold(pairs, dtype, scale=0.125)
        # rounded to what a kernel multiplies, summed in fp32 or wider
        wide = torch.promote_types(dtype, torch.float32)
        product = 0.125 * queries.to(dtype).to(wide) @ keys.to(dtype).to(wide).mT
        product = product.double() + (0 if row is None else row[..., None])
        truth = bias.at(pairs).double()
        near = (pairs.key - pairs.position).abs() < 16  # far ones have no weight
        limit = {torch.float64: 1e-10, torch.float32: 3e-5, torch.bfloat16: 2e-2}[dtype]
        allowed = near & (pairs.key <= pairs.position) if causal else near
        assert float((product - truth).abs().masked_fill(~allowed, 0).max()) < limit, bias
    assert folded == {torch.float64: 3, torch.float32: 2, torch.bfloat16: 2}[dtype]


def test_long_and_half_precision_calls_fold_and_agree() -> None:
    q, k, v = torch.randn(3, 1, 2, 1030, 8)
    for bias in (alibi(2), KeyBias(torch.randn(1, 2, 1030))):
        out = attend(q, k, v, mask=Causal(), bias=bias, backend="sdpa").out
        truth = attend(q.double(), k.double(), v.double(), mask=Causal(), bias=bias, backend="reference").out
        torch.testing.assert_close(out.double(), truth, rtol=0, atol=2e-5)
    low = [x.bfloat16() for x in (q, k, v)]
    bias = Distance("gauss", torch.tensor([0.01, 0.001]))
    out = attend(*low, bias=bias, backend="sdpa").out
    truth = attend(*(x.double() for x in low), bias=bias, backend="reference").out
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=2e-2)


def test_a_plan_goes_through_a_file_and_becomes_a_mask(tmp_path: Path) -> None:
    plan = Plan(((Head(), Head("stream", 2, 4)), (Head("off"), Head())), "by hand")
    plan.save(tmp_path / "plan.json")
    assert open_plan(tmp_path / "plan.json") == plan
    held = (Causal() & plan.mask(0, 4)).dense(10, 10, heads=4)[0]
    assert torch.equal(held[0], Causal().dense(10, 10)[0, 0])
    assert torch.equal(held[1], held[0])
    assert torch.equal(held[3], (Causal() & (Sink(2) | Window(3, 0))).dense(10, 10)[0, 0])
    layer = Attention(16, 4, kv_heads=2)
    x = torch.randn(1, 10, 16)
    whole = layer(x, mask=Causal()).x
    assert torch.equal(layer(x[:, :6], mask=Causal(), plan=plan.layers[0]).x, layer(x[:, :6], mask=Causal()).x)
    assert not torch.allclose(layer(x, mask=Causal(), plan=plan.layers[0]).x, whole)
    assert not layer(x, mask=Causal(), plan=(Head("off"), Head("off"))).x.any()
    counted = sum(float((Causal() & head.mask()).dense(10, 10).sum()) for row in plan.layers for head in row)
    assert plan.density(10) == pytest.approx(counted / (4 * 55))


def test_bad_plans_are_said_in_words(tmp_path: Path) -> None:
    plan = Plan(((Head(), Head()),))
    with pytest.raises(ValueError, match=r"the plan is for 1 layers of \[2\] key heads, the model has 2 layers of 2"):
        plan.check(2, 2)
    with pytest.raises(ValueError, match="3 query heads cannot share the plan of 2"):
        plan.mask(0, 3)
    with pytest.raises(ValueError, match="must be full, stream or off"):
        Head("dense")
    with pytest.raises(ValueError, match="recent 1 or more"):
        Head("stream", 4)
    for text in (
        "{",
        "[]",
        '{"schema": "zoo-attn-plan/2"}',
        '{"schema": "zoo-attn-plan/1", "layers": [{"heads": [7]}]}',
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="is no attention plan"):
            open_plan(tmp_path / "bad.json")
    plan.save(tmp_path / "plan.json")
    with pytest.raises(InputError, match="exists"):
        plan.save(tmp_path / "plan.json")


def test_bad_modules_are_said_in_words() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide width 32"):
        Attention(32, 5)
    with pytest.raises(ValueError, match="3 key heads do not divide 4 query heads"):
        Attention(32, 4, kv_heads=3)
    with pytest.raises(ValueError, match="self-attention; use Separate"):
        Attention(32, 4, project=Fused())(torch.randn(1, 3, 32), torch.randn(1, 5, 32))
    with pytest.raises(ValueError, match="even number"):
        RoPE(dims=3)


def test_spatial_maps_of_nothing_are_nothing_and_sum_and_mean_agree() -> None:
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(attention_map(x, 2, reduce="mean"), attention_map(x, 2))
    torch.testing.assert_close(attention_map(x, 1, norm="fro"), attention_map(x, 1))
    torch.testing.assert_close(attention_map(x, 2, reduce="max", norm="none"), x.square().amax(1))
    torch.testing.assert_close(attention_map(x, 1, norm="l1").sum((1, 2)), torch.ones(2))
    assert not attention_map(torch.zeros(2, 5, 3, 4)).any()
    assert attention_map(300 * torch.ones(1, 5, 3, 4, dtype=torch.float16), 4).isfinite().all()
    with pytest.raises(ValueError, match="reduce is"):
        attention_map(x, reduce="median")  # type: ignore[arg-type]


def test_squeeze_and_excitation_does_not_see_padding() -> None:
    module = SqueezeExcitation(16)
    x = torch.randn(2, 16, 4, 9)
    mask = (torch.arange(9) < torch.tensor([9, 5])[:, None])[:, None, None]
    x[1, :, :, 5:] = float("nan")
    torch.testing.assert_close(module(x, mask)[1:, :, :, :5], module(x[1:, :, :, :5]))
    assert module.fc1.out_features == 4


def test_channel_statistics_on_cpu_are_var_mean() -> None:
    x = (torch.randn(2, 8, 17, 13, dtype=torch.float64) * 3 + 100).requires_grad_()
    mean, variance = channel_statistics(x)
    truth_variance, truth_mean = torch.var_mean(x, dim=(2, 3), correction=0)
    torch.testing.assert_close(mean, truth_mean)
    torch.testing.assert_close(variance, truth_variance)
    mine, truth = (torch.autograd.grad(v.square().sum(), x, retain_graph=True)[0] for v in (variance, truth_variance))
    torch.testing.assert_close(mine, truth)
    flat = torch.full((1, 2, 3, 3), 7.0, requires_grad=True)
    channel_statistics(flat)[1].sum().backward()
    assert flat.grad is not None
    assert not flat.grad.any()


def statements(source: str) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    described: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            described |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    written: set[int] = set()
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            written |= set(range(token.start[0], token.end[0] + 1))
    return len(written - described)


def test_the_frame_stays_small() -> None:
    package = Path(zoo_core.attention.__file__).parent
    counts = {path: statements(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")}
    assert sum(count for path, count in counts.items() if path.parent.name != "papers") <= 2_500
    assert max(counts.values()) <= 250


def test_the_public_surface_is_small_and_lazy() -> None:
    assert len(zoo_core.attention.__all__) <= 25
    assert zoo_core.attention.__all__ == sorted(zoo_core.attention._HOME)
    for name in zoo_core.attention.__all__:
        assert getattr(zoo_core.attention, name).__doc__
    code = (
        "import sys, time, torch; begin = time.process_time(); import zoo_core.attention as a\n"
        "a.attend, a.Attention, a.Taps, a.explain; print(time.process_time() - begin)\n"
        "assert not {'triton', 'torch._dynamo', 'torch._inductor'} & set(sys.modules)"
    )
    seconds = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert seconds < 0.3
