"""The network in other runtimes: ways of `zoo bench`, each from an optional package.

A maker takes the network and an image (1, 3, H, W), float32 in the network's own range, and returns a function that
computes the output for that image: an array of the same kind. It is made for that one size.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo_core.errors import MissingDependencyError

Convert: TypeAlias = Callable[[nn.Module, Tensor], Callable[[], NDArray[np.float32]]]


def openvino(module: nn.Module, image: Tensor, *, half: bool = False) -> Callable[[], NDArray[np.float32]]:
    """OpenVINO, latency mode, with as many threads as PyTorch has; `half` computes in bf16."""
    _need(("openvino",), 'pip install "zoo-sr[openvino]"')
    # The converter reports every use to its maker, unless this module of its cannot be imported.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about branches on sizes, which are fixed here
        model = ov.convert_model(module, example_input=image, input=list(image.shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled: Any = ov.Core().compile_model(model, "CPU", settings)
    pixels = image.numpy()
    return lambda: np.asarray(compiled(pixels)[0])


def onnxruntime(module: nn.Module, image: Tensor) -> Callable[[], NDArray[np.float32]]:
    """ONNX Runtime in fp32 with all graph optimisations and as many threads as PyTorch has."""
    _need(("onnx", "onnxscript", "onnxruntime"), 'pip install "zoo-sr[onnx]"')
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about libraries that are not needed
        file = Path(folder) / "model.onnx"
        torch.onnx.export(module, (image,), file, dynamo=True, opset_version=18, verbose=False)
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: image.numpy()}
    return lambda: np.asarray(session.run(None, inputs)[0])


def inductor(module: nn.Module, image: Tensor, *, half: bool = False) -> Callable[[], NDArray[np.float32]]:
    """torch.compile on channels_last maps with the weights frozen; needs a C++ compiler; `half` computes in bf16."""
    import torch._inductor.config as settings

    dtype = torch.bfloat16 if half else torch.float32
    own: nn.Module = copy.deepcopy(module).to(dtype=dtype)
    own = own.to(memory_format=torch.channels_last)
    given = image.to(dtype).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(own)

    def run() -> NDArray[np.float32]:
        # frozen weights need no_grad, not inference_mode; the setting is read at the first call, which compiles
        with settings.patch(freezing=True), torch.no_grad():
            output: Tensor = compiled(given)
        return output.float().numpy()

    return run


def _need(modules: tuple[str, ...], install: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"{' and '.join(missing)} not installed.", install)
