"""Build the wheels of every workspace member into dist/ and check them: `uv run tools/wheelhouse.py`.

A wheel may hold text, manifests, recipes, safetensors and n-grams (bytes that are checked, no code); at most 20 MiB; no
pickle; each weight as its manifest says; golden examples (an input and its output) of at most 1 MiB each.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_WHEEL_BYTES = 20 * 2**20
MAX_WEIGHTS_BYTES = 6 * 2**20
MAX_GOLDEN_BYTES = 2**20
ALLOWED = {".py", ".json", ".yaml", ".safetensors", ".md", ".html", ".typed", ".txt", ".ngram", ""}


def faults_of(wheel: Path) -> list[str]:
    """Return what is wrong with a wheel, one line each."""
    faults = []
    if wheel.stat().st_size > MAX_WHEEL_BYTES:
        faults.append(f"{wheel.stat().st_size} bytes, over the budget of {MAX_WHEEL_BYTES}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        meta = next(name for name in names if name.endswith(".dist-info/METADATA"))
        if "License-Expression: Apache-2.0" not in archive.read(meta).decode():
            faults.append("states no licence")
        declared = {}
        for name in names:
            if "/manifests/" in name and name.endswith(".json"):
                manifest = json.loads(archive.read(name))
                for weights in [*manifest.get("weights", []), *manifest.get("parts", [])]:
                    if weights["source"] == "embedded":
                        declared[f"{name.split('/')[0]}/weights/{weights['file']}"] = weights
        for name in names:
            if ".dist-info/" not in name and Path(name).suffix not in ALLOWED:
                faults.append(f"{name}: this kind of file has no place in a wheel")
            if re.fullmatch(r"\w+/golden/[^/]+\.safetensors", name):
                if archive.getinfo(name).file_size > MAX_GOLDEN_BYTES:
                    faults.append(f"{name}: over the budget of {MAX_GOLDEN_BYTES} bytes")
            elif name.endswith(".safetensors"):
                content = archive.read(name)
                if len(content) > MAX_WEIGHTS_BYTES:
                    faults.append(f"{name}: {len(content)} bytes, over the budget of {MAX_WEIGHTS_BYTES}")
                if name not in declared:
                    faults.append(f"{name}: no manifest names it")
                elif hashlib.sha256(content).hexdigest() != declared[name]["sha256"]:
                    faults.append(f"{name}: its sha256 is not the manifest's")
        faults += [f"{name}: named by a manifest, not in the wheel" for name in declared if name not in names]
    return faults


def main() -> int:
    """Build, check, and return 1 if anything is wrong."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    subprocess.run(["uv", "build", "--wheel", "--all-packages", "-q", "-o", str(dist)], check=True, cwd=ROOT)
    status = 0
    for wheel in sorted(dist.glob("*.whl")):
        faults = faults_of(wheel)
        print(f"{wheel.name}  {wheel.stat().st_size / 2**20:.2f} MiB  {'ok' if not faults else 'WRONG'}")
        for fault in faults:
            print(f"    {fault}")
            status = 1
    members = [
        tomllib.loads(p.read_text())["project"]
        for g in ("shared", "packages")
        for p in ROOT.glob(f"{g}/*/pyproject.toml")
    ]
    if len({member["version"] for member in members}) != 1:
        print(f"members differ in version: { {m['name']: m['version'] for m in members} }")
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
