"""One model under test, with what is costly to make and several checks need."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import WeightsError
from zoo_core.manifest import Manifest
from zoo_core.predict import Predictor, load
from zoo_core.testing.forked import Done, ForkedZoo
from zoo_core.weights.build import CONFIG, build, config_in, construct
from zoo_core.weights.files import read_tensors, write_tensors
from zoo_core.weights.find import FoundWeights, find

if TYPE_CHECKING:
    from zoo_core.testing.conformance.suite import Suite

CPU = torch.device("cpu")


class Subject:
    """A model of the package.

    Attributes:
        entry: the model in the catalog.
        suite: the test class, for its hooks.
        zoo: the `zoo` command.
        folder: a folder of its own.
    """

    def __init__(self, entry: CatalogEntry, suite: type[Suite], zoo: ForkedZoo, folder: Path) -> None:
        self.entry, self.suite, self.zoo, self.folder = entry, suite, zoo, folder

    def __repr__(self) -> str:
        return self.entry.manifest.id

    @property
    def id(self) -> str:
        """The model's id."""
        return self.entry.manifest.id

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        return self.entry.manifest

    @cached_property
    def found(self) -> FoundWeights:
        """The published weights, or a file of fresh ones where there are none on this machine."""
        if self.manifest.weights:
            try:
                return find(self.entry, offline=True)
            except WeightsError:
                # an embedded file that is missing or wrong has a test of its own; a hub set may not be here
                if self.manifest.weights[0].source == "embedded":
                    raise
        path = self.folder / "fresh.safetensors"
        config = self.suite.small_config(self.entry)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            tensors = construct(self.entry, config).state_dict()
        write_tensors(path, tensors, {CONFIG: json.dumps(dict(config))} if config else {})
        return FoundWeights(path, "path", None, "made for the test")

    @property
    def published(self) -> bool:
        """Whether `found` are published weights."""
        return self.found.weight_set is not None

    @cached_property
    def module(self) -> nn.Module:
        """The network with its weights, on the CPU in fp32."""
        return build(self.entry, self.found, device=CPU, dtype=torch.float32)

    def fresh(self) -> nn.Module:
        """Return a network of the same size with fresh weights."""
        facts = read_tensors(self.found.path)[1]
        return construct(self.entry, config_in(facts, what=str(self.found.path)))

    def input(self, seed: int = 0) -> Tensor:
        """Return an example of the network's input; batch axis first."""
        return self.suite.example_input(self.entry, seed=seed)

    def compute(self, batch: Tensor, module: nn.Module | None = None) -> Tensor:
        """Return the network's output for a batch."""
        with torch.inference_mode():
            return self.suite.compute(module or self.module, batch)

    def predictor(self, precision: str = "fp32") -> Predictor[Any, Any, Any]:
        """Open the model as `zoo_core.load` does."""
        if self.manifest.entry.predictor is None:
            pytest.skip(f"{self.id} has no predictor")
        weights = None if self.published else self.found.path
        return load(self.id, device="cpu", precision=precision, weights=weights, offline=True)

    @cached_property
    def example(self) -> Path:
        """A valid input file, alone in its folder."""
        folder = self.folder / "example"
        folder.mkdir()
        return self.suite.example_file(self.entry, folder)

    def predict(
        self, *arguments: str | Path, cwd: Path, weights: Path | None = None, stdin: Path | None = None
    ) -> Done:
        """Run `zoo predict` on the CPU with the model's weights, or others."""
        if self.manifest.entry.predictor is None:
            pytest.skip(f"{self.id} has no predictor")
        if weights is None and not self.published:
            weights = self.found.path
        given = [] if weights is None else ["--weights", str(weights)]
        return self.zoo.run(
            "predict", self.id, *map(str, arguments), "--device", "cpu", "--precision", "fp32", *given,
            cwd=cwd, stdin=stdin,
        )  # fmt: skip

    @cached_property
    def smoke_run(self) -> tuple[Path, dict[str, Any]]:
        """The folder of a whole smoke run of the model's recipe, and the record that it printed."""
        out = self.folder / "smoke"
        done = self.zoo.run(*self.training(out), "--format", "json", cwd=self.folder)
        assert done.code == 0, f"zoo train {self.id} --smoke ended with {done.code}:\n{done.stderr}"
        record: dict[str, Any] = json.loads(done.stdout)
        return out, record

    def training(self, out: Path) -> tuple[str, ...]:
        """Return the arguments of a smoke run into a folder, on the CPU."""
        return ("train", self.id, "--smoke", "--device", "cpu", "-o", str(out))
