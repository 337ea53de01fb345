"""Another recogniser, run from the wheel that carries its weights: `pip install "zoo-htr[peers]"`.

RapidOCR's wheel holds PP-OCRv6's recogniser. It was made for print in many languages; here it gets the very pictures
of lines that ours gets, without its detector, which a line that is cut out already does not need.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import MissingDependencyError, UsageError, did_you_mean

PEERS = ("rapidocr",)
_WEIGHTS = "PP-OCRv6_rec_small.onnx"
_REMEDY = 'pip install "zoo-htr[peers]"'


class RapidOCR:
    """PP-OCRv6's recogniser on the CPU through ONNX Runtime, as its own package runs it.

    Args:
        threads: of ONNX Runtime.

    Raises:
        MissingDependencyError: the wheel is not installed, or is one that would fetch its weights.
    """

    def __init__(self, *, threads: int = 1) -> None:
        missing = [name for name in ("rapidocr", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise MissingDependencyError(f"RapidOCR needs {' and '.join(missing)}.", _REMEDY)
        import rapidocr

        # without the file its package would ask the network for one
        if not (Path(rapidocr.__file__).parent / "models" / _WEIGHTS).is_file():
            raise MissingDependencyError(f"This rapidocr does not carry {_WEIGHTS}.", _REMEDY)
        engine: Any = rapidocr.RapidOCR(
            params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": threads}
        )
        engine._load_rec_model()
        self._recogniser: Any = engine.text_rec

    def __call__(self, lines: Sequence[NDArray[np.uint8]]) -> list[str]:
        """Read lines (h, w) uint8; an empty text where nothing is read."""
        if not lines:
            return []
        from rapidocr.ch_ppocr_rec import TextRecInput

        pictures = [np.repeat(line[:, :, None], 3, axis=2) for line in lines]
        return list(self._recogniser(TextRecInput(img=pictures, return_word_box=False)).txts)


def peer(name: str, *, threads: int = 1) -> RapidOCR:
    """Return the peer of this name, to run on so many threads.

    Raises:
        UsageError: there is none; names the nearest.
        MissingDependencyError: its wheels are not installed.
    """
    if name not in PEERS:
        raise UsageError(f"There is no peer {name!r}.", did_you_mean(name, PEERS))
    return RapidOCR(threads=threads)
