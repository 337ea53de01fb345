"""Say what a super-resolution checkpoint is: ours and the authors' IMDN load, other well-known networks get their name.

Our key names are the authors', so that nothing has to be renamed: key X of an official file is key X of ours.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo_core.weights.convert import Recognised
from zoo_sr.imdn import IMDN, IMDN_AS, IMDN_RTC, IMDN_RTE

# The official files by the first 16 hex digits of the sha256 of their first layer (fp32, little endian).
_OFFICIAL = frozenset(
    {
        "d49e1de828148259",  # IMDN_x2.pth
        "8217ca085fdfc398",  # IMDN_x3.pth
        "f1a85bc60fd8a1f4",  # IMDN_x4.pth
        "32a8e651d8b193b6",  # IMDN_AS.pth
        "1d170d40b59d9b98",  # model_RTC.pth
        "7bb76e369c2ce5de",  # model_RTE.pth
    }
)


class _Foreign(NamedTuple):
    """A network that no model of ours reads: what its keys look like, and where its scale can be seen."""

    name: str
    pattern: str
    shuffle: str | None = None  # the layer before a pixel shuffle to 3 channels


# Key names of the authors' own code, in the order in which they are tried.
_FOREIGN = (
    _Foreign(
        "the IMDN baseline of the AIM 2020 and NTIRE 2022 efficient SR challenges (winner of AIM 2019)",
        r"model\.1\.sub\.0\.conv1\.0\.weight",
        "model.2.weight",
    ),
    _Foreign("RFDN", r"B1\.c1_d\.weight", "upsampler.0.weight"),
    _Foreign("SPAN", r"block_1\.c1_r\.(sk|eval_conv)\.weight", "upsampler.0.weight"),
    _Foreign("RLFN", r"block_1\.c1_r\.weight", "upsampler.0.weight"),
    _Foreign("ESRGAN (RRDB network, names of the first release)", r"model\.1\.sub\.0\.RDB1\.conv1\.0\.weight"),
    _Foreign("ESRGAN or BSRGAN (RRDB network)", r"RRDB_trunk\.0\.RDB1\.conv1\.weight"),
    _Foreign("ESRGAN or Real-ESRGAN (RRDB network, BasicSR's names)", r"body\.0\.rdb1\.conv1\.weight"),
    _Foreign("SwinIR or a relative of it", r"layers\.0\.residual_group\.blocks\.0\.attn\.qkv\.weight"),
    _Foreign("EDSR or MDSR", r"body\.0\.body\.0\.weight"),
)


def recognise(tensors: dict[str, Tensor]) -> Recognised | None:
    """Say what a checkpoint is.

    Args:
        tensors: a bare state dict, without `module.` before its keys.

    Returns:
        the model that it fits, with its tensors; a model with the keys that are missing; or, with the model id "", the
        name of a network that no model of ours reads. None for anything else.
    """
    for marker, candidate in _KINDS:
        if marker in tensors:
            return _as_ours(tensors, *candidate(tensors))
    for foreign in _FOREIGN:
        if any(re.fullmatch(foreign.pattern, key) for key in tensors):
            scale = _scale_of(tensors.get(foreign.shuffle or ""))
            return Recognised("", {}, f"{foreign.name}{f', x{scale}' if scale else ''}")
    return None


def _as_ours(tensors: dict[str, Tensor], model_id: str, name: str, make: Callable[[], nn.Module]) -> Recognised | None:
    with torch.device("meta"):
        expected = make().state_dict()
    missing = tuple(key for key in expected if key not in tensors)
    fits = not missing and {k: t.shape for k, t in tensors.items()} == {k: t.shape for k, t in expected.items()}
    if not missing and not fits:
        return None  # keys or shapes of its own: the comparison with our models names them
    if model_id and fits and _first_layer_hash(tensors) in _OFFICIAL:
        name += ", the authors' weights (no licence stated: to compare with, not to pass on)"
    return Recognised(model_id, tensors, name, missing)


def _imdn(tensors: dict[str, Tensor]) -> tuple[str, str, Callable[[], nn.Module]]:
    channels = tensors["IMDB1.c1.weight"].shape[0]
    blocks = len({key.partition(".")[0] for key in tensors if re.match(r"IMDB\d+\.", key)})
    plain = (channels, blocks) == (64, 6)
    size = "" if plain else f" of another size: {channels} channels, {blocks} blocks"
    if "fea_conv.0.weight" in tensors:
        return "imdn-as" if plain else "", f"IMDN-AS{size}", lambda: IMDN_AS(channels, blocks)
    scale = _scale_of(tensors.get("upsampler.0.weight")) or 4
    known = plain and scale in (2, 3, 4)
    return f"imdn-x{scale}" if known else "", f"IMDN x{scale}{size}", lambda: IMDN(scale, channels, blocks)


# A key that only this network has -> id, what it is called, constructor.
_KINDS: tuple[tuple[str, Callable[[dict[str, Tensor]], tuple[str, str, Callable[[], nn.Module]]]], ...] = (
    ("IMDB1.c1.weight", _imdn),
    ("block1.c7.weight", lambda _: ("imdn-rte", "IMDN-RTE x2", IMDN_RTE)),
    ("model.1.sub.0.c1.weight", lambda _: ("imdn-rtc", "IMDN-RTC x2", IMDN_RTC)),
)


def _scale_of(weight: Tensor | None) -> int | None:
    """The scale of a layer before a pixel shuffle to RGB: it has 3 s^2 outputs."""
    if weight is None or weight.ndim != 4 or weight.shape[0] % 3:
        return None
    scale = math.isqrt(weight.shape[0] // 3)
    return scale if 3 * scale**2 == weight.shape[0] else None


def _first_layer_hash(tensors: dict[str, Tensor]) -> str:
    key = next(k for k in ("fea_conv.weight", "fea_conv.0.weight", "model.0.weight") if k in tensors)
    return hashlib.sha256(tensors[key].float().contiguous().numpy().tobytes()).hexdigest()[:16]
