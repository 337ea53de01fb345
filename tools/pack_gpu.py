"""Pack what a bare GPU machine needs into the ignored folder carry/, and say the size.

    python tools/pack_gpu.py sr/train sr/eval      # folders or files, here or below ZOO_PACKS
    python tools/pack_gpu.py sr/train --state out  # and the runs that came back from such a machine
    python tools/pack_gpu.py --package zoo-htr htr/lines/train.parquet htr/lines/val.parquet htr-synthetic.parquet

makes carry/wheels (ours, and the packages that such a machine lacks), carry/data, carry/state, and carry/setup.sh, to
be sourced there:

    . carry/setup.sh && python -m zoo_sr.train imdn-x2
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARRY = ROOT / "carry"
PACKS = Path(os.environ.get("ZOO_PACKS", ROOT.parent / "shared" / "data"))
MISSING_THERE = ["pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions"]
NEEDED = {"zoo-sr": [], "zoo-forecast": ["tokenizers"], "zoo-htr": ["rapidfuzz"]}  # beside those, to train
SETUP = """\
options="--no-index --no-deps --no-compile --no-cache-dir --upgrade"
python3 -m pip install -q $options --target /tmp/site carry/wheels/*.whl || exit
export PYTHONPATH=/tmp/site ZOO_PACKS=$PWD/carry/data PYTHONUNBUFFERED=1 ZOO_COMMIT={commit}
"""


def run(*command: str) -> None:
    """Run a command, and stop with it if it fails."""
    subprocess.run(command, check=True, cwd=ROOT)


def main() -> None:
    """Build the folder anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="*", help="folders or files, here or below ZOO_PACKS")
    parser.add_argument("--package", choices=NEEDED, default="zoo-sr", help="what is trained (default zoo-sr)")
    parser.add_argument("--state", type=Path, help="folder with the state.tar.* of an earlier session")
    options = parser.parse_args()
    shutil.rmtree(CARRY, ignore_errors=True)
    wheels = CARRY / "wheels"
    wheels.mkdir(parents=True)
    for package in ("zoo-core", options.package):
        run("uv", "build", "-q", "--wheel", "--package", package, "-o", str(wheels))
    (wheels / ".gitignore").unlink(missing_ok=True)
    installed = subprocess.run(
        ["uv", "pip", "freeze", "-q"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.splitlines()
    pins = [line for line in installed if line.split("==")[0] in MISSING_THERE + NEEDED[options.package]]
    platforms = [f"--platform=manylinux{v}_x86_64" for v in ("_2_28", "_2_17", "2014")]
    run(
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version=3.12",
        "--implementation=cp", *platforms, "-d", str(wheels), *pins,
    )  # fmt: skip
    for name in options.packs:
        here = Path(name)
        source, target = (here, CARRY / "data" / here.name) if here.exists() else (PACKS / name, CARRY / "data" / name)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    if options.state is not None:
        (CARRY / "state").mkdir()
        for part in options.state.glob("state.tar.*"):
            shutil.copy(part, CARRY / "state")
    # run records name the commit, and there is no git there
    commit = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        check=True, capture_output=True, text=True, cwd=ROOT,
    ).stdout.strip()  # fmt: skip
    (CARRY / "setup.sh").write_text(SETUP.format(commit=commit))
    total = sum(path.stat().st_size for path in CARRY.rglob("*") if path.is_file())
    print(f"carry/ holds {total / 2**20:.1f} MiB (limit with the tree: 64 MiB)")


if __name__ == "__main__":
    main()
