"""`zoo bench imdn-x4`: ways to compute the same picture, compared and then timed in turns.

The reference is the network as its authors wrote it: fp32, NCHW, one operator after the other. `ours` is what
`zoo predict` runs. Ways of another precision give a slightly other picture; peers are other networks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.bench import BenchReport, Limits, NotRun, Way, compare
from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError, ZooError, did_you_mean
from zoo_core.nn.graphs import captured
from zoo_core.nn.number_format import number_format
from zoo_core.predict import choose_device
from zoo_core.weights.build import build
from zoo_core.weights.find import find
from zoo_sr import converted
from zoo_sr.backends import Packed, fastest
from zoo_sr.imdn import IMDB, IMDN, SLOPE
from zoo_sr.peers import PEERS, peer
from zoo_sr.stages import Geometry
from zoo_sr.storage import free_memory_bytes
from zoo_sr.tiling import plan, upscale

CONVERTED = ("openvino", "onnxruntime", "inductor")
SIZE = "320x180"
ROUNDS = 7
# Equal: what the order of fp32 sums changes, 1 of 255 on fewer than a thousandth of the bytes.
EQUAL = Limits(most=1, share=1e-3, rms=0.03)
HALF = {"bf16": Limits(most=40, share=1, rms=1.5), "fp16": Limits(most=4, share=0.2, rms=0.3)}
_WHOLE_PIXEL_BYTES = 6000  # a whole-image way: every map of a block and the six that are concatenated at the end, fp32
_MAPS_MOVED = 66  # 9 a block, 12 for head and tail

Image = NDArray[np.uint8]


def bench(
    entry: CatalogEntry,
    *,
    against: Sequence[str] = (),
    size: str | None = None,
    rounds: int | None = None,
    weights: Path | None = None,
    device: str = "auto",
    offline: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Time a model of this package.

    Args:
        entry: a super-resolution model.
        against: of openvino, onnxruntime, inductor, span, span-ch52; default: all that make sense on the device.
        size: of the input, WxH; default 320x180. Ways for which memory does not suffice are left out, so that
            4000x3000 with one round shows what ours takes.
        rounds: how often each way runs in turn; default 7.
        weights: a safetensors file instead of the model's weights.
        device: auto, cpu, cuda.
        offline: ask no network for weights.
        progress: told how many runs are done, of how many.

    Raises:
        UsageError: unknown size, peer or device.
        WeightsError: weights are missing or wrong.
    """
    width, height = _parse(size or SIZE)
    for name in against:
        if name not in (*CONVERTED, *PEERS):
            raise UsageError(f"There is no way {name!r}.", did_you_mean(name, (*CONVERTED, *PEERS)))
    where = choose_device(device)
    found = find(entry, weights=weights, offline=offline)
    module = build(entry, found, device=where, dtype=torch.float32).requires_grad_(requires_grad=False)
    image = picture(height, width)
    made: list[Way] = []
    missing: list[NotRun] = []
    make = _cuda_ways if where.type == "cuda" else _cpu_ways
    for name, build_way in make(module, image, against):
        try:
            made.append(build_way())
        except ZooError as error:
            missing.append(NotRun(name, str(error)))
        except Exception as error:  # another project's converter may fail in any way; the rest is timed
            missing.append(
                NotRun(name, f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}")
            )
    flops = entry.manifest.flops
    pixels = height * width
    moved = 0
    if isinstance(module, IMDN):
        geometry = Geometry.of(module)
        moved = _MAPS_MOVED * geometry.channels * 4 * pixels // geometry.stride**2
    return compare(
        made,
        model=entry.manifest.id,
        size=f"input {width} x {height}",
        device=where,
        rounds=rounds or ROUNDS,
        flops=flops.count * pixels // (flops.at[-1] * flops.at[-2]) if flops else None,
        moved_bytes=moved,
        not_run=missing,
        progress=progress,
    )


def picture(height: int, width: int) -> Image:
    """Return an image (H, W, 3) with the spectrum of photos: amplitude falls with frequency; always the same."""
    noise = np.random.default_rng(0).standard_normal((height, width, 3)).astype(np.float32)
    y, x = np.fft.fftfreq(height)[:, None, None], np.fft.rfftfreq(width)[None, :, None]
    falling = np.fft.rfft2(noise, axes=(0, 1)) / np.hypot(y, x).clip(1 / max(height, width))
    values = np.fft.irfft2(falling, s=(height, width), axes=(0, 1))
    scaled: Image = (127.5 + 50 * values / max(float(values.std()), 1e-6)).clip(0, 255).astype(np.uint8)
    return scaled


def plain_eager(network: nn.Module, x: Tensor) -> Tensor:
    """IMDN as the authors' code computes it, layer by layer; other networks as they are.

    Activations in place, outputs of all blocks concatenated, mean and deviation by sums over one axis, then the other.
    """
    if not isinstance(network, IMDN):
        return cast(Tensor, network(x))
    shallow = network.fea_conv(x)
    h, outputs = shallow, []
    for block in network.blocks():
        h = _plain_block(block, h)
        outputs.append(h)
    mixed = functional.leaky_relu_(network.c[0](torch.cat(outputs, dim=1)), SLOPE)
    return cast(Tensor, network.upsampler(network.LR_conv(mixed) + shallow))


def _plain_block(block: IMDB, x: Tensor) -> Tensor:
    sizes, parts, rest = [block.distilled, block.remaining], [], x
    for layer in (block.c1, block.c2, block.c3):
        kept, rest = torch.split(functional.leaky_relu_(layer(rest), SLOPE), sizes, dim=1)
        parts.append(kept)
    u = torch.cat([*parts, block.c4(rest)], dim=1)
    count = u.shape[2] * u.shape[3]
    mean = u.sum(3, keepdim=True).sum(2, keepdim=True) / count
    deviation = ((u - mean).pow(2).sum(3, keepdim=True).sum(2, keepdim=True) / count).pow(0.5)
    return cast(Tensor, block.c5(u * block.cca.conv_du(mean + deviation))) + x


Made = Iterator[tuple[str, Callable[[], Way]]]


def _cpu_ways(module: nn.Module, image: Image, against: Sequence[str]) -> Made:
    """Yield the name and the maker of every way on CPU, the reference first."""
    x, peak, scale = _tensor(module, image), Geometry.of(module).peak, _factor(module)
    wanted = tuple(against) or (*CONVERTED, "span")

    def eight_bit(output: Any) -> Image:
        return _eight_bit(output, peak)

    def eager() -> Way:
        _enough_memory(image)
        return Way("plain eager", lambda: _no_grad(plain_eager, module, x), eight_bit, EQUAL)

    def other(make: converted.Convert, name: str, limits: Limits, **options: Any) -> Callable[[], Way]:
        def made() -> Way:
            _enough_memory(image)
            run = make(module, x, **options)
            return Way(name, run, eight_bit, limits, precision="bf16" if options else "fp32")

        return made

    def half(make: Callable[[], Way]) -> Callable[[], Way]:
        def made() -> Way:
            if not _multiplies_bf16():
                raise UsageError("This processor has no bf16 arithmetic: it would be slower than fp32.")
            return make()

        return made

    yield "plain eager", eager
    yield "ours", lambda: _sweep("ours", module, image, EQUAL)
    yield "ours bf16", half(lambda: _sweep("ours bf16", copy.deepcopy(module).bfloat16(), image, HALF["bf16"]))
    if "openvino" in wanted:
        yield "openvino", other(converted.openvino, "openvino", EQUAL)
        yield "openvino bf16", half(other(converted.openvino, "openvino bf16", HALF["bf16"], half=True))
    if "onnxruntime" in wanted:
        yield "onnxruntime", other(converted.onnxruntime, "onnxruntime", EQUAL)
    if "inductor" in wanted:
        yield "inductor", other(converted.inductor, "inductor", EQUAL)
        yield "inductor bf16", half(other(converted.inductor, "inductor bf16", HALF["bf16"], half=True))
    for name in wanted:
        if name in PEERS:
            yield name, lambda name=name: _peer(name, scale, image)  # type: ignore[misc]


def _cuda_ways(module: nn.Module, image: Image, against: Sequence[str]) -> Made:
    """Yield the name and the maker of every way on a CUDA device, the reference first; input and output stay there."""
    x, peak = _tensor(module, image), Geometry.of(module).peak
    half = copy.deepcopy(module).half()
    half = half.to(memory_format=torch.channels_last)
    x16 = x.half().contiguous(memory_format=torch.channels_last)

    def eight_bit(output: Tensor) -> Image:
        return _eight_bit(output, peak)

    def exact() -> Tensor:
        with number_format("fp32", benchmark=True):
            return cast(Tensor, _no_grad(plain_eager, module, x))

    def fused() -> Way:
        from zoo_sr.gpu import FusedIMDN

        if not isinstance(module, IMDN):
            raise UsageError("The fused kernels run IMDN alone.")
        engine = FusedIMDN(module, device=x.device)
        engine.plan(x.shape[2], x.shape[3], x.dtype)  # else a graph is captured while the clock runs
        return Way("ours fp16 fused", lambda: engine(x), eight_bit, HALF["fp16"], precision="fp16")

    def graph() -> Way:
        compiled = torch.compile(half, mode="max-autotune-no-cudagraphs")
        recorded, output = captured(lambda: _no_grad(compiled, x16), x16.device, warm_ups=3)

        def replay() -> Any:
            recorded.replay()
            return output

        return Way("compile + graph fp16", replay, eight_bit, HALF["fp16"], precision="fp16")

    yield "plain eager", lambda: Way("plain eager", exact, eight_bit, EQUAL, note="fp32, TF32 off")
    yield "ours fp16 fused", fused
    yield (
        "eager fp16 channels_last",
        lambda: Way("eager fp16 channels_last", lambda: _no_grad(half, x16), eight_bit, HALF["fp16"], precision="fp16"),
    )
    if not against or "inductor" in against:
        yield "compile + graph fp16", graph


def _sweep(name: str, module: nn.Module, image: Image, limits: Limits) -> Way:
    """The way of `zoo predict`: tiles as memory allows, 8 bits in and out."""
    stages = fastest(module) if isinstance(module, IMDN) else None
    half = next(module.parameters()).dtype == torch.bfloat16
    tiles = plan(module, *image.shape[:2]).tiles
    notes = [f"{type(stages).__name__.lower()} stages, {tiles} tile{'s' if tiles > 1 else ''}"] if stages else []
    if isinstance(stages, Packed):
        notes.append("the default")
    return Way(
        name,
        lambda: upscale(module, image, stages=stages).image,
        lambda output: cast(Image, output),
        limits,
        precision="bf16" if half else "fp32",
        note=", ".join(notes),
    )


def _peer(name: str, scale: int, image: Image) -> Way:
    network = peer(name, scale, threads=torch.get_num_threads())
    return Way(
        name, lambda: network(image), lambda output: cast(Image, output), None, note="another network: SPAN, ncnn"
    )


def _no_grad(run: Callable[..., Any], *given: Any) -> Any:
    with torch.no_grad():
        return run(*given)


def _tensor(module: nn.Module, image: Image) -> Tensor:
    """Return the image as (1, 3, H, W) in the network's range, on its device."""
    values = torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255 / Geometry.of(module).peak)
    return values.contiguous().to(next(module.parameters()).device)


def _eight_bit(output: Any, peak: float) -> Image:
    """Return an output (1, 3, H, W) as pixels (H, W, 3)."""
    values = torch.as_tensor(output)[0].float() * (255 / peak)
    pixels: Image = values.clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels


def _factor(module: nn.Module) -> int:
    geometry = Geometry.of(module)
    return geometry.spread // geometry.stride


def _multiplies_bf16() -> bool:
    """Whether the processor has instructions for bf16; without them libraries widen every number first."""
    try:
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True  # unknown: then the times say it
    return any(flag in known for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def _enough_memory(image: Image) -> None:
    """Refuse a way that holds all maps of the whole image at a time where they do not fit."""
    needed_bytes = image.shape[0] * image.shape[1] * _WHOLE_PIXEL_BYTES
    if needed_bytes > 0.8 * free_memory_bytes(torch.device("cpu")):
        raise UsageError(
            f"It would take about {needed_bytes / 2**30:.0f} GiB for the whole image.", "Ours goes by tiles."
        )


def _parse(size: str) -> tuple[int, int]:
    """Return width and height of a size such as 320x180."""
    width, cross, height = size.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"{size!r} is no size.", "Write width x height, such as 320x180.")
    return int(width), int(height)
