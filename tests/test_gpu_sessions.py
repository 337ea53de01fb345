"""The scripts of GPU sessions: tables make sense, what travels fits and comes back whole, and a session goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo_core.catalog import find

TOOLS = Path(__file__).parent.parent / "tools"
SCRIPTS = ("train_sr_gpu", "train_htr_gpu")


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up, and scripts import gpu_session
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return loaded("gpu_session")


@pytest.fixture(scope="module")
def tables(tool: ModuleType) -> dict[str, Any]:
    return {name: loaded(name).TABLE for name in SCRIPTS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_stage_takes_what_an_earlier_one_makes(tables: dict[str, Any], name: str) -> None:
    before: dict[str, Any] = {}
    for stage in tables[name].stages:
        entry = find(stage.model)
        recipe = entry.recipe_path().read_text()
        assert entry.package == tables[name].package
        for key in (*stage.takes, *(text.partition("=")[0] for text in stage.keys)):
            assert re.search(rf"^{key}:", recipe, re.MULTILINE), f"{stage.name}: the recipe has no {key}"
        for source in stage.sources():
            assert source in before
            assert before[source].kept
        assert [stage.minutes > 0, stage.steps > 0, bool(stage.like)].count(True) == 1
        assert not stage.like or before[stage.like].model == stage.model, "equal steps are compared on one model"
        assert stage.name not in before
        before[stage.name] = stage


@pytest.mark.parametrize(("number", "rounded"), [(3, 10), (99.9, 99), (12345.6, 12000), (90000, 90000)])
def test_numbers_of_steps_have_two_digits(tool: ModuleType, number: float, rounded: int) -> None:
    assert tool.two_digits(number) == rounded


def make_run(run: Path, *, done: bool, megabytes: int) -> None:
    """Write what a run of that many megabytes leaves."""
    generator = torch.Generator().manual_seed(megabytes)
    tensors = {"w": torch.randn(megabytes * 2**18, generator=generator)}
    run.mkdir(parents=True)
    (run / "log.csv").write_text("step,loss\n1,0.5\n")
    for step in (5, 10):
        folder = run / f"checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        save_file(tensors, folder / "model.safetensors")
        (folder / "checksums.json").write_text("{}")
    (run / "checkpoints/.partial-00000015").mkdir()
    if done:
        save_file(tensors, run / "weights.safetensors")
        (run / "record.json").write_text("{}")


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_travels_back_fits_and_is_put_back_whole(tool: ModuleType, tables: dict[str, Any], tmp_path: Path) -> None:
    runs, out, there = tmp_path / "runs", tmp_path / "out", tmp_path / "there"
    make_run(runs / "x2", done=True, megabytes=3)
    make_run(runs / "x4", done=False, megabytes=11)
    make_run(runs / "large-x4", done=False, megabytes=48)
    (runs / "plan.json").write_text('{"x2": {"steps": 10}}')
    told: dict[str, Any] = {}
    tool.pack(runs, out, told, tables["train_sr_gpu"].stages)
    sizes = [path.stat().st_size for path in out.iterdir()]
    assert len(sizes) <= 8
    assert max(sizes) <= 16 * 2**20
    assert sum(sizes) <= 64 * 2**20
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", path.name) for path in out.iterdir())
    # 3 + 11 + 48 and half of 3 are more than there is room for: the largest checkpoint stays, and that is said
    assert told == {"left_behind": ["large-x4/checkpoints/step-00000010"]}
    assert json.loads((out / "results.json").read_text()) == told
    tool.unpack(out, there)
    back, were = files_below(there), files_below(runs)
    assert back.keys() == {
        "plan.json", "x2/log.csv", "x2/record.json", "x2/weights.safetensors", "x4/log.csv", "large-x4/log.csv",
        "x4/checkpoints/step-00000010/model.safetensors", "x4/checkpoints/step-00000010/checksums.json",
    }  # fmt: skip
    assert all(were[name] == content for name, content in back.items())
    subprocess.run(["tar", "-xf", str(out / "weights-fp16.tar"), "-C", str(there)], check=True)
    halved = load_file(there / "x2.safetensors")["w"]
    assert torch.equal(halved, load_file(runs / "x2/weights.safetensors")["w"].half())


def test_weights_that_nobody_takes_travel_halved_or_not_at_all(
    tool: ModuleType, tables: dict[str, Any], tmp_path: Path
) -> None:
    runs, there = tmp_path / "runs", tmp_path / "there"
    for name in ("teacher", "student", "mhsa"):
        make_run(runs / name, done=True, megabytes=2)
    tool.pack(runs, tmp_path / "out", {}, tables["train_htr_gpu"].stages)
    tool.unpack(tmp_path / "out", there)
    whole = load_file(runs / "teacher/weights.safetensors")["w"]
    assert torch.equal(load_file(there / "teacher/weights.safetensors")["w"], whole)
    assert torch.equal(load_file(there / "student/weights.safetensors")["w"], whole.half())
    assert not (there / "mhsa/weights.safetensors").exists()
    assert all(tool.finished(there / name) for name in ("teacher", "student", "mhsa"))
    with tarfile.open(tmp_path / "out/weights-fp16.tar") as archive:
        assert archive.getnames() == ["teacher.safetensors", "student.safetensors"]


def test_a_key_for_a_stage_that_is_not_there_is_refused(
    tool: ModuleType, tables: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tables["train_sr_gpu"]
    assert tool.options_of(table, ["--set", "x2:init=imdn-x2"]).set == ["x2:init=imdn-x2"]
    for wrong in (["--set", "x5:batch=3"], ["--only", "x5"]):
        with pytest.raises(SystemExit):
            tool.options_of(table, wrong)
    assert "write STAGE:KEY=VALUE with a stage of large-x4, rtc, x2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_session_cut_into_commands_and_moved_to_another_machine_comes_to_its_end(
    tables: dict[str, Any], tmp_path: Path, name: str
) -> None:
    # the first stages, with one that is taught and compared
    first_taught = next(i for i, stage in enumerate(tables[name].stages) if "teacher" in stage.takes)
    only = [stage.name for stage in tables[name].stages[: first_taught + 1]]

    def command(machine: str, minutes: float) -> dict[str, Any]:
        (tmp_path / machine).mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OUT": str(tmp_path / "out")}
        arguments = ["--smoke", "--factor", "0.02", "--minutes", str(minutes), "--state", str(tmp_path / "out")]
        script = [sys.executable, str(TOOLS / f"{name}.py")]
        done = subprocess.run(
            [*script, *arguments, "--only", *only], cwd=tmp_path / machine, env=environment, stdout=subprocess.PIPE
        )
        assert done.returncode == 0, done.stdout
        told: dict[str, Any] = json.loads((tmp_path / "out/results.json").read_text())
        return told

    first = command("one", 1.2)["stages"]
    assert any(first[stage]["status"] != "finished" for stage in only)
    told = command("two", 10)
    last = told["stages"]
    assert {last[stage]["status"] for stage in only} == {"finished"}
    pairs = [(stage.name, stage.like) for stage in tables[name].stages if stage.like and stage.name in only]
    assert pairs
    for one, other in pairs:
        assert last[one]["steps"] == last[other]["steps"]
        assert f"{tables[name].metric} of {one} minus {other}" in told["gains"]
    # what was decided on the first machine held on the second
    for stage in only:
        if "steps" in first[stage]:
            assert last[stage]["steps"] == first[stage]["steps"]
