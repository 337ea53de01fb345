"""Fetch the handwriting fonts that synthetic lines are written with: `python -m zoo_htr.fonts`.

The fonts are packages of the npm registry under open licences; `fonts.json` names them with version and sha256. They go
into a cache as TrueType files and are in no wheel. Training needs none of them, only what `zoo_htr.synth` drew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import click

from zoo_core.errors import InputError, MissingDependencyError, UsageError, ZooError
from zoo_core.io.atomic import whole

SCOPE = "@fontsource"
TABLE = Path(__file__).with_name("fonts.json")
INDEX = "index.json"
MOST_BYTES = 8 * 2**20  # of one package
PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Font:
    """A font of the table.

    Args:
        name: of its package.
        version: of its package.
        licence: SPDX id.
        sha256: of the package's archive.
        held_out: whether it is kept from training, to see how a network reads a font it never saw.
        joined: whether its letters touch, so that words are drawn whole.
    """

    name: str
    version: str
    licence: str
    sha256: str
    held_out: bool
    joined: bool


@dataclass(frozen=True)
class CachedFont:
    """A font in the cache: what the table says, the file, and the characters it has glyphs for."""

    font: Font
    path: Path
    characters: frozenset[str]


def fonts() -> list[Font]:
    """Return the table of fonts."""
    return [Font(**row) for row in json.loads(TABLE.read_text(encoding="utf-8"))]


def cache_folder() -> Path:
    """Return where fonts are kept: ZOO_FONTS, or `zoo/fonts` in the user's folder of caches."""
    named = os.environ.get("ZOO_FONTS")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "zoo" / "fonts"


def registry() -> str:
    """Return the address of the npm registry: NPM_CONFIG_REGISTRY, or what npm is configured with.

    Raises:
        UsageError: neither says one.
    """
    address = os.environ.get("NPM_CONFIG_REGISTRY", "")
    if not address:
        try:
            asked = subprocess.run(
                ["npm", "config", "get", "registry"],
                capture_output=True,
                text=True,
                check=True,
                timeout=PATIENCE_SECONDS,
            )
            address = asked.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            address = ""
    if not address.startswith(("https://", "http://")):
        raise UsageError("No npm registry is known.", "Name one with --registry URL or NPM_CONFIG_REGISTRY.")
    return address


def fetch(font: Font, address: str) -> bytes:
    """Download the archive of a font's package and check its sha256.

    Raises:
        ZooError: the registry does not answer, or sends other bytes.
    """
    url = f"{address.rstrip('/')}/{SCOPE}/{font.name}/-/{font.name}-{font.version}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 (http or https, checked)
            data: bytes = answer.read(MOST_BYTES + 1)
    except (OSError, urllib.error.URLError) as error:
        raise ZooError(f"{SCOPE}/{font.name} cannot be fetched ({error}).", "Try again, or --registry URL.") from error
    if hashlib.sha256(data).hexdigest() != font.sha256:
        raise ZooError(f"{SCOPE}/{font.name} {font.version} is not what was tested: its sha256 differs.")
    return data


def converted(archive: bytes, font: Font) -> tuple[bytes, str]:
    """Return the TrueType file of a package's archive, and the characters that it has glyphs for.

    Raises:
        MissingDependencyError: fontTools is not installed.
        InputError: the archive lacks the font.
    """
    try:
        from fontTools.ttLib import TTFont
    except ImportError as error:
        raise MissingDependencyError("Converting fonts needs fontTools.", "pip install 'zoo-htr[synth]'") from error
    member = f"package/files/{font.name}-latin-400-normal.woff"
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            file = packed.extractfile(member)
            data = file.read() if file else b""
    except (tarfile.TarError, KeyError, OSError) as error:
        raise InputError(f"{SCOPE}/{font.name} has no {member} ({error}).") from error
    opened = TTFont(io.BytesIO(data))
    opened.flavor = None
    target = io.BytesIO()
    opened.save(target)
    return target.getvalue(), "".join(map(chr, sorted(opened.getBestCmap())))


def fill(folder: Path, address: str) -> int:
    """Bring what the cache lacks; return how many fonts were fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    index = _index(folder)
    fetched = 0
    for font in fonts():
        if font.name in index and index[font.name]["sha256"] == font.sha256:
            continue
        data, characters = converted(fetch(font, address), font)
        with whole(folder / f"{font.name}.ttf", overwrite=True) as path:
            path.write_bytes(data)
        index[font.name] = {"sha256": font.sha256, "licence": font.licence, "characters": characters}
        with whole(folder / INDEX, overwrite=True) as path:
            path.write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")
        fetched += 1
    return fetched


def cached(folder: Path) -> list[CachedFont]:
    """Return the fonts of the cache, in the order of the table.

    Raises:
        InputError: there are none.
    """
    index = _index(folder)
    found = [
        CachedFont(font, folder / f"{font.name}.ttf", frozenset(index[font.name]["characters"]))
        for font in fonts()
        if font.name in index and (folder / f"{font.name}.ttf").is_file()
    ]
    if not found:
        raise InputError(f"{folder} holds no fonts.", "Fetch them: python -m zoo_htr.fonts")
    return found


def _index(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        index: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged.", "Remove it and fetch the fonts again.") from error
    return index


@click.command()
@click.option("--registry", "address", help="Address of an npm registry; by default the one that npm uses.")
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Folder; default ZOO_FONTS.")
def main(address: str | None, cache: Path | None) -> None:
    """Fetch the handwriting fonts of zoo-htr, 32 packages of 6 MB in all, under OFL-1.1 or Apache-2.0."""
    folder = cache or cache_folder()
    try:
        count = fill(folder, address or registry())
        click.echo(f"{len(cached(folder))} fonts in {folder}, {count} of them fetched now")
    except ZooError as error:
        raise click.ClickException(f"{error.message} {error.remedy}".strip()) from error


if __name__ == "__main__":
    main()
