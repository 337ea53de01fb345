"""Every kernel agrees with its formula in float64: on CUDA for real, elsewhere through Triton's interpreter.

conftest.py at the root of the repository turns the interpreter on.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.kernels import conv3x3 as conv
from zoo_core.kernels.conv3x3 import reference as conv_reference
from zoo_core.kernels.maps import check_map, interior, new_maps
from zoo_core.kernels.pointwise import reference as point_reference
from zoo_core.nn.contrast import ContrastAwareAttention, channel_statistics

pytest.importorskip("triton", reason="Triton is not installed: only the references can run here")
from zoo_core.kernels.conv3x3 import triton as conv_kernel
from zoo_core.kernels.pointwise import triton as point_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(1, 1), (3, 7), (9, 33), (6, 65)]  # one pixel; rows not in fours; more and less than a tile of 64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def maps(count: int, height: int, width: int, channels: int, offset: float = 0.0) -> Tensor:
    stack = new_maps(count, height, width, channels, dtype=torch.float16, device=DEVICE)
    interior(stack).copy_(torch.randn(count, height, width, channels) + offset)
    return stack


def poisoned(height: int, width: int, channels: int) -> Tensor:
    """A map whose every pixel must be written: NaN inside, zero border."""
    out = new_maps(1, height, width, channels, dtype=torch.float16, device=DEVICE)[0]
    interior(out).fill_(float("nan"))
    return out


def weights(*shape: int) -> Tensor:
    fan_in = shape[-2] * (9 if len(shape) == 4 else 1)
    return (torch.randn(shape) / fan_in**0.5).to(DEVICE, torch.float16)


def assert_near(out: Tensor, truth: Tensor, tolerance: float) -> None:
    error = (out.double() - truth).norm() / truth.norm()
    assert error < tolerance, f"relative error {error:.1e}"


def assert_border_zero(out: Tensor) -> None:
    border = out.clone()
    interior(border).zero_()
    assert not border.any(), "the border must stay zero: the next convolution reads it"


TILES = [
    conv_kernel.Tile(),
    conv_kernel.Tile(rows=2, stages=2),
    conv_kernel.Tile(rows=1, columns=128),
]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_conv3x3_of_a_channel_slice_split_into_two_maps(height: int, width: int, tile: conv_kernel.Tile) -> None:
    source, weight, bias = (
        maps(1, height, width, 64)[0][..., 16:],
        weights(3, 3, 48, 64),
        torch.randn(64, device=DEVICE),
    )
    u, rest = poisoned(height, width, 64), poisoned(height, width, 48)
    conv_kernel.conv3x3(source, weight, bias, u[..., 16:32], rest, None, 0.05, None, tile=tile)
    truth = functional.conv2d(
        interior(source).permute(2, 0, 1)[None].double(), weight.permute(3, 2, 0, 1).double(), bias.double(), padding=1
    )
    truth = functional.leaky_relu(truth, 0.05)[0].permute(1, 2, 0)
    assert_near(torch.cat([interior(u)[..., 16:32], interior(rest)], -1), truth, 4e-4)  # one rounding to fp16: 2e-4
    assert interior(u)[..., :16].isnan().all(), "other channels of the map belong to others"
    assert interior(u)[..., 32:].isnan().all()
    assert_border_zero(rest)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_conv3x3_adds_the_residual_after_the_activation(height: int, width: int) -> None:
    source, weight, bias = maps(1, height, width, 16)[0], weights(3, 3, 16, 64), torch.randn(64, device=DEVICE)
    residual, out, truth = (
        maps(1, height, width, 64)[0],
        poisoned(height, width, 64),
        poisoned(height, width, 64).double(),
    )
    conv_kernel.conv3x3(source, weight, bias, out, None, residual, 0.05, None)
    conv_reference.conv3x3(source.double(), weight.double(), bias.double(), truth, None, residual.double(), 0.05, None)
    assert_near(interior(out), interior(truth), 4e-4)
    assert_border_zero(out)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), SIZES[:3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8], ids=str)
def test_conv3x3_shuffle_is_a_convolution_and_pixel_shuffle(
    height: int, width: int, scale: int, dtype: torch.dtype
) -> None:
    source, weight, bias = maps(1, height, width, 64)[0], weights(3 * scale**2, 3, 3, 64), torch.rand(3 * scale**2)
    weight = weight.permute(0, 3, 1, 2).cpu() * 0.2
    packed, packed_bias = conv.pack_shuffle(weight, bias, scale)
    image = torch.full((3, scale * height, scale * width), 77, dtype=dtype, device=DEVICE)
    conv_kernel.conv3x3_shuffle(source, packed.to(DEVICE), packed_bias.to(DEVICE), image, scale)
    truth = functional.conv2d(
        interior(source).permute(2, 0, 1)[None].cpu().double(), weight.double(), bias.double(), padding=1
    )
    truth = functional.pixel_shuffle(truth, scale)[0]
    if dtype == torch.uint8:
        assert ((image.cpu() - (truth * 255).clamp(0, 255)).abs() <= 0.501).all()
    else:
        assert_near(image.cpu(), truth, 4e-4)


@pytest.mark.parametrize(("height", "width"), [*SIZES, (70, 75)])  # the last: more programs than one neighbourhood
@pytest.mark.parametrize("offset", [0.0, 30.0], ids=["centred", "mean 30 times the deviation"])
def test_gates_from_statistics_of_all_pixels(height: int, width: int, offset: float) -> None:
    """An offset of 30 deviations would cost E[u^2] - E[u]^2 three digits; and only pixels of the image may count."""
    source = maps(1, height, width, 16)[0]
    layers = [
        (weights(3, 3, 16, 32), torch.randn(32, device=DEVICE) + offset),
        (weights(3, 3, 16, 16), torch.randn(16, device=DEVICE)),
    ]
    attention = [torch.randn(s, device=DEVICE) / 8 for s in ((4, 32), (4,), (32, 4), (32,))]
    attention[0] /= 1 + offset
    gates, scratch = [], conv.new_scratch(height, width, 32, DEVICE)
    scratch[0].fill_(float("nan"))
    for _ in range(2):  # the second call finds the tickets as the first one left them
        u, rest, gate = (
            poisoned(height, width, 32),
            poisoned(height, width, 16),
            torch.full((32,), float("nan"), device=DEVICE),
        )
        conv_kernel.conv3x3(source, *layers[0], u[..., :16], rest, None, 0.05, scratch[0][..., :16])
        conv_kernel.conv3x3_gate(source, *layers[1], u[..., 16:], *attention, gate, *scratch)
        gates.append(gate)
    image = interior(source).permute(2, 0, 1)[None].double()
    y1, y2 = (functional.conv2d(image, w.permute(3, 2, 0, 1).double(), b.double(), padding=1)[0] for w, b in layers)
    values = torch.cat([functional.leaky_relu(y1, 0.05)[:16], y2]).flatten(1)
    pooled = values.mean(1) + values.std(1, correction=0)
    w1, b1, w2, b2 = (t.double() for t in attention)
    truth = torch.sigmoid(w2 @ torch.relu(w1 @ pooled + b1) + b2)
    assert_near(gates[0], truth, 2e-6)
    assert torch.equal(gates[0], gates[1]), "the same input must give the same bits"
    assert_near(interior(u)[..., 16:].permute(2, 0, 1), y2, 4e-4)


def test_reference_gates_equal_the_attention_module() -> None:
    height, width = 11, 80
    module = ContrastAwareAttention(32, reduction=8).double()
    source = new_maps(1, height, width, 16, dtype=torch.float64, device="cpu")[0]
    interior(source).normal_()
    u, rest = new_maps(2, height, width, 32, dtype=torch.float64, device="cpu")
    layers = [(torch.randn(3, 3, 16, n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)) for n in (32, 16)]
    scratch = conv.new_scratch(height, width, 32, "cpu", torch.float64)
    gate = torch.zeros(32, dtype=torch.float64)
    conv.conv3x3(source, *layers[0], u[..., :16], rest=rest[..., :16], slope=0.05, moments=scratch[0][..., :16])
    narrow, wide = module.conv_du[0], module.conv_du[2]
    attention = (
        narrow.weight[:, :, 0, 0].detach(),
        narrow.bias.detach(),
        wide.weight[:, :, 0, 0].detach(),
        wide.bias.detach(),
    )
    conv.conv3x3_gate(source, *layers[1], u[..., 16:], attention, gate, scratch)
    truth = module.gate(*channel_statistics(interior(u).permute(2, 0, 1)[None]))
    torch.testing.assert_close(gate, truth[0].detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("count", [1, 3], ids=["one map", "three maps"])
def test_pointwise_gate_and_residual(height: int, width: int, count: int) -> None:
    sources, weight, bias = maps(count, height, width, 64), weights(64 * count, 64), torch.randn(64, device=DEVICE)
    gate, residual, out = (
        torch.rand(64 * count, device=DEVICE),
        maps(1, height, width, 64)[0],
        poisoned(height, width, 64),
    )
    truth = out.double()
    point_kernel.pointwise(sources, weight, bias, out, gate, residual, 0.05)
    point_reference.pointwise(
        sources.double(), weight.double(), bias.double(), truth, gate.double(), residual.double(), 0.05
    )
    assert_near(interior(out), interior(truth), 5e-4)  # the gated weight is rounded once more
    assert_border_zero(out)


def test_operators_are_known_to_torch_library() -> None:
    """torch.compile and export must see what an operator writes: PyTorch itself checks schema and fake kernel."""
    a, b = new_maps(2, 3, 4, 16, dtype=torch.float32, device="cpu")
    checks = ("test_schema", "test_faketensor")
    args = (a, torch.randn(3, 3, 16, 16), torch.randn(16), b, None, None, 0.05, None)
    torch.library.opcheck(torch.ops.zoo.conv3x3.default, args, test_utils=checks)
    image = torch.zeros(3, 6, 8)
    torch.library.opcheck(
        torch.ops.zoo.conv3x3_shuffle.default,
        (a, torch.randn(3, 3, 16, 16), torch.randn(16), image, 2),
        test_utils=checks,
    )
    attention = (torch.randn(4, 32), torch.randn(4), torch.randn(32, 4), torch.randn(32))
    gated = (
        a,
        torch.randn(3, 3, 16, 16),
        torch.randn(16),
        b,
        *attention,
        torch.zeros(32),
        *conv.new_scratch(3, 4, 32, "cpu"),
    )
    torch.library.opcheck(torch.ops.zoo.conv3x3_gate.default, gated, test_utils=checks)
    args1 = (a[None], torch.randn(16, 16), torch.randn(16), b, torch.rand(16), None, 1.0)
    torch.library.opcheck(torch.ops.zoo.pointwise.default, args1, test_utils=checks)


def test_compile_keeps_the_writes() -> None:
    def run(source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch.zeros(8, 6, 16)
        conv.conv3x3(source, weight, bias, out, slope=0.05)
        return out * 2

    source = new_maps(1, 3, 4, 16, dtype=torch.float32, device="cpu")[0]
    interior(source).normal_()
    args = source, torch.randn(3, 3, 16, 16), torch.randn(16)
    torch.testing.assert_close(torch.compile(run, backend="aot_eager", fullgraph=True)(*args), run(*args))


def test_maps_that_kernels_cannot_address_are_refused() -> None:
    u = new_maps(1, 3, 4, 64, dtype=torch.float16, device="cpu")[0]
    check_map("u", u[..., 16:32], 16)
    with pytest.raises(ValueError, match="channel-last"):
        check_map("u", u.transpose(0, 1))
    with pytest.raises(ValueError, match="16 channels, expected 48"):
        check_map("u", u[..., 16:32], 48)
    with pytest.raises(ValueError, match="tiles"):
        check_map("u", torch.empty(2**13, 2**13, 64, device="meta"))
    weight = torch.zeros(3, 3, 64, 24, dtype=torch.float16)  # 24 is no power of 2
    with pytest.raises(ValueError, match="not packed"):
        conv_kernel.conv3x3(u, weight, torch.zeros(24), u[..., :24], None, None, 1.0, None)
    with pytest.raises(ValueError, match="not packed"):
        point_kernel.pointwise(u[None], torch.zeros(64, 64), torch.zeros(64), u, None, None, 1.0)
