"""Objectives, students, teachers and caches: what they promise, and what they say to bad input."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo_core.config import parse_yaml
from zoo_core.distill import (
    CachedTeacher,
    Objective,
    Student,
    Teacher,
    TeacherCache,
    Teachers,
    Term,
    TopK,
    after,
    const,
    cosine,
    linear,
    steps,
    write_cache,
)  # fmt: skip
from zoo_core.distill.adapters import ClassMap, LayerNormed, PatchTokens, conv1x1, pca
from zoo_core.distill.adapters import linear as linear_adapter
from zoo_core.distill.fingerprint import told
from zoo_core.distill.losses.features import mse, spatial_attention
from zoo_core.distill.losses.logits import cross_entropy, kl
from zoo_core.distill.losses.sparse import sparse_kl
from zoo_core.distill.recipe import DistillRecipe, objective, point, schedule, stages
from zoo_core.distill.rehearsal import rehearse
from zoo_core.distill.rollout import Rollout, exit_index
from zoo_core.distill.shares import cosines, gradients, share_logs, shares
from zoo_core.distill.stages import Plateau, Players, Stage
from zoo_core.errors import InputError, UsageError, ZooError
from zoo_core.probe import Edit, Point, Seen


class Net(nn.Module):
    """(B, 6) -> (B, 4), with a hidden layer."""

    def __init__(self, width: int = 8, *, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.hidden = nn.Sequential(nn.Linear(6, width), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


def batch(samples: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(samples, 6, generator=generator),
        "label": torch.randint(0, 4, (samples,), generator=generator),
        "id": torch.arange(samples) + 100 * seed,
        "labelled": torch.arange(samples) % 3 > 0,
    }


def labels(logits: Tensor, data: dict[str, Tensor]) -> Tensor:
    return cross_entropy(logits, data["label"])


def teacher(**options: Any) -> Teacher:
    return Teacher(Net(16, seed=9), {"logits": Point(""), "hidden": "hidden"}, **{"inputs": "x", **options})


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_schedules_at_their_corners() -> None:
    assert [linear(0, 50, 10, 20)(step) for step in (0, 10, 15, 20, 99)] == [0, 0, 25, 50, 50]
    assert [round(cosine(4, 2, 0, 10)(step), 6) for step in (0, 5, 10, 11)] == [4, 3, 2, 2]
    assert [steps(1, (5, 2), (9, 0))(step) for step in (0, 4, 5, 8, 9)] == [1, 1, 2, 2, 0]
    assert [after(3)(step) for step in (2, 3)] == [0, 1]
    assert const(7)(10**9) == 7
    assert linear(0, 1, 0, 9) == linear(0, 1, 0, 9)
    with pytest.raises(UsageError, match="goes nowhere"):
        linear(0, 1, 5, 5)
    with pytest.raises(UsageError, match="must rise"):
        steps(1, (5, 2), (3, 1))


@given(st.integers(0, 200), st.booleans())
def test_ramps_stay_between_their_ends_and_rise(step: int, bent: bool) -> None:
    ramp = (cosine if bent else linear)(0.25, 2.0, 20, 120)
    assert 0.25 <= ramp(step) <= ramp(step + 1) <= 2.0


# -- objective ---------------------------------------------------------------------------------------------------------


def seen(values: list[float]) -> Seen:
    return Seen(torch.tensor(values, requires_grad=True), {})


def as_they_are(student: Tensor, _: Any, *, mask: Tensor | None = None, times: float = 1.0) -> Tensor:
    return times * student if mask is None else times * student * mask.float().mean(1)


def test_the_value_is_the_weighted_mean_over_the_samples_that_count() -> None:
    data = {"some": torch.tensor([True, False, True]), "places": torch.tensor([[1, 1], [1, 1], [0, 0]])}
    both = Objective(
        [
            Term("all", as_they_are, "out", weight=2.0, constants={"times": linear(1, 3, 0, 2)}),
            Term("some", as_they_are, "out", weight=10.0, only="some"),
            Term("places", as_they_are, "out", mask=lambda b: b["places"]),
        ]
    )
    total, parts = both(seen([1.0, 2.0, 6.0]), None, data, 1)
    # a sample whose mask is empty does not count
    assert {name: float(value) for name, value in parts.items()} == {"all": 6.0, "some": 3.5, "places": 1.5}
    assert float(total.detach()) == 2 * 6 + 10 * 3.5 + 1.5


def test_nothing_counts_is_zero_and_not_nan() -> None:
    none = Objective([Term("t", as_they_are, "out", only="some"), Term("u", as_they_are, "out")])
    student = seen([torch.inf, 1.0])
    _, parts = none(student, None, {"some": torch.zeros(2)}, 0)
    assert float(parts["t"]) == 0
    only = Objective([Term("t", as_they_are, "out", only="some")])
    assert float(only(student, None, {"some": torch.tensor([0, 1])}, 0)[0].detach()) == 1.0


def test_weight_zero_is_not_computed() -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError("computed")

    later = Objective([Term("a", as_they_are, "out"), Term("b", never, "out", weight=after(5))])
    total, parts = later(seen([3.0]), None, {}, 4)
    assert float(total.detach()) == 3.0
    assert torch.isnan(parts["b"])
    with pytest.raises(AssertionError, match="computed"):
        later(seen([3.0]), None, {}, 5)
    with pytest.raises(UsageError, match="Every term has weight 0 at step 4"):
        Objective([Term("b", never, "out", weight=after(5))])(seen([1.0]), None, {}, 4)


def test_terms_that_change_with_the_step_are_known() -> None:
    # a CUDA graph would freeze them
    terms = [
        Term("a", kl, "out", weight=2.0, constants={"tau": linear(4, 1, 0, 9)}),
        Term("b", kl, "out", weight=const(1)),
        Term("c", kl, "out", weight=after(5)),
        Term("d", kl, "out", constants={"chunk": 3}),
    ]
    assert Objective(terms).changes() == ["a", "c"]


def test_micro_batches_add_up_to_the_batch() -> None:
    net, data = Net(), batch(6)
    goal = Objective([Term("task", labels, "out", only="labelled"), Term("plain", labels, "out", weight=0.3)])
    whole, _ = goal(Seen(net(data["x"]), {}), None, data, 0)
    expected = torch.autograd.grad(whole, list(net.parameters()))
    parts = [{key: x[rows] for key, x in data.items()} for rows in (slice(0, 1), slice(1, 6))]
    totals: dict[str, Tensor] = {}
    for part in parts:
        for name, count in goal.counts(part, len(part["x"]), 0).items():
            totals[name] = totals.get(name, torch.zeros(())) + count
    sums = [torch.zeros_like(p) for p in net.parameters()]
    for part in parts:
        loss, _ = goal(Seen(net(part["x"]), {}), None, part, 0, totals=totals)
        for total, g in zip(sums, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            total += g
    for a, b in zip(sums, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_losses_are_float32_whatever_the_precision_of_training() -> None:
    kinds = []

    def note(student: Tensor, other: Tensor) -> Tensor:
        kinds.append((student @ student.T).dtype)
        return kl(student, other)

    student = Student(Net(), {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = student(batch()["x"])
        assert out.out.dtype == torch.bfloat16
        total, _ = Objective([Term("kd", note, "out", "logits")])(out, teacher()(batch()), {}, 0)
    # the product stays what its inputs are: autocast is off; the loss widens
    assert kinds == [torch.bfloat16]
    assert total.dtype == torch.float32


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("t", kl, "out", "logit"), r"'t': the teacher has no point 'logit'. Did you mean 'logits'\?"),
        (Term("t", kl, "outt", "logits"), r"'t': the student has no point 'outt'. Did you mean 'out'\?"),
        (Term("t", mse, "hidden", "hidden"), r"'t' \(student 'hidden', teacher 'hidden'\).*linear\(8, 16\)"),
        (Term("t", lambda s, t: (s - t).mean(), "out", "logits"), "one number a sample"),
        (Term("t", kl, "out", "logits", only="labeled"), "no 'labeled'. Did you mean 'labelled'"),
        (Term("t", kl, "out", "logits", mask="id"), "no places inside a sample"),
        (Term("t", mse, "hidden", "hidden", adapter=nn.Linear(8, 16)), r"Student\(network, points, objective\)"),
    ],
)
def test_terms_that_do_not_fit_say_why(term: Term, message: str) -> None:
    student = Student(Net(), {"hidden": "hidden"})
    with pytest.raises(UsageError, match=message):
        Objective([term])(student(batch()["x"]), teacher()(batch()), batch(), 0)


def test_a_teacher_that_is_needed_and_names_that_clash() -> None:
    with pytest.raises(UsageError, match="needs a teacher"):
        Objective([Term("t", kl, "out", "logits")])(seen([1.0]), None, {}, 0)
    with pytest.raises(UsageError, match="different names"):
        Objective([Term("t", kl, "out"), Term("t", kl, "out")])
    with pytest.raises(UsageError, match="adapter for several points"):
        Term("t", kl, ("q", "k"), adapter=nn.Identity())


# -- student -----------------------------------------------------------------------------------------------------------


def test_adapters_train_with_the_student_and_are_not_published() -> None:
    goal = Objective([Term("feature", mse, "hidden", "hidden", adapter=linear_adapter(8, 16))])
    student = Student(Net(), {"hidden": "hidden"}, goal)
    loss, _ = goal(student(batch()["x"]), teacher()(batch()), batch(), 0)
    loss.backward()
    assert student.adapters["feature"].weight.grad is not None
    assert set(Student.published(student.state_dict())) == set(Net().state_dict())
    # two stages may share a term, adapter included
    again = Objective([*goal.terms, Term("task", labels, "out")])
    assert set(Student(Net(), {"hidden": "hidden"}, [goal, again]).adapters) == {"feature"}
    other = Objective([Term("feature", mse, "hidden", "hidden", adapter=linear_adapter(8, 16))])
    with pytest.raises(UsageError, match="different adapters"):
        Student(Net(), {"hidden": "hidden"}, [goal, other])


def test_a_student_may_learn_from_its_own_average() -> None:
    goal = Objective([Term("task", labels, "out"), Term("self", kl, "out", "ema:out"), Term("h", mse, "h", "ema:h")])
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
    student = Student(net, {"h": "0"}, goal, follow=0.9)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], 0.5)
    average = {name: x.clone() for name, x in net.state_dict().items()}
    for step in range(4):
        for name, x in net.state_dict().items():
            average[name] = 0.9 * average[name] + 0.1 * x if x.is_floating_point() else x.clone()
        loss, parts = goal(student(batch()["x"]), None, batch(), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(parts["h"]) > 0
    for name, x in student.follower.module.state_dict().items():  # type: ignore[union-attr]
        torch.testing.assert_close(x, average[name])
    # saved, not trained, not published; still in evaluation
    assert "follower.module.0.weight" in student.state_dict()
    assert set(Student.published(student.state_dict())) == set(net.state_dict())
    before = {name: x.clone() for name, x in student.state_dict().items()}
    student.eval()(batch()["x"])
    assert all(torch.equal(before[name], x) for name, x in student.state_dict().items())
    with pytest.raises(UsageError, match=r"student with follow= has no point 'ema:out'"):
        goal(Student(net, {"h": "0"}, goal)(batch()["x"]), None, batch(), 0)


def test_what_is_frozen_stays_and_globs_that_match_nothing_are_refused() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    student = Student(net, {})
    assert student.trains(freeze=["0.*", "1.*"]) == ["2.weight", "2.bias"]
    student.train()
    before = net[1].running_mean.clone()
    student(torch.randn(8, 6) + 3)
    assert torch.equal(net[1].running_mean, before)
    assert student.trains() == [name for name, _ in net.named_parameters()]
    student(torch.randn(8, 6) + 3)
    assert not torch.equal(net[1].running_mean, before)
    with pytest.raises(UsageError, match=r"matches 'heads\.\*'.*nearest"):
        student.trains(["heads.*"])


# -- teacher -----------------------------------------------------------------------------------------------------------


def test_a_teacher_is_part_of_nothing() -> None:
    module = nn.Linear(2, 2)
    module.teacher = teacher()  # type: ignore[assignment]
    assert set(module.state_dict()) == {"weight", "bias"}
    assert len(list(module.parameters())) == 2
    assert len(list(module.modules())) == 1


def test_a_teacher_has_no_gradient_no_dropout_and_no_part_in_the_generator() -> None:
    one = Teacher(Net(16, dropout=0.5, seed=9).train(), {"logits": Point("")}, inputs="x")
    state = torch.get_rng_state()
    taught = one(batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(taught.at["logits"], one(batch()).at["logits"])
    assert not taught.at["logits"].requires_grad
    # multiplied with what needs a gradient (tensors of inference mode may not be)
    weight = torch.ones(4, requires_grad=True)
    (taught.at["logits"] * weight).sum().backward()


def test_the_fingerprint_is_of_everything_that_decides_the_output() -> None:
    base = teacher().fingerprint
    assert base == teacher().fingerprint
    changed = Net(16, seed=9)
    with torch.no_grad():
        changed.head[1].bias[0] += 1e-6
    others = [
        teacher(precision="bf16-true").fingerprint,
        teacher(preprocessing="letterbox 2").fingerprint,
        teacher(edits=[Edit(Point("hidden"), torch.tanh)]).fingerprint,
        teacher(transforms={"logits": TopK(2)}).fingerprint,
        Teacher(changed, {"logits": Point(""), "hidden": "hidden"}, inputs="x").fingerprint,
        Teacher(Net(16, seed=9), {"logits": Point("")}, inputs="x").fingerprint,
    ]
    assert len({base, *others}) == 1 + len(others)
    # the same in another process: no address of an object in it
    assert "0x" not in told(Edit(Point("hidden"), torch.tanh))
    with pytest.raises(UsageError, match="cannot be told"):
        teacher(transforms={"logits": lambda x: x})


def test_a_teacher_that_moves_is_noticed() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    one = Teacher(net, {"y": "1"}, inputs="x")
    one(batch())
    one.check_unchanged()
    net.train()(batch()["x"])
    with pytest.raises(ZooError, match="has changed during training"):
        one.check_unchanged()


def test_half_precision_and_autocast_of_the_student_do_not_reach_it() -> None:
    low = teacher(precision="bf16-true")(batch())
    assert low.at["logits"].dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert teacher()(batch()).at["logits"].dtype == torch.float32


# -- cache -------------------------------------------------------------------------------------------------------------


def cached(folder: Path, *, samples: int = 12, **options: Any) -> Teacher:
    """A teacher whose cache holds these samples."""
    plain = teacher(**{key: options[key] for key in options.keys() & {"transforms"}})
    cache = TeacherCache(
        folder, teacher=plain.fingerprint, data="d" * 64, form=options.get("form", "fp32"), shard_bytes=500
    )
    data = batch(samples)
    parts = [{key: x[i : i + 4] for key, x in data.items()} for i in range(0, samples, 4)]
    list(write_cache(cache, plain, parts, keys=lambda b: b["id"], inputs=lambda b: b["x"]))
    again = TeacherCache(folder, teacher=plain.fingerprint, data="d" * 64, form=options.get("form", "fp32"))
    more = {key: options[key] for key in options.keys() & {"transforms", "fill"}}
    return teacher(cache=again, keys="id", **more)


def test_what_was_cached_comes_back_in_any_order(tmp_path: Path) -> None:
    one = cached(tmp_path / "cache")
    order = torch.tensor([7, 0, 11, 7])
    data = {key: x[order] for key, x in batch(12).items()}
    found, live = one(data), teacher()(data)
    for name in ("logits", "hidden"):
        assert torch.equal(found.at[name], live.at[name])
    assert len(list((tmp_path / "cache").glob("shard-*.safetensors"))) > 1
    assert one.identity == one.fingerprint


@pytest.mark.parametrize(("form", "most"), [("fp16", 1e-3), ("int8", 1e-2)])
def test_short_numbers_are_near_and_said_to_be_short(tmp_path: Path, form: str, most: float) -> None:
    one = cached(tmp_path / "cache", form=form)
    found, live = one(batch(12)), teacher()(batch(12))
    error = (found.at["logits"] - live.at["logits"]).abs().max()
    assert 0 < float(error) < most * float(live.at["logits"].abs().max())
    assert one.identity == f"{one.fingerprint} {form}"
    # the index aside, it is as small as it says
    sizes = [sum(p.stat().st_size for p in (tmp_path / "cache").glob("shard-*")) for _ in (1,)]
    assert sizes[0] < 12 * 20 * (2 if form == "fp16" else 1.5) + 3 * 600


def test_sparse_targets_come_back_and_teach_the_same(tmp_path: Path) -> None:
    one = cached(tmp_path / "cache", transforms={"logits": TopK(3)})
    live = teacher(transforms={"logits": TopK(3)})
    student = Net()(batch(12)["x"])
    values = [sparse_kl(student, t(batch(12)).at["logits"]) for t in (one, live)]
    assert torch.equal(*values)


@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_lines_of_different_lengths_are_kept_without_padding(tmp_path: Path, form: Any) -> None:
    per_frame = nn.Linear(3, 5, bias=False)
    lines, frames = torch.randn(4, 7, 3), torch.tensor([7, 2, 4, 4])
    data = {"x": lines, "id": torch.arange(4), "frames": frames}
    live = Teacher(per_frame, {"logits": ""}, inputs="x")
    cache = TeacherCache(tmp_path, teacher=live.fingerprint, data="d", form=form)
    filling = Teacher(per_frame, {"logits": ""}, inputs="x", keys="id", lengths="frames", cache=cache, fill=True)
    expected = live(data).at["logits"] * (torch.arange(7)[None, :, None] < frames[:, None, None])
    before = filling(data).at["logits"]
    cache.flush()
    again = TeacherCache(tmp_path, form=form)
    found = again.read([3, 0, 1])["logits"]
    torch.testing.assert_close(found, expected[[3, 0, 1]], atol=0 if form == "fp32" else 0.05, rtol=0)
    assert torch.equal(found, before[[3, 0, 1]])
    # alone, a line is as long as it is, or as the batch is
    assert again.read([1])["logits"].shape == (1, 2, 5)
    assert again.read([1], frames=9)["logits"].shape == (1, 9, 5)


def test_several_teachers_and_one_that_is_only_a_cache(tmp_path: Path) -> None:
    written = cached(tmp_path / "cache")
    only = CachedTeacher(TeacherCache(tmp_path / "cache"), "id")
    assert only.identity == written.identity == teacher().identity
    both = Teachers({"a": only, "b": Teacher(Net(seed=3), {"logits": ""}, inputs="x")})
    taught = both(batch(12))
    assert set(taught.at) == {"a:logits", "a:hidden", "b:logits"}
    assert torch.equal(taught.at["a:logits"], teacher()(batch(12)).at["logits"])
    other = Teachers({"a": only, "b": Teacher(Net(seed=4), {"logits": ""}, inputs="x")})
    assert both.identity != other.identity
    # the output itself was not written down
    with pytest.raises(UsageError, match=r"the teacher has no output here.*Point"):
        Objective([Term("kd", kl, "out", "out")])(Student(Net(), {})(batch()["x"]), only(batch()), batch(), 0)
    with pytest.raises(InputError, match="outputs for 100"):
        only(batch(seed=1))


def test_views_are_kept_apart(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, teacher="t", data="d", policy="views=2")
    names = [("a", 0), ("a", 1), ("b", 0)]
    cache.add(names, Seen(None, {"y": torch.arange(3.0)}))
    cache.flush()
    again = TeacherCache(tmp_path, policy="views=2")
    assert again.read([("b", 0), ("a", 1)])["y"].tolist() == [2, 1]
    with pytest.raises(InputError, match=r"outputs for b \(view 1\)"):
        again.read([("b", 1)])


def test_missing_samples_are_named_or_filled(tmp_path: Path) -> None:
    one = cached(tmp_path / "cache")
    with pytest.raises(InputError, match=r"lacks the teacher's outputs for 100, 101, 102 and 3 more"):
        one(batch(seed=1))
    filling = cached(tmp_path / "cache", fill=True)
    assert torch.equal(filling(batch(seed=1)).at["logits"], teacher()(batch(seed=1)).at["logits"])
    filling.cache.flush()  # type: ignore[union-attr]
    assert torch.equal(cached(tmp_path / "cache")(batch(seed=1)).at["hidden"], teacher()(batch(seed=1)).at["hidden"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teacher": "u" * 64}, "another teacher"),
        ({"data": "e" * 64}, "other data"),
        ({"policy": "views=4"}, "another augmentation policy"),
        ({"form": "fp16"}, "another form"),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    one = cached(tmp_path / "cache")
    with pytest.raises(InputError, match=message) as caught:
        TeacherCache(tmp_path / "cache", **{"teacher": one.fingerprint, "data": "d" * 64, **given})
    assert next(iter(given.values()))[:12] in caught.value.message
    changed = Net(16, seed=10)
    with pytest.raises(InputError, match="another teacher"):
        Teacher(changed, {"logits": Point("")}, inputs="x", keys="id", cache=TeacherCache(tmp_path / "cache"))


@pytest.mark.parametrize("damage", ["short", "lost", "no index", "torn header", "shard in another folder"])
def test_damage_is_found_before_training(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    cached(folder)
    shard, header = folder / "shard-00001.safetensors", folder / "header.json"
    if damage == "short":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "lost":
        shard.unlink()
    elif damage == "no index":
        (folder / "index.parquet").unlink()
    elif damage == "torn header":
        header.write_bytes(header.read_bytes()[:-9])
    else:
        data = json.loads(header.read_text())
        data["shards"][1]["file"] = "sub/../shard-00001.safetensors"
        header.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"shard-00001|index\.parquet|header\.json"):
        TeacherCache(folder)


def test_a_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    cached(tmp_path / "cache").cache.verify()  # type: ignore[union-attr]
    shard = tmp_path / "cache" / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match=r"shard-00001\.safetensors has changed"):
        TeacherCache(tmp_path / "cache").verify()


def test_a_writer_that_died_between_its_files_left_a_smaller_cache(tmp_path: Path) -> None:
    cached(tmp_path / "cache", samples=8)
    header = (tmp_path / "cache" / "header.json").read_bytes()
    cached(tmp_path / "cache", samples=12)
    (tmp_path / "cache" / "header.json").write_bytes(header)  # died before it was replaced
    cache = TeacherCache(tmp_path / "cache")
    assert [sample for sample, _ in cache.missing(torch.arange(12))] == ["8", "9", "10", "11"]
    # and going on gives what it would have given
    one = cached(tmp_path / "cache", samples=12)
    assert torch.equal(one(batch(12)).at["logits"], teacher()(batch(12)).at["logits"])


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = cached(tmp_path / "cache", fill=True)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space")

    one(batch(seed=2))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ZooError, match=r"no space for its \d+ bytes.*12 samples before it are kept"):
            one.cache.flush()  # type: ignore[union-attr]
    assert len(TeacherCache(tmp_path / "cache")) == 12
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix == ".part"]


def test_outputs_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, teacher="t", data="d")
    with pytest.raises(ZooError, match=r"'y' is not finite.*bf16"):
        cache.add([1], Seen(None, {"y": torch.tensor([[torch.inf]])}))
    short = TeacherCache(tmp_path, teacher="t", data="d", form="fp16")
    with pytest.raises(ZooError, match="too large for fp16"):
        short.add([1], Seen(None, {"y": torch.tensor([[1e5]])}))
    with pytest.raises(InputError, match="holds no cache"):
        TeacherCache(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"names no sample"):
        cache.missing([1.5])


# -- dry run and shares ------------------------------------------------------------------------------------------------


def goal() -> Objective:
    return Objective(
        [
            Term("task", labels, "out"),
            Term("kd", kl, "out", "logits", weight=after(10, 3.0)),
            Term("feature", mse, "hidden", "hidden", adapter=linear_adapter(8, 16)),
        ]
    )


def test_the_dry_run_tells_of_every_term() -> None:
    objective_ = goal()
    student = Student(Net(), {"hidden": "hidden"}, objective_)
    found = rehearse(objective_, student, teacher(), batch(), inputs="x", teacher_metric=("accuracy", 0.82, 0.82))
    task, kd, feature = found.rows
    assert (feature.student, feature.teacher, feature.adapter) == ("6x8", "6x16", "Linear")
    # a term that begins later is looked at, too
    assert (kd.weight, kd.share) == (0, 0)
    assert kd.gradient > 0
    assert task.share + feature.share == pytest.approx(1)
    text = str(found).splitlines()
    assert len(text) == 5
    assert text[-1].endswith("80 bytes a sample in a cache, accuracy 0.82 (its manifest says 0.82)")


def test_a_term_that_does_nothing_stops_the_dry_run() -> None:
    def stray(student: Tensor, other: Tensor) -> Tensor:
        return kl(student.detach(), other)

    student = Student(Net(), {"hidden": "hidden"})
    for term in (Term("kd", stray, "out", "logits"), Term("far", lambda s, t: kl(s, t) * 0, "out", "logits")):
        both = Objective([Term("task", labels, "out"), term])
        with pytest.raises(UsageError, match=rf"'{term.name}' has a gradient of 0"):
            rehearse(both, student, teacher(), batch(), inputs="x")
        assert rehearse(both, student, teacher(), batch(), inputs="x", idle=[term.name]).rows[1].gradient == 0
    frozen = Student(Net(), {"hidden": "hidden"})
    frozen.trains(["head.*"])
    with pytest.raises(UsageError, match="frozen part"):
        rehearse(Objective([Term("h", mse, "hidden", "out")]), frozen, small_teacher(), batch(), inputs="x")


def small_teacher() -> Teacher:
    return Teacher(Net(8, seed=5).hidden, {}, inputs="x")


class Restless(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer, self.calls = kind, nn.Linear(6, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.kind == "dropout":
            return nn.functional.dropout(self.layer(x), 0.5)  # training=True is its default
        return self.layer(x) * (self.calls if self.kind == "counts" else 1e38 * 1e38)


@pytest.mark.parametrize(
    ("kind", "message"), [("dropout", "draws random numbers"), ("counts", "from call to call"), ("inf", "not finite")]
)
def test_teachers_that_cannot_teach_stop_the_dry_run(kind: str, message: str) -> None:
    bad = Teacher(Restless(kind), {"logits": Point("")}, inputs="x")
    with pytest.raises(ZooError, match=message):
        rehearse(Objective([Term("kd", kl, "out", "logits")]), Student(Net(), {}), bad, batch(), inputs="x")


def test_a_teacher_below_its_manifest_and_one_that_is_the_student() -> None:
    objective_, student = Objective([Term("kd", kl, "out", "logits")]), Student(Net(), {})
    with pytest.raises(UsageError, match=r"accuracy 0.59 \(its manifest says 0.82\).*prepared"):
        rehearse(objective_, student, teacher(), batch(), inputs="x", teacher_metric=("accuracy", 0.59, 0.82))
    net = Net()
    same = Student(net, {})
    itself = Teacher(net, {"logits": Point("")}, inputs="x")
    with pytest.raises(UsageError, match="same network"):
        rehearse(objective_, same, itself, batch(), inputs="x")


def test_shares_are_of_the_weighted_gradients() -> None:
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    student = Seen(x, {"x": x})

    def pulls(direction: list[float]) -> Callable[..., Tensor]:
        return lambda s, _: (s * torch.tensor(direction)).sum(1)

    three = Objective(
        [
            Term("right", pulls([3.0, 4.0]), "out", weight=2.0),
            Term("left", pulls([-3.0, -4.0]), "out"),
            Term("up", pulls([-4.0, 3.0]), "out", weight=after(9)),
        ]
    )
    vectors = gradients(three, student, None, {}, 0, at="x")
    assert vectors["right"].tolist() == [6, 8]
    assert {name: round(float(s), 6) for name, s in shares(vectors).items()} == {"right": 0.666667, "left": 0.333333}
    assert float(cosines(vectors)["right", "left"]) == pytest.approx(-1)
    assert float(cosines(gradients(three, student, None, {}, 9, at=[x]))["left", "up"]) == pytest.approx(0, abs=1e-7)
    logged = [share_logs(three, student, None, {}, step, at="x", every=3) for step in (3, 4)]
    assert float(logged[0]["share_right"]) == pytest.approx(2 / 3)
    assert torch.isnan(logged[0]["share_up"])
    assert torch.isnan(logged[1]["share_right"])
    with pytest.raises(UsageError, match="no point 'y'"):
        gradients(three, student, None, {}, 0, at="y")


# -- adapters, stages, rollouts ----------------------------------------------------------------------------------------


def test_adapters_begin_as_they_say() -> None:
    wide, narrow = linear_adapter(4, 9), conv1x1(9, 4)
    torch.testing.assert_close(wide.weight.T @ wide.weight, torch.eye(4))
    torch.testing.assert_close(narrow.weight[:, :, 0, 0] @ narrow.weight[:, :, 0, 0].T, torch.eye(4))
    plane = torch.randn(50, 2) @ torch.randn(2, 7) + 3
    layer = pca(2, plane)
    inside = (plane - layer.bias) @ layer.weight
    torch.testing.assert_close(layer(inside), plane, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="cannot widen"):
        pca(8, plane)


def test_classes_are_matched_by_name_and_dropped_mass_is_told() -> None:
    mapped = ClassMap.between(["cat", "dog"], ["dog", "cow", "cat"])
    logits = torch.tensor([[1.0, -9.0, 2.0]])
    assert mapped(logits).tolist() == [[2.0, 1.0]]
    assert mapped.check(logits) < 1e-4
    with pytest.raises(UsageError, match=r"gives 9\d\.\d% of its probability"):
        mapped.check(torch.tensor([[0.0, 4.0, 0.0]]))
    with pytest.raises(UsageError, match=r"no class 'cow', 'pig'\."):
        ClassMap.between(["cow", "pig"], ["dog"])


def test_tokens_that_are_no_grid_are_refused() -> None:
    tokens = torch.arange(20.0).reshape(1, 10, 2)
    assert torch.equal(PatchTokens(1, (3, 3))(tokens), tokens[:, 1:])
    with pytest.raises(UsageError, match="no grid of 3 x 3"):
        PatchTokens(0, (3, 3))(tokens)
    torch.testing.assert_close(LayerNormed()(tokens).mean(-1), torch.zeros(1, 10))


def test_plateaus_are_functions_of_the_history() -> None:
    history = [{"acc": x} for x in (0.1, 0.5, 0.4, 0.5, 0.6, 0.6, 0.55)]
    ends = [n for n in range(len(history) + 1) if Plateau("acc", 2).reached(history[:n])]
    assert ends == [4, 7]
    assert not Plateau("acc", 2, higher=False).reached([{"acc": x} for x in (3.0, 2.0, 1.0)])
    with pytest.raises(UsageError, match=r"no metric 'ac'. Did you mean 'acc'"):
        Plateau("ac", 2).reached(history)
    with pytest.raises(UsageError, match="is no stage"):
        Stage("a/b", 3)


def test_turns_come_round() -> None:
    players = Players({"critic": 2, "generator": 1})
    assert [players.turn(step)[0] for step in range(7)] == list("ccgccgc")
    with pytest.raises(UsageError, match="no cycle"):
        Players({"critic": 0})


def test_rollouts_are_functions_of_seed_and_step() -> None:
    def make(student: nn.Module, data: Any, generator: torch.Generator, step: int) -> Any:
        noise = torch.randn(2, generator=generator)
        return {"y": student(torch.ones(2, 6)).sum(), "noise": noise}

    roll = Rollout(make, share=0.5, seed=3)
    student = Net()
    picked = [roll(student, None, step) is not None for step in range(400)]
    assert 150 < sum(picked) < 250
    step = picked.index(True)
    one, two = roll(student, None, step), roll(student, None, step)
    assert torch.equal(one["noise"], two["noise"])
    assert not torch.equal(one["noise"], roll(student, None, step, rank=1)["noise"])
    assert not one["y"].requires_grad
    assert Rollout(make, grad="last")(student, None, 0)["y"].requires_grad
    assert {exit_index(0, step, 4) for step in range(50)} == {0, 1, 2, 3}


# -- recipes -----------------------------------------------------------------------------------------------------------

SECTION = """
teacher: yolov4-voc
cache: kd-cache
points: {p3: neck.p3, q: "blocks.3.attn:q"}
terms:
  at: {loss: spatial_attention, at: p3, p: 3, weight: {linear: [0, 50, 0, 1000]}}
  kd: {loss: kl, student: out, teacher: logits, tau: {cosine: [4, 1, 0, 100]}, only: labelled}
  feature: {loss: mse, at: p3, adapter: {conv1x1: [8, 16]}, weight: {steps: [1, [500, 0]]}}
stages:
  - {name: warm, steps: 1000, train: ["neck.*"]}
  - {name: all, steps: 9000, until: {metric: map50, patience: 5}, optimizer: keep}
"""


def section(text: str = SECTION, **terms: Any) -> DistillRecipe:
    data = parse_yaml(text, origin="test")
    data["terms"].update(terms)
    return DistillRecipe.model_validate(data)


def test_a_recipe_is_the_same_objective_as_code() -> None:
    made = objective(section(), [Term("task", labels, "out")])
    _, at, kd, feature = made.terms
    assert (at.loss, at.student, at.teacher, at.weight) == (spatial_attention, "p3", "p3", linear(0, 50, 0, 1000))
    assert at.constants == {"p": 3}
    assert (kd.only, kd.constants) == ("labelled", {"tau": cosine(4, 1, 0, 100)})
    assert feature.weight == steps(1, (500, 0))
    assert isinstance(feature.adapter, nn.Conv2d)
    warm, everything = stages(section())
    assert (warm.train, everything.until, everything.optimizer) == (("neck.*",), Plateau("map50", 5), "keep")
    assert point(section().points["q"]) == Point("blocks.3.attn", "q")


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": "spatial_atention", "at": "p3"}, "Did you mean 'spatial_attention'"),
        ({"loss": "kl", "at": "p3", "taw": 2}, r"no key 'taw'. Did you mean 'tau'"),
        ({"loss": "kl"}, "says no point"),
        ({"loss": "kl", "at": "p3", "weight": {"linaer": [0, 1, 0, 9]}}, "Did you mean 'linear'"),
        ({"loss": "kl", "at": "p3", "weight": {"linear": [0, 1]}}, r"takes \(first, last, start, end\)"),
        ({"loss": "kl", "at": "p3", "weight": "big"}, "neither a number nor a schedule"),
        ({"loss": "mse", "at": "p3", "adapter": {"conv": [8, 16]}}, "no adapter 'conv'"),
        ({"loss": "mse", "at": "p3", "adapter": "conv1x1"}, r"Write \{linear: \[64, 128\]\}"),
    ],
)
def test_slips_in_a_recipe_are_named(term: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        objective(section(at=term), [])


def test_points_and_schedules_as_text() -> None:
    assert point("neck.p3") == Point("neck.p3")
    with pytest.raises(UsageError, match="has no 'head'"):
        point("attn:head")
    assert schedule(2, where="w") == 2.0


def test_a_new_method_is_one_small_file_and_no_change_of_the_core() -> None:
    # a stranger's loss goes through terms, recipes and the dry run like one of ours
    def hint(student: Tensor, other: Tensor, *, margin: float = 0.0) -> Tensor:
        return (student - other).abs().sub(margin).clamp(min=0).mean(1)

    recipe = section(at={"loss": "hint", "student": "out", "teacher": "logits", "margin": 0.01})
    first = objective(recipe, [], losses={"hint": hint}).terms[0]
    found = rehearse(Objective([first]), Student(Net(), {}), teacher(), batch(), inputs="x")
    assert found.rows[0].gradient > 0
