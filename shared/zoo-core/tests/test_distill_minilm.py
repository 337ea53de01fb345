"""Relations in their three ways, and MiniLM on them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo_core.distill import Objective, Student, Teacher
from zoo_core.distill.adapters import layer_map, regroup
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.relations import relation_kl
from zoo_core.distill.minilm import minilm, points
from zoo_core.errors import UsageError
from zoo_core.io.packs import packs_root
from zoo_core.nn.number_format import number_format

WAYS = ("explicit", "blocks", "fused")


def pair(batch: int, heads: int, tokens: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, heads, tokens, width, generator=generator, dtype=torch.float64).to(dtype) for _ in "xy"
    )


def by_definition(student: Any, teacher: Any, mask: Tensor) -> Tensor:
    """As the paper writes it, one row at a time."""
    (x_s, y_s), (x_t, y_t) = student, teacher
    values = []
    for b in range(len(x_s)):
        real = mask[b].nonzero().flatten()
        rows = []
        for h in range(x_s.shape[1]):
            for i in real:
                p = torch.softmax(y_t[b, h, real] @ x_t[b, h, i] / x_t.shape[-1] ** 0.5, 0)
                q = torch.softmax(y_s[b, h, real] @ x_s[b, h, i] / x_s.shape[-1] ** 0.5, 0)
                rows.append((p * (p / q).log()).sum())
        values.append(torch.stack(rows).mean())
    return torch.stack(values)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_definition_in_value_and_gradient(way: Any) -> None:
    teacher = pair(2, 3, 11, 8, seed=0)
    student = tuple(x.requires_grad_() for x in pair(2, 3, 11, 5, seed=1))
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 7:] = False
    expected = by_definition(student, teacher, mask)
    found = relation_kl(student, teacher, mask=mask, way=way, block=4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    upstream = torch.tensor([0.3, 2.0], dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, student, upstream), torch.autograd.grad(expected, student, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["blocks", "fused"])
def test_single_precision_holds_where_student_and_teacher_are_close(way: Any) -> None:
    # 1 % apart: the gradient is a small difference of large terms
    teacher = pair(1, 2, 64, 16, seed=0, dtype=torch.float32)
    near = [x + 0.01 * d for x, d in zip(teacher, pair(1, 2, 64, 16, seed=1, dtype=torch.float32), strict=True)]
    student = tuple(x.requires_grad_() for x in near)
    exact = tuple(x.detach().double().requires_grad_() for x in near)
    wide = tuple(x.double() for x in teacher)
    ours = torch.autograd.grad(relation_kl(student, teacher, way=way, block=16).sum(), student)
    theirs = torch.autograd.grad(relation_kl(exact, wide, way="explicit").sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.double() - b).norm() / b.norm()) < 1e-4
    value = relation_kl(student, teacher, way=way, block=16)
    torch.testing.assert_close(value.double(), relation_kl(exact, wide, way="explicit"), rtol=0, atol=1e-5)


def test_what_is_kept_for_the_backward_pass_grows_with_the_tokens_and_not_with_their_square() -> None:
    def kept(tokens: int, way: Any) -> int:
        student, teacher = (pair(1, 2, tokens, 8, seed=s) for s in (0, 1))
        count = 0

        def note(x: Tensor) -> Tensor:
            nonlocal count
            count += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            relation_kl(tuple(x.requires_grad_() for x in student), teacher, way=way, block=16)  # type: ignore[arg-type]
        return count

    for way in ("blocks", "fused"):
        assert kept(256, way) <= 2 * kept(128, way)
    assert kept(256, "explicit") > 3.5 * kept(128, "explicit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("way", ["blocks", "fused"])
def test_memory_on_a_device_grows_with_the_tokens_and_not_with_their_square(way: Any) -> None:
    def peak(tokens: int) -> int:
        given = [[x.cuda() for x in pair(2, 4, tokens, 64, seed=s, dtype=torch.float32)] for s in (0, 1)]
        student = tuple(x.requires_grad_() for x in given[0])
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.autograd.grad(relation_kl(student, tuple(given[1]), way=way).sum(), student)  # type: ignore[arg-type]
        return torch.cuda.max_memory_allocated() - before

    assert peak(4096) < 2.3 * peak(2048)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tf32_of_the_run_does_not_reach_the_gradient() -> None:
    teacher = [x.cuda() for x in pair(1, 2, 64, 16, seed=0)]
    near = [x + 0.01 * d.cuda() for x, d in zip(teacher, pair(1, 2, 64, 16, seed=1), strict=True)]

    def gradient(dtype: torch.dtype) -> list[Tensor]:
        student = tuple(x.to(dtype).requires_grad_() for x in near)
        value = relation_kl(student, tuple(x.to(dtype) for x in teacher))  # type: ignore[arg-type]
        return [g.double() for g in torch.autograd.grad(value.sum(), student)]

    with number_format("tf32"):
        ours, exact = gradient(torch.float32), gradient(torch.float64)
    for a, b in zip(ours, exact, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-4


def test_shared_keys_and_one_tensor_as_both_sides() -> None:
    teacher, (x, y) = pair(1, 4, 6, 8, seed=0), pair(1, 4, 6, 8, seed=1)
    shared = y[:, :2].clone().requires_grad_()
    one = relation_kl((x, shared), teacher, way="blocks", block=4)
    two = relation_kl((x, shared.repeat_interleave(2, dim=1)), teacher, way="explicit")
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), shared)[0] for v in (one, two)))
    v = x.clone().requires_grad_()
    grads = [torch.autograd.grad(relation_kl((v, v), teacher, way=w).sum(), v)[0] for w in ("blocks", "explicit")]
    torch.testing.assert_close(*grads)


def test_relations_do_not_see_rotations_and_features_do() -> None:
    (q, k), (v, _) = pair(2, 3, 7, 8, seed=0), pair(2, 3, 7, 8, seed=1)
    rotation, _ = torch.linalg.qr(torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    assert float(relation_kl((v @ rotation, v @ rotation), (v, v)).abs().max()) < 1e-14
    assert float(relation_kl((q @ rotation, k @ rotation), (q, k)).abs().max()) < 1e-14
    assert float(relation_kl((q @ rotation, k), (q, k)).min()) > 0.1
    assert float(mse(v @ rotation, v).min()) > 0.1


def test_other_numbers_of_heads_are_refused_unless_regrouped() -> None:
    with pytest.raises(UsageError, match=r"\(2, 3, 7\).*\(2, 4, 7\)"):
        relation_kl(pair(2, 3, 7, 8, seed=0), pair(2, 4, 7, 6, seed=1))
    x = torch.arange(24.0).reshape(1, 2, 3, 4)  # two heads of four
    assert regroup(x, 4).shape == (1, 4, 3, 2)
    # the width of all heads in a row stays what it is
    flat = [y.transpose(1, 2).flatten(2) for y in (x, regroup(x, 4))]
    assert torch.equal(*flat)
    with pytest.raises(UsageError, match="cut into 3"):
        regroup(x, 3)


def test_layers_that_teach() -> None:
    assert layer_map(3, 12) == [3, 7, 11]
    assert layer_map(4, 8, "last") == [4, 5, 6, 7]
    assert layer_map(5, 5) == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="cannot learn"):
        layer_map(6, 4)


# -- MiniLM ------------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Tokens (B, N) -> (B, N, width), by layers of torch's own attention."""

    def __init__(self, width: int, layers: int, heads: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(16, width)
        self.place = nn.Parameter(torch.randn(12, width) * 0.3)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.after = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.after(x)


@pytest.mark.parametrize(("pairs", "heads", "names"), [("v1", 4, "qk vv"), ("v2", 2, "qq kk vv")])
def test_a_small_student_of_other_width_and_depth_learns_the_relations(pairs: Any, heads: int, names: str) -> None:
    # no adapter: 16 wide and 1 deep from 32 wide and 3 deep; v2 also with other heads
    teacher = Teacher(Encoder(32, 3, 4, seed=0), points("layers.2.attention"), inputs="tokens")
    objective = Objective(minilm(pairs, relation_heads=8 if heads != 4 else None))
    student = Student(Encoder(16, 1, heads, seed=1), points("layers.0.attention"), objective)
    assert not dict(student.adapters)
    optimizer = torch.optim.Adam(student.parameters(), 5e-3)
    history = []
    generator = torch.Generator().manual_seed(0)
    for step in range(150):
        batch = {"tokens": torch.randint(0, 16, (16, 10), generator=generator)}
        loss, parts = objective(student(batch["tokens"]), teacher(batch), batch, step)
        assert list(parts) == [f"relation_{name}" for name in names.split()]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append([float(p) for p in parts.values()])
    start, end = torch.tensor(history[:10]).mean(0), torch.tensor(history[-10:]).mean(0)
    assert (end < 0.5 * start).all(), (start, end)


def test_padding_is_neither_row_nor_key() -> None:
    net = Encoder(16, 1, 2, seed=0)
    objective = Objective(minilm(mask="real"))
    student = Student(net, points("layers.0.attention"), objective)
    teacher = Teacher(Encoder(16, 1, 2, seed=1), points("layers.0.attention"), inputs="tokens")
    tokens = torch.randint(0, 16, (2, 9))
    real = torch.ones(2, 9, dtype=torch.bool)
    real[:, 6:] = False
    padded, short = {"tokens": tokens, "real": real}, {"tokens": tokens[:, :6], "real": real[:, :6]}
    # only q, k, v are compared, which are made token by token
    values = [objective(student(b["tokens"]), teacher(b), b, 0)[0] for b in (padded, short)]
    torch.testing.assert_close(values[0], values[1])


# -- the study ---------------------------------------------------------------------------------------------------------

TOOL = Path(__file__).parents[3] / "tools/distill_minilm.py"
TEXT = (packs_root() or Path("no packs")) / "htr/text/en.txt"


@pytest.mark.skipif(not TEXT.exists(), reason="the pack htr/text is not here: set ZOO_PACKS")
def test_the_study_hides_what_it_asks_for_and_runs_all_its_rows() -> None:
    tool = runpy.run_path(str(TOOL))
    size = tool["Size"]
    study = tool["Study"](size(2, 16), size(1, 8), 2, window=32, batch=8, teacher_steps=3, steps=3, probe_steps=3)
    text = tool["Text"](study, torch.device("cpu"))
    assert len(text.parts["held out"]) > 50_000
    for part in text.parts:
        batch = text.batch(part, seed=0, step=5)
        assert (batch["tokens"][batch["hidden"]] == 0).all()
        assert (batch["label"] > 0).all(), "the sign that hides is no character"
        assert torch.equal(batch["tokens"] == batch["label"], ~batch["hidden"])
    rows = dict(tool["study_of"](study, 0, torch.device("cpu")))
    assert list(rows)[:4] == ["the teacher", "labels alone", "logits", "logits and relations"]
    assert all(0 < accuracy < 1 for accuracy in rows.values())
    made = tool["table"]({name: [0.5, 0.5 + 0.01 * number] for number, (name, _) in enumerate(rows.items())})
    assert "| logits and relations | 50.0%, 53.0% | +0.5 ± 0.7 points |" in made
