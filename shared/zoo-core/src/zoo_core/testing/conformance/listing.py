"""Listing and describing a model is quick: nothing heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zoo_core import catalog
from zoo_core.testing.conformance.subject import Subject
from zoo_core.testing.conformance.suite import Suite

HEAVY = ("torch", "numpy", "torchvision", "timm", "lightning", "pandas", "huggingface_hub")
# runs commands one after another, then says which heavy modules they have brought in
COMMANDS = """
import json, sys
from zoo_core.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0, (arguments, end.code)
print(json.dumps([name for name in json.loads(sys.argv[2]) if name in sys.modules]))
"""
IMPORTS = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps([name for name in json.loads(sys.argv[2]) if name in sys.modules]))
"""


def _python(program: str, *arguments: str) -> list[str]:
    """Run a program in a fresh process and return its lines."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class ListingChecks(Suite):
    """What a user sees before a model is used."""

    def test_every_name_finds_this_model(self, subject: Subject) -> None:
        """Id and aliases are not claimed by another model."""
        for name in subject.entry.names:
            assert catalog.find(name).manifest.id == subject.id

    def test_listing_needs_no_torch(self, subject: Subject) -> None:
        """`zoo list` and `zoo info` read data alone."""
        commands = [["list", subject.id, "--format", "json"], ["info", subject.id, "--format", "json"]]
        listed, info, loaded = map(json.loads, _python(COMMANDS, json.dumps(commands), json.dumps(HEAVY)))
        assert (listed["id"], info["id"]) == (subject.id, subject.id)
        assert not loaded, f"zoo list and zoo info imported {loaded}: is anything of the package imported by metadata?"

    def test_options_need_no_torch(self, subject: Subject) -> None:
        """`zoo predict ID --help` imports the module of the options, which must be light."""
        target = subject.manifest.entry.options
        if target is None:
            pytest.skip(f"{subject.id} has no options of its own")
        module = target.partition(":")[0]
        (loaded,) = map(json.loads, _python(IMPORTS, module, json.dumps(HEAVY)))
        assert not loaded, (
            f"importing {module} imported {loaded}; keep the options class in a module that imports pydantic and "
            f"zoo_core.options alone, and {subject.entry.package}/__init__.py free of imports (or lazy)"
        )
        *shown, loaded_too = _python(COMMANDS, json.dumps([["predict", subject.id, "--help"]]), json.dumps(HEAVY))
        assert json.loads(loaded_too) == []
        for name, field in subject.entry.code("options").model_fields.items():
            assert f"--{name.replace('_', '-')}" in "\n".join(shown)
            assert field.description, f"option {name} of {target} needs a description: it is its line in the help"
