"""Distances of features (distill spec 4.4, 4.5)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from zoo_core.attention.spatial import attention_map
from zoo_core.distill.losses.reduce import mean_inside, same_shape, wide
from zoo_core.errors import UsageError


def mse(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean square of the difference over the last dimension: ||f_s - f_t||^2 / D, averaged over the places.

    Args:
        student: (B, ..., D).
        teacher: the same shape.
        mask: (B, ...), over what lies between.

    Returns:
        (B,).
    """
    return _distance(lambda s, t: (s - t).square(), student, teacher, mask)


def l1(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference. Arguments as `mse`."""
    return _distance(lambda s, t: (s - t).abs(), student, teacher, mask)


def smooth_l1(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, beta: float = 1.0) -> Tensor:
    """Half a square over beta below beta, absolute above. Arguments as `mse`."""
    return _distance(lambda s, t: functional.smooth_l1_loss(s, t, reduction="none", beta=beta), student, teacher, mask)


def cosine(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """1 - cosine over the last dimension, in [0, 2]. Arguments as `mse`."""
    same_shape(student, teacher)
    values = 1 - functional.cosine_similarity(wide(student), wide(teacher), dim=-1)
    return mean_inside(values, mask, dims=values.ndim - 1)


def fd(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, beta: float = 2.0) -> Tensor:
    """Feature distillation: smooth L1 to the teacher's features normalised over D without scale or shift.

    (Wei et al., arXiv:2205.14141, section 3; the student's features pass an adapter before.) It is 0 where the student
    gives the normalised teacher. Arguments as `mse`.
    """
    same_shape(student, teacher)
    return smooth_l1(student, functional.layer_norm(wide(teacher), teacher.shape[-1:]), mask=mask, beta=beta)


def cwd(student: Tensor, teacher: Tensor, *, tau: float = 4.0) -> Tensor:
    """Channel-wise distillation (Shu et al., ICCV 2021, arXiv:2011.13256): each channel a distribution over the grid.

    tau^2 / C sum_c KL(softmax(t_c / tau) || softmax(s_c / tau)).

    Args:
        student: (B, C, H, W).
        teacher: the same shape.
        tau: temperature.
    """
    same_shape(student, teacher)
    log_p, log_q = (functional.log_softmax(wide(x).flatten(2) / tau, -1) for x in (teacher, student))
    return tau**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def spatial_attention(student: Tensor, teacher: Tensor, *, p: float = 2.0, resize: bool = False) -> Tensor:
    """Sum over pixels of (n_s - n_t)^2 of the attention maps of norm 1: between 0 and 4, for any numbers of channels.

    The sum, not the mean over the grid, so that a weight means the same at every resolution.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H, W), or its maps (B, H, W) made by `zoo_core.attention.attention_map`.
        p: power.
        resize: if the grids differ, average the larger one down to the smaller; else that is an error.
    """
    if student.ndim != 4 or teacher.ndim not in (3, 4):
        raise UsageError(
            f"Attention maps are made of (B, C, H, W), got {tuple(student.shape)} and {tuple(teacher.shape)}.",
            "Take points of convolutions.",
        )
    ours = attention_map(student, p)
    theirs = attention_map(teacher, p) if teacher.ndim == 4 else wide(teacher)
    if ours.shape[-2:] != theirs.shape[-2:] and resize:
        if teacher.ndim == 3:
            raise UsageError("Maps that are normalised already cannot be resized.", "Take points of equal stride.")
        grid = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
        ours, theirs = (_normalised_on(x, p, grid) for x in (student, teacher))
    if ours.shape != theirs.shape:
        raise UsageError(
            f"The student's grid is {tuple(ours.shape[-2:])}, the teacher's {tuple(theirs.shape[-2:])}.",
            "Take points of equal stride, or set resize=true.",
        )
    return (ours - theirs).square().sum(dim=(1, 2))


def _normalised_on(features: Tensor, p: float, grid: tuple[int, int]) -> Tensor:
    power = functional.adaptive_avg_pool2d(attention_map(features, p, norm="none")[:, None], grid)
    return attention_map(power, 1)  # of one channel, which is no less than 0: the norm alone is left to do


def _distance(
    function: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor, mask: Tensor | None
) -> Tensor:
    same_shape(student, teacher)
    values = (
        function(wide(student), wide(teacher)).mean(-1) if student.ndim > 1 else function(wide(student), wide(teacher))
    )
    return mean_inside(values, mask, dims=values.ndim - 1)
