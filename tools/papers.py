"""Draw the table of papers in docs/papers.md: `uv run tools/papers.py [--check]`.

What a paper is stands in tools/papers.yaml; whether it is done is read from the tests: every pattern FILE::PREFIX of a
paper must match a test function that pytest collects. With --check nothing is written, and the exit code is 1 if the
page is stale.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE, DATA = ROOT / "docs" / "papers.md", ROOT / "tools" / "papers.yaml"
BESIDE = {"slow": "slow", "gpu": "on a GPU"}  # marks whose tests run only when asked for


@cache
def tests_of(file: str) -> dict[str, set[str]]:
    """Return the test functions of a file with their marks; nothing if there is no such file."""
    path = ROOT / file
    if not path.exists():
        return {}
    found: dict[str, set[str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = [ast.unparse(decorator) for decorator in node.decorator_list]
            found[node.name] = {mark for mark in BESIDE if any(f"mark.{mark}" in text for text in marks)}
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):  # a suite that is inherited
            found[node.name] = set()
    return found


def status(paper: dict[str, Any]) -> str:
    """Return what the tests say of a paper."""
    counted: list[set[str]] = []
    for pattern in paper["tests"]:
        file, _, prefix = pattern.partition("::")
        matching = [marks for name, marks in tests_of(file).items() if name.startswith(prefix)]
        if not matching:
            return "not done"
        counted += matching
    if not counted:
        return "not done"
    asked = [f"{sum(mark in marks for marks in counted)} {words}" for mark, words in BESIDE.items()]
    extra = ", ".join(words for words in asked if not words.startswith("0 "))
    return f"{len(counted)} tests" + (f" ({extra})" if extra else "")


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    groups = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    papers = [paper for group in groups for paper in group["papers"]]
    done = sum(status(paper) != "not done" for paper in papers)
    yield f"{len(papers)} papers, {done} with the tests that they must pass. They are taken up wave by wave."
    for group in groups:
        yield f"\n### {group['group']}\n"
        yield "| paper | home | wave | status | |"
        yield "|---|---|--:|---|---|"
        for paper in group["papers"]:
            source = f" (arXiv:{paper['id']})" if "id" in paper else ""
            cells = [paper["name"] + source, f"`{paper['home']}`", str(paper["wave"]), status(paper), paper["line"]]
            yield f"| {' | '.join(cells)} |"


def page() -> str:
    """Return the page with its table made anew."""
    made = "\n".join(["<!-- made: papers -->", "", *table(), "", "<!-- end: papers -->"])
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(r"<!-- made: papers -->.*?<!-- end: papers -->", lambda _: made, text, flags=re.DOTALL)


def main() -> int:
    """Write the page, or say that it is stale."""
    made, old = page(), PAGE.read_text(encoding="utf-8")
    if sys.argv[1:] == ["--check"]:
        if made != old:
            print("docs/papers.md is stale: run `uv run tools/papers.py`")
        return int(made != old)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
