"""Time IMDN x4 on a CUDA device: plain eager fp32, torch.compile with a CUDA graph in fp16, and the fused engine.

Outputs are compared with float64 before any time is printed; all ways run in turns in one process, timed with events;
medians and ratios of pairs. Then every kernel of the engine in its place in the graph: time, TFLOP/s, and distance to
the floor (the larger of operations over 790 TFLOP/s and bytes over 4.2 TB/s, each input read once and each output
written once; rates measured on an H200).

    python tools/bench_gpu_imdn.py [--weights FILE.safetensors] [--image FILE.npy] [--no-compile] [--json FILE]

Needs the packages importable (PYTHONPATH=shared/zoo-core/src:packages/zoo-sr/src where they are not installed).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import triton
from safetensors.torch import load_file
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from zoo_core.nn.graphs import captured
from zoo_sr.gpu import FusedIMDN
from zoo_sr.imdn import IMDN

SIZES = ((180, 320), (270, 480))
ODD_SIZES = ((37, 53),)  # checked, not timed
PEAK_TFLOPS, PEAK_TBYTES = 790.0, 4.2
ROUNDS = 60


@dataclass(frozen=True)
class Layer:
    """One launch of the engine: what it must compute and move, per pixel of the small image, with fp16 maps."""

    name: str
    macs: int
    bytes: int


def layers(*, blocks: int = 6) -> list[Layer]:
    """Return the launches in their order: fp16 maps, each input read once, each output written once."""
    block = [
        Layer("c1 3x3 64->64", 9 * 64 * 64, 128 + 128),
        Layer("c2 3x3 48->64", 9 * 48 * 64, 96 + 128),
        Layer("c3 3x3 48->64", 9 * 48 * 64, 96 + 128),
        Layer("c4 3x3 48->16 + gate", 9 * 48 * 16, 96 + 32 + 96),
        Layer("c5 1x1 64->64 + residual", 64 * 64, 128 + 128 + 128),
    ]
    head = [Layer("input to map", 0, 6 + 32), Layer("fea_conv 3x3 3->64", 9 * 3 * 64, 32 + 128)]
    tail = [
        Layer("c 1x1 384->64", 384 * 64, blocks * 128 + 128),
        Layer("LR_conv 3x3 64->64 + residual", 9 * 64 * 64, 128 * 3),
        Layer("upsampler 3x3 64->48 + shuffle", 9 * 64 * 48, 128 + 96),
    ]
    return head + block * blocks + tail


def milliseconds(run: Callable[[], object]) -> float:
    """Time one call by events."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def errors(out: Tensor, truth: Tensor) -> dict[str, float]:
    """Return rms of 255, and the share of bytes that differ, against the float64 output."""
    exact = (truth * 255).clamp(0, 255).round()
    if out.dtype == torch.uint8:
        ours = out.double()
        return {
            "rms_of_255": (ours - exact).square().mean().sqrt().item(),
            "bytes_differ": (ours != exact).double().mean().item(),
        }
    ours = (out.double() * 255).clamp(0, 255).round()
    rms = (out.double() - truth).square().mean().sqrt().item() * 255
    return {"rms_of_255": rms, "bytes_differ": (ours != exact).double().mean().item()}


def kernels(replay: Callable[[], object], pixels: int, replays: int = 10) -> list[dict[str, float | str]]:
    """Profile every launch in its place in the graph: median microseconds, gap before it, rate, times its floor."""
    with profile(activities=[ProfilerActivity.CUDA]) as run:
        for _ in range(replays):
            replay()
        torch.cuda.synchronize()
    on_device = [e for e in run.events() if e.device_type == DeviceType.CUDA]
    spans = sorted((e.time_range.start, e.time_range.end) for e in on_device)
    wanted = layers()
    if len(spans) != replays * len(wanted):
        return [{"name": f"profiler saw {len(spans)} launches, expected {replays} x {len(wanted)}"}]
    rows: list[dict[str, float | str]] = []
    for i, layer in enumerate(wanted):
        times = [spans[r * len(wanted) + i] for r in range(replays)]
        gaps = [spans[r * len(wanted) + i][0] - spans[r * len(wanted) + i - 1][1] for r in range(1, replays)]
        us = statistics.median(end - start for start, end in times)
        flops, moved = 2 * layer.macs * pixels, layer.bytes * pixels
        floor = max(flops / PEAK_TFLOPS, moved / PEAK_TBYTES) * 1e-6
        rows.append(
            {
                "name": layer.name, "us": us, "gap_us": statistics.median(gaps), "tflops": flops / us * 1e-6,
                "floor_us": floor, "times_floor": us / floor,
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Run checks, then timings; print a table; write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="safetensors of IMDN x4; default: random")
    parser.add_argument("--image", type=Path, help="npy, (H, W, 3) uint8, at least 270 x 480; default: noise")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it takes a minute)")
    parser.add_argument("--json", type=Path, default=Path(os.environ.get("OUT", ".")) / "bench_gpu_imdn.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    plain = IMDN(4).eval().requires_grad_(False)
    if args.weights:
        plain.load_state_dict(load_file(args.weights))
    plain = plain.cuda()
    picture = np.load(args.image) if args.image else np.random.default_rng(0).integers(0, 256, (270, 480, 3), np.uint8)
    picture_chw = torch.from_numpy(picture).permute(2, 0, 1)[None].cuda()
    exact = IMDN(4).eval().requires_grad_(False).cuda().double()
    exact.load_state_dict(plain.state_dict())
    engine = FusedIMDN(plain, sizes=8)
    half = IMDN(4).eval().requires_grad_(False).cuda()
    half.load_state_dict(plain.state_dict())
    half = half.half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"
    record: dict[str, object] = {
        "device": device,
        "weights": args.weights.name if args.weights else "random",
        "sizes": [],
    }
    print(device)
    for height, width in ODD_SIZES:
        x = picture_chw[:, :, :height, :width].float() / 255
        print(f"{width}x{height}: {errors(engine(x), exact(x.double()))}")
    for height, width in SIZES:
        x = picture_chw[:, :, :height, :width].contiguous()
        real, truth = x.float() / 255, exact(x.double() / 255)
        ways: dict[str, tuple[Callable[[], object], Callable[[], Tensor]]] = {}
        ways["eager fp32, TF32 off"] = (lambda real=real: plain(real), lambda real=real: plain(real))  # type: ignore[misc]
        if not args.no_compile:
            compiled = torch.compile(half, dynamic=False)
            source = real.half().to(memory_format=torch.channels_last)
            graph, result = captured(lambda c=compiled, s=source: c(s), source.device, warm_ups=3)  # type: ignore[misc]
            ways["compile + graph fp16"] = (graph.replay, lambda g=graph, r=result: (g.replay(), r)[1])  # type: ignore[misc]
        for name, output, given in (
            ("fused fp16", torch.float16, real.half()),
            ("fused fp16, bytes in and out", torch.uint8, x),
        ):
            fused = FusedIMDN(plain, output=output)
            fused(given)
            ways[name] = (fused.plan(height, width, given.dtype)[1], lambda f=fused, g=given: f(g))  # type: ignore[misc]
        row: dict[str, object] = {"lr": f"{width}x{height}", "ways": {}, "kernels": []}
        seen = {name: errors(call(), truth) for name, (_, call) in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS + 5):
            for name, (run, _) in ways.items():
                times[name].append(milliseconds(run))
        base = times["eager fp32, TF32 off"][5:]
        print(
            f"LR {width}x{height}: way, median ms (min..max), paired speed against eager fp32,"
            " rms of 255, bytes that differ"
        )
        for name, all_times in times.items():
            used = all_times[5:]
            ratio = statistics.median(b / t for b, t in zip(base, used, strict=True))
            row["ways"][name] = {
                "ms": statistics.median(used),
                "min": min(used),
                "max": max(used),
                "speed": ratio,
                **seen[name],
            }  # type: ignore[index]
            error = seen[name]
            print(
                f"  {name:30} {statistics.median(used):7.3f} ({min(used):.3f}..{max(used):.3f})  x{ratio:5.2f}"
                f"  {error['rms_of_255']:.4f}  {error['bytes_differ']:.3%}"
            )
        first = FusedIMDN(plain)
        given = real.half()
        results = [first(given).clone() for _ in range(3)]
        print(f"  same bits in three runs: {all(torch.equal(results[0], r) for r in results)}")
        row["kernels"] = kernels(first.plan(height, width, given.dtype)[1], height * width)
        record["sizes"].append(row)  # type: ignore[attr-defined]
        for k in row["kernels"]:  # type: ignore[attr-defined]
            print("   ", " ".join(f"{v:.2f}" if isinstance(v, float) else f"{v:32}" for v in k.values()))
    record["layers"] = [asdict(layer) for layer in layers()]
    args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
