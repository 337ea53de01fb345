"""Which models are installed: manifests are read without importing the packages that ship them."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import traceback
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeAlias

from zoo_core.errors import UsageError, ZooError, did_you_mean
from zoo_core.manifest import Manifest, read_manifest

GROUP = "zoo.packages"
Room: TypeAlias = Literal["model", "predictor", "options", "train", "evaluate", "evaluate_options", "bench", "convert"]


@dataclass(frozen=True)
class CatalogEntry:
    """A model and the installed package that ships it."""

    manifest: Manifest
    package: str
    folder: Path

    @property
    def names(self) -> tuple[str, ...]:
        """The id and the aliases."""
        return (self.manifest.id, *self.manifest.aliases)

    def code(self, room: Room) -> Any:
        """Import what the manifest names for a room.

        Raises:
            UsageError: the package has nothing there.
        """
        target = getattr(self.manifest.entry, room)
        if target is None:
            raise UsageError(f"{self.manifest.id} has no code for {room!r}: {self.package} does not offer it.")
        return load_object(target)

    def recipe_path(self, named: Path | None = None) -> Path:
        """Return a recipe: the file or the package's recipe of that name, or the one that trained this model.

        Args:
            named: a YAML file, or the name of one of the package's recipes, without its suffix.

        Raises:
            UsageError: there is no such recipe, or the model ships none.
        """
        folder = self.folder / "recipes"
        if named is not None:
            if named.suffix or named.exists():
                return named
            path = folder / f"{named}.yaml"
            if not path.is_file():
                raise UsageError(
                    f"{self.package} has no recipe {str(named)!r}.",
                    did_you_mean(str(named), [known.stem for known in folder.glob("*.yaml")]),
                )
            return path
        if self.manifest.recipe is None:
            raise UsageError(f"{self.manifest.id} ships no recipe.", "Give one with --recipe FILE.")
        return folder / self.manifest.recipe


@dataclass(frozen=True)
class InstalledPackage:
    """A package that registers itself in the entry point group `zoo.packages`; `error` says why it is unusable."""

    name: str
    folder: Path | None
    entries: tuple[CatalogEntry, ...] = ()
    error: str | None = field(default=None)
    trace: str = ""


def packages() -> list[InstalledPackage]:
    """Return every registered package in name order; a broken one carries its error instead of its models."""
    found = []
    for module in sorted({point.value for point in entry_points(group=GROUP)}):
        folder = None
        try:
            # find_spec of a top-level name does not execute the package
            spec = importlib.util.find_spec(module)
            if spec is None or spec.origin is None:
                found.append(InstalledPackage(module, None, error=f"the module {module} is not importable"))
                continue
            folder = Path(spec.origin).parent
            paths = sorted((folder / "manifests").glob("*.json"))
            entries = tuple(CatalogEntry(read_manifest(path, package=module), module, folder) for path in paths)
            found.append(InstalledPackage(module, folder, entries))
        except (ZooError, ValueError, ImportError) as error:
            found.append(InstalledPackage(module, folder, error=str(error), trace=traceback.format_exc()))
    return found


def models(glob: str | None = None, *, task: str | None = None) -> list[CatalogEntry]:
    """Return the installed models whose id or alias matches `glob` (all by default), of one task if given, by id."""
    entries = [entry for package in packages() for entry in package.entries]
    if glob is not None:
        entries = [e for e in entries if any(fnmatch.fnmatchcase(n, glob) for n in e.names)]
    if task is not None:
        entries = [e for e in entries if e.manifest.task == task]
    return sorted(entries, key=lambda e: e.manifest.id)


def find(model: str) -> CatalogEntry:
    """Return the model with this id or alias.

    Raises:
        UsageError: no such model, or two packages claim the name; names the nearest one.
    """
    entries = models()
    hits = [e for e in entries if model in e.names]
    if len(hits) == 1:
        return hits[0]
    if hits:
        owners = " and ".join(e.package for e in hits)
        raise UsageError(f"The name {model!r} is claimed by {owners}.", "Uninstall one of them.")
    known = [name for e in entries for name in e.names]
    broken = [f"{p.name} ({p.error})" for p in packages() if p.error]
    remedy = did_you_mean(model, known) or "No zoo package is installed: pip install zoo-sr."
    if broken:
        remedy += f" These packages are broken: {', '.join(broken)}."
    raise UsageError(f"There is no model {model!r}.", remedy)


def load_object(target: str) -> Any:
    """Import `module:attribute` and return the attribute.

    The one place where code is imported by name; `read_manifest` has checked that the name lies in the package itself.
    """
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
