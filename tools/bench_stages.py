"""Time the stages between two gates of IMDN x4 in plain PyTorch, in `Packed`, and in OpenVINO.

    uv run --with openvino tools/bench_stages.py [--rounds N] [--out models/imdn-x4/bench-cpu-stages.json]

Tiles need the network cut at its gates. An engine that is faster on a whole image may lose that where it must hand its
maps over after every stage, and this shows by how much. OpenVINO gets what suits it best: sizes fixed when it compiles,
channels last at its borders as the sweep has them, memory shared instead of copied. Compared first, timed in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.bench import Limits, Way, compare
from zoo_core.catalog import find
from zoo_core.weights.build import build
from zoo_core.weights.find import find as find_weights
from zoo_sr.backends import Packed
from zoo_sr.imdn import IMDN
from zoo_sr.stages import Stages

HEIGHT, WIDTH, BLOCK = 180, 320, 2
EQUAL = Limits(most=1e-3, share=1, rms=1e-4)


class Parts(nn.Module):
    """A block up to its gate."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.block = stages.blocks[BLOCK]

    def forward(self, h: Tensor) -> Tensor:
        """(1, C, H, W) -> u."""
        return self.block.parts(h)


class Rest(nn.Module):
    """A block behind its gate: h of the next one, and the sum over blocks."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, u: Tensor, gate: Tensor, h: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """(1, C, H, W), (C,), (1, C, H, W) twice -> two maps."""
        # the gate at the map, not at the weight: OpenVINO arranges weights when it compiles, and is slow without
        closed = self.stages.blocks[BLOCK].c5(u * gate[:, None, None]) + h
        return closed, self.stages.mix(BLOCK, closed, mixed)


def in_openvino(module: nn.Module, given: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> Callable[[], None]:
    """Compile a module that computes `made` from `given`, in the tensors' own memory; return what runs it."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about branches on sizes, which are fixed here
        model = ov.convert_model(module, example_input=given, input=[list(t.shape) for t in given])
    steps = ov.preprocess.PrePostProcessor(model)
    for i, t in enumerate(given):
        if t.ndim == 4:
            steps.input(i).tensor().set_layout(ov.Layout("NHWC"))
            steps.input(i).model().set_layout(ov.Layout("NCHW"))
    for i in range(len(made)):
        steps.output(i).model().set_layout(ov.Layout("NCHW"))
        steps.output(i).tensor().set_layout(ov.Layout("NHWC"))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = ov.Core().compile_model(steps.build(), "CPU", settings)
    request = compiled.create_infer_request()
    arrays = [(t.permute(0, 2, 3, 1) if t.ndim == 4 else t).numpy() for t in (*given, *made)]
    shared = [ov.Tensor(array, shared_memory=True) for array in arrays]
    for i, tensor in enumerate(shared):
        if i < len(given):
            request.set_input_tensor(i, tensor)
        else:
            request.set_output_tensor(i - len(given), tensor)
    kept = (compiled, arrays, shared)  # the request does not hold them

    def run(kept: object = kept) -> None:
        request.infer()

    return run


def converted(stages: Stages, h: Tensor, gate: Tensor, mixed: Tensor) -> Callable[[], list[Tensor]]:
    """The stages in OpenVINO."""
    u, closed, summed = (torch.empty_like(h) for _ in range(3))
    parts = in_openvino(Parts(stages), (h,), (u,))
    rest = in_openvino(Rest(stages), (u, gate, h, mixed), (closed, summed))

    def run() -> list[Tensor]:
        parts()
        rest()
        return [closed, summed]

    return run


def in_pytorch(stages: Stages, h: Tensor, gate: Tensor, mixed: Tensor) -> Callable[[], list[Tensor]]:
    """The stages of an engine of ours."""

    def run() -> list[Tensor]:
        with torch.inference_mode():
            closed = stages.close(BLOCK, stages.parts(BLOCK, h), gate, h)
            return [closed, stages.mix(BLOCK, closed, mixed)]

    return run


def main() -> int:
    """Print the table; write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    entry, device = find("imdn-x4"), torch.device("cpu")
    network = build(entry, find_weights(entry, offline=True), device=device, dtype=torch.float32).requires_grad_(False)
    assert isinstance(network, IMDN)  # noqa: S101 - for the type checker
    torch.manual_seed(0)
    h, mixed = (torch.randn(1, 64, HEIGHT, WIDTH).to(memory_format=torch.channels_last) for _ in range(2))
    given = (h, torch.rand(64), mixed)
    plain = Stages(network)

    def output(maps: list[Tensor]) -> Any:
        return np.stack([one.numpy() for one in maps])

    start = time.perf_counter()
    in_other = converted(plain, *given)
    note = f"converted in {time.perf_counter() - start:.1f} s, one block of six"
    ways = [
        Way("plain stages", in_pytorch(plain, *given), output, EQUAL),
        Way("packed stages", in_pytorch(Packed(network), *given), output, EQUAL, note="the default"),
        Way("openvino stages", in_other, output, EQUAL, note=note),
    ]
    size = f"one block of {WIDTH} x {HEIGHT} features without its gates"
    report = compare(ways, model="imdn-x4", size=size, device=device, rounds=arguments.rounds)
    print(report.text())
    if arguments.out:
        record = {"schema": "zoo.bench/1", **report.as_dict()}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if report.agrees else 1


if __name__ == "__main__":
    sys.exit(main())
