"""What the checks share: which models are tested, and the hooks by which a package says what the core cannot guess."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image as pil
from torch import Tensor, nn

from zoo_core import catalog
from zoo_core.catalog import CatalogEntry
from zoo_core.testing.conformance.subject import Subject
from zoo_core.testing.forked import ForkedZoo
from zoo_core.weights.golden import answer, example_input

PICTURES = ("image", "line", "page")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: the examples are tiny, and threads that wait for each other slow a busy machine down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Suite:
    """Base of the checks.

    Attributes:
        package: the import name of the package whose models are tested.
    """

    package: ClassVar[str]

    # -- hooks ---------------------------------------------------------------------------------------------------------

    @classmethod
    def example_input(cls, entry: CatalogEntry, *, seed: int) -> Tensor:
        """Return what the network takes for one small example, batch axis first; equal shapes for all seeds."""
        return example_input(entry, seed=seed)

    @classmethod
    def compute(cls, module: nn.Module, batch: Tensor) -> Tensor:
        """Return the network's output (of several the first) for a batch of `example_input`, batch axis first."""
        return answer(module, batch)

    @classmethod
    def small_config(cls, entry: CatalogEntry) -> Mapping[str, Any]:
        """Return constructor arguments that make a network without weights on this machine small enough to test.

        They replace those of the manifest, whose own size is still counted.
        """
        return {}

    @classmethod
    def example_file(cls, entry: CatalogEntry, folder: Path) -> Path:
        """Write a small valid input of `zoo predict` into the folder and return its path."""
        kind = entry.manifest.inputs.kind
        if kind in PICTURES:
            path = folder / "good.png"
            pil.frombytes("RGB", (32, 24), random.Random(0).randbytes(32 * 24 * 3)).save(path)
        elif kind == "text":
            path = folder / "good.txt"
            path.write_text("A good text.\n", encoding="utf-8")
        else:
            pytest.fail(f"the core has no example of a {kind}: override {cls.__name__}.example_file(entry, folder)")
        return path

    @classmethod
    def bad_files(cls, entry: CatalogEntry, good: Path, folder: Path) -> list[Path]:
        """Write inputs that cannot be used into the folder, beside the good one, and return their paths."""
        content = good.read_bytes()
        kinds = {"empty": b"", "random": b"\xff" + random.Random(0).randbytes(999)}
        if entry.manifest.inputs.kind in PICTURES:
            kinds |= {"text": b"This is text.\n", "truncated": content[: len(content) // 2]}
        paths = []
        for name, data in kinds.items():
            paths.append(folder / f"{name}{good.suffix}")
            paths[-1].write_bytes(data)
        paths.append(folder / f"folder{good.suffix}")
        paths[-1].mkdir()
        return paths

    # -- machinery -----------------------------------------------------------------------------------------------------

    @classmethod
    def entries(cls) -> list[CatalogEntry]:
        """Return the models of the package."""
        if not hasattr(cls, "package"):
            pytest.fail(f'say which package is tested: package = "zoo_mine" in class {cls.__name__}', pytrace=False)
        found = {package.name: package for package in catalog.packages()}
        if cls.package not in found:
            pytest.fail(
                f"{cls.package} is not installed as a zoo package; its pyproject.toml needs "
                f'[project.entry-points."zoo.packages"] with a line such as mine = "{cls.package}", then install it',
                pytrace=False,
            )
        installed = found[cls.package]
        if installed.error or not installed.entries:
            problem = installed.error or f"no manifest in {installed.folder}/manifests"
            pytest.fail(f"{cls.package} shows no models: {problem}", pytrace=False)
        return list(installed.entries)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each check for each model, or for each recipe where it asks for a `trained` one."""
        entries = {entry.manifest.id: entry for entry in self.entries()}
        if "subject" in metafunc.fixturenames:
            metafunc.parametrize("subject", list(entries), indirect=True, scope="class")
        if "trained" in metafunc.fixturenames:
            firsts: dict[str, str] = {}
            for name, entry in entries.items():
                if entry.manifest.recipe is not None:
                    firsts.setdefault(entry.manifest.recipe, name)
            metafunc.parametrize("trained", list(firsts.values()), indirect=True, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def subjects(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Subject]]:
        """All models of the package by id, with a `zoo` command that they share."""
        if not hasattr(os, "fork"):
            pytest.skip("the suite runs `zoo` in forked processes, which this system does not have")
        entries = cls.entries()
        rooms = ("model", "predictor", "options", "train")
        targets = [getattr(entry.manifest.entry, room) for entry in entries for room in rooms]
        modules = sorted({target.partition(":")[0] for target in targets if target})
        with ForkedZoo(tmp_path_factory.mktemp("zoo"), modules) as zoo, _one_thread():
            yield {e.manifest.id: Subject(e, cls, zoo, tmp_path_factory.mktemp(e.manifest.id)) for e in entries}

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, subjects: dict[str, Subject], request: Any) -> Subject:
        """A model of the package."""
        return subjects[request.param]

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, subjects: dict[str, Subject], request: Any) -> Subject:
        """A model for each recipe of the package."""
        return subjects[request.param]
