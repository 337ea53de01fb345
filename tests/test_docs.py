"""Every example of every page runs; links lead somewhere; options, pages and generated parts are what the code says.

A fenced block is `console` (lines after `$ ` are commands, the others what they print, `...` for what may vary), `sh`
(a script), `python` (a `text` block right after it is what it prints), or data (`json`, `yaml`, ...). A page's
blocks run one after the other in one folder, which holds the repository's examples/ and its photo once more. What
cannot run here says so, in the line before the block:

    <!-- not run: REASON -->      needs a network, a GPU, or is a test run itself
    <!-- needs the packs -->      runs where the data packs are (ZOO_PACKS), else it is skipped
    <!-- run by .ci/run -->       .ci/run has every line of it
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import pytest
import yaml

from zoo_core.catalog import load_object
from zoo_core.cli.main import VERBS
from zoo_core.io.packs import packs_root
from zoo_core.testing.forked import ForkedZoo
from zoo_forecast.measuring.options import ForecastEvaluateOptions
from zoo_forecast.options import ForecastOptions
from zoo_htr.options import HTROptions
from zoo_sr.options import SROptions

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "shared/*/README.md", "packages/*/README.md", "examples/README.md")
    for path in ROOT.glob(pattern)
)
# a page whose blocks are files and commands that a test of its own follows to the letter
FOLLOWED = {"docs/add-a-model.md": "tests/test_add_a_model.py"}
# commands of packages that are run as modules
MODULES = (
    "zoo_forecast.backtest:command",
    "zoo_htr.doctor:command", "zoo_htr.importing:command", "zoo_htr.line_recall:command",
    "zoo_htr.repolygonize:command", "zoo_htr.page_eval:command",
)  # fmt: skip
RUNNABLE = {"console", "sh", "python"}
DATA = {"json", "yaml", "toml", "text", "mermaid"}
FENCE = re.compile(r"^(?P<before>[^\n]*)\n+```(?P<language>\S*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 55
# the workspace is synced before tests run, and a test installs nothing
PROGRAMS = {
    "uv": """#!/bin/sh
[ "$1" = run ] || { echo "only uv run is known here" >&2; exit 70; }
shift
exec "$@"
""",
    "pip": """#!/bin/sh
[ "$*" = "install uv" ] || { echo "only pip install uv is known here" >&2; exit 70; }
""",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, what it is, how it is run ("" as usual), and what a python block prints."""

    page: str
    line: int
    language: str
    body: str
    marker: str
    prints: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        follows = bool(found) and not text[end : match.start("language") - 3].strip()
        if follows and match["language"] == "text" and found[-1].language == "python":
            found[-1] = replace(found[-1], prints=match["body"])
        end = match.end()
        marker = re.fullmatch(r"<!-- (not run: .+|needs the packs|run by \.ci/run) -->", match["before"])
        line = text[: match.start("language")].count("\n") + 1
        found.append(Block(page, line, match["language"], match["body"], marker[1] if marker else ""))
    return found


def runs(page: str, marker: str = "") -> list[Block]:
    if page in FOLLOWED:
        return []
    return [block for block in blocks(page) if block.language in RUNNABLE and block.marker == marker]


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which examples run: no network, nothing of this user's settings."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ZOO_", "HF_"))}
    packs = packs_root()
    more = {
        "PATH": f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",  # many threads on a busy machine wait for each other most of the time
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "NO_COLOR": "1",
        "COLUMNS": "110",
        **({"ZOO_PACKS": str(packs)} if packs else {}),
    }
    environment = {**kept, **more}
    with ForkedZoo(folder, ["zoo_sr.eval", "zoo_sr.predict", "zoo_sr.train"], environment=environment) as zoo:
        zoo.programs(folder)
        yield environment


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> None:
    if block.language == "python":
        (folder / "example.py").write_text(block.body)
        code, said = shell("python example.py", folder, environment)
        assert code == 0, f"{block}\n{said}"
        assert not block.prints or matches(block.prints, said), f"{block}: printed\n{said}"
    elif block.language == "sh":
        code, said = shell("set -e\n" + block.body, folder, environment)
        assert code == 0, f"{block}\n{said}"
    else:
        run_console(block, folder, environment)


def shell(script: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
    )
    return done.returncode, done.stdout.decode()


def run_console(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Run the commands of a block in one shell. A command may fail only where `$ echo $?` follows it."""
    body = block.body.replace("\\\n", " ")
    parts = re.split(r"^\$ (.*)\n", body, flags=re.MULTILINE)
    assert not parts[0].strip(), f"{block}: a console block begins with a command"
    commands, shown = parts[1::2], parts[2::2]
    script = "".join(f"(exit ${{code:-0}})\n{command}\ncode=$?; printf '\\001%s\\002' $code\n" for command in commands)
    _, said = shell(script, folder, environment)
    results = re.findall(r"(.*?)\001(\d+)\002", said, flags=re.DOTALL)
    assert len(results) == len(commands), f"{block}\n{said}"
    for number, (command, wanted, (output, code)) in enumerate(zip(commands, shown, results, strict=True)):
        excused = commands[number + 1 : number + 2] == ["echo $?"]
        assert code == "0" or excused, f"{block}: $ {command}\nexit code {code}\n{output}"
        if wanted.strip():
            assert matches(wanted, output), f"{block}: $ {command}\nprinted\n{output}\nnot\n{wanted}"


def matches(shown: str, printed: str) -> bool:
    """Whether output is what a page shows: `...` is anything in a line; alone, any number of lines.

    Columns count as one space apart, as how wide they are depends on what is in them.
    """
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, re.split(r" ?\.\.\. ?", line))) + r"\n"
        for line in plain(shown)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in plain(printed))) is not None


def plain(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_known_kind(page: str) -> None:
    for block in blocks(page):
        assert block.language in RUNNABLE | DATA, f"{block}: {block.language!r} is neither run nor data"
        if block.language == "json":
            json.loads(block.body)
        if block.language == "yaml":
            yaml.safe_load(block.body)
        if block.language == "toml":
            tomllib.loads(block.body)
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(blocks(page)), f"{page} has a fence that is not seen as one"


@pytest.mark.parametrize("page", [page for page in PAGES if page in FOLLOWED])
def test_a_page_that_is_followed_elsewhere_is(page: str) -> None:
    assert page in (ROOT / FOLLOWED[page]).read_text(encoding="utf-8")


def test_what_ci_is_said_to_run_it_runs() -> None:
    steps = [line.removeprefix("step ") for line in (ROOT / ".ci/run").read_text().splitlines()]
    for block in [block for page in PAGES for block in runs(page, "run by .ci/run")]:
        for command in block.body.splitlines():
            words = command.removeprefix("$ ").partition("  #")[0].strip()
            assert any(step == words or step.startswith(f"{words} ") for step in steps), f"{block}: {words}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a ... c", "a b c", True),
        ("a ... c", "a c", True),
        ("a ... c", "a b\nc", False),
        ("a  b", "a     b", True),
        ("a.b", "axb", False),
        ("a", "a\nb", False),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nd", True),
        ("a\n...", "a\nb\nc", True),
        ("a\n...", "b", False),
        ("a ...\nb ...", "a 1\nb 2", True),
        ("a ...\nb ...", "a 1\nb 2\nc", False),
    ],
)
def test_output_that_varies_is_matched_and_nothing_else(shown: str, printed: str, same: bool) -> None:
    assert matches(shown, printed) is same


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, heading = target.partition("#")
        place = (ROOT / page).parent / file if file else ROOT / page
        assert place.exists(), f"{page}: {target}"
        assert not heading or heading in headings(place), f"{page}: {target}"
    # a wheel's long description is read where the repository is not
    if page.endswith("README.md") and page.startswith(("shared", "packages")):
        assert not re.search(r"\]\((?!#)", text), f"{page} is a wheel's page: it cannot link into the repository"


def headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_page_names_a_host() -> None:
    for page in PAGES:
        assert not re.search(r"\w://(?!127\.0\.0\.1)", (ROOT / page).read_text(encoding="utf-8")), page


def test_every_page_is_in_the_navigation() -> None:
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [page for entry in listed for page in entry.values()]
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_every_promise_names_a_test_that_is_there() -> None:
    named = re.findall(r"`([\w/.-]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert named
    for file, name in named:
        assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (
            f"{file}::{name}"
        )


def test_every_dependency_has_its_reason() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    told = {
        title: set(re.findall(r"^\| `([\w-]+)` \| \S", body, re.MULTILINE))
        for title, body in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    }
    needed: dict[str, set[str]] = {"Build": set()}
    for path in (
        ROOT / "pyproject.toml",
        *ROOT.glob("shared/*/pyproject.toml"),
        *ROOT.glob("packages/*/pyproject.toml"),
    ):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        name = data["project"]["name"]
        needed[name] = names(data["project"]["dependencies"])
        for extra, lines in data["project"].get("optional-dependencies", {}).items():
            needed[f"{name}[{extra}]"] = names(lines)
        for group, lines in data.get("dependency-groups", {}).items():
            needed[group] = names(lines)
        needed["Build"] |= names(data.get("build-system", {}).get("requires", []))
    assert told == needed


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


def test_options_that_pages_name_exist() -> None:
    known = {option for command in commands() for param in command.params for option in param.opts}
    for schema in (ForecastEvaluateOptions, ForecastOptions, HTROptions, SROptions):
        known |= {f"--{name.replace('_', '-')}" for name in schema.model_fields}
        known |= {f"--no-{name.replace('_', '-')}" for name, f in schema.model_fields.items() if f.default is True}
    known |= {"--debug", "--help", "--version"}
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        for code in re.findall(r"`((?:zoo |--)[^`]*)`", text):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
                assert option in known, f"{page}: {option}"


def commands() -> Iterator[click.Command]:
    for target in (*(target for target, _ in VERBS.values()), *MODULES):
        command = load_object(target)
        yield command
        if isinstance(command, click.Group):
            yield from command.commands.values()


# the examples come last: meanwhile the process that they are forked from has imported what takes long


def at_work(folder: Path) -> Path:
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copy(ROOT / "examples" / "photo.png", folder)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)])
def test_examples(page: str, environment: dict[str, str], tmp_path: Path) -> None:
    at_work(tmp_path)
    for block in runs(page):
        run_block(block, tmp_path, environment)


@pytest.mark.skipif(packs_root() is None, reason="the data packs are not here: set ZOO_PACKS")
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page, "needs the packs")])
def test_examples_on_packs(page: str, environment: dict[str, str], tmp_path: Path) -> None:
    at_work(tmp_path)
    for block in runs(page, "needs the packs"):
        run_block(block, tmp_path, environment)


@pytest.mark.parametrize("tool", ["pages", "cards", "benchmarks", "papers", "draw_in_context"])
def test_made_parts_are_up_to_date(tool: str, environment: dict[str, str]) -> None:
    code, said = shell(f"python tools/{tool}.py --check", ROOT, environment)
    assert (code, said) == (0, "")
