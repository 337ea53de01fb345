"""Time and weigh the relation loss on CUDA, forward and backward, in fp32: the definition, blocks, fused calls.

    python tools/bench_gpu_relations.py [--tokens N ...] [--rounds N] [--json FOLDER]
    python tools/bench_gpu_relations.py --tiny        the same on the CPU with small sizes, to see that it runs

8 samples, 12 heads of width 64, student and teacher 1 % apart, so that gradients are small differences. The student's
gradients are compared with float64 by blocks before a time is printed; `memory MB` is by how much the first call raised
the peak. Needs zoo-core importable.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_core.bench import BenchReport, Limits, Way, compare
from zoo_core.distill.losses.relations import relation_kl
from zoo_core.errors import UsageError

SHAPE = (8, 12, 64)  # batch, heads, width
WAYS = ("explicit", "blocks", "fused")


def bench(tokens: int, device: torch.device, rounds: int, *, tiny: bool) -> BenchReport:
    """Compare the ways at one length."""
    batch, heads, width = (2, 2, 8) if tiny else SHAPE
    generator = torch.Generator(device).manual_seed(0)
    draws = [torch.randn(batch, heads, tokens, width, generator=generator, device=device) for _ in range(4)]
    teacher = (draws[0], draws[1])
    student = tuple((x + 0.01 * d).requires_grad_() for x, d in zip(teacher, draws[2:], strict=True))

    def gradient(way: Any, dtype: torch.dtype) -> Tensor:
        x_s, y_s = (x.to(dtype) for x in student)
        value = relation_kl((x_s, y_s), (teacher[0].to(dtype), teacher[1].to(dtype)), way=way).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, student)])

    exact = gradient("blocks", torch.float64)
    unit = exact.norm() / exact.numel() ** 0.5

    def way(name: str, run: Callable[[], Tensor], note: str = "") -> Way:
        def values(x: Tensor) -> NDArray[Any]:
            return (x / unit)[:: max(1, x.numel() // 1_000_000)].double().cpu().numpy()

        return Way(name, run, values, Limits(most=1.0, share=1.0, rms=1e-2), "fp32", note)

    return compare(
        [way(name, lambda name=name: gradient(name, torch.float32)) for name in WAYS],  # type: ignore[misc]
        reference=way("blocks, fp64", lambda: exact),
        model="relation loss",
        size=f"{batch} x {heads} x {tokens} x {width}, forward and backward; differences over the root mean square",
        device=device,
        rounds=rounds,
        at_most=5.0,
    )


def main() -> None:
    """Print a table for each length and keep the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="keep the records there")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        raise UsageError("There is no CUDA device here.", "Use --tiny to see that it runs.")
    torch.backends.cuda.matmul.allow_tf32 = False
    for tokens in [300] if options.tiny else options.tokens:
        report = bench(tokens, torch.device("cpu" if options.tiny else "cuda"), options.rounds, tiny=options.tiny)
        print(report.text(), end="\n\n", flush=True)
        if options.json:
            options.json.mkdir(parents=True, exist_ok=True)
            text = json.dumps(report.as_dict(), indent=1, default=str)
            (options.json / f"bench-relations-{tokens}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
