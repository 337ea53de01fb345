"""What must never get into a wheel is found by the tool that builds them."""

from __future__ import annotations

import json
import runpy
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools/wheelhouse.py"))
WEIGHTS = b"not looked into here"
GOOD = {
    "zoo_x/__init__.py": b"",
    "zoo_x/weights/x.safetensors": WEIGHTS,
    "zoo_x-1.dist-info/METADATA": b"License-Expression: Apache-2.0",
}


def wheel(folder: Path, files: dict[str, bytes], **weights: Any) -> Path:
    named = {"source": "embedded", "file": "x.safetensors", "sha256": sha256(WEIGHTS).hexdigest(), **weights}
    path = folder / "zoo_x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, "zoo_x/manifests/x.json": json.dumps({"weights": [named]}).encode()}.items():
            archive.writestr(name, content)
    return path


def test_a_good_wheel_has_no_faults(tmp_path: Path) -> None:
    assert TOOL["faults_of"](wheel(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("files", "weights", "words"),
    [
        ({**GOOD, "zoo_x/weights/x.pth": b"\x80\x02"}, {}, "has no place"),
        ({**GOOD, "zoo_x/lib.so": b""}, {}, "has no place"),
        ({**GOOD, "zoo_x/weights/y.safetensors": b""}, {}, "no manifest names it"),
        ({k: v for k, v in GOOD.items() if "weights" not in k}, {}, "not in the wheel"),
        (GOOD, {"sha256": "0" * 64}, "sha256"),
        ({**GOOD, "zoo_x/weights/x.safetensors": bytes(7 << 20)}, {}, "over the budget"),
        ({**GOOD, "zoo_x/a.txt": bytes(21 << 20)}, {}, "over the budget"),
        ({**GOOD, "zoo_x-1.dist-info/METADATA": b"Name: x"}, {}, "no licence"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, files: dict[str, bytes], weights: dict[str, Any], words: str) -> None:
    faults = TOOL["faults_of"](wheel(tmp_path, files, **weights))
    assert any(words in fault for fault in faults), faults
