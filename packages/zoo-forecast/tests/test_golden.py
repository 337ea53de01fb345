"""The authors' tensors, from their code at a247760abbc9 on a CPU, in all seven cases: layer by layer, and the samples.

The tiny cases have a file of weights; the full ones a formula, which the data pack's specification gives.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_aurora import GOLDEN, PACKS, needs_golden, official_config
from torch import Tensor

from zoo_core.catalog import find
from zoo_core.weights.build import construct
from zoo_forecast.aurora import Aurora
from zoo_forecast.engine import Engine
from zoo_forecast.mode import OFFICIAL
from zoo_forecast.picture import draw, periods
from zoo_forecast.series import scaled

pytestmark = needs_golden
# of the largest value of a tensor; the order of sums differs
TOLERANCE = 1e-5
TINY_CASES = ("tiny_notext", "tiny_text", "tiny_text_itl24", "tiny_text_b3_itl12")
FULL_CASES = ("full_notext", "full_text", "full_text_itl24")


def by_formula(shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that every machine makes alike: a hash of the tensor's place in the alphabet and the element's number."""
    made = {}
    for place, name in enumerate(sorted(shapes)):
        shape = tuple(shapes[name].shape)
        if not shapes[name].is_floating_point():
            made[name] = torch.zeros(shape, dtype=shapes[name].dtype)
            continue
        h = np.arange(shapes[name].numel(), dtype=np.uint64)
        h += np.uint64((place + 1) * 0x9E3779B97F4A7C15 % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            h ^= h >> np.uint64(shift)
            h *= np.uint64(factor)
        h ^= h >> np.uint64(31)
        s = (h >> np.uint64(11)).astype(np.float64) / 2**53 * 2 - 1
        last = name.rpartition(".")[2]
        if last == "running_var":
            value = 1 + 0.3 * s
        elif last == "running_mean":
            value = 0.1 * s
        elif last == "W":
            value = np.eye(shape[0]).ravel() + 0.1 * s
        elif last in ("prototypes", "cls_token", "position_embeddings") or last.startswith("target_"):
            value = s
        elif last == "bias" or (len(shape) == 1 and last != "weight"):
            value = 0.05 * s
        elif len(shape) == 1:
            value = 1 + 0.1 * s
        else:
            value = 0.8 * s * np.sqrt(3 / np.prod(shape[1:]))
        made[name] = torch.from_numpy(value.astype(np.float32)).reshape(shape)
    return made


@pytest.fixture(scope="module")
def tiny() -> Aurora:
    module = Aurora(**official_config("tiny"))
    module.load_state_dict(load_file(GOLDEN / "tiny_weights.safetensors"))
    return module.eval()


@pytest.fixture(scope="module")
def full() -> Aurora:
    with torch.device("meta"):
        module = construct(find("aurora-base"))
    assert isinstance(module, Aurora)
    module.load_state_dict(by_formula(module.state_dict()), assign=True)
    return module.eval()


@torch.inference_mode()
def check(module: Aurora, case: str) -> None:
    golden = load_file(GOLDEN / f"{case}.safetensors")
    with safe_open(GOLDEN / f"{case}.safetensors", "pt") as file:
        facts = {key: value for key, value in file.metadata().items() if key != "text"}
    length, horizon, samples = (int(facts[key]) for key in ("inference_token_len", "H", "S"))
    batch, future = len(golden["input_series"]), -(-horizon // length)
    engine = Engine(module, OFFICIAL)
    series, mean, std = (
        torch.from_numpy(part).float() for part in scaled(golden["input_series"].double().numpy(), double=False)
    )
    mean, std = mean[:, None], std[:, None]
    pictures = draw(series, periods(series, shared=True), module.model.VisionEncoder.model.picture)
    texts = None
    if "text_input_ids" in golden:
        texts = engine.read_texts(golden["text_input_ids"], golden["text_attention_mask"].sum(1))
    reading = engine.read_series(series, texts, future, length)
    noise = golden["noise"].view(samples, batch, future, -1).transpose(0, 1)
    paths = engine.paths(reading, noise, length)[..., :horizon]
    ours = {
        "means": mean,
        "stdev": std,
        "pseudo_image_ch0_every4": pictures[:, 0, ::4, ::4],
        "vision_tokens": module.model.VisionEncoder(pictures),
        "embed": reading.embed,
        "encoder_out": reading.encoded,
        "from_vision": reading.from_vision,
        "fuse_out": reading.fused - reading.encoded,
        "conditions": reading.conditions,
        "retrieval_dist": reading.weights,
        "prototypes": reading.prototypes,
        "linear_head_normalised": module.linear_forecast(reading.conditions, length, resize="official"),
        "samples": paths * std[:, None] + mean[:, None],
    }
    if texts is not None:
        guided = {
            "text_tokens": texts,
            "scores_vision": reading.scores_vision,
            "scores_text": reading.scores_text,
            "from_text": reading.from_text,
        }
        ours |= {name: tensor for name, tensor in guided.items() if tensor is not None}
    given = {"input_series", "noise", "text_input_ids", "text_attention_mask"}
    # upstream computes these without a text too, and does not use them
    unused = {"scores_vision"} if texts is None else set()
    assert ours.keys() == golden.keys() - given - unused
    off = {
        name: float((tensor.reshape(golden[name].shape) - golden[name]).abs().max() / golden[name].abs().max())
        for name, tensor in ours.items()
    }
    assert {name: share for name, share in off.items() if not share <= TOLERANCE} == {}


@pytest.mark.parametrize("case", TINY_CASES)
def test_tiny_cases(tiny: Aurora, case: str) -> None:
    check(tiny, case)


@pytest.mark.parametrize("case", FULL_CASES)
def test_cases_of_the_official_size(full: Aurora, case: str) -> None:
    check(full, case)


def test_keys_shapes_and_types_are_those_of_the_official_checkpoint() -> None:
    lines = (PACKS / "forecast/aurora_keys.txt").read_text(encoding="utf-8").splitlines()
    official = {name: (shape, kind) for name, shape, kind in (line.split("\t") for line in lines)}
    with torch.device("meta"):
        ours = construct(find("aurora-base")).state_dict()
    assert len(official) == 896
    found = {key: (str(list(x.shape)), str(x.dtype).removeprefix("torch.")) for key, x in ours.items()}
    assert found == official
