"""HTR-JAND: its sizes and names, its formulas against plain ones, and that no line sees its batch mates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo_core.catalog import find
from zoo_core.weights.build import construct
from zoo_htr.htr_jand import (
    HTRJAND,
    FullGatedConv2d,
    MaskedBatchNorm2d,
    ProximaAttention,
    SelfAttention,
    Shortcut,
    frame_counts,
)

ALPHABET = ("", *"abcdefgh ")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(**changes: object) -> HTRJAND:
    torch.manual_seed(0)
    config = {"channels": (8, 8, 8, 8, 8, 8), "width": 16, "heads": 2, "feed_forward": 16, "blocks": 2, **changes}
    return shaken(HTRJAND(ALPHABET, **config))  # type: ignore[arg-type]


def shaken(network: HTRJAND) -> HTRJAND:
    """Give a fresh network the state of a trained one: shifts, biases and statistics that make padding non-zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                noise = 0.3 * torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor * noise.exp() if name.endswith("running_var") else tensor + noise)
        network.head.weight.mul_(2)
    return network


def lines(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 64, width, generator=torch.Generator().manual_seed(seed))


def log_probs(network: nn.Module, batch: Tensor, widths: list[int]) -> list[Tensor]:
    with torch.inference_mode():
        logits, lengths = network(batch, torch.tensor(widths))
    return [row[:n].log_softmax(1) for row, n in zip(logits, lengths, strict=True)]


# -- sizes and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "parameters"), [("htr-jand-teacher", 1_464_640), ("htr-jand-student", 752_146)])
def test_the_networks_have_as_many_parameters_as_the_reconstruction_counts(model: str, parameters: int) -> None:
    with torch.device("meta"):
        network = construct(find(model))
    assert len(network.alphabet) == 140
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_names_in_the_state_dict_are_frozen() -> None:
    """Published weights are read by these names for good."""
    affine, normal = ("weight", "bias"), ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"proj": affine, "proj_norm": affine, "norm": affine, "head": affine}
    for i in range(6):
        names |= {f"stages.{i}.conv": ("weight",), f"stages.{i}.bn": normal, f"stages.{i}.act": ("weight",)}
    for i in range(5):
        names |= {f"stages.{i}.{part}": affine for part in ("gate.conv", "se.fc1", "se.fc2")}
    for k in range(3):
        parts = ("norm1", "mhsa.qkv", "mhsa.out", "proxima.qkv", "proxima.out", "fuse", "norm2", "ff1", "ff2")
        names |= {f"blocks.{k}.{part}": affine for part in parts}
        names |= {f"blocks.{k}.proxima": ("rho", "mu", "gain")}
    with torch.device("meta"):
        state = construct(find("htr-jand-teacher")).state_dict()
    assert set(state) == {f"{module}.{name}" for module, own in names.items() for name in own}
    assert state["stages.3.gate.conv.weight"].shape == (128, 64, 3, 3)
    assert state["proj.weight"].shape == (160, 384)
    assert state["blocks.2.fuse.weight"].shape == (160, 320)


@pytest.mark.parametrize(("branches", "less"), [("mhsa", "proxima"), ("proxima", "mhsa")])
def test_an_ablation_has_one_attention_and_no_gate(branches: str, less: str) -> None:
    network = tiny(branches=branches).eval()
    assert not [name for name in network.state_dict() if less in name or "fuse" in name]
    assert log_probs(network, lines(1, 40), [40])[0].isfinite().all()


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 63, 64, 65])
def test_frames_are_the_columns_halved_twice_and_rounded_up(width: int) -> None:
    logits, lengths = tiny().eval()(lines(1, width))
    assert logits.shape == (1, math.ceil(math.ceil(width / 2) / 2), len(ALPHABET))
    assert lengths.tolist() == [logits.shape[1]] == frame_counts(torch.tensor([width])).tolist()


def test_the_projection_reads_channel_after_channel() -> None:
    """Feature 4 c + h is row h of channel c."""
    network = tiny().eval()
    seen: list[Tensor] = []
    network.stages[5].register_forward_hook(lambda _m, _i, out: seen.append(out))
    features, _ = network.encode(lines(1, 24))
    for c, h in ((0, 0), (1, 0), (0, 1), (7, 3)):
        assert torch.equal(features[0, :, 4 * c + h], seen[0][0, c, h])


# -- formulas ----------------------------------------------------------------------------------------------------------


def test_the_linear_half_of_a_gate_comes_first() -> None:
    gate = FullGatedConv2d(4)
    x = torch.randn(2, 4, 5, 6)
    z = gate.conv(x)
    assert torch.allclose(gate(x), z[:, :4] / (1 + (-z[:, 4:]).exp()), atol=1e-6)
    fresh = HTRJAND(ALPHABET, channels=(8,) * 6, width=16, heads=2, feed_forward=16, blocks=1)
    assert fresh.stages[0].gate.conv.bias.tolist() == [0.0] * 8 + [1.0] * 8


@torch.no_grad()
def plainly(attention: SelfAttention, y: Tensor) -> Tensor:
    """One line (T, d) by the formula, frame by frame, in float64."""
    heads = attention.heads
    q, k, v = (part.double() for part in (y @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=1))
    d = q.shape[1] // heads
    rows = []
    for i in range(len(y)):
        parts = []
        for h in range(heads):
            own = slice(h * d, (h + 1) * d)
            logits = k[:, own] @ q[i, own] / math.sqrt(d)
            if isinstance(attention, ProximaAttention):
                decay = math.log1p(math.exp(float(attention.rho[h])))
                away = [abs(j - i - float(attention.mu[h])) for j in range(len(y))]
                logits = float(attention.gain[h]) * logits - decay * torch.tensor(away, dtype=torch.float64)
            parts.append(logits.softmax(0) @ v[:, own])
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ attention.out.weight.double().T + attention.out.bias.double()


@pytest.mark.parametrize("kind", [SelfAttention, ProximaAttention])
def test_attention_is_the_formula(kind: type[SelfAttention]) -> None:
    torch.manual_seed(3)
    attention = kind(12, 3)
    if isinstance(attention, ProximaAttention):
        with torch.no_grad():
            attention.mu.copy_(torch.tensor([0.0, 1.5, -2.0]))
            attention.gain.copy_(torch.tensor([1.0, 0.5, 2.0]))
    y = torch.randn(9, 12)
    assert torch.allclose(attention(y[None], None)[0].double(), plainly(attention, y), atol=1e-6)


def test_proxima_begins_with_weights_that_halve_within_frames() -> None:
    attention = ProximaAttention(16, 4)
    decays = nn.functional.softplus(attention.rho)
    assert torch.allclose(decays, torch.tensor([0.5, 0.25, 0.125, 0.0625]), atol=1e-6)
    assert (math.log(2) / decays.detach()).tolist() == pytest.approx([1.386, 2.773, 5.545, 11.09], rel=1e-3)
    attention(torch.randn(1, 5, 16), None).square().sum().backward()
    for learnt in (attention.rho, attention.mu, attention.gain):
        assert learnt.grad is not None
        assert (learnt.grad != 0).all()


def test_batch_statistics_are_those_of_the_valid_columns() -> None:
    ours, theirs = MaskedBatchNorm2d(3, eps=1e-3, momentum=0.1), nn.BatchNorm2d(3, eps=1e-3, momentum=0.1)
    x = torch.randn(2, 3, 4, 9)
    mask = torch.ones(2, 1, 1, 9)
    mask[0, ..., 5:] = 0
    x[0, ..., 5:] = 1e4
    # the valid columns alone, as one long line
    packed = torch.cat([x[0, ..., :5], x[1]], dim=2)[None]
    expected = theirs(packed)[0]
    output = ours(x, mask)
    assert torch.allclose(torch.cat([output[0, ..., :5], output[1]], dim=2), expected, atol=1e-5)
    assert torch.allclose(ours.running_mean, theirs.running_mean, atol=1e-6)
    assert torch.allclose(ours.running_var, theirs.running_var, atol=1e-6)
    assert ours.num_batches_tracked == 1
    ours.frozen = True
    before = ours.running_mean.clone()
    assert torch.equal(ours(x, mask), ours.eval()(x))
    assert torch.equal(ours.running_mean, before)


# -- no line sees its batch mates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["htr-jand-teacher", "htr-jand-student", "tiny"])
def test_a_line_alone_is_the_line_in_a_batch_with_garbage_in_its_padding(model: str) -> None:
    torch.manual_seed(0)
    network = (tiny() if model == "tiny" else shaken(construct(find(model)))).eval()  # type: ignore[arg-type]
    widths = [1, 37, 150, 64, 201]
    batch = lines(5, 203)
    alone = [log_probs(network, batch[i : i + 1, ..., :n], [n])[0] for i, n in enumerate(widths)]
    for garbage in (0.0, 50.0, 1e30, math.inf, math.nan):
        for i, n in enumerate(widths):
            batch[i, ..., n:] = garbage
        for own, beside in zip(alone, log_probs(network, batch, widths), strict=True):
            assert (own - beside).abs().max() < 1e-5
            assert torch.equal(own.argmax(1), beside.argmax(1))


def test_neither_place_nor_order_in_a_batch_matters() -> None:
    network = tiny().eval()
    batch, widths = lines(6, 120), [120, 33, 58, 90, 7, 64]
    straight = log_probs(network, batch, widths)
    order = [4, 2, 0, 5, 1, 3]
    for place, output in zip(order, log_probs(network, batch[order], [widths[i] for i in order]), strict=True):
        assert (output - straight[place]).abs().max() < 1e-5
    repeated = log_probs(network, batch[1:2].expand(5, -1, -1, -1), [33] * 5)
    assert all((output - straight[1]).abs().max() < 1e-5 for output in repeated)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 60), more=st.integers(0, 4))
def test_blank_columns_beyond_a_line_do_not_matter(n: int, more: int) -> None:
    network = tiny().eval()
    line = lines(1, n, seed=n)
    wider = nn.functional.pad(line, (0, more), value=3.0)
    assert (log_probs(network, line, [n])[0] - log_probs(network, wider, [n])[0]).abs().max() < 1e-5


def test_gradients_of_a_line_do_not_reach_into_padding_or_batch_mates() -> None:
    network = tiny().eval()
    batch = lines(2, 80).requires_grad_()
    logits, lengths = network(batch, torch.tensor([50, 80]))
    logits[0, : lengths[0]].square().sum().backward()
    assert batch.grad is not None
    assert batch.grad[0, ..., :50].abs().sum() > 0
    assert not batch.grad[0, ..., 50:].any()
    assert not batch.grad[1].any()


def test_training_statistics_do_not_depend_on_the_padding() -> None:
    """One batch in a narrow and in a wide canvas moves the running statistics alike."""
    narrow, wide = tiny().train(), tiny().train()
    for module in (*narrow.modules(), *wide.modules()):
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    batch, widths = lines(3, 60), torch.tensor([60, 41, 12])
    one = narrow(batch, widths).logits
    other = wide(nn.functional.pad(batch, (0, 68), value=9.0), widths).logits
    assert (one - other[:, : one.shape[1]])[0].abs().max() < 1e-4
    for name, tensor in narrow.state_dict().items():
        assert torch.allclose(tensor, wide.state_dict()[name], atol=1e-5), name


def test_a_line_without_columns_gives_no_frames_and_hurts_nobody() -> None:
    network = tiny().eval()
    logits, lengths = network(lines(2, 40), torch.tensor([0, 40]))
    assert lengths.tolist() == [0, 10]
    assert logits.isfinite().all()


# -- beside the network ------------------------------------------------------------------------------------------------


def test_the_training_head_is_no_part_of_the_network() -> None:
    network = tiny()
    shortcut = Shortcut(network.feature_width, len(network.alphabet))
    features, _ = network.encode(lines(2, 50))
    assert shortcut(features).shape == (2, 13, len(ALPHABET))
    assert not [name for name in network.state_dict() if "shortcut" in name]


@pytest.mark.parametrize("wrong", [{"channels": (8,) * 5}, {"heads": 3}, {"height": 60}, {"branches": "all"}])
def test_a_config_that_fits_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        tiny(**wrong)


def test_a_compiler_sees_the_whole_network_and_one_graph_does_for_all_widths() -> None:
    network = tiny().eval()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    for width in (40, 52, 64, 80):
        batch, widths = lines(2, width), torch.tensor([width, width // 2])
        with torch.inference_mode(), torch.compiler.set_stance(stance_for(width)):
            assert (compiled(batch, widths).logits - network(batch, widths).logits).abs().max() < 1e-5


def stance_for(width: int) -> str:
    """The first width is compiled as it is, the second for any width; after that nothing may be compiled again."""
    return "default" if width <= 52 else "fail_on_recompile"
