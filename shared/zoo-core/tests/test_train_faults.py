"""A run that is killed, stopped, out of disk or given damaged files ends as if nothing had been, or says why not."""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_run as tiny
import torch
from safetensors.torch import load_file

from zoo_core.errors import InputError, UsageError, ZooError
from zoo_core.testing.forked import Done, ForkedZoo
from zoo_core.train import RunRecord, fit
from zoo_core.train.log import read_table
from zoo_core.train.state import existing, read_checkpoint


def train(out: Path, *, resume: Any = "auto", data_seed: int = 0, **keys: Any) -> RunRecord:
    recipe = tiny.recipe(**keys)
    return fit(tiny.Tiny(recipe, data_seed=data_seed), recipe, out, resume=resume)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "weights.safetensors")


def same(first: Path, second: Path) -> bool:
    """Whether two runs ended with the same published file, byte for byte."""
    return (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()


def rows(path: Path) -> list[dict[str, float]]:
    """Return what was logged, without how long it took."""
    return [{k: v for k, v in row.items() if k != "step_seconds"} for row in read_table(path)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedZoo]:
    with ForkedZoo(tmp_path_factory.mktemp("server"), ["zoo_core.train.loop"]) as server:
        yield server


def begin(zoo: ForkedZoo, out: Path, **keys: Any) -> int:
    """Begin or resume a run in a process of its own; return its id."""
    return zoo.start(tiny.__file__, str(out), json.dumps(keys), cwd=out.parent, program="python")


def run(zoo: ForkedZoo, out: Path, **keys: Any) -> Done:
    """Begin or resume a run in a process of its own, and wait for its end."""
    begin(zoo, out, **keys)
    return zoo.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(out)
    return out


@contextmanager
def stopped_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """Inside, the run's process dies (as far as `fit` can see) when it begins step number `steps`."""

    def batch(self: Any, step: int, make: Any = tiny.Tiny.batch) -> Any:
        if step == steps + 1:  # batches are made one ahead
            raise KeyboardInterrupt
        return make(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.Tiny, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.fixture
def half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that died at step 52, with checkpoints at 45 and 50."""
    out = tmp_path / "half"
    with stopped_after(monkeypatch, 52):
        train(out)
    assert [path.name for path in existing(out / "checkpoints")] == ["step-00000050", "step-00000045"]
    return out


# -- killed ------------------------------------------------------------------------------------------------------------


def kill(zoo: ForkedZoo, out: Path, moments: random.Random, **keys: Any) -> bool:
    """Begin or resume a run and kill -9 it at a random moment or in the middle of a save; return whether it saved."""
    checkpoints = out / "checkpoints"
    pid = begin(zoo, out, **keys)
    give_up = time.monotonic() + moments.uniform(0.02, 0.3)
    file = moments.choice([None, "model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"])
    skip = moments.randrange(6)
    seen: set[str] = set()
    while time.monotonic() < give_up:
        if file and (hits := [str(p) for p in checkpoints.glob(f".partial-*/{file}")]):
            seen.update(hits)
            if len(seen) > skip:
                break
    os.kill(pid, signal.SIGKILL)
    done = zoo.wait()
    assert done.code == -signal.SIGKILL, done.stderr or "the run ended before it was killed"
    return any(checkpoints.glob(".partial-*"))


def test_killed_twenty_times_the_run_ends_bit_equal(tmp_path: Path, zoo: ForkedZoo) -> None:
    # 412 steps of 16 samples are 64 epochs of 103
    moments = random.Random(1)
    assert run(zoo, tmp_path / "whole", steps=412).code == 0
    died_while_saving = sum(kill(zoo, tmp_path / "killed", moments, steps=412) for _ in range(20))
    assert died_while_saving >= 3, "the test must also hit saves"
    assert run(zoo, tmp_path / "killed", steps=412).code == 0
    assert same(tmp_path / "whole", tmp_path / "killed")
    # a buffer counted how often the weights have learned from each sample
    assert weights(tmp_path / "killed")["seen"].unique().tolist() == [64]
    for log in ("log.csv", "eval.csv"):
        assert rows(tmp_path / "whole" / log) == rows(tmp_path / "killed" / log)
    leftovers = [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir() if not p.name.startswith("step-")]
    assert leftovers == []


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_and_exits_with_its_code(
    tmp_path: Path, undisturbed: Path, zoo: ForkedZoo, name: str, code: int
) -> None:
    pid = begin(zoo, tmp_path / "run", delay_seconds=0.002)
    while not existing(tmp_path / "run" / "checkpoints"):
        time.sleep(0.001)
    os.kill(pid, signal.Signals[name])
    assert zoo.wait().code == code
    assert run(zoo, tmp_path / "run", delay_seconds=0.002).code == 0
    for key, tensor in weights(undisturbed).items():
        assert torch.equal(weights(tmp_path / "run")[key], tensor), key


def test_signal_handlers_are_put_back(tmp_path: Path, undisturbed: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(tmp_path / "run", steps=2)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# -- damaged and full --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped bit", "short file", "lost file", "no checksums", "broken checksums"])
def test_a_damaged_newest_checkpoint_falls_back(
    half_way: Path, undisturbed: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    newest = existing(half_way / "checkpoints")[0]
    file = newest / "model.safetensors"
    if damage == "flipped bit":
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
    elif damage == "short file":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "lost file":
        (newest / "optimizer.safetensors").unlink()
    elif damage == "no checksums":
        (newest / "checksums.json").unlink()
    else:
        (newest / "checksums.json").write_bytes(b"\xff{")
    with caplog.at_level(logging.INFO, logger="zoo_core.train"):
        train(half_way)
    assert "step-00000050" in caplog.text
    assert "Trying the one before" in caplog.text
    assert "resumed after step 45" in caplog.text
    assert same(half_way, undisturbed)


def test_all_checkpoints_damaged_is_an_error_and_not_a_fresh_start(half_way: Path) -> None:
    for path in existing(half_way / "checkpoints"):
        (path / "state.json").write_text("{}")
    with pytest.raises(ZooError, match=r"All checkpoints .* are damaged"):
        train(half_way)


def test_full_disk_by_file_size(half_way: Path, undisturbed: Path) -> None:
    # the process may write no file longer than this: what a full disk does, at a chosen moment
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(ZooError, match=r"step-00000055: .*no space left.*step-00000050 is intact") as caught:
            train(half_way)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 1
    assert [p.name for p in (half_way / "checkpoints").iterdir() if p.name.startswith(".")] == []
    train(half_way)
    assert same(half_way, undisturbed)


def test_full_disk(tmp_path: Path, undisturbed: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        # its size fits two checkpoints, and a third is needed before the oldest may go
        with pytest.raises(ZooError, match=r"no space left") as caught:
            train(disk / "run", keep=9)
        assert "is intact" in caught.value.remedy
        kept = existing(disk / "run" / "checkpoints")
        assert kept
        assert [read_checkpoint(path).step for path in kept] == [int(path.name[5:]) for path in kept]
        shutil.copytree(disk / "run", tmp_path / "roomy")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    train(tmp_path / "roomy")
    assert same(tmp_path / "roomy", undisturbed)


def test_nan_stops_and_names_step_and_samples(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"The loss is (nan|inf) at step 23, batch 23 \(samples: row \d+, \.\.\.\)"):
        train(tmp_path / "run", bad_step=23)
    # whole batches before it were saved, nothing after it
    assert existing(tmp_path / "run" / "checkpoints")[0].name == "step-00000020"
    assert not (tmp_path / "run" / "weights.safetensors").exists()


class Steep(tiny.Tiny):
    """Its loss has no gradient at one step, where it is a number all the same."""

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        return {**super().batch(step), "steep": torch.tensor(float(step == 23))}

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, logs = super().loss(batch)
        flat = self.module.get_parameter("body.0.bias").sum() * 0
        return loss + (flat + 1 - batch["steep"]).sqrt(), logs


def test_a_gradient_that_is_no_number_stops_at_its_own_step(tmp_path: Path) -> None:
    recipe = tiny.recipe(clip_norm=1.0)
    with pytest.raises(
        ZooError, match=r"gradient of the loss, [\d.]+, is NaN or infinite at step 23, batch 23 \(samples"
    ):
        fit(Steep(recipe), recipe, tmp_path / "run")
    logged = rows(tmp_path / "run" / "log.csv")
    assert logged[-1]["step"] < 24
    assert all(row["gradient_norm"] > 0 for row in logged)


# -- resumed otherwise -------------------------------------------------------------------------------------------------


def test_another_recipe_is_refused_by_key(half_way: Path) -> None:
    with pytest.raises(UsageError, match=r"trained with batch=16, this recipe says 8"):
        train(half_way, batch=8)
    with pytest.raises(UsageError, match=r"net\.width=16, this recipe says 17"):
        train(half_way, net={"width": 17})


def test_other_data_is_refused(half_way: Path) -> None:
    with pytest.raises(UsageError, match="other data"):
        train(half_way, data_seed=1)


def test_harmless_keys_and_other_worker_counts_change_nothing(half_way: Path, undisturbed: Path) -> None:
    train(half_way, workers=3, worker_kind="thread", save_every=9, log_every=4, eval_every=3, keep=1)
    assert same(half_way, undisturbed)
    assert len(existing(half_way / "checkpoints")) == 1


def test_never_refuses_a_folder_with_a_run(half_way: Path) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        train(half_way, resume="never")


def test_a_path_resumes_elsewhere(half_way: Path, undisturbed: Path, tmp_path: Path) -> None:
    train(tmp_path / "a", resume=half_way)
    train(tmp_path / "b", resume=half_way / "checkpoints" / "step-00000045")
    assert same(tmp_path / "a", undisturbed)
    assert same(tmp_path / "b", undisturbed)
    with pytest.raises(InputError, match="no whole checkpoint"):
        train(tmp_path / "c", resume=tmp_path / "nothing")


def test_the_time_limit_stops_and_the_run_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    record = train(tmp_path / "run", time_limit_minutes=1e-9)
    assert (record.status, record.steps) == ("time limit", 1)
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    record = train(tmp_path / "run")
    assert (record.status, record.sessions) == ("finished", 2)
    assert same(tmp_path / "run", undisturbed)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    assert train(tmp_path / "run") == RunRecord.model_validate_json((undisturbed / "record.json").read_text())
    # killed between the last checkpoint and the weights: only the end is done again
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"")
    record = train(tmp_path / "run")
    assert (record.steps, record.sessions) == (103, 2)
    assert same(tmp_path / "run", undisturbed)


# -- several processes -------------------------------------------------------------------------------------------------


def test_two_processes_train_as_one(tmp_path: Path, zoo: ForkedZoo) -> None:
    keys = {"net": {"dropout": 0.0}, "ema_decay": 0.0}
    train(tmp_path / "one", **keys)
    # stopped and resumed on the way: each process has its own generators
    assert run(zoo, tmp_path / "two", processes=2, time_limit_minutes=1e-9, **keys).code == 0
    assert not (tmp_path / "two" / "weights.safetensors").exists()
    assert run(zoo, tmp_path / "two", processes=2, **keys).code == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        if name != "seen":  # each process counts its own part
            torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


def test_unequal_parts_are_refused(tmp_path: Path, zoo: ForkedZoo) -> None:
    assert run(zoo, tmp_path / "run", processes=2, batch=15).code == 2, "both fail"
