"""A manifest says one model's facts, names code of its own package only, and refuses what it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoo_core.errors import UsageError
from zoo_core.manifest import MAX_BYTES, parse_manifest, read_manifest

PORT = {"kind": "image"}
WEIGHTS = {
    "source": "embedded", "file": "a.safetensors", "size_bytes": 1, "sha256": "0" * 64,
    "licence": "Apache-2.0", "trained_on": "nothing",
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "format": 1, "id": "plain-x1", "task": "testing", "summary": "for tests", "entry": {"model": "mine.net:Net"},
    "inputs": PORT, "outputs": PORT, "parameters": 1, "paper": {"title": "None", "id": "none", "year": 2026},
}  # fmt: skip


def parsed(**changes: Any) -> Any:
    return parse_manifest(json.dumps({**PLAIN, **changes}), origin="plain.json")


def test_a_plain_manifest_is_read_and_frozen() -> None:
    manifest = parsed(weights=[WEIGHTS])
    assert (manifest.id, manifest.weight_set().name, manifest.precisions) == ("plain-x1", "default", ("fp32",))
    with pytest.raises(ValueError, match="frozen"):
        manifest.id = "other"


@pytest.mark.parametrize("target", ["os:system", "mine_too.net:Net", "minenet:Net"])
def test_code_of_another_package_is_refused(target: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(PLAIN))
    assert read_manifest(path, package="mine").id == "plain-x1"
    path.write_text(json.dumps({**PLAIN, "entry": {"model": "mine.net:Net", "train": target}}))
    with pytest.raises(UsageError, match=r"entry\.train names .* outside mine"):
        read_manifest(path, package="mine")


@pytest.mark.parametrize("file", ["/etc/passwd", "../a.safetensors", "a/../../b", "..\\a"])
def test_a_file_outside_its_folder_is_refused(file: str) -> None:
    with pytest.raises(UsageError, match="leaves its folder"):
        parsed(weights=[{**WEIGHTS, "file": file}])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sumary": "slip"}, "'summary'"),
        ({"format": 2}, "format"),
        ({"id": "Upper Case"}, "id"),
        ({"entry": {"model": "no colon"}}, "entry.model"),
        ({"weights": [{**WEIGHTS, "source": "hub"}]}, "40-hex revision"),
        ({"weights": [{**WEIGHTS, "source": "hub", "repo": "a/b", "revision": "main"}]}, "revision"),
        ({"weights": [{**WEIGHTS, "sha256": "abc"}]}, "sha256"),
        ({"weights": [WEIGHTS, WEIGHTS]}, "same name"),
        ({"metrics": [{"name": "a", "value": 1, "dataset": "b", "protocol": "c", "by": "ours"}]}, "names the command"),
        ({"notes": ["long" * MAX_BYTES]}, "at most"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(**changes)
    assert says in str(caught.value)


def test_a_set_that_is_not_there_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="'default'"):
        parsed(weights=[WEIGHTS]).weight_set("defalt")
    with pytest.raises(UsageError, match="without weights"):
        parsed().weight_set()
