"""Whole runs of a distillation: killed, cached, without a trace of the teacher."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distill_run as run
import pytest
import torch
from safetensors.torch import load_file

from zoo_core.distill import Teacher, TeacherCache
from zoo_core.errors import UsageError, ZooError
from zoo_core.testing.forked import ForkedZoo
from zoo_core.train import RunRecord, fit
from zoo_core.train.log import read_table
from zoo_core.train.state import existing, read_checkpoint

SCRIPT = Path(run.__file__)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    # as in the killed processes: sums depend on how many threads share them
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(out: Path, **keys: Any) -> None:
    run.main(out, keys)


def published(out: Path) -> bytes:
    return (out / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(out)
    return out


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedZoo]:
    modules = ["zoo_core.distill.cache", "zoo_core.distill.teacher", "zoo_core.distill.student", "zoo_core.train.loop"]
    with ForkedZoo(tmp_path_factory.mktemp("server"), modules) as server:
        yield server


def killed(zoo: ForkedZoo, out: Path, keys: dict[str, Any], times: int, seconds: float) -> None:
    """Start the run and kill it with -9 at random moments, then let it end."""
    moments = random.Random(3)
    arguments = (str(SCRIPT), str(out), json.dumps(keys))
    died = 0
    while died < times:
        pid = zoo.start(*arguments, cwd=out.parent, program="python")
        time.sleep(moments.uniform(0.05, seconds))
        os.kill(pid, signal.SIGKILL)
        done = zoo.wait()
        assert done.code == -signal.SIGKILL, done.stderr or "the run ended before it was killed"
        died += 1
    zoo.start(*arguments, cwd=out.parent, program="python")
    done = zoo.wait()
    assert done.code == 0, done.stderr


LONG: dict[str, Any] = {"steps": 120, "save_every": 4}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long") / "whole"
    train(out, **LONG)
    return out


def test_killed_the_run_ends_bit_equal(zoo: ForkedZoo, long: Path, tmp_path: Path) -> None:
    killed(zoo, tmp_path / "live", LONG, 3, 0.4)
    assert published(long) == published(tmp_path / "live")


def test_killed_while_it_fills_its_cache_the_run_ends_bit_equal(zoo: ForkedZoo, long: Path, tmp_path: Path) -> None:
    killed(zoo, tmp_path / "cached", {**LONG, "cache": str(tmp_path / "cache")}, 3, 0.4)
    assert published(long) == published(tmp_path / "cached")


def test_a_cache_in_fp32_changes_no_bit(whole: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    train(tmp_path / "filling", cache=str(cache))
    train(tmp_path / "filled", cache=str(cache))
    assert published(tmp_path / "filling") == published(whole)
    assert published(tmp_path / "filled") == published(whole)


def test_a_cache_may_be_written_before_any_run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = run.recipe(cache=tmp_path / "cache", stage="cache")
    # stopped by its time limit, it has kept what it had
    short = run.recipe(cache=tmp_path / "cache", stage="cache", time_limit_minutes=1e-9)
    record = fit(run.Lesson(short), short, tmp_path / "run")
    assert (record.status, record.steps, record.metrics) == ("time limit", 0, {"cached_samples": 16.0})
    assert len(TeacherCache(tmp_path / "cache")) == 16
    assert fit(run.Lesson(recipe), recipe, tmp_path / "run").status == "cached"
    assert len(TeacherCache(tmp_path / "cache")) == run.SAMPLES
    assert not (tmp_path / "run").exists()
    # and training runs no teacher
    monkeypatch.setattr(Teacher, "compute", lambda *_: pytest.fail("the teacher ran"))
    train(tmp_path / "run", cache=str(tmp_path / "cache"))
    assert published(tmp_path / "run") == published(whole)


def test_a_training_without_a_cache_has_none_to_write(tmp_path: Path) -> None:
    recipe = run.recipe(what="duel", stage="cache")
    with pytest.raises(UsageError, match=r"stage=cache: nothing is kept.*teacher and a cache"):
        fit(run.Duel(recipe), recipe, tmp_path / "run")


def test_the_teacher_is_in_no_checkpoint_and_the_adapter_is_not_published(whole: Path) -> None:
    checkpoint = read_checkpoint(existing(whole / "checkpoints")[0])
    student = {f"module.{key}" for key in run.Net(8).state_dict()}
    assert set(checkpoint.groups["model"]) == student | {"adapters.feature.weight", "adapters.feature.bias"}
    assert set(load_file(whole / "weights.safetensors")) == set(run.Net(8).state_dict())
    record = RunRecord.model_validate_json((whole / "record.json").read_text())
    assert record.parameters == sum(p.numel() for p in run.Net(8).parameters())
    lesson = run.Lesson(run.recipe())
    assert record.identities == checkpoint.data["identities"] == lesson.teacher.identities()
    assert record.identities["teacher"] == lesson.teacher.fingerprint
    # model, average and two moments of each weight, plus names and the state of generators
    tensors = sum(t.numel() * t.element_size() for group in checkpoint.groups.values() for t in group.values())
    student_bytes = sum(t.numel() * t.element_size() for t in lesson.module.state_dict().values())
    assert tensors < 4.1 * student_bytes


def test_another_teacher_is_refused_at_resume_and_what_differs_is_said(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", steps=30, time_limit_minutes=1e-9)
    two = "[0-9a-f]{12}, this is [0-9a-f]{12}"
    with pytest.raises(
        UsageError, match=rf"trained with another teacher \({two}: weights [0-9a-f]{{12}} -> [0-9a-f]{{12}}\)\."
    ) as caught:
        train(tmp_path / "run", steps=30, teacher_seed=8)
    assert caught.value.remedy == "Give the same teacher, or train in another folder."
    with pytest.raises(UsageError, match=rf"another teacher \({two}: preprocessing none -> centred\)"):
        train(tmp_path / "run", steps=30, preprocessing="centred")
    # both, if both have changed: not one after the other
    with pytest.raises(
        UsageError, match=rf"on other data \(0{{12}}, these are 1{{12}}\) and with another teacher \({two}: w"
    ):
        train(tmp_path / "run", steps=30, teacher_seed=8, data_seed=1)


def test_a_teacher_that_moved_ends_no_run(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="teacher has changed during training"):
        train(tmp_path / "run", steps=12, moving=True)
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert existing(tmp_path / "run" / "checkpoints")[0].name == "step-00000010", "the end is not saved"


def test_a_cache_in_half_precision_is_within_the_noise_of_seeds(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "half", cache=str(tmp_path / "cache"), form="fp16")
    train(tmp_path / "seed", seed=1)
    losses = [read_table(out / "log.csv")[-1]["loss"] for out in (whole, tmp_path / "half", tmp_path / "seed")]
    assert abs(losses[1] - losses[0]) < 0.1 * abs(losses[2] - losses[0])
    # what is not the teacher's own number is another teacher to a resumed run
    train(tmp_path / "run", time_limit_minutes=1e-9)
    with pytest.raises(UsageError, match="another teacher"):
        train(tmp_path / "run", cache=str(tmp_path / "cache"), form="fp16")


def test_balanced_weights_are_resumed_bit_equal(tmp_path: Path) -> None:
    train(tmp_path / "whole", balance=True, steps=30)
    for _ in range(7):  # sessions of a few steps
        train(tmp_path / "parts", balance=True, steps=30, time_limit_minutes=1e-9)
    train(tmp_path / "parts", balance=True, steps=30)
    assert published(tmp_path / "whole") == published(tmp_path / "parts")
    record = RunRecord.model_validate_json((tmp_path / "parts" / "record.json").read_text())
    assert record.sessions > 3
    assert float(state(tmp_path / "parts")["balances.0.norm_kd"]) > 0


def test_a_term_that_is_not_finite_stops_the_run_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"loss is nan at step 23.*of whose parts task, kd, feature are not finite"):
        train(tmp_path / "run", bad_step=23)
    assert existing(tmp_path / "run" / "checkpoints")[0].name == "step-00000020"


def test_weights_of_zero_are_plain_training(tmp_path: Path) -> None:
    train(tmp_path / "plain", plain=True)
    train(tmp_path / "zero", kd=0.0, feature=0.0)
    plain, zero = (load_file(tmp_path / name / "weights.safetensors") for name in ("plain", "zero"))
    assert all(torch.equal(plain[key], zero[key]) for key in plain)
    logged = read_table(tmp_path / "zero" / "log.csv")
    assert all(row["task"] == row["loss"] for row in logged)
    assert all(str(row["kd"]) == "nan" for row in logged)


def test_two_processes_whose_masks_differ_train_as_one(zoo: ForkedZoo, tmp_path: Path) -> None:
    # the feature term begins later, with an adapter that DDP waits for, and counts other samples in each process
    keys = {"dropout": 0.0, "norm": False, "feature_from": 5, "ema_decay": 0.0, "steps": 30, "balance": True}
    train(tmp_path / "one", **keys)
    arguments = (str(SCRIPT), str(tmp_path / "two"), json.dumps({**keys, "processes": 2}))
    zoo.start(*arguments, cwd=tmp_path, program="python")
    done = zoo.wait()
    assert done.code == 0, done.stderr
    one, two = (
        read_checkpoint(existing(tmp_path / name / "checkpoints")[0]).groups["model"] for name in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    for column in ("loss", "kd", "feature"):
        a, b = ([row[column] for row in read_table(tmp_path / name / "log.csv")] for name in ("one", "two"))
        assert a == pytest.approx(b, rel=1e-4, nan_ok=True)


# -- stages and players ------------------------------------------------------------------------------------------------

STAGED: dict[str, Any] = {"what": "stages", "steps": 130, "eval_every": 5, "save_every": 3}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stages") / "whole"
    train(out, **STAGED)
    return out


def state(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(existing(folder / "checkpoints")[0]).groups["model"]


def test_stages_train_what_they_say_and_count_on(staged: Path) -> None:
    head, everything, cool = staged / "stage-1-head", staged / "stage-2-all", staged
    records = [RunRecord.model_validate_json((f / "record.json").read_text()) for f in (head, everything, cool)]
    assert records[0].steps == 30
    accuracy = [row["accuracy"] for row in read_table(everything / "eval.csv")]
    # two evaluations without a new best, and not one more
    assert records[1].steps == 30 + 5 * len(accuracy) < 90
    assert max(accuracy[-2:]) <= max(accuracy[:-2])
    assert records[2].steps == records[1].steps + 40
    start = run.Lesson(run.recipe(**STAGED)).module.state_dict()
    after_head, after_all, after_cool = state(head), state(everything), state(cool)
    frozen = [name for name in start if name.startswith("module.body")]
    # its batch norm's statistics, too
    assert all(torch.equal(start[name], after_head[name]) for name in frozen)
    assert not torch.equal(start["module.head.2.weight"], after_head["module.head.2.weight"])
    assert not any(torch.equal(after_head[n], after_all[n]) for n in frozen if n.endswith(("weight", "running_mean")))
    assert torch.equal(after_all["module.body.0.bias"], after_cool["module.body.0.bias"])
    moments = [
        read_checkpoint(existing(f / "checkpoints")[0]).groups["optimizer"]["6.step"] for f in (everything, cool)
    ]
    assert moments[0] == records[1].steps - 30, "begins anew"
    assert moments[1] == records[2].steps - 30, "goes on"


def test_killed_in_every_stage_the_run_ends_bit_equal(zoo: ForkedZoo, staged: Path, tmp_path: Path) -> None:
    killed_in_each(zoo, tmp_path / "killed", STAGED, ["stage-1-head", "stage-2-all", "."])
    assert published(tmp_path / "killed") == published(staged)


def killed_in_each(zoo: ForkedZoo, out: Path, keys: dict[str, Any], folders: list[str]) -> None:
    """Kill the run in each of its folders when that has its second checkpoint, then let it end."""
    arguments = (str(SCRIPT), str(out), json.dumps(keys))
    for folder in folders:
        pid = zoo.start(*arguments, cwd=out.parent, program="python")
        deadline = time.monotonic() + 30
        while len(existing(out / folder / "checkpoints")) < 2 and time.monotonic() < deadline:
            time.sleep(0.0005)
        os.kill(pid, signal.SIGKILL)
        assert zoo.wait().code == -signal.SIGKILL
        assert not (out / folder / "record.json").exists(), "killed too late to tell"
    zoo.start(*arguments, cwd=out.parent, program="python")
    done = zoo.wait()
    assert done.code == 0, done.stderr


def test_killed_in_the_turns_of_either_player_the_run_ends_bit_equal(zoo: ForkedZoo, tmp_path: Path) -> None:
    keys = {"what": "duel", "steps": 60, "save_every": 1, "eval_every": 50}
    train(tmp_path / "whole", **keys)
    killed(zoo, tmp_path / "killed", keys, 3, 0.25)
    assert published(tmp_path / "whole") == published(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("keys", [STAGED, {"what": "duel", "steps": 400, "save_every": 1}], ids=["stages", "players"])
def test_killed_ten_times_anywhere_the_run_ends_bit_equal(zoo: ForkedZoo, tmp_path: Path, keys: dict[str, Any]) -> None:
    train(tmp_path / "whole", **keys)
    killed(zoo, tmp_path / "killed", keys, 10, 0.15)
    assert published(tmp_path / "whole") == published(tmp_path / "killed")


def test_each_player_moves_in_its_own_turn_alone(tmp_path: Path) -> None:
    def after(steps: int) -> dict[str, torch.Tensor]:
        train(tmp_path / str(steps), what="duel", steps=steps, save_every=1, ema_decay=0.0)
        return state(tmp_path / str(steps))

    three, four, five = after(3), after(4), after(5)
    start = run.Duel(run.recipe(what="duel")).module.state_dict()
    for name in start:
        critic = name.startswith("critic")
        assert torch.equal(start[name], three[name]) is not critic, name
        assert torch.equal(three[name], four[name]) is critic, name
        assert torch.equal(four[name], five[name]) is not critic, name
