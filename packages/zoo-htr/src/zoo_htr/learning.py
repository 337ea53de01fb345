"""What a network learns from: its labels, a second head on the convolutions, and a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from zoo_core.catalog import find
from zoo_core.distill import CrossFitted, Objective, Student, Teacher, Term, linear, steps
from zoo_core.distill import adapters as bridges
from zoo_core.distill.losses.ctc import align, ctc, ctc_frames
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.logits import cross_entropy
from zoo_core.errors import UsageError
from zoo_core.probe import Point
from zoo_core.train.regions import compile_parts
from zoo_core.weights.build import build
from zoo_core.weights.convert import recognise_file
from zoo_core.weights.find import FoundWeights
from zoo_core.weights.find import find as find_weights
from zoo_htr.htr_jand import HTRJAND, Shortcut, frame_counts, valid_columns
from zoo_htr.normalise import VERSION

if TYPE_CHECKING:
    from zoo_htr.task import Recipe


class Seen(NamedTuple):
    """A batch as networks and losses see it.

    Args:
        lines: (B, 1, H, W), standardised.
        widths: (B,) int64.
        labels: (B, L) int64.
        lengths: (B,) int64, of the labels.
        frames: (B,) int64, of the lines.
        inside: (B, T) bool, True on a line's own frames.
        part: (B,) int64, of the data, if teachers have left out one each.
        path: (B, T) int64, a teacher's alignment of the labels, if it is needed.
    """

    lines: Tensor
    widths: Tensor
    labels: Tensor
    lengths: Tensor
    frames: Tensor
    inside: Tensor
    part: Tensor | None = None
    path: Tensor | None = None

    @classmethod
    def of(cls, lines: Tensor, widths: Tensor, labels: Tensor, lengths: Tensor, part: Tensor | None = None) -> Seen:
        """Add what follows from the rest."""
        frames = frame_counts(widths)
        inside = valid_columns(frames, (lines.shape[3] + 3) // 4)
        return cls(lines, widths, labels, lengths, frames, inside, part)


class Training(nn.Module):
    """The network and a second head that only helps to train it.

    Args:
        network: what is trained.
        shortcut: whether there is a second CTC head on the convolutions.
    """

    def __init__(self, network: HTRJAND, *, shortcut: bool) -> None:
        super().__init__()
        self.network = network
        self.shortcut = Shortcut(network.feature_width, len(network.alphabet)) if shortcut else None

    def forward(self, lines: Tensor, widths: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, T, V), and those of the second head if there is one."""
        features, lengths = self.network.encode(lines, widths)
        logits, _ = self.network.read(features, lengths)
        return (logits,) if self.shortcut is None else (logits, self.shortcut(features))


class Lesson(NamedTuple):
    """What is trained, by what, and from whom."""

    student: Student
    objective: Objective
    teacher: Teacher | CrossFitted | None


def lesson(network: HTRJAND, recipe: Recipe, device: torch.device) -> Lesson:
    """Put together what a recipe asks for.

    L = (1 - a) CTC + a KD + b FEAT + s SHORTCUT + g GUIDE: CTC a character; KD the frame-wise divergence from the
    teacher (tau, kinds of frames); FEAT the distance of the last block's frames after a linear map; GUIDE the
    cross-entropy against the teacher's alignment of the text, in the first steps. a goes from `kd` to `kd_end`.

    Raises:
        UsageError: the teacher has another alphabet or height.
        WeightsError: it has no weights, or they are of no model that is installed.
    """
    opened = _opened(recipe, network)
    if recipe.graph and opened and (recipe.kd != recipe.kd_end or recipe.kd_guide):
        raise UsageError(
            "graph=true keeps the weights of the losses as they are at the first step, and here they change.",
            "Set graph=false, or kd and kd_end to one value and kd_guide=0.",
        )
    points = {"logits": Point("", item=0)}
    away = 1.0 if opened else 0.0
    labels = linear(1 - away * recipe.kd, 1 - away * recipe.kd_end, 0, recipe.steps)
    terms = [Term("ctc", _labelled, "logits", weight=labels)]
    if recipe.shortcut_weight:
        points["shortcut"] = Point("", item=1)
        terms.append(Term("shortcut", _labelled, "shortcut", weight=recipe.shortcut_weight))
    if opened:
        share = linear(recipe.kd, recipe.kd_end, 0, recipe.steps)
        frames = {"tau": recipe.kd_tau, "frames": recipe.kd_frames, "k": recipe.kd_reach}
        terms.append(Term("kd", ctc_frames, "logits", "logits", weight=share, mask="inside", constants=frames))
        if recipe.kd_features:
            points["frames"] = Point("network.norm")
            bridge = bridges.linear(network.proj.out_features, opened[0].proj.out_features)
            terms.append(Term("features", mse, "frames", "frames", bridge, recipe.kd_features, mask="inside"))
        if recipe.kd_guide:
            until = steps(recipe.kd_guide, (max(1, round(recipe.kd_guide_until * recipe.steps)), 0.0))
            terms.append(Term("guide", _guided, "logits", weight=until, mask="inside"))
    objective = Objective(terms)
    student = Student(Training(network, shortcut=recipe.shortcut_weight > 0), points, objective)
    teachers = [_teacher(teacher.to(device), recipe) for teacher in opened]
    if len(teachers) > 1:
        return Lesson(student, objective, CrossFitted(teachers, "part"))
    return Lesson(student, objective, teachers[0] if teachers else None)


def _opened(recipe: Recipe, network: HTRJAND) -> list[HTRJAND]:
    """Open the teachers of a recipe: none, one for all lines, or one for each part of them."""
    names = [*recipe.teachers] if recipe.teacher is None else [recipe.teacher]
    if recipe.teachers and (recipe.teacher is not None or len(recipe.teachers) != recipe.parts):
        raise UsageError(
            f"{len(recipe.teachers)} teachers for {recipe.parts} parts"
            f"{'' if recipe.teacher is None else ', and one for all'}.",
            "Give one for each part, trained with left_out=0, 1, ..., and set parts to their number; or teacher alone.",
        )
    opened = [open_teacher(name) for name in names]
    for name, teacher in zip(names, opened, strict=True):
        if (teacher.alphabet, teacher.height) != (network.alphabet, network.height):
            raise UsageError(
                f"teacher={name} reads {len(teacher.alphabet) - 1} symbols in lines of {teacher.height} pixels, "
                f"the student {len(network.alphabet) - 1} in lines of {network.height}.",
                "Frames can only be compared if both are the same: train a teacher on the same lines.",
            )
    return opened


def _labelled(logits: Tensor, seen: Seen) -> Tensor:
    return ctc(logits, seen.labels, frames=seen.frames, lengths=seen.lengths)


def _guided(logits: Tensor, seen: Seen, *, mask: Tensor) -> Tensor:
    if seen.path is None:
        raise UsageError("There is no alignment to be guided by.", "Make it with `aligned`.")
    return cross_entropy(logits, seen.path, mask=mask)


def aligned(seen: Seen, teacher_logits: Tensor) -> Seen:
    """Add the teacher's alignment of the texts: a loop over the frames, so only while it is needed."""
    return seen._replace(path=align(teacher_logits, seen.labels, frames=seen.frames, lengths=seen.lengths))


def _teacher(network: HTRJAND, recipe: Recipe) -> Teacher:
    if recipe.compile:
        compile_parts(network.parts())
    return Teacher(
        network,
        {"logits": Point("", item=0), "frames": Point("norm")},
        inputs=lambda seen: (seen.lines, seen.widths),
        precision="bf16-true" if recipe.precision == "bf16" else "fp32",
        preprocessing=f"zoo_htr.normalise {VERSION}",
    )


def open_teacher(name: Path) -> HTRJAND:
    """Open a teacher: a model id, or a safetensors file of one of the installed models."""
    if name.suffix:
        found = FoundWeights(name, "path", None, "you named it")
        entry = find(recognise_file(name).model_id)
    else:
        entry = find(str(name))
        found = find_weights(entry)
    network = build(entry, found, device=torch.device("cpu"), dtype=torch.float32)
    if not isinstance(network, HTRJAND):
        raise UsageError(f"teacher={name} is {entry.manifest.id}, which reads no lines.", "Name an HTR-JAND.")
    return network
