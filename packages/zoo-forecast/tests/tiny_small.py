"""Aurora small, smaller: with weights that make all of it do something."""

import torch
from torch import nn

from zoo_forecast.small import AuroraSmall

TINY = {
    "token_length": 48,
    "width": 16,
    "feed_forward": 24,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "text_width": 384,
    "text_layers": 3,
    "point_width": 4,
    "flow_blocks": 1,
    "sampling_steps": 4,
}


def tiny_small(seed: int = 0) -> AuroraSmall:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = AuroraSmall(**TINY)
        # what begins at zero would hide what comes before it
        nn.init.normal_(module.head.out.weight, std=0.3)
        for name, weight in module.flow.named_parameters():
            if "adaLN" in name or "final_layer" in name:
                nn.init.normal_(weight, std=0.3)
    return module.eval().requires_grad_(False)
