"""The manifest is true: what it counts is counted again, what it names exists."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo_core.catalog import Room
from zoo_core.config import load_recipe
from zoo_core.options import Options
from zoo_core.predict import Predictor
from zoo_core.testing.conformance.subject import Subject
from zoo_core.testing.conformance.suite import Suite
from zoo_core.train.recipe import TrainRecipe
from zoo_core.weights.build import construct
from zoo_core.weights.find import verify

ROOMS: tuple[Room, ...] = get_args(Room)
KINDS: dict[str, type] = {"predictor": Predictor, "options": Options, "model": nn.Module}
COMMENT = re.compile(r"(^|\s)#\s*\S")


def keys_without_comment(text: str) -> Iterator[str]:
    """Yield the dotted keys of a recipe that have no comment, on their line or the line above.

    The keys of the section `smoke` are keys of the recipe again and need none.
    """
    lines = text.splitlines()

    def visit(node: yaml.Node, section: str) -> Iterator[str]:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            line = key.start_mark.line
            above = lines[line - 1].strip() if line else ""
            if not COMMENT.search(lines[line]) and not above.startswith("#"):
                yield f"{section}{key.value}"
            if section or key.value != "smoke":
                yield from visit(value, f"{section}{key.value}.")

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        yield from visit(root, "")


def recipe_class(subject: Subject) -> type[TrainRecipe]:
    """Return the recipe class that the package's training reads: the one that its module names."""
    module = sys.modules[subject.entry.code("train").__module__]
    found = {value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, TrainRecipe)}
    own = found - {TrainRecipe} or found
    assert len(own) == 1, (
        f"{module.__name__} should define one subclass of zoo_core.train.TrainRecipe, the keys of its recipes; "
        f"it has {sorted(c.__name__ for c in own) or 'none'}"
    )
    return own.pop()


class ManifestChecks(Suite):
    """What `zoo info` prints is so."""

    def test_entry_points_exist(self, subject: Subject) -> None:
        """Every entry point can be imported, is what its room asks for, and is code of the package."""
        for room in ROOMS:
            target = getattr(subject.manifest.entry, room)
            if target is None:
                continue
            try:
                found: Any = subject.entry.code(room)
            except (ImportError, AttributeError) as error:
                pytest.fail(f"entry.{room} names {target!r}, which cannot be imported: {error}", pytrace=False)
            assert callable(found), f"entry.{room} names {target!r}, which is no class or function"
            home = found.__module__.partition(".")[0]
            assert home == subject.entry.package, f"entry.{room}: {target!r} is code of {home}, not of the package"
            if room in KINDS:
                is_kind = inspect.isclass(found) and issubclass(found, KINDS[room])
                assert is_kind, f"entry.{room}: {target!r} is no subclass of {KINDS[room].__qualname__}"

    def test_embedded_weights_are_those_of_the_manifest(self, subject: Subject) -> None:
        """Size and sha256 of every embedded file."""
        embedded = [weight_set for weight_set in subject.manifest.weights if weight_set.source == "embedded"]
        if not embedded:
            pytest.skip(f"{subject.id} embeds no weights")
        for weight_set in embedded:
            path = subject.entry.folder / "weights" / weight_set.file
            verify(path, weight_set, name=f"{subject.id}:{weight_set.name}", remedy="Correct the manifest.")

    def test_parameters_are_counted_right(self, subject: Subject) -> None:
        """All parameters of the network that the manifest's config constructs."""
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in construct(subject.entry).parameters())
        stated = subject.manifest.parameters
        assert count == stated, "correct `parameters` in the manifest"

    def test_flops_are_counted_right(self, subject: Subject) -> None:
        """Convolutions and products of matrices, 2 a multiply-add, as torch.utils.flop_counter counts them."""
        flops = subject.manifest.flops
        if flops is None:
            pytest.skip(f"{subject.id} states no FLOPs")
        with torch.device("meta"):
            module = construct(subject.entry).eval()
            with FlopCounterMode(display=False) as counter:
                subject.compute(torch.empty(flops.at), module)
        count, stated = counter.get_total_flops(), flops.count
        assert count == stated, "correct `flops` in the manifest"

    def test_recipe_is_valid_and_explained(self, subject: Subject) -> None:
        """The recipe loads, as it is and for a smoke run, and every key of it has a comment."""
        if subject.manifest.recipe is None:
            pytest.skip(f"{subject.id} ships no recipe")
        path = subject.entry.recipe_path()
        assert path.is_file(), f"the manifest names the recipe {path.name}; put it into {path.parent}"
        schema = recipe_class(subject)
        load_recipe(path, [], schema)
        smoke = load_recipe(path, [], schema, smoke=True)
        assert smoke.smoke, f"{path.name} needs a section `smoke` that makes `zoo train {subject.id} --smoke` short"
        bare = list(keys_without_comment(path.read_text(encoding="utf-8")))
        assert not bare, f"{path.name}: say behind a # what these keys are or why they have their values"
