"""docs/add-a-model.md works: a script follows it to the letter, with wheels in a fresh environment and no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGE_FILES = 8


class Place:
    """A folder with the files of the page, and an environment that has zoo-core and the example, as wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder / "zoo-grain", folder / "venv"

    def run(self, *command: str) -> str:
        """Run a command in the environment and return its stdout."""
        own = {
            "PATH": os.pathsep.join([str(self.environment / "bin"), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
        }
        others = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")  # byte code makes the second command quicker
        kept = {name: value for name, value in os.environ.items() if name not in others}
        done = subprocess.run(
            command, cwd=self.folder, env={**kept, **own}, timeout=58, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def _environment(folder: Path, wheels: list[Path]) -> None:
    """Make an environment that has these wheels, and the dependencies of the present one, but no zoo package of it."""
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        # neither editable zoo packages nor what would make them importable
        if not installed.name.startswith(("zoo", "_editable", "__editable")):
            (dependencies / installed.name).symlink_to(installed)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    uv = shutil.which("uv")
    assert uv, "the workspace needs uv"
    subprocess.run(
        [uv, "pip", "install", "-q", "--offline", "--no-deps", "--python", folder / "venv/bin/python", *wheels],
        check=True,
    )


@pytest.fixture(scope="module")
def place(guide: Any, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("third-party")
    made = Place(folder)
    guide.write(made.folder)
    shutil.copy(ROOT / "examples" / "photo.png", made.folder)
    for project in (ROOT / "shared" / "zoo-core", made.folder):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheels")]
        subprocess.run(build, cwd=project, check=True, capture_output=True)
    _environment(folder, sorted((folder / "wheels").glob("*.whl")))
    # what runs must be the wheels, not the files of the page nor the checkout
    shutil.rmtree(made.folder / "zoo_grain")
    return made


def test_the_page_is_read_whole(guide: Any) -> None:
    assert len(guide.files) == PAGE_FILES, sorted(guide.files)
    assert guide.commands[0].startswith("pip install")


def test_the_wheels_are_what_is_imported(place: Place) -> None:
    program = "import json, zoo_core, zoo_grain; print(json.dumps([zoo_core.__file__, zoo_grain.__file__]))"
    for file in json.loads(place.run("python", "-c", program)):
        assert Path(file).is_relative_to(place.environment), file


def test_the_commands_of_the_page(guide: Any, place: Place) -> None:
    _install, *commands, _suite = guide.commands
    shown = {command: place.run(*command.split()) for command in commands}
    assert "grain-tiny  denoising      84" in shown["zoo list"]
    assert "zoo_sr" not in shown["zoo list"]
    assert "84 parameters" in shown["zoo info grain-tiny"]
    assert (place.folder / "out" / "photo_grain-tiny.png").stat().st_size > 1000


def test_the_conformance_suite_passes(guide: Any, place: Place) -> None:
    command = guide.commands[-1].split()
    report = place.run(*command, "-v", "-rs", "-W", "error", "-p", "no:cacheprovider")
    outcomes = dict(line.split()[:2] for line in report.splitlines() if line.startswith("tests/test_conformance.py::"))
    skipped = {name.rpartition("::")[2] for name, outcome in outcomes.items() if outcome == "SKIPPED"}
    # no published weights, no options, one precision
    assert skipped == {
        "test_embedded_weights_are_those_of_the_manifest[grain-tiny]",
        "test_golden_output[grain-tiny]",
        "test_half_precision[grain-tiny-bf16]",
        "test_half_precision[grain-tiny-fp16]",
        "test_options_need_no_torch[grain-tiny]",
    }
    assert {outcome for name, outcome in outcomes.items() if name.rpartition("::")[2] not in skipped} == {"PASSED"}
    assert len(outcomes) > len(skipped) + 10
