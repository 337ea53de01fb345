"""A manifest is data that can be wrong, or hostile: what it may say, and what it may never choose."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from zoo_core import catalog
from zoo_core.errors import UsageError, WeightsError
from zoo_core.manifest import MAX_BYTES, parse_manifest, read_manifest
from zoo_core.testing.tiny import MODEL, PACKAGE, tiny_weights, weight_set, write_package

PIN = {"source": "hub", "repo": "someone/tiny", "revision": "0" * 40}


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    package = write_package(tmp_path / "made", [weight_set(tiny_weights())])
    data: dict[str, Any] = json.loads((package.entry.folder / "manifests" / f"{MODEL}.json").read_text())
    return data


def write(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps(data))
    return path


def test_what_is_written_is_what_is_read(good: dict[str, Any], tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, good), package=PACKAGE)
    again = parse_manifest(manifest.model_dump_json(), origin="again")
    assert again == manifest
    assert manifest.weight_set().sha256 == good["weights"][0]["sha256"]


@pytest.mark.parametrize("room", ["model", "predictor", "train", "evaluate", "options"])
@pytest.mark.parametrize("target", ["os:system", "zoo_tinyer.net:Tiny", "zoo_core.cli.main:main", "builtins:eval"])
def test_a_manifest_names_no_code_of_another_package(
    good: dict[str, Any], tmp_path: Path, room: str, target: str
) -> None:
    good["entry"][room] = target
    with pytest.raises(UsageError, match=f"entry.{room} names .*outside {PACKAGE}"):
        read_manifest(write(tmp_path, good), package=PACKAGE)


@pytest.mark.parametrize("target", ["zoo_tiny.net", "zoo_tiny/net:Tiny", "zoo_tiny.net:Tiny()", "zoo_tiny.net:a.b", ""])
def test_an_entry_point_is_a_module_and_a_name(good: dict[str, Any], tmp_path: Path, target: str) -> None:
    good["entry"]["model"] = target
    with pytest.raises(UsageError, match=r"entry\.model"):
        read_manifest(write(tmp_path, good), package=PACKAGE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "f" * 63}, "sha256"),
        ({"sha256": None}, "sha256"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"licence": None}, "licence"),
        ({"file": "../../other.safetensors"}, "leaves its folder"),
        ({"file": "/etc/passwd"}, "leaves its folder"),
        ({"file": "a/../../b"}, "leaves its folder"),
        ({"file": "a\\b"}, "leaves its folder"),
        ({**PIN, "revision": "main"}, "revision"),
        ({**PIN, "revision": None}, "40-hex revision"),
        ({**PIN, "repo": None}, "needs repo"),
        ({"source": "the web"}, "source"),
    ],
    ids=repr,
)
def test_weights_are_pinned_hashed_licensed_and_at_home(
    good: dict[str, Any], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    good["weights"] = [{**good["weights"][0], **changes}]
    with pytest.raises(UsageError, match=words):
        read_manifest(write(tmp_path, good), package=PACKAGE)


def test_a_set_that_is_not_there_gets_the_nearest(good: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'default'"):
        read_manifest(write(tmp_path, good), package=PACKAGE).weight_set("defalt")
    twice = {**good, "weights": good["weights"] * 2}
    with pytest.raises(UsageError, match="same name"):
        read_manifest(write(tmp_path, twice), package=PACKAGE)
    with pytest.raises(WeightsError, match="without weights"):
        read_manifest(write(tmp_path, {**good, "weights": []}), package=PACKAGE).weight_set()


def test_an_unknown_key_gets_the_nearest(good: dict[str, Any], tmp_path: Path) -> None:
    good["alias"] = good.pop("aliases")
    with pytest.raises(UsageError) as caught:
        read_manifest(write(tmp_path, good), package=PACKAGE)
    assert "aliases" in caught.value.remedy


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 2}', b'{"notes": ["' + b"x" * MAX_BYTES + b'"]}']
)
def test_what_is_no_manifest_is_one_sentence(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=r"model\.json"):
        read_manifest(path, package=PACKAGE)


def test_figures_of_ours_name_their_command(good: dict[str, Any], tmp_path: Path) -> None:
    good["metrics"] = [{"name": "x", "value": 1, "dataset": "d", "protocol": "p", "by": "ours"}]
    with pytest.raises(UsageError, match="names the command"):
        read_manifest(write(tmp_path, good), package=PACKAGE)


def test_the_catalog_reads_manifests_and_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write_package(tmp_path, [weight_set(tiny_weights())])
    (package.entry.folder / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    entry = catalog.find("tiny")
    assert entry.manifest.id == MODEL
    assert entry.folder == package.entry.folder
    assert PACKAGE not in sys.modules


def test_a_name_that_two_packages_claim_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        write_package(tmp_path / name)
    # the second becomes another distribution with a package of its own that ships the same id
    (tmp_path / "two" / PACKAGE).rename(tmp_path / "two" / "zoo_twin")
    for path in (tmp_path / "two").rglob("*"):
        if path.is_file():
            path.write_text(path.read_text().replace(PACKAGE, "zoo_twin"))
    (tmp_path / "two" / f"{PACKAGE}-1.0.dist-info").rename(tmp_path / "two" / "zoo_twin-1.0.dist-info")
    monkeypatch.syspath_prepend(tmp_path / "one")
    monkeypatch.syspath_prepend(tmp_path / "two")
    with pytest.raises(UsageError, match=f"claimed by {PACKAGE} and zoo_twin"):
        catalog.find(MODEL)
