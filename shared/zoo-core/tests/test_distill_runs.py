"""Whole runs of a distillation: killed, cached, without a trace of the teacher."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from zoo_core.errors import UsageError
from zoo_core.testing.forked import ForkedZoo
from zoo_core.train import RunRecord, fit
from zoo_core.train.log import read_table
from zoo_core.train.state import existing, read_checkpoint

SCRIPT = Path(__file__).with_name("distill_run.py")


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("distill_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["distill_run"] = module  # pydantic looks its module up
    spec.loader.exec_module(module)
    return module


run = _script()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    # as in the killed processes: sums depend on how many threads share them
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(out: Path, **keys: Any) -> RunRecord:
    recipe = run.recipe(**keys)
    return fit(run.Lesson(recipe), recipe, out)


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


def test_killed_the_run_ends_bit_equal_from_a_live_teacher_and_from_a_cache(zoo: ForkedZoo, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"steps": 200, "save_every": 3}
    train(tmp_path / "whole", **keys)
    killed(zoo, tmp_path / "live", keys, 5, 0.4)
    killed(zoo, tmp_path / "cached", {**keys, "cache": str(tmp_path / "cache")}, 5, 0.4)
    assert published(tmp_path / "whole") == published(tmp_path / "live")
    assert published(tmp_path / "whole") == published(tmp_path / "cached")


def test_a_cache_in_fp32_changes_no_bit(whole: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    train(tmp_path / "filling", cache=str(cache))
    train(tmp_path / "filled", cache=str(cache))
    assert published(tmp_path / "filling") == published(whole)
    assert published(tmp_path / "filled") == published(whole)


def test_the_teacher_is_in_no_checkpoint_and_the_adapter_is_not_published(whole: Path) -> None:
    checkpoint = read_checkpoint(existing(whole / "checkpoints")[0])
    student = {f"module.{key}" for key in run.Net(8).state_dict()}
    assert set(checkpoint.groups["model"]) == student | {"adapters.feature.weight", "adapters.feature.bias"}
    assert set(load_file(whole / "weights.safetensors")) == set(run.Net(8).state_dict())
    record = RunRecord.model_validate_json((whole / "record.json").read_text())
    assert record.parameters == sum(p.numel() for p in run.Net(8).parameters())
    lesson = run.Lesson(run.recipe())
    assert record.identities == checkpoint.data["identities"] == {"teacher": lesson.teacher.fingerprint}
    # model, average and two moments of each weight, plus names and the state of generators
    tensors = sum(t.numel() * t.element_size() for group in checkpoint.groups.values() for t in group.values())
    student_bytes = sum(t.numel() * t.element_size() for t in lesson.module.state_dict().values())
    assert tensors < 4.1 * student_bytes


def test_another_teacher_is_refused_at_resume(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", steps=30, time_limit_minutes=1e-9)
    with pytest.raises(UsageError, match=r"trained with another teacher \([0-9a-f]{12}, this is [0-9a-f]{12}\)"):
        train(tmp_path / "run", steps=30, teacher_seed=8)


def test_weights_of_zero_are_plain_training(tmp_path: Path) -> None:
    train(tmp_path / "plain", plain=True)
    train(tmp_path / "zero", kd=0.0, feature=0.0)
    plain, zero = (load_file(tmp_path / name / "weights.safetensors") for name in ("plain", "zero"))
    assert all(torch.equal(plain[key], zero[key]) for key in plain)
    logged = read_table(tmp_path / "zero" / "log.csv")
    assert all(row["task"] == row["loss"] for row in logged)
    assert all(str(row["kd"]) == "nan" for row in logged)
