"""Lines from kraken's segmenter, run as a program of its own environment: nothing of it is imported here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image as pil

from zoo_core.errors import InputError, MissingDependencyError, UsageError, ZooError
from zoo_core.io.inputs import Source
from zoo_htr.pages.model import Page
from zoo_htr.pages.pictures import Gray
from zoo_htr.pages.read import read_pages

INSTALL = "uv tool install kraken"
TIMEOUT_SECONDS = 900


def program(given: str | None = None) -> list[str]:
    """Return the command that starts kraken: what the option says, else the variable KRAKEN, else `kraken`.

    Raises:
        MissingDependencyError: there is no such program.
    """
    said = given or os.environ.get("KRAKEN") or "kraken"
    try:
        command = [said] if Path(said).is_file() else shlex.split(said)
    except ValueError as error:
        raise UsageError(f"--kraken {said!r} is no command ({error}).", "Give the path of the program.") from error
    if not command or shutil.which(command[0]) is None:
        raise MissingDependencyError(
            f"kraken's segmenter needs the program {said!r}, which is not there.",
            f"{INSTALL} (then kraken is on the PATH; or give its path with --kraken or the variable KRAKEN)",
        )
    return command


def find_lines(page: Gray, *, command: str | None = None) -> Page:
    """Find the lines of a page with the baseline segmenter that comes with kraken (blla).

    Args:
        page: uint8 (H, W).
        command: how kraken is started; see `program`.

    Returns:
        the page in pixels, its lines in kraken's reading order.

    Raises:
        MissingDependencyError: kraken is not there.
        InputError: it failed on this page.
    """
    start = program(command)
    with tempfile.TemporaryDirectory(prefix="zoo-kraken-") as folder:
        picture, result = Path(folder, "page.png"), Path(folder, "page.xml")
        pil.fromarray(page).save(picture, compress_level=1)
        arguments = [*start, "-a", "-i", str(picture), str(result), "segment", "-bl"]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"kraken found no lines within {TIMEOUT_SECONDS} s.", "Shrink the page.") from error
        except OSError as error:
            raise ZooError(
                f"{start[0]} cannot be started ({error.strerror}).", f"Install it again: {INSTALL}"
            ) from error
        if done.returncode or not result.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise InputError(f"kraken failed: {said[-1] if said else 'without a word'}.", "Run it by hand on the page.")
        found = read_pages(Source("kraken's answer", result)).pages[0]
    # its ids are random; numbers serve people better
    lines = tuple(replace(line, id=f"line_{number}") for number, line in enumerate(found.lines, start=1))
    regions = tuple(replace(region, id=f"region_{number}") for number, region in enumerate(found.regions, start=1))
    return replace(found, lines=lines, regions=regions, image_name="", id="")
