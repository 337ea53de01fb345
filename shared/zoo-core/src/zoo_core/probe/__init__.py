"""Look into a module, and change what happens there: tensors at named points, returned with the output.

A probe wraps a module and keeps nothing between calls::

    probe = Probe(network, {"p3": Point("neck.p3"), "q": Point("blocks.11.attn", "q")})
    seen = probe(images)                     # seen.out, seen.at["p3"], seen.at["q"]

Distillation, analysis and guidance all look through it; it knows none of them.
"""

from zoo_core.probe.edits import Edit, KeyBias, ScaleHeads, TowardValue
from zoo_core.probe.points import Point, output_shapes
from zoo_core.probe.probe import Probe, Seen
from zoo_core.probe.views import AttentionView, attention_view

__all__ = [
    "AttentionView",
    "Edit",
    "KeyBias",
    "Point",
    "Probe",
    "ScaleHeads",
    "Seen",
    "TowardValue",
    "attention_view",
    "output_shapes",
]
