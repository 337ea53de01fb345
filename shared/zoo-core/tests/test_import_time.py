"""Help and lists answer at once: they load nothing heavy, and take little time of a processor."""

from __future__ import annotations

import os
import resource
import subprocess
import sysconfig
from pathlib import Path

import pytest

ZOO = str(Path(sysconfig.get_path("scripts")) / "zoo")
PACKAGE = Path(__file__).parent / "cli_package"
HEAVY = ["torch", "torchvision", "numpy", "rich", "huggingface_hub", "lightning", "pyarrow", "PIL", "pandas", "timm"]
# wall time doubles on a busy machine, processor time hardly changes
LIMIT_SECONDS = 0.3


@pytest.mark.parametrize(
    ("arguments", "banned"),
    [
        (["--help"], [*HEAVY, "pydantic", "yaml"]),
        (["--version"], [*HEAVY, "pydantic", "yaml"]),
        (["list"], HEAVY),
        (["info", "letters"], HEAVY),
        (["predict", "--help"], HEAVY),
        (["predict", "letters", "--help"], HEAVY),
        (["train", "--help"], HEAVY),
        (["eval", "--help"], HEAVY),
        (["eval", "letters", "--help"], HEAVY),
        (["bench", "--help"], HEAVY),
        (["weights", "--help"], HEAVY),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments: list[str], banned: list[str], tmp_path: Path) -> None:
    for name in banned:
        # not an ImportError: nothing may try and do without
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    done = subprocess.run(
        [ZOO, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PACKAGE)])},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["list"]], ids=" ".join)
def test_help_and_list_take_little_time(arguments: list[str], tmp_path: Path) -> None:
    # as in any installed package: with byte code that is there already
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)

    def processor_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([ZOO, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=50)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    processor_seconds()
    assert min(processor_seconds() for _ in range(5)) < LIMIT_SECONDS
