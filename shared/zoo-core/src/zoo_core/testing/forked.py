"""The `zoo` command in forked processes: torch and Lightning are imported once, and a command then costs milliseconds.

Each command is a process of its own with its own exit code, stdout and stderr, and can be killed. A fork is only safe
from a process that has done nothing but imports, so a driver does it, not the process of the tests. POSIX only.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# what `zoo predict` and `zoo train` import before they do anything
IMPORTED = ("zoo_core.cli.main", "zoo_core.cli.predict", "zoo_core.predict", "zoo_core.weights.build")
# one thread: a fork must not leave threads behind; no network: weights that are not here are not asked for
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: the signal that killed it) and what it wrote."""

    code: int
    stdout: str
    stderr: str


class ForkedZoo:
    """The driver, as a context manager.

    Args:
        folder: for its files.
        modules: what is imported beforehand, beside what every command needs.
    """

    def __init__(self, folder: Path, modules: Sequence[str] = ()) -> None:
        self._folder = folder
        self._modules = [*IMPORTED, *modules]

    def __enter__(self) -> ForkedZoo:
        self._errors = (self._folder / "driver.stderr").open("w+", encoding="utf-8")
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "zoo_core.testing.forked", *self._modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._driver.communicate()
        self._errors.close()

    def run(self, *arguments: str, cwd: Path, stdin: Path | None = None) -> Done:
        """Run `zoo` with these arguments in a folder, with a file as its stdin, and wait for its end."""
        self.start(*arguments, cwd=cwd, stdin=stdin)
        return self.wait()

    def start(self, *arguments: str, cwd: Path, stdin: Path | None = None) -> int:
        """Start `zoo` and return its process id; one command at a time, `wait` for it before the next."""
        assert self._driver.stdin is not None
        order = {"arguments": arguments, "cwd": str(cwd), "stdin": str(stdin or os.devnull)}
        self._driver.stdin.write(json.dumps({**order, "folder": str(self._folder)}) + "\n")
        self._driver.stdin.flush()
        return self._answer()

    def wait(self) -> Done:
        """Wait for the end of what was started."""
        code = self._answer()
        texts = ((self._folder / name).read_bytes().decode(errors="replace") for name in ("stdout", "stderr"))
        return Done(code, *texts)

    def _answer(self) -> int:
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise AssertionError(f"the driver of the zoo command died:\n{self._errors.read()}")
        return int(line)


def _run(order: dict[str, str], arguments: list[str]) -> None:
    """Be the command: never returns."""
    code = 1
    try:
        places = (
            (order["stdin"], os.O_RDONLY),
            *(
                (str(Path(order["folder"], name)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for name in ("stdout", "stderr")
            ),
        )
        for number, (place, flags) in enumerate(places):
            os.dup2(os.open(place, flags, 0o600), number)
        os.chdir(order["cwd"])
        from zoo_core.cli.main import main

        main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _drive(modules: list[str]) -> None:
    """Import, then for each line of stdin fork a command; answer with its process id, and at its end with its code."""
    for name in modules:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(order, order["arguments"])
        answers.write(f"{pid}\n")
        answers.flush()
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        answers.flush()


if __name__ == "__main__":
    _drive(sys.argv[1:])
