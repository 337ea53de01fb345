"""Say whether a checkpoint is Aurora's, and give it our keys, which are those of transformers 4 with the authors' code.

transformers 5 renamed the layers of the ViT: 192 of the 896 keys. Both spellings are known here.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from zoo_core.catalog import find
from zoo_core.weights.build import expected
from zoo_core.weights.convert import Recognised

MODEL = "aurora-base"
MARKERS = ("flow_match.net.input_proj.weight", "model.embed_layer.proj_layer.weight", "retriever.prototypes")
TOWER = "model.VisionEncoder.model."
# the part of a key behind the number of the layer: transformers 5 -> 4
LAYER_PARTS = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
_NEW = re.compile(rf"{re.escape(TOWER)}layers\.(\d+)\.({'|'.join(map(re.escape, LAYER_PARTS))})\.(weight|bias)")
# numbers of places, which older versions of transformers saved and nobody needs
_PLACES = "model.TextEncoder.model.embeddings.position_ids"


def our_key(key: str) -> str:
    """Return our name of a tensor, given either spelling."""
    match = _NEW.fullmatch(key)
    return key if match is None else f"{TOWER}encoder.layer.{match[1]}.{LAYER_PARTS[match[2]]}.{match[3]}"


def recognise(tensors: dict[str, Tensor]) -> Recognised | None:
    """Say what a checkpoint is.

    Args:
        tensors: a bare state dict.

    Returns:
        Aurora with our keys, whole or with the keys that are missing; Aurora of another size as a network that no model
        of ours reads. None for anything else.
    """
    if not any(marker in tensors for marker in MARKERS):
        return None
    ours = {our_key(key): tensor for key, tensor in tensors.items() if key != _PLACES}
    wanted = expected(find(MODEL))
    missing = tuple(key for key in wanted if key not in ours)
    if not missing and any(ours[key].shape != tensor.shape for key, tensor in wanted.items()):
        return Recognised("", {}, "Aurora of another size")
    # counters of batches that are saved as another kind of whole number
    ours = {
        key: tensor.to(torch.int64) if key.endswith("num_batches_tracked") else tensor for key, tensor in ours.items()
    }
    if unknown := [key for key in ours if key not in wanted]:
        return (
            None
            if not missing
            else Recognised(MODEL, {k: ours[k] for k in ours if k not in unknown}, "Aurora", missing)
        )
    return Recognised(MODEL, ours, "Aurora, as its authors publish it", missing)
