"""Auroras that are small enough to test, and where the golden tensors are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo_core.io.packs import packs_root
from zoo_forecast.aurora import Aurora

PACKS = packs_root() or Path("no packs")
GOLDEN = PACKS / "forecast/golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the data packs are not here: set ZOO_PACKS")

TINY: dict[str, Any] = {
    "token_length": 16,
    "width": 32,
    "feed_forward": 48,
    "heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "distilled_tokens": 5,
    "prototypes": 40,
    "flow_blocks": 2,
    "sampling_steps": 10,
    "vision": {"width": 16, "layers": 1, "heads": 2, "feed_forward": 24, "patch": 16, "picture": 64},
    "text": {"width": 16, "layers": 2, "heads": 2, "feed_forward": 24, "vocabulary": 30522, "positions": 512},
}


def tiny_aurora(seed: int = 0) -> Aurora:
    """A network whose modulations and normalisations are not those of a fresh one, which would be trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Aurora(**TINY).eval().requires_grad_(False)
        for name, tensor in module.state_dict().items():
            if "adaLN" in name or "final_layer" in name or "running_mean" in name or name.endswith("bias"):
                tensor.normal_(std=0.2)
            elif "running_var" in name:
                tensor.uniform_(0.5, 2)
    return module


def official_config(name: str) -> dict[str, Any]:
    """Our constructor's arguments for the configuration files of the golden tensors."""
    whole, bert, vit = (
        json.loads((GOLDEN / f"{name}{kind}.json").read_text()) for kind in ("_config", "_bert_config", "_vit_config")
    )

    def tower(config: dict[str, Any]) -> dict[str, int]:
        return {
            "width": config["hidden_size"],
            "layers": config["num_hidden_layers"],
            "heads": config["num_attention_heads"],
            "feed_forward": config["intermediate_size"],
        }

    return {
        "token_length": whole["token_len"],
        "width": whole["hidden_size"],
        "feed_forward": whole["intermediate_size"],
        "heads": whole["num_attention_heads"],
        "encoder_layers": whole["num_enc_layers"],
        "decoder_layers": whole["num_dec_layers"],
        "distilled_tokens": whole["num_distill"],
        "prototypes": whole["num_prototypes"],
        "flow_blocks": whole["flow_loss_depth"],
        "sampling_steps": whole["num_sampling_steps"],
        "vision": {**tower(vit), "patch": vit["patch_size"], "picture": vit["image_size"]},
        "text": {**tower(bert), "vocabulary": bert["vocab_size"], "positions": bert["max_position_embeddings"]},
    }
