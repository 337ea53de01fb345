"""A teacher's outputs on the disk: what comes back, what is refused, what a killed writer leaves."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_parts import Net, batch, teacher
from torch import nn

from zoo_core.distill import (
    CachedTeacher,
    CrossFitted,
    Objective,
    Student,
    Teacher,
    TeacherCache,
    Teachers,
    Term,
    TopK,
    write_cache,
)
from zoo_core.distill.losses.logits import kl
from zoo_core.distill.losses.sparse import sparse_kl
from zoo_core.errors import InputError, UsageError, ZooError
from zoo_core.probe import Point, Seen


def cached(folder: Path, *, samples: int = 12, **options: Any) -> Teacher:
    """A teacher whose cache holds these samples."""
    plain = teacher(**{key: options[key] for key in options.keys() & {"transforms"}})
    cache = TeacherCache(
        folder, teacher=plain.fingerprint, data="d" * 64, form=options.get("form", "fp32"), shard_bytes=500
    )
    data = batch(samples)
    parts = [{key: x[i : i + 4] for key, x in data.items()} for i in range(0, samples, 4)]
    list(write_cache(cache, plain, parts, keys="id"))
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
    beforehand = TeacherCache(tmp_path / "beforehand", teacher=live.fingerprint, data="d", form=form)
    assert list(write_cache(beforehand, live, [data], keys="id", lengths="frames")) == [4]
    assert torch.equal(beforehand.read([3, 0, 1])["logits"], found)
    # alone, a line is as long as it is, or as the batch is
    assert again.read([1])["logits"].shape == (1, 2, 5)
    assert again.read([1], frames=9)["logits"].shape == (1, 9, 5)


def test_every_sample_is_taught_by_the_one_that_has_not_learnt_it() -> None:
    alone = [Teacher(Net(seed=seed), {"logits": ""}, inputs="x") for seed in (3, 4)]
    both = CrossFitted(alone, "part")
    one = batch(12)
    part = torch.arange(len(one["x"])) % 2
    taught = both({**one, "part": part})
    for number, teacher_ in enumerate(alone):
        assert torch.equal(taught.at["logits"][part == number], teacher_(one).at["logits"][part == number])
    assert both.identity != CrossFitted(alone[::-1], "part").identity
    assert {"teacher", "teacher.0", "teacher.1"} <= both.identities().keys()
    both.check_unchanged()


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
