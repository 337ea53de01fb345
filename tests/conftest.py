"""What several tests of the whole repository share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# a paragraph that begins with a file name in backquotes, and the code block after it
FILE = re.compile(r"^`([\w./-]+)`(?:[^\n]|\n(?!\n))*\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Guide:
    """docs/add-a-model.md: the files of the example package and the commands, as a reader would copy them."""

    def __init__(self, text: str) -> None:
        self.files: dict[str, str] = dict(FILE.findall(text))
        self.commands: list[str] = "".join(COMMANDS.findall(text)).splitlines()

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")


@pytest.fixture(scope="session")
def guide() -> Guide:
    return Guide((ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8"))
