"""The acceptance tests of papers whose attention is here: what each claims and can be checked on a CPU in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zoo_core.attention import Attention, Causal, RoPE, Sink, Taps, Window, attend
from zoo_core.attention.papers import duo_attention as duo
from zoo_core.attention.papers import in_context as icl
from zoo_core.attention.papers import trans_mla as mla
from zoo_core.attention.papers.grouped_differential import Difference, DifferentialProjection, grow, lambda_init
from zoo_core.attention.papers.mixture_of_heads import MixtureOfHeads, gathered, norm_router
from zoo_core.attention.plans import Head, Plan
from zoo_core.attention.report import digest
from zoo_core.attention.stages import Fused, Projection
from zoo_core.errors import InputError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# In-context regression


@pytest.mark.parametrize(("omega", "limit"), [(0.1, 1.2e-2), (0.01, 1.2e-4), (0.001, 1.2e-6)])
def test_in_context_two_opposite_heads_are_a_step_of_centred_descent(omega: float, limit: float) -> None:
    setting = icl.Setting()
    model = icl.Regressor(5, 2).double()
    mu = setting.best_rate / (2 * omega)
    model.install(torch.tensor([omega, -omega]).double(), torch.tensor([mu, -mu]).double())
    problems = icl.Problems(*(x.double() for x in setting.draw(500, torch.Generator().manual_seed(0))))
    truth = icl.step_of_descent(problems, setting.best_rate, centred=True)
    with torch.no_grad():
        error = (model(problems.examples, problems.queries) - truth).norm() / truth.norm()
    assert error < limit, "the error falls with the square of omega"
    torch.testing.assert_close(
        model.omega().detach(), torch.tensor([[[omega]], [[-omega]]]).double() * torch.eye(5).double()
    )


def test_in_context_risks_of_the_references_are_those_of_the_theory() -> None:
    setting = icl.Setting()
    risks = icl.risks(
        {
            "step": lambda p: icl.step_of_descent(p, setting.best_rate, centred=False),
            "centred": lambda p: icl.step_of_descent(p, setting.best_rate, centred=True),
            "ridge": lambda p: icl.ridge(p, setting),
        },
        setting,
    )
    assert risks["step"] == pytest.approx(setting.best_step_risk, rel=0.02)
    assert risks["centred"] == pytest.approx(0.1351, rel=0.02)
    assert risks["ridge"] == pytest.approx(0.0015, rel=0.05)


def learnt(heads: int, setting: icl.Setting, *, linear: int | None = None) -> icl.Regressor:
    # short: from other seeds one head may still do all the work, which the long study below leaves behind
    torch.manual_seed(1)
    model = icl.Regressor(setting.d, heads, linear=linear)
    icl.train(model, setting, steps=600, batch=64, rate=2e-2, seed=1)
    return model


def test_in_context_two_heads_learn_opposite_signs_and_one_linear_head_breaks_at_other_lengths() -> None:
    setting = icl.Setting(d=2, examples=20)
    longer = icl.Setting(d=2, examples=80)
    two = learnt(2, setting)
    linear = learnt(1, setting, linear=20)
    omega, mu = two.omega().detach().diagonal(dim1=1, dim2=2).mean(1), two.mu().detach()
    assert float(omega[0] * omega[1]) < 0
    assert float(mu[0] * mu[1]) < 0
    assert float(mu.sum().abs()) < 0.1 * float(mu.abs().sum())
    models = {"two": two, "linear": linear}
    predictors = {name: lambda p, m=m: m(p.examples, p.queries) for name, m in models.items()}
    here, there = icl.risks(predictors, setting, count=10_000), icl.risks(predictors, longer, count=10_000)
    assert here["two"] < 1.3 * setting.best_step_risk
    assert there["linear"] > 50 * there["two"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_in_context_figures_of_the_study_are_reproduced() -> None:
    setting, longer = icl.Setting(), icl.Setting(examples=160)
    for heads, linear, wanted, wanted_longer in (
        (1, None, 0.2938, 0.126),
        (2, None, 0.1338, 0.0433),
        (4, None, 0.1338, 0.0432),
        (1, 40, 0.1305, 6.56),
    ):
        torch.manual_seed(0)
        model = icl.Regressor(5, heads, linear=linear)
        icl.train(model, setting)
        predictor = {"it": lambda p, m=model: m(p.examples, p.queries)}
        assert icl.risks(predictor, setting)["it"] == pytest.approx(wanted, rel=0.05)
        assert icl.risks(predictor, longer)["it"] == pytest.approx(wanted_longer, rel=0.05)


# Grouped differential attention


def differential(groups: int, signal: int, layer: int = 3, dim: int = 24) -> Attention:
    return Attention(
        dim,
        groups * (signal + 1),
        kv_heads=groups,
        head_dim=4,
        v_head_dim=8,
        project=DifferentialProjection(signal),
        combine=Difference(signal, layer),
    )


def test_differential_attention_as_a_module_is_the_formula() -> None:
    layer = differential(2, 3)
    x = torch.randn(2, 9, 24)
    mixed = layer(x, mask=Causal())
    state = layer.state_dict()
    q = (x @ state["project.q.weight"].T).unflatten(-1, (2, 4, 4))
    k = (x @ state["project.k.weight"].T).unflatten(-1, (2, 2, 4))
    v = (x @ state["project.v.weight"].T).unflatten(-1, (2, 8))
    causal = torch.ones(9, 9).tril().bool()

    def weights(q: Tensor, k: Tensor) -> Tensor:
        return (torch.einsum("bid,bjd->bij", q, k) / 2).masked_fill(~causal, float("-inf")).softmax(-1)

    heads = []
    for group in range(2):
        noise = weights(q[:, :, group, 3], k[:, :, 1, group])
        for m in range(3):
            difference = weights(q[:, :, group, m], k[:, :, 0, group]) - mixed.aux["lambda"] * noise
            head = difference @ v[:, :, group]
            head = head / (head.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            heads.append(head * (1 - lambda_init(3)))
    truth = torch.cat(heads, -1) @ state["output.weight"].T
    torch.testing.assert_close(mixed.x, truth, rtol=0, atol=2e-6)
    again = Attention.from_description(layer.describe(), stages=(DifferentialProjection, Difference))
    assert again.describe() == layer.describe()


def test_differential_attention_without_lambda_and_norm_is_plain_attention() -> None:
    from zoo_core.attention.papers.grouped_differential import grouped_differential

    q_signal, k, v = torch.randn(2, 6, 9, 4), torch.randn(2, 2, 9, 4), torch.randn(2, 2, 9, 8)
    q_noise, k_noise = torch.randn(2, 2, 9, 4), torch.randn(2, 2, 9, 4)
    out = grouped_differential(q_signal, q_noise, k, k_noise, v, torch.tensor(0.0), mask=Causal())
    torch.testing.assert_close(out, attend(q_signal, k, v, mask=Causal()).out, rtol=0, atol=1e-6)


@pytest.mark.parametrize("times", [2, 3])
def test_differential_attention_grows_without_a_change(times: int) -> None:
    small, large = differential(2, 2), differential(2, 2 * times)
    large.load_state_dict(grow(small.state_dict(), 2, 2, times))
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(large(x, mask=Causal()).x, small(x, mask=Causal()).x, rtol=0, atol=2e-6)


def test_differential_attention_of_one_signal_head_is_timms() -> None:
    timm = pytest.importorskip("timm.layers.diff_attention", reason="timm is not installed: no oracle")
    theirs = timm.DiffAttention(32, num_heads=4, depth=2)
    with torch.no_grad():
        theirs.sub_norm.weight.uniform_(0.5, 2)
    ours = Attention(
        32,
        8,
        kv_heads=4,
        head_dim=4,
        v_head_dim=8,
        project=DifferentialProjection(1),
        combine=Difference(1, layer=3),
        output=Projection(bias=True),
    )
    q, k, v = theirs.qkv.weight.chunk(3)
    by_kind = k.unflatten(0, (4, 2, 4)).transpose(0, 1).flatten(0, 2)  # all signal keys, then all noise keys
    state = {"project.q.weight": q, "project.k.weight": by_kind, "project.v.weight": v}
    state |= {f"combine.lambda_{n}": getattr(theirs, f"lambda_{n}") for n in ("q1", "k1", "q2", "k2")}
    state |= {"combine.subln.weight": theirs.sub_norm.weight}
    state |= {"output.weight": theirs.proj.weight, "output.bias": theirs.proj.bias}
    ours.load_state_dict(state)
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(ours(x).x, theirs(x), rtol=0, atol=2e-6)


def test_differential_attention_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="make 8 query heads, not 9"):
        Attention(18, 9, kv_heads=2, project=DifferentialProjection(3))
    with pytest.raises(ValueError, match="counted from 1"):
        Difference(3, 0)


# Mixture of heads


def mixture(shared: int, active: int, heads: int = 8) -> Attention:
    return Attention(32, heads, project=Fused(), combine=MixtureOfHeads(shared, active), output=Projection(bias=True))


def test_mixture_of_heads_with_all_heads_and_no_opinion_is_multi_head_attention() -> None:
    plain = Attention(32, 8, project=Fused(), output=Projection(bias=True))
    mixed = mixture(3, 5)
    assert mixed.combine is not None
    for parameter in mixed.combine.parameters():
        nn.init.zeros_(parameter)
    mixed.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(mixed(x, mask=Causal()).x, plain(x, mask=Causal()).x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shared", "active"), [(3, 2), (0, 4), (1, 1), (7, 1)])
def test_mixture_of_heads_spends_what_it_says_on_each_token(shared: int, active: int) -> None:
    layer = mixture(shared, active)
    x = 3 * torch.randn(2, 9, 32)
    aux = layer(x, taps=Taps(("gate",))).aux
    routed = aux["gate"][..., shared:]
    assert ((routed > 0).sum(-1) == active).all()
    if shared:
        assert layer.combine is not None
        a = 2 * layer.combine.wg_0(x).softmax(-1)
        torch.testing.assert_close(aux["gate"].sum(-1), shared * a[..., 0] + active * a[..., 1])
    balanced = mixture(shared, active)
    assert balanced.combine is not None
    nn.init.zeros_(balanced.combine.wg.weight)
    assert float(balanced(x).aux["load_balance"].detach()) == pytest.approx(active, rel=1e-5)


def test_mixture_of_heads_gives_ties_to_the_first_heads() -> None:
    layer = mixture(2, 3)
    assert layer.combine is not None
    nn.init.zeros_(layer.combine.wg.weight)
    gate = layer(torch.randn(1, 4, 32), taps=Taps(("gate",))).aux["gate"]
    assert (gate[..., 2:5] > 0).all()
    assert not gate[..., 5:].any()


@pytest.mark.parametrize("mask", [None, Causal(), Causal() & (Sink(1) | Window(3, 0))], ids=str)
def test_mixture_of_heads_computes_only_the_queries_that_are_used(mask: object) -> None:
    q, k, v = torch.randn(3, 2, 6, 11, 4)
    used = torch.rand(2, 11, 6) < 0.4
    used[0, :, 3] = False
    truth = attend(q, k, v, mask=mask).out * used.transpose(1, 2)[..., None]  # type: ignore[arg-type]
    torch.testing.assert_close(gathered(q, k, v, used, mask=mask), truth, rtol=0, atol=1e-6)  # type: ignore[arg-type]


def test_mixture_of_heads_router_without_parameters_takes_the_loudest_queries() -> None:
    q = torch.ones(1, 4, 3, 2) * torch.tensor([1.0, 5.0, 7.0, 2.0])[None, :, None, None]
    assert norm_router(q, shared=1, active=1)[0].tolist() == [[True, False, True, False]] * 3


def test_mixture_of_heads_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="6 active of 5 routed heads"):
        mixture(3, 6)


# TransMLA


def shapes() -> Iterator[tuple[int, int, int, int]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        groups, share, half, wide = (int(torch.randint(1, most, (), generator=generator)) for most in (5, 4, 5, 3))
        yield groups, groups * share, 2 * half, 8 * wide


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("rotary", [False, True])
def test_latent_attention_is_grouped_attention_exactly(rotary: bool, pairing: str) -> None:
    for groups, heads, width, dim in shapes():
        rope = RoPE(pairing=pairing) if rotary else None  # type: ignore[arg-type]
        layer = Attention(dim, heads, kv_heads=groups, head_dim=width, position=rope)
        state, module, report = mla.gqa_to_mla(layer.state_dict(), layer, held_out=torch.randn(2, 5, dim))
        assert report.exact, report
        assert report.cache_values == (2 * groups * width, 2 * groups * width)
        assert report.hashes == (digest({n: x.double() for n, x in layer.state_dict().items()}), report.hashes[1])
        x = torch.randn(1, 6, dim)
        torch.testing.assert_close(module.float()(x, mask=Causal()), layer(x, mask=Causal()).x, rtol=0, atol=1e-5)
        assert state["down.weight"].dtype == torch.float32
        if rope is None:
            continue
        # RoRoPE: an orthogonal matrix a frequency, one for both parts
        double = module.double()
        state = {name: tensor.double() for name, tensor in double.state_dict().items()}
        tokens = torch.randn(40, dim).double()

        def keys() -> Tensor:
            return double.down(tokens)[:, : groups * width].unflatten(-1, (groups, width)).detach()  # noqa: B023

        def energy() -> Tensor:
            return keys().square().sum((0, 2))

        before = energy()
        y = torch.randn(1, 6, dim).double()
        truth = double(y, mask=Causal())
        rotations = mla.principal_rotations(keys(), rope)
        double.load_state_dict(mla.rotate(state, rotations, rope, kv_heads=groups))
        assert float((double(y, mask=Causal()) - truth).detach().abs().max()) < 1e-10
        assert (energy().diff() <= 1e-9).all(), "energy gathers in the first heads"
        torch.testing.assert_close(energy().sum(), before.sum())


def test_latent_attention_breaks_when_both_parts_of_a_frequency_turn_apart() -> None:
    rope = RoPE()
    layer = Attention(16, 4, kv_heads=4, head_dim=4, position=rope)
    _, module, _ = mla.gqa_to_mla(layer.state_dict(), layer)
    state = dict(module.state_dict())
    one, other = (torch.linalg.qr(torch.randn(2, 4, 4, dtype=torch.float64)).Q for _ in range(2))
    right = mla.rotate(state, one, rope, kv_heads=4)
    apart = mla.rotate(state, other, rope, kv_heads=4)
    imaginary = torch.arange(16) % 4 >= 2
    wrong = {name: x.clone() for name, x in right.items()}
    wrong["down.weight"][:16][imaginary] = apart["down.weight"][:16][imaginary]
    wrong["key_up"][..., :16][..., imaginary] = apart["key_up"][..., :16][..., imaginary]
    x = torch.randn(1, 9, 16).double()
    truth = module(x, mask=Causal())

    def error(changed: dict[str, Tensor]) -> float:
        module.load_state_dict(changed)
        return float((module(x, mask=Causal()) - truth).detach().abs().max())

    assert error(right) < 1e-12
    assert error(wrong) > 1e-3


def test_latent_attention_of_a_smaller_rank_loses_what_the_report_says() -> None:
    layer = Attention(32, 8, kv_heads=4, head_dim=4)
    x, held_out = torch.randn(4, 50, 32).double(), torch.randn(2, 20, 32)
    latent = torch.cat([layer.project.k.weight, layer.project.v.weight]).double() @ x.flatten(0, 1).T
    _, module, report = mla.gqa_to_mla(layer.state_dict(), layer, rank=20, calibration=x, held_out=held_out)
    assert not report.exact
    assert len(report.discarded) == 12
    assert "left out: 12 directions" in str(report)
    rebuilt_keys = torch.einsum("hdr,nr->hdn", module.key_up, module.down(x.flatten(0, 1)))[::2].flatten(0, 1)
    rebuilt_values = torch.einsum("hdr,nr->hdn", module.value_up, module.down(x.flatten(0, 1)))[::2].flatten(0, 1)
    lost = float((torch.cat([rebuilt_keys, rebuilt_values]) - latent).detach().square().sum())
    assert lost == pytest.approx(sum(s**2 for s in report.discarded), rel=1e-9)
    assert report.cache_values == (32, 20)
    assert json.loads(json.dumps(report.as_dict()))["schema"] == "zoo-attn-report/1"


def test_latent_attention_of_the_rank_that_keys_have_is_exact() -> None:
    layer = Attention(32, 8, kv_heads=4, head_dim=4).double()
    with torch.no_grad():
        layer.project.v.weight.copy_(torch.randn(16, 16).double() @ layer.project.k.weight)  # values tell nothing new
    _, _, report = mla.gqa_to_mla(layer.state_dict(), layer, rank=16)
    assert report.exact, report


def test_latent_attention_can_say_what_grouped_attention_cannot() -> None:
    module = mla.LatentAttention(32, 8, head_dim=4, v_head_dim=4, rank=16).double()
    keys = torch.einsum("hdr,rx->hdx", module.key_up, module.down.weight).flatten(0, 1)
    assert int(torch.linalg.matrix_rank(keys)) == 16 > 2 * 4, "2 key heads of 4 have rank 8 at most"


def test_latent_attention_in_a_language_model_keeps_its_logits() -> None:
    embed, head = torch.randn(35, 32).double(), torch.randn(32, 35).double()
    layers = [Attention(32, 8, kv_heads=2, position=RoPE()).double() for _ in range(2)]
    converted = [mla.gqa_to_mla(layer.state_dict(), layer)[1] for layer in layers]
    x = y = embed[torch.randint(35, (2, 20))]
    for layer, latent in zip(layers, converted, strict=True):
        x, y = x + layer(x, mask=Causal()).x, y + latent(y, mask=Causal())
    torch.testing.assert_close(y @ head, x @ head, rtol=0, atol=1e-6)


def test_latent_attention_refuses_what_cannot_be() -> None:
    layer = Attention(32, 8, kv_heads=4, head_dim=4, position=RoPE())
    with pytest.raises(ValueError, match="exact only without positions"):
        mla.gqa_to_mla(layer.state_dict(), layer, rank=20)
    with pytest.raises(ValueError, match="rank 33: keys and values of 4 heads have width 32; give 1 to 32"):
        mla.gqa_to_mla(layer.state_dict(), layer, rank=33)
    plain = Attention(32, 8, kv_heads=4, head_dim=4)
    with pytest.raises(ValueError, match="rank 20 from 10 tokens of calibration"):
        mla.gqa_to_mla(plain.state_dict(), plain, rank=20, calibration=torch.randn(1, 10, 32))


# DuoAttention


def test_duo_gates_run_from_streaming_to_full() -> None:
    layer = Attention(16, 4, kv_heads=2)
    x = torch.randn(2, 20, 16)
    full = layer(x, mask=Causal()).x
    streaming = layer(x, mask=Causal() & (Sink(2) | Window(3, 0))).x

    def out(*alpha: float, tokens: int = 20) -> Tensor:
        return duo.gated(layer, x[:, :tokens], torch.tensor(alpha), sink=2, recent=4)

    torch.testing.assert_close(out(1, 1), full, rtol=0, atol=1e-6)
    torch.testing.assert_close(out(0, 0), streaming, rtol=0, atol=1e-6)
    plan = Plan(((Head("stream", 2, 4), Head()),))
    torch.testing.assert_close(out(0, 1), layer(x, mask=Causal(), plan=plan.layers[0]).x, rtol=0, atol=1e-6)
    torch.testing.assert_close(out(0.3, 0.6, tokens=6), full[:, :6], rtol=0, atol=1e-6)
    assert not torch.allclose(out(0.5, 0.5), full)
    teacher = layer(2 * x, mask=Causal(), taps=Taps(("head_out",))).aux["head_out"]
    torch.testing.assert_close(
        duo.gated(layer, x, torch.ones(2), sink=2, recent=4, teacher=teacher), layer(2 * x, mask=Causal()).x
    )


class Copier(nn.Module):
    """Two layers of four heads; head 2 of layer 1 copies, from far back, the token whose content the query names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention(32, 4) for _ in range(2))
        with torch.no_grad():
            for layer in self.layers:
                layer.project.q.weight.mul_(0.05)  # vague heads: near uniform over what they see
                layer.output.weight.mul_(0.02)  # that hardly matter
            planted = self.layers[1]
            rows = slice(16, 24)
            planted.project.q.weight[rows] = 6 * torch.eye(32)[:8]
            planted.project.k.weight[rows] = 6 * torch.eye(32)[:8]
            planted.project.v.weight[rows] = torch.eye(32)[8:16]
            planted.output.weight[:, rows] = torch.eye(32)[:, 16:24]

    def forward(self, x: Tensor, gates: Tensor | None) -> Tensor:
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Attention)
            alone = layer(x, mask=Causal()).x if gates is None else None
            x = x + (duo.gated(layer, x, gates[number], sink=2, recent=6) if gates is not None else alone)
        return x


def needles(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences whose last token asks for one of the tokens far back; only the answer counts."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = 0.3 * torch.randn(8, 40, 32, generator=generator)
        x[..., :8] = nn.functional.normalize(torch.randn(8, 40, 8, generator=generator), dim=-1)
        place = torch.randint(4, 30, (8,), generator=generator)
        x[:, -1, :8] = x[torch.arange(8), place, :8]
        counted = torch.zeros(8, 40, dtype=torch.bool)
        counted[:, -1] = True
        yield x, counted


def test_duo_finds_the_one_head_that_looks_far_back() -> None:
    model = Copier().requires_grad_(False)
    gates = duo.learn_gates(model, needles(150), layers=2, kv_heads=4, steps=150)
    assert gates.argmax() == 6
    assert float(gates[1, 2]) > 0.5
    others = gates.flatten()[torch.arange(8) != 6]
    assert float(others.max()) < 0.2
    plan = duo.plan_of(gates, 7 / 8, sink=2, recent=6)
    assert [head.kind for layer in plan.layers for head in layer] == ["stream"] * 6 + ["full", "stream"]


def test_duo_plans_decode_as_they_prefill_and_keep_the_bytes_of_the_formula() -> None:
    plan = Plan(((Head("stream", 2, 4), Head(), Head("stream", 2, 4)),))
    layer = Attention(24, 6, kv_heads=3, position=RoPE(), name="0")
    x = torch.randn(2, 30, 24)
    cache = plan.cache(0)
    decoded = torch.cat([layer(x[:, t : t + 1], mask=Causal(), cache=cache).x for t in range(30)], 1)
    torch.testing.assert_close(decoded, layer(x, mask=Causal(), plan=plan.layers[0]).x, rtol=0, atol=1e-5)
    assert cache.bytes() == 2 * (30 + 2 * (2 + 4)) * 2 * 4 * 4  # batch, tokens by heads, k and v, width, fp32


def test_duo_patterns_are_read_and_ranked(tmp_path: Path) -> None:
    (tmp_path / "full_attention_heads.tsv").write_text("0.9\t0.1\n0.1\t1.0000001\n")
    (tmp_path / "config.json").write_text('{"sink_size": 128, "recent_size": 256}')
    plan = duo.open_duo(tmp_path, 0.25)
    assert plan.layers == ((Head(), Head("stream", 128, 256)), (Head(), Head())), "of equal gates the first streams"
    assert duo.open_duo(tmp_path, 0.5).layers[1][0].kind == "stream"
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        duo.plan_of(torch.tensor([[1.5]]), 0.5)
    with pytest.raises(ValueError, match="sparsity is 2"):
        duo.plan_of(torch.tensor([[0.5]]), 2)
    (tmp_path / "full_attention_heads.tsv").write_text("0.9\tfull\n")
    with pytest.raises(InputError, match="holds no DuoAttention pattern"):
        duo.open_duo(tmp_path, 0.5)
    with pytest.raises(InputError, match="holds no DuoAttention pattern"):
        duo.open_duo(tmp_path / "elsewhere", 0.5)
