"""Fetching and publishing with the real huggingface_hub client against the loopback hub, as users do: `zoo weights`.

Each command runs in a process of its own, because the client reads its settings when it is imported. The fast suite
uses the installed client; `pytest -m slow shared/zoo-core/tests/test_hub.py` repeats all with the other major version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from zoo_core.testing.hub import LoopbackHub
from zoo_core.testing.tiny import MODEL, tiny_weights, weight_set, write_package

REPO = "someone/tiny"
TOKEN = "hf_" + "x" * 30
RUN = "from zoo_core.cli.main import main; main()"


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass
class World:
    """A hub with one repository, a package that pins it, and a cache."""

    hub: LoopbackHub
    tmp: Path
    client: list[Path]
    data: bytes
    revision: str = ""

    def publish(self, **changes: Any) -> None:
        """Put the weights on the hub, and a package that pins them (with some keys of the weight set changed) here."""
        self.revision = self.hub.commit(REPO, {"model.safetensors": self.data})
        place = {"source": "hub", "repo": REPO, "revision": self.revision, "file": "model.safetensors"}
        self.install([weight_set(self.data, **{**place, **changes})])

    def install(self, weights: list[dict[str, Any]]) -> None:
        write_package(self.tmp / "site", weights)

    def zoo(self, *arguments: str, home: str = "home", token: str | None = None, **settings: str) -> Done:
        """Run `zoo weights ARGUMENTS`; nothing of this process's own settings reaches it."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.tmp),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, [*self.client, self.tmp / "site"])),
            **self.hub.environment(self.tmp / home, token=token),
            **settings,
        }
        started = time.monotonic()
        # the client itself uses an argument of its HTTP library that is to go
        strict = ["-W", "error", "-W", "ignore::DeprecationWarning"]
        command = [sys.executable, *strict, "-c", RUN, "weights", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=55)
        return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def kept(self) -> list[Path]:
        """Return the files of weights that the cache holds."""
        found = (path for path in (self.tmp / "home").rglob("*") if path.is_file() and ".no_exist" not in path.parts)
        return [path for path in found if path.stat().st_size >= len(self.data) // 2 - 1]

    def asked(self, method: str) -> int:
        """Return how many requests of this kind arrived at the hub and its storage."""
        return sum(request.method == method for request in self.hub.requests)


@pytest.fixture(scope="session")
def other_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the client of the major version that is not installed here, beside everything else."""
    wanted = "<2" if version("huggingface-hub").startswith("2.") else ">=2"
    folder = tmp_path_factory.mktemp("client")
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed, so the other major version of huggingface_hub cannot be fetched")
    command = ["uv", "pip", "install", "--quiet", "--target", str(folder), "--python", sys.executable]
    done = subprocess.run([*command, f"huggingface-hub{wanted}"], capture_output=True, text=True, timeout=55)
    if done.returncode:
        pytest.skip(f"the other major version of huggingface_hub cannot be fetched: {done.stderr[-300:]}")
    return folder


@pytest.fixture(params=["installed", pytest.param("other", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    client = [request.getfixturevalue("other_client")] if request.param == "other" else []
    with LoopbackHub() as hub:
        made = World(hub, tmp_path, client, tiny_weights())
        made.publish()
        yield made


def test_weights_are_fetched_once_and_then_come_from_the_cache(world: World) -> None:
    first = world.zoo("get", MODEL, "--format", "json")
    assert first.code == 0, first
    assert json.loads(first.out)["origin"] == "hub"
    assert Path(json.loads(first.out)["path"]).read_bytes() == world.data
    assert first.err.startswith("Fetching model.safetensors of someone/tiny")
    arrived = len(world.hub.requests)
    second = world.zoo("get", MODEL, "--format", "json")
    assert (second.code, json.loads(second.out)["origin"]) == (0, "cache")
    assert len(world.hub.requests) == arrived, "a pinned revision in the cache needs no question"


def test_offline_asks_nothing_and_says_how_to_go_on(world: World) -> None:
    missing = world.zoo("get", MODEL, HF_HUB_OFFLINE="1")
    assert missing.code == 4
    assert "the network is off" in missing.err
    assert f"zoo weights get {MODEL}" in missing.err
    assert world.zoo("path", MODEL).code == 4, "`path` never asks the network"
    assert world.hub.requests == []
    assert world.zoo("get", MODEL).code == 0
    arrived = len(world.hub.requests)
    cached = world.zoo("get", MODEL, HF_HUB_OFFLINE="1")
    assert (cached.code, Path(cached.out.strip()).read_bytes()) == (0, world.data)
    explained = world.zoo("path", MODEL, "--explain")
    assert "embedded: zoo_tiny does not bring it" in explained.out
    assert "cache: cached from someone/tiny" in explained.out
    assert len(world.hub.requests) == arrived


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"wrong_bytes": True}, "The hub sent other bytes than the manifest names; they were thrown away."),
        ({"short_body": True}, "stopped sending model.safetensors"),
        ({"shrunk": True}, "bytes of model.safetensors of someone/tiny"),
        ({"failing_heads": 99}, "answered 500"),
        ({"failing_gets": 99}, "answered 500"),
        ({"missing": True}, "no such file"),
        ({"locked": True}, "private or gated"),
        ({"hang": "question"}, "could not be fetched"),
        ({"hang": "transfer"}, "stopped sending model.safetensors"),
        ({"no_commit": True}, "does not name a revision (X-Repo-Commit)"),
    ],
    ids=str,
)
def test_a_fault_ends_in_a_clear_error_and_nothing_wrong_is_kept(
    world: World, fault: dict[str, Any], sentence: str
) -> None:
    for name, value in fault.items():
        setattr(world.hub.faults, name, value)
    failed = world.zoo("get", MODEL, HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert failed.code == 4, failed
    assert failed.out == ""
    assert sentence in failed.err
    assert "\ntry: " in failed.err
    assert "Traceback" not in failed.err
    assert failed.seconds < 15, failed
    assert world.kept() == []
    for name in fault:
        setattr(world.hub.faults, name, type(world.hub.faults)().__dict__[name])
    assert world.zoo("get", MODEL).code == 0, "the next try starts afresh"


@pytest.mark.parametrize("fault", ["failing_heads", "failing_gets"])
def test_a_hub_that_stumbles_once_is_asked_again(world: World, fault: str) -> None:
    setattr(world.hub.faults, fault, 1)
    done = world.zoo("get", MODEL)
    assert done.code == 0, done
    assert "The hub answered 500; trying again (2 of 3)." in done.err


def test_a_dead_hub_is_told_within_seconds(world: World) -> None:
    world.hub.__exit__(None, None, None)
    dead = world.zoo("get", MODEL)
    assert dead.code == 4
    assert "could not be fetched" in dead.err
    assert "--weights FILE" in dead.err
    assert dead.seconds < 10, "the client alone would retry for 23 s without a word"


def test_the_token_goes_to_the_hub_alone(world: World) -> None:
    world.hub.faults.foreign_redirect = True
    assert world.zoo("get", MODEL, token=TOKEN).code == 0
    seen = {name: [r for r in world.hub.requests if r.listener == name] for name in ("hub", "storage", "stranger")}
    assert [r.authorization for r in seen["hub"]] == [f"Bearer {TOKEN}"] * len(seen["hub"])
    assert seen["storage"]
    assert seen["stranger"]
    assert {r.authorization for r in seen["storage"] + seen["stranger"]} == {None}
    agent = seen["hub"][0].user_agent
    assert "zoo/" in agent
    installed = version("huggingface-hub").partition(".")[0]
    assert (f"hf_hub/{installed}." in agent) is (not world.client), "the client under test is the one that is meant"


def test_a_file_that_rotted_in_the_cache_is_fetched_afresh(world: World) -> None:
    path = Path(world.zoo("get", MODEL).out.strip())
    rotten = b"x" * len(world.data)
    path.resolve().write_bytes(rotten)
    verified = world.zoo("verify")
    assert (verified.code, "wrong" in verified.out) == (4, True)
    again = world.zoo("get", MODEL)
    assert (again.code, path.read_bytes()) == (0, world.data)
    assert "It was removed." in again.err
    path.resolve().write_bytes(rotten)
    assert world.zoo("get", MODEL, HF_HUB_OFFLINE="1").code == 4
    assert world.kept() == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"revision": "0" * 40}, "no such revision"),
        ({"repo": "someone/else"}, "no such repository"),
        ({"size_bytes": 7}, "not the 7 of the manifest"),
    ],
    ids=str,
)
def test_what_the_hub_does_not_have_is_not_transferred(world: World, changes: dict[str, Any], sentence: str) -> None:
    world.publish(**changes)
    done = world.zoo("get", MODEL)
    assert (done.code, sentence in done.err) == (4, True), done
    assert world.asked("GET") == 0


def test_what_is_pushed_can_be_pulled(world: World) -> None:
    new = tiny_weights(seed=1)
    file, record = world.tmp / "new.safetensors", world.tmp / "record.json"
    file.write_bytes(new)
    record.write_text(json.dumps({"steps": 7, "hardware": {"device": "cpu"}, "recipe": {"seed": 1}}))
    push = ["push", MODEL, "someone/new", "--weights", str(file), "--record", str(record)]
    unknown = world.zoo(*push)
    assert (unknown.code, "--licence" in unknown.err) == (2, True), "nobody guesses a licence"
    described = [*push, "--licence", "CC-BY-4.0", "--trained-on", "noise", "--format", "json"]
    assert not json.loads(world.zoo(*described, "--dry-run").out)["published"]
    assert world.hub.requests == []

    pushed = world.zoo(*described, token=TOKEN)
    assert pushed.code == 0, pushed.err
    weights = json.loads(pushed.out)["weight_set"]
    files = world.hub.files("someone/new")
    assert files.keys() == {".gitattributes", "config.json", "model.safetensors", "golden.safetensors", "README.md"}
    assert files["model.safetensors"] == new
    assert json.loads(files["config.json"])["config"] == {"width": 4}
    assert load(files["golden.safetensors"]).keys() == {"input", "output"}
    card = files["README.md"].decode()
    assert "\nlibrary_name: zoo\n" in card
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "- steps: 7" in card

    world.install([weights])
    pulled = world.zoo("get", MODEL, home="elsewhere")
    assert (pulled.code, Path(pulled.out.strip()).read_bytes()) == (0, new), pulled


def test_a_push_that_is_refused_or_does_not_fit_publishes_nothing(world: World) -> None:
    world.hub.faults.locked = True
    file = world.tmp / "weights.safetensors"
    file.write_bytes(world.data)
    push = ["push", MODEL, "someone/new", "--weights", str(file), "--licence", "MIT", "--trained-on", "noise"]
    refused = world.zoo(*push)
    assert (refused.code, "HF_TOKEN" in refused.err) == (4, True), refused
    file.write_bytes(world.data[:-4])
    arrived = len(world.hub.requests)
    assert world.zoo(*push).code == 4
    assert len(world.hub.requests) == arrived
    assert not world.hub.has("someone/new")


def test_embedded_weights_need_neither_hub_nor_client(tmp_path: Path) -> None:
    data = tiny_weights()
    write_package(tmp_path, [weight_set(data)], embedded={"tiny-x1.safetensors": data})
    script = f"""
import sys
from zoo_core import catalog
from zoo_core.weights.find import find
print(find(catalog.find({MODEL!r})).origin, "huggingface_hub" in sys.modules, "torch" in sys.modules)
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=55)
    assert done.stdout.split() == ["embedded", "False", "False"], done.stderr
