"""The losses: what holds for all of them, and what each promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.attention import attention_map
from zoo_core.distill.losses.ctc import NBest, align, ctc, ctc_frames, ctc_sequence, frame_weights, needed_frames
from zoo_core.distill.losses.distribution import gram, mmd_mean, with_gradient
from zoo_core.distill.losses.features import cosine, cwd, fd, l1, mse, smooth_l1, spatial_attention
from zoo_core.distill.losses.logits import (
    bce,
    confidence,
    cross_entropy,
    dkd,
    jsd,
    kl,
    mixture,
    mixture_kl,
    mse_logits,
    reverse_kl,
)
from zoo_core.distill.losses.sparse import log1mexp, sparse_kl
from zoo_core.distill.targets import TopK
from zoo_core.errors import UsageError


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some(*shape: int) -> Tensor:
    """A mask that leaves something of each sample, and not all."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(5)) > 0.4
    mask[:, 0], mask[:, 1] = True, False
    return mask


@dataclass
class Case:
    """A loss with inputs that fit."""

    name: str
    loss: Callable[..., Tensor]
    shape: tuple[int, ...] = (3, 4, 6)
    masks: bool = True
    needs_mask: bool = False
    best: Callable[[Tensor], Tensor] = lambda t: t  # the student that agrees with a teacher
    target: Callable[[Tensor], Any] = lambda t: t  # what the loss gets of a teacher


CASES = [
    Case("kl", lambda s, t, **k: kl(s, t, tau=2.0, **k)),
    Case("kl in chunks", lambda s, t, **k: kl(s, t, tau=2.0, chunk=5, **k)),
    Case("reverse_kl", reverse_kl),
    Case("jsd", lambda s, t, **k: jsd(s, t, beta=0.3, tau=3.0, **k)),
    Case("bce", bce),
    Case("mse_logits", mse_logits),
    Case("dkd", lambda s, t: dkd(s, t, target=torch.tensor([0, 3, 5])), shape=(3, 6), masks=False),
    Case("mixture_kl", mixture_kl, target=lambda t: (t, t)),
    Case("sparse_kl", lambda s, t, **k: sparse_kl(s, t, tau=2.0, **k), target=TopK(6, tau=2.0)),
    Case("mse", mse),
    Case("l1", l1),
    Case("smooth_l1", lambda s, t, **k: smooth_l1(s, t, beta=0.7, **k)),
    Case("cosine", cosine),
    Case("fd", fd, best=lambda t: functional.layer_norm(t, t.shape[-1:])),
    Case("cwd", cwd, shape=(3, 2, 3, 4), masks=False),
    Case("spatial_attention", spatial_attention, shape=(3, 2, 3, 4), masks=False),
    Case("mmd_mean", mmd_mean, masks=False),
    Case("gram", gram, masks=False),
    *(
        Case(f"ctc_frames {way}", lambda s, t, w=way, **k: ctc_frames(s, t, frames=w, k=1, **k), needs_mask=True)
        for way in ("uniform", "no_blank", "neighbourhood", "soft")
    ),
]


def of(chosen: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


cases = of(CASES)


def arguments(case: Case) -> dict[str, Any]:
    return {"mask": some(*case.shape[:2])} if case.needs_mask else {}


@cases
def test_agreement_costs_nothing_and_pulls_nowhere(case: Case) -> None:
    teacher = drawn(*case.shape)
    student = case.best(teacher).clone().requires_grad_()
    value = case.loss(student, case.target(teacher), **arguments(case))
    assert value.shape == (3,)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)
    # and disagreement does cost
    assert (case.loss(drawn(*case.shape, seed=1), case.target(teacher), **arguments(case)) > 1e-4).all()


@of([case for case in CASES if case.name != "dkd"])
def test_no_sample_is_no_error(case: Case) -> None:
    none = drawn(0, *case.shape[1:]).requires_grad_()
    arguments_ = {key: mask[:0] for key, mask in arguments(case).items()}
    value = case.loss(none, case.target(drawn(0, *case.shape[1:])), **arguments_)
    assert value.shape == (0,)
    torch.autograd.grad(value.sum(), none)


@of([case for case in CASES if case.name != "dkd"])  # its targets are bound to the batch
def test_a_sample_does_not_depend_on_its_batch_mates(case: Case) -> None:
    student, teacher = drawn(*case.shape, seed=1), drawn(*case.shape)
    whole = case.loss(student, case.target(teacher), **arguments(case))
    for row in range(3):
        one = slice(row, row + 1)
        mask = {key: m[one] for key, m in arguments(case).items()}
        torch.testing.assert_close(case.loss(student[one], case.target(teacher[one]), **mask)[0], whole[row])


@cases
def test_gradients_are_those_of_the_value(case: Case) -> None:
    student, teacher = drawn(*case.shape, seed=1).requires_grad_(), case.target(drawn(*case.shape))
    assert torch.autograd.gradcheck(lambda s: case.loss(s, teacher, **arguments(case)), (student,))


@cases
def test_single_precision_is_enough_and_half_is_widened(case: Case) -> None:
    student, teacher = drawn(*case.shape, seed=1), drawn(*case.shape)
    exact = case.loss(student, case.target(teacher), **arguments(case))
    single = case.loss(student.float(), case.target(teacher.float()), **arguments(case))
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)
    half = case.loss(student.bfloat16(), case.target(teacher.bfloat16()), **arguments(case))
    assert single.dtype == half.dtype == torch.float32


@of([case for case in CASES if case.masks])
def test_what_is_masked_has_no_gradient_and_no_say(case: Case) -> None:
    mask = some(*case.shape[:2])
    student, teacher = drawn(*case.shape, seed=1).requires_grad_(), drawn(*case.shape)
    value = case.loss(student, case.target(teacher), mask=mask)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert (gradient[~mask] == 0).all()
    # whatever stands there
    other = torch.where(mask[..., None], student.detach(), 1e3)
    torch.testing.assert_close(case.loss(other, case.target(teacher), mask=mask), value.detach())
    nothing = case.loss(student, case.target(teacher), mask=torch.zeros_like(mask))
    assert (nothing == 0).all()


@cases
def test_huge_inputs_stay_finite(case: Case) -> None:
    student = (1e4 * drawn(*case.shape, seed=1).sign()).float().requires_grad_()
    value = case.loss(student, case.target(1e4 * drawn(*case.shape).sign().float()), **arguments(case))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@cases
def test_what_is_not_a_number_is_not_hidden(case: Case) -> None:
    student = drawn(*case.shape, seed=1)
    student[(1, *[0] * (len(case.shape) - 1))] = torch.nan
    ways = arguments(case)
    if case.needs_mask:  # a frame that counts in every way of choosing
        teacher = 9 * torch.nn.functional.one_hot(torch.ones(case.shape[:2], dtype=torch.long), case.shape[2]).double()
    else:
        teacher = drawn(*case.shape)
    value = case.loss(student, case.target(teacher), **ways)
    assert torch.isnan(value).tolist() == [False, True, False]


@pytest.mark.parametrize("loss", [kl, mse, cwd, spatial_attention, ctc_frames])
def test_other_shapes_are_refused_with_what_to_do(loss: Callable[..., Tensor]) -> None:
    mask = {"mask": torch.ones(2, 5)} if loss is ctc_frames else {}
    shape = (2, 3, 4, 4) if loss in (cwd, spatial_attention) else (2, 5, 6)
    with pytest.raises(UsageError) as caught:
        loss(torch.zeros(shape), torch.zeros(*shape[:-1], 9), **mask)
    assert str(shape[-1]) in caught.value.message
    assert "9" in caught.value.message
    assert caught.value.remedy


# -- logits ------------------------------------------------------------------------------------------------------------


def test_kl_is_pytorchs_times_the_square_of_the_temperature() -> None:
    s, t = drawn(4, 7, seed=1), drawn(4, 7)
    theirs = functional.kl_div(torch.log_softmax(s / 3, -1), torch.softmax(t / 3, -1), reduction="none").sum(-1)
    torch.testing.assert_close(kl(s, t, tau=3.0), 9 * theirs)
    student = s.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kl(student, t, tau=3.0).sum(), student)
    torch.testing.assert_close(gradient, 3 * (torch.softmax(s / 3, -1) - torch.softmax(t / 3, -1)))


def test_hot_kl_becomes_the_distance_of_centred_logits() -> None:
    s, t = drawn(8, 10, seed=1), drawn(8, 10)

    def difference(tau: float) -> float:
        student = s.clone().requires_grad_()
        (hot,) = torch.autograd.grad(kl(student, t, tau=tau).sum(), student)
        (limit,) = torch.autograd.grad(mse_logits(student, t).sum(), student)
        return float((hot - limit).norm() / limit.norm())

    differences = [difference(tau) for tau in (1, 4, 16, 64)]
    # falls like 1 / tau
    assert differences[3] < 0.03
    assert differences[0] > differences[1] > 3 * differences[2] > 9 * differences[3]


def test_jsd_has_the_two_divergences_at_its_ends() -> None:
    s, t = drawn(3, 5, seed=1), drawn(3, 5)
    assert torch.equal(jsd(s, t, beta=0), kl(s, t))
    assert torch.equal(jsd(s, t, beta=1), reverse_kl(s, t))
    torch.testing.assert_close(jsd(s, t, beta=1e-6) / 1e-6, kl(s, t), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(jsd(s, t), jsd(t, s))
    apart = jsd(torch.tensor([[50.0, 0]]), torch.tensor([[0, 50.0]]))
    torch.testing.assert_close(apart, torch.tensor([2.0]).log())


def test_decoupled_distillation_splits_kl() -> None:
    # KL = TCKD + (1 - p_target) NCKD
    s, t, target = drawn(6, 9, seed=1), drawn(6, 9), torch.arange(6)
    rest = 1 - torch.softmax(t, -1)[torch.arange(6), target]
    tckd = dkd(s, t, target=target, alpha=1, beta=0, tau=1)
    nckd = dkd(s, t, target=target, alpha=0, beta=1, tau=1)
    torch.testing.assert_close(tckd + rest * nckd, kl(s, t))


def test_one_mixture_pulls_as_all_its_teachers() -> None:
    student = drawn(4, 6, seed=9).requires_grad_()
    teachers, weights = [drawn(4, 6, seed=k) for k in range(3)], [0.5, 0.2, 0.3]
    separate = sum(w * kl(student, t, tau=2.0) for w, t in zip(weights, teachers, strict=True))
    (one,) = torch.autograd.grad(separate.sum(), student)
    (two,) = torch.autograd.grad(kl(student, mixture(teachers, weights, tau=2.0), tau=2.0).sum(), student)
    torch.testing.assert_close(one, two)


def test_confident_teachers_count_more_at_each_place() -> None:
    certain, vague = torch.tensor([[9.0, 0, 0], [0, 0, 0]]), torch.tensor([[0.0, 0, 0], [0, 9.0, 0]])
    weights = confidence([certain, vague])
    assert weights.shape == (2, 2)
    torch.testing.assert_close(weights.sum(0), torch.ones(2))
    # exp(-H): 3 to 1 for a certain one against one that knows nothing of three classes
    torch.testing.assert_close(weights[:, 0], torch.tensor([0.75, 0.25]), rtol=0, atol=2e-3)
    torch.testing.assert_close(weights[:, 1], torch.tensor([0.25, 0.75]), rtol=0, atol=2e-3)
    student = drawn(2, 3)
    for row, shares in enumerate(weights.T.tolist()):
        one = [x[row : row + 1].double() for x in (certain, vague)]
        by_hand = mixture_kl(student[row : row + 1], one, weights=shares, tau=2.0)
        torch.testing.assert_close(
            mixture_kl(student, [certain.double(), vague.double()], tau=2.0)[row], by_hand[0], rtol=1e-6, atol=0
        )
    with pytest.raises(UsageError, match="3 weights were given for 2 teachers"):
        mixture_kl(student, [certain, vague], weights=[1.0, 1.0, 1.0])
    with pytest.raises(UsageError, match="no way to weigh teachers"):
        mixture_kl(student, [certain, vague], weights="likeness")  # type: ignore[arg-type]


def test_cross_entropy_is_the_usual_one() -> None:
    logits, target = drawn(3, 4, 5), torch.randint(0, 5, (3, 4))
    torch.testing.assert_close(
        cross_entropy(logits, target).mean(), functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    )


# -- sparse ------------------------------------------------------------------------------------------------------------


def test_a_tail_is_a_lower_bound_and_scaling_overestimates() -> None:
    # a flat teacher over 1,000 classes, as in the spec's table
    s, t = drawn(64, 1000, seed=1), drawn(64, 1000)
    s = t + 0.9 * s
    whole = kl(s, t)
    before = torch.zeros(64, dtype=torch.float64)
    for k in (1, 5, 16, 32, 64, 999):
        target = TopK(k)(t)
        bound = sparse_kl(s, target)
        assert (bound <= whole + 1e-12).all()
        assert (bound >= before - 1e-12).all(), "more classes tell more"
        before = bound
    torch.testing.assert_close(bound, whole, rtol=1e-6, atol=1e-9)
    target = TopK(16)(t)
    scaled = target.p / target.p.sum(-1, keepdim=True)
    renormalised = (scaled * (scaled.log() - torch.log_softmax(s, -1).gather(-1, target.classes.long()))).sum(-1)
    assert (renormalised > 1.25 * whole).all()


def test_log_of_one_minus_exp_at_both_ends() -> None:
    x = torch.tensor([-1e-12, -1e-3, -0.5, -1.0, -40.0, -800.0], dtype=torch.float64)
    # by Python's decimal module with 60 digits
    exact = [
        -27.63102111592905,
        -6.908255237315471,
        -0.9327521295671886,
        -0.4586751453870819,
        -4.248354255291589e-18,
        0,
    ]
    torch.testing.assert_close(log1mexp(x), torch.tensor(exact, dtype=torch.float64), rtol=1e-12, atol=1e-300)


# -- features ----------------------------------------------------------------------------------------------------------


def test_attention_maps_know_neither_scale_nor_width() -> None:
    features = drawn(2, 6, 5, 7)
    maps = attention_map(features)
    torch.testing.assert_close(maps.flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(attention_map(3 * features.repeat(1, 2, 1, 1)[:, torch.randperm(12)]), maps)
    value = spatial_attention(drawn(2, 3, 5, 7, seed=1), features)
    assert ((value > 0) & (value <= 4)).all()
    torch.testing.assert_close(spatial_attention(drawn(2, 3, 5, 7, seed=1), maps), value)
    assert torch.equal(attention_map(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 3, 3))
    with pytest.raises(UsageError, match=r"made of \(B, C, H, W\), got \(2, 5\)"):
        spatial_attention(torch.ones(2, 5), features)


def test_grids_that_differ_are_averaged_when_asked_on_both_axes() -> None:
    small = drawn(2, 3, 4, 6)
    large = small.repeat_interleave(2, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(spatial_attention(small, large, resize=True), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(spatial_attention(large, small, resize=True), torch.zeros(2, dtype=torch.float64))


def test_a_given_gradient_is_given() -> None:
    x, gradient = drawn(3, 4, seed=1).requires_grad_(), drawn(3, 4)
    (found,) = torch.autograd.grad(with_gradient(x, gradient).sum(), x)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-15)


def test_gram_needs_no_width_and_sees_no_rotation() -> None:
    x = drawn(2, 5, 8)
    rotation, _ = torch.linalg.qr(drawn(8, 8, seed=3))
    torch.testing.assert_close(gram(x @ rotation, x), torch.zeros(2, dtype=torch.float64), atol=1e-14, rtol=0)
    assert (gram(drawn(2, 5, 3, seed=2), x) > 0).all()


# -- CTC ---------------------------------------------------------------------------------------------------------------


def spoken(*best: int, classes: int = 4, height: float = 9.0) -> Tensor:
    """Logits whose best classes are given, frame by frame: (1, T, V)."""
    return height * functional.one_hot(torch.tensor([best]), classes).double()


def test_frames_that_count() -> None:
    teacher, mask = spoken(0, 0, 0, 2, 0, 0, 0, 0, 3, 0), torch.ones(1, 10, dtype=torch.bool)
    mask[0, 9] = False

    def weights(way: Any, k: int = 1) -> list[float]:
        return [round(x, 3) for x in frame_weights(teacher, mask, frames=way, k=k)[0].tolist()]

    assert weights("uniform") == [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert weights("no_blank") == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    assert weights("neighbourhood") == [0, 0, 1, 1, 1, 0, 0, 1, 1, 0]
    assert weights("neighbourhood", k=2) == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert weights("soft") == [0.05, 0.05, 0.05, 1, 0.05, 0.05, 0.05, 0.05, 1, 0]


def test_frame_distillation_is_the_weighted_mean_of_divergences() -> None:
    student, teacher, mask = drawn(2, 7, 4, seed=1), drawn(2, 7, 4), some(2, 7)
    weight = frame_weights(teacher, mask, frames="soft", tau=3.0)
    by_hand = torch.zeros(2, dtype=torch.float64)
    for b in range(2):
        for t in range(7):
            by_hand[b] += weight[b, t] * kl(student[b : b + 1, t], teacher[b : b + 1, t], tau=3.0)[0]
    torch.testing.assert_close(ctc_frames(student, teacher, mask=mask, frames="soft", tau=3.0), by_hand / weight.sum(1))


def test_a_line_of_blanks_costs_nothing() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert ctc_frames(drawn(1, 3, 4), spoken(0, 0, 0), mask=mask).tolist() == [0.0]


def test_ctc_sums_all_alignments() -> None:
    # "ab" over three frames: a a b, a b b, a b -, a - b, - a b
    logits = drawn(1, 3, 3)
    q = torch.softmax(logits[0], -1)
    paths = [(1, 1, 2), (1, 2, 2), (1, 2, 0), (1, 0, 2), (0, 1, 2)]
    total = sum(q[0, a] * q[1, b] * q[2, c] for a, b, c in paths)
    labels, frames, lengths = torch.tensor([[1, 2]]), torch.tensor([3]), torch.tensor([2])
    torch.testing.assert_close(
        ctc(logits, labels, frames=frames, lengths=lengths)[0], -torch.as_tensor(total).log() / 2
    )
    assert needed_frames(torch.tensor([[1, 1, 2, 2], [3, 3, 3, 3]]), torch.tensor([4, 2])).tolist() == [6, 3]


def test_readings_weigh_as_their_scores_and_empty_places_do_not() -> None:
    logits, frames = drawn(2, 6, 4), torch.tensor([6, 5])
    labels = torch.tensor([[[1, 2, 0], [1, 3, 2], [0, 0, 0]], [[3, 0, 0], [2, 2, 0], [0, 0, 0]]])
    readings = NBest(
        labels, torch.tensor([[2, 3, 0], [1, 2, 0]]), torch.tensor([[0.7, 0.3, 0.0], [0.5, 0.5, 0.0]]).log()
    )
    separate = [
        ctc(logits, labels[:, k], frames=frames, lengths=readings.lengths[:, k], per_character=False) for k in range(2)
    ]
    expected = torch.stack([0.7 * separate[0][0] + 0.3 * separate[1][0], 0.5 * (separate[0][1] + separate[1][1])])
    torch.testing.assert_close(ctc_sequence(logits, readings, frames=frames), expected, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(lambda x: ctc_sequence(x, readings, frames=frames), (logits.requires_grad_(),))


def test_the_alignment_is_the_best_path_of_all() -> None:
    import itertools

    def read(path: tuple[int, ...]) -> list[int]:
        merged = [c for c, before in zip(path, (None, *path), strict=False) if c != before]
        return [c for c in merged if c]

    logits = drawn(3, 5, 4, seed=4)
    labels, lengths = torch.tensor([[1, 1, 0], [2, 3, 1], [9, 9, 9]]), torch.tensor([2, 3, 0])
    frames = torch.tensor([5, 4, 3])
    found = align(logits, labels, frames=frames, lengths=lengths)
    for row in range(3):
        n, text = int(frames[row]), labels[row, : int(lengths[row])].tolist()
        log_q = torch.log_softmax(logits[row], -1)
        paths = [path for path in itertools.product(range(4), repeat=n) if read(path) == text]
        best = max(paths, key=lambda path: float(sum(log_q[t, c] for t, c in enumerate(path))))
        assert found[row].tolist() == [*best, *[0] * (5 - n)]
    with pytest.raises(UsageError, match="fewer frames"):
        align(logits, labels, frames=torch.tensor([2, 4, 3]), lengths=lengths)
