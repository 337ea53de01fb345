"""Augmentation of lines on the device: all geometry is one grid_sample, the rest a few passes over the batch.

What a line undergoes is drawn on the host from a few uniform numbers (`draw`), as its new width decides in which batch
it goes; `render` does it on the device. Fields of noise are drawn on the device from the global generator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoo_htr.data import WIDEST, LineStore
from zoo_htr.normalise import HEIGHT

SPANS = 4  # at most so many columns' spans are wiped out in a line
# What `draw` decides of each line, in its order; lengths in pixels, tones in grey levels, angles as slopes.
NAMES = (
    "width", "core", "left", "shear", "slope", "scale_y", "shift_y", "sine", "sine_length", "sine_phase", "elastic",
    "thickness", "blur", "contrast", "texture", "gradient", "gamma", "noise",
    "rule_tone", "rule_period", "rule_phase", "squared", "other", "other_down", "other_along", "mirrored",
    *(f"span{i}" for i in range(SPANS)), *(f"span{i}_width" for i in range(SPANS)),
)  # fmt: skip
UNIFORMS = 49  # how many uniform numbers `draw` takes for a line; it fails if they are too few


class Choice(NamedTuple):
    """Which lines make up a sample.

    Args:
        line: (B,) int64.
        second: (B,) int64, the line written behind it, or -1.
        gap: (B,) int64, columns between the two.
        other: (B,) int64, the line that shines through or looks in from above or below.
    """

    line: Tensor
    second: Tensor
    gap: Tensor
    other: Tensor


class Rendered(NamedTuple):
    """Lines as a scanner would give them, and their texts.

    Args:
        grey: (B, 64, W) float32, whole numbers 0..255.
        widths: (B,) int64.
        labels: (B, L) int64.
        lengths: (B,) int64, of the labels.
    """

    grey: Tensor
    widths: Tensor
    labels: Tensor
    lengths: Tensor


def still(widths: Tensor) -> Tensor:
    """Return parameters (N, P) that change nothing of lines of these widths."""
    table = torch.zeros(len(widths), len(NAMES))
    for name, value in {
        "scale_y": 1.0,
        "sine_length": 400.0,
        "contrast": 1.0,
        "gamma": 1.0,
        "rule_period": 32.0,
    }.items():
        table[:, NAMES.index(name)] = value
    for name in ("width", "core"):
        table[:, NAMES.index(name)] = widths.float()
    return table


def draw(widths: Tensor, needed: Tensor, uniforms: Tensor) -> Tensor:
    """Draw what happens to lines.

    Args:
        widths: (N,) their widths in pixels.
        needed: (N,) frames that their labels need; no line is made too narrow for it.
        uniforms: (N, UNIFORMS) in [0, 1).

    Returns:
        (N, P) float32 in the order of `NAMES`; `width` is the new one.
    """
    columns = iter(uniforms.unbind(1))
    table = still(widths)

    def between(low: float | Tensor, high: float | Tensor) -> Tensor:
        return low + (high - low) * next(columns)

    def at_times(share: float, value: Tensor, otherwise: float | Tensor = 0.0) -> Tensor:
        return torch.where(next(columns) < share, value, otherwise)

    def put(name: str, value: Tensor) -> None:
        table[:, NAMES.index(name)] = value

    old = widths.float()
    shear = at_times(0.7, between(-0.35, 0.35))
    lean = shear.abs() * HEIGHT / 4
    left, right = (between(-6.0, 8.0) + lean).round(), (between(-6.0, 8.0) + lean).round()
    least = torch.maximum(4.0 * needed + 8, torch.tensor(16.0))
    core = (old * between(0.8, 1.2)).round()
    core = torch.minimum(torch.maximum(core, least), WIDEST - left - right)
    width = torch.minimum(torch.maximum(core + left + right, least), torch.tensor(float(WIDEST)))
    for name, value in {"shear": shear, "left": left, "core": core, "width": width}.items():
        put(name, value)
    steepest = 10 / old  # pixels over the whole line
    put("slope", between(-0.026, 0.026).clamp(-steepest, steepest))
    put("scale_y", between(0.85, 1.05))
    put("shift_y", between(-0.06, 0.06) * HEIGHT)
    put("sine", at_times(0.4, between(0.0, 3.5)))
    put("sine_length", between(150.0, 900.0))
    put("sine_phase", between(0.0, 2 * torch.pi))
    put("elastic", at_times(0.5, between(0.4, 1.6)))
    put("thickness", at_times(0.3, between(-0.6, 0.9)))
    put("blur", at_times(0.5, between(0.3, 1.2)))
    put("contrast", between(0.55, 1.4))
    put("texture", at_times(0.6, between(1.0, 14.0)))
    put("gradient", at_times(0.3, between(-35.0, 35.0)))
    put("gamma", at_times(0.6, between(-0.5, 0.5).exp(), 1.0))
    put("noise", at_times(0.6, between(1.0, 12.0)))
    put("rule_tone", at_times(0.2, between(12.0, 80.0)))
    put("rule_period", between(18.0, 60.0))
    put("rule_phase", between(0.0, 60.0))
    put("squared", at_times(0.4, torch.ones_like(old)))
    shining, looking = next(columns) < 0.15, next(columns) < 0.3
    put("mirrored", shining.float())
    put("other", torch.where(shining, between(0.15, 0.3), torch.where(looking, between(0.6, 1.0), 0.0)))
    away = between(46.0, 58.0).round() * torch.where(next(columns) < 0.5, 1.0, -1.0)
    put("other_down", torch.where(shining, 0.0, away))
    put("other_along", (between(-0.3, 0.3) * old).round())
    spans = torch.where(next(columns) < 0.3, (between(0.0, SPANS)).ceil(), 0.0)
    for i in range(SPANS):
        put(f"span{i}", between(0.0, 1.0) * width)
        put(f"span{i}_width", torch.where(spans > i, between(8.0, 24.0), 0.0))
    return table


def render(store: LineStore, choice: Choice, parameters: Tensor, columns: int) -> Rendered:
    """Make a batch of lines on the device.

    Args:
        store: the lines.
        choice: which.
        parameters: (B, P) of `draw` or `still`.
        columns: W of the result; no line, before or after, is wider.
    """
    p = {name: value[:, None, None] for name, value in zip(NAMES, parameters.unbind(1), strict=True)}
    row = torch.arange(HEIGHT, device=parameters.device)[None, :, None]
    column = torch.arange(columns, device=parameters.device)[None, None]
    ink, old = _written(store, choice, row, column)
    ink = functional.grid_sample(ink[:, None], _grid(p, old, row, column), align_corners=False)[:, 0]
    ink = _blurred(_thickened(ink, p["thickness"]), p["blur"]) * p["contrast"]
    ink = torch.where(p["other"] > 0, torch.maximum(ink, _others(store, choice.other, p, row, column)), ink)
    paper = store.paper[choice.line][:, None, None]
    ink = torch.where(_spans(p, column), 0.0, ink)
    grey = paper - ink - _ruling(p, row, column) + p["gradient"] * (column / p["width"] - 0.5)
    grey = grey + p["texture"] * _smooth_noise(len(ink), 1, 16, HEIGHT, columns, ink.device)[:, 0]
    grey = 255 * (grey / 255).clamp(1e-4, 1) ** p["gamma"] + p["noise"] * torch.randn_like(grey)
    widths = p["width"].flatten().long()
    return Rendered(grey.clamp(0, 255).round(), widths, *_labels(store, choice))


def _written(store: LineStore, choice: Choice, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ink (B, 64, W) of lines and what is written behind them, and their widths (B, 1, 1)."""
    first = store.widths[choice.line][:, None, None]
    joined = (choice.second >= 0)[:, None, None]
    second = choice.second.clamp_min(0)
    begin = first + choice.gap[:, None, None]
    behind = torch.where(joined, store.ink(second, row, column - begin), 0.0)
    width = torch.where(joined, begin + store.widths[second][:, None, None], first)
    return store.ink(choice.line, row, column) + behind, width


def _labels(store: LineStore, choice: Choice) -> tuple[Tensor, Tensor]:
    """Return labels (B, L) and lengths (B,): of a line, or of two with a blank between."""
    own, length = store.labels[choice.line], store.lengths[choice.line][:, None]
    if store.space is None:
        return own, length[:, 0]
    joined = (choice.second >= 0)[:, None]
    second = choice.second.clamp_min(0)
    place = torch.arange(own.shape[1], device=own.device)[None]
    behind = store.labels[second].gather(1, (place - length - 1).clamp(0, own.shape[1] - 1))
    label = torch.where(place < length, own, torch.where(place == length, store.space, behind))
    return torch.where(joined, label, own), (length + joined * (store.lengths[second][:, None] + 1))[:, 0]


def _grid(p: dict[str, Tensor], old: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return where each pixel comes from, (B, 64, W, 2) as grid_sample takes it."""
    columns = column.shape[2]
    middle = HEIGHT / 2
    x = (column + 0.5 - p["left"]) * (old / p["core"]) + p["shear"] * (row + 0.5 - middle)
    y = middle + (row + 0.5 - middle - p["shift_y"]) / p["scale_y"] + p["slope"] * (x - old / 2)
    y = y + p["sine"] * torch.sin(2 * torch.pi * x / p["sine_length"] + p["sine_phase"])
    field = p["elastic"][:, None] * _smooth_noise(len(old), 2, 24, HEIGHT, columns, x.device)
    return torch.stack([2 * (x + field[:, 0]) / columns - 1, 2 * (y + field[:, 1]) / HEIGHT - 1], dim=3)


def _smooth_noise(count: int, channels: int, cell: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return smooth random fields (count, channels, height, width) of unit deviation at points `cell` apart."""
    coarse = torch.randn(count, channels, height // cell + 2, width // cell + 2, device=device)
    return functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)


def _thickened(ink: Tensor, amount: Tensor) -> Tensor:
    """Move ink (B, h, w) towards its dilation (amount up to 1) or its erosion (down to -1) by a square of 3 pixels."""
    wide = functional.max_pool2d(ink[:, None], 3, 1, 1)[:, 0]
    thin = -functional.max_pool2d(-ink[:, None], 3, 1, 1)[:, 0]
    return ink + amount.clamp_min(0) * (wide - ink) - amount.clamp_max(0) * (thin - ink)


def _blurred(ink: Tensor, sigma: Tensor) -> Tensor:
    """Blur each line (B, h, w) by a Gaussian of its own sigma (B, 1, 1), cut at 3 pixels; 0 leaves it as it is."""
    weights = [torch.exp(-(d**2) / (2 * sigma.square().clamp_min(1e-6))) for d in range(4)]
    total = weights[0] + 2 * (weights[1] + weights[2] + weights[3])
    for axis in (1, 2):
        padded = functional.pad(ink, (0, 0, 3, 3) if axis == 1 else (3, 3))
        size = ink.shape[axis]
        shifted = [padded.narrow(axis, 3 - d, size) + padded.narrow(axis, 3 + d, size) for d in range(1, 4)]
        ink = (weights[0] * ink + sum(w * s for w, s in zip(weights[1:], shifted, strict=True))) / total
    return ink


def _others(store: LineStore, other: Tensor, p: dict[str, Tensor], row: Tensor, column: Tensor) -> Tensor:
    """Return the ink of other lines: mirrored through the paper, or the ends of a neighbour above or below."""
    place = column + p["other_along"].long()
    place = torch.where(p["mirrored"] > 0, store.widths[other][:, None, None] - 1 - place, place)
    return p["other"] * store.ink(other, row + p["other_down"].long(), place)


def _spans(p: dict[str, Tensor], column: Tensor) -> Tensor:
    """Return (B, 1, W) bool: True in the spans that are wiped out."""
    inside = torch.zeros_like(column, dtype=torch.bool)
    for i in range(SPANS):
        begin = p[f"span{i}"]
        inside = inside | ((column >= begin) & (column < begin + p[f"span{i}_width"]))
    return inside


def _ruling(p: dict[str, Tensor], row: Tensor, column: Tensor) -> Tensor:
    """Return how much darker ruled or squared paper is, (B, 64, W)."""
    across = (row + p["rule_phase"]) % p["rule_period"] < 1.5
    down = ((column + p["rule_phase"]) % p["rule_period"] < 1.5) & (p["squared"] > 0)
    return p["rule_tone"] * (across | down)
