"""`zoo` and `python` in forked processes: torch and Lightning are imported once, and a command then costs milliseconds.

Each command is a process of its own, with its own arguments, folder, environment, streams and exit code, and can be
killed. A fork is only safe from a process that has done nothing but imports, so a server does it, not the process of
the tests. Tests ask it by `ForkedZoo.run`, scripts by programs that are called as the real ones are. POSIX only.

A request is what to run, as JSON behind its length, and three open files; the answers are the process id and, at its
end, how it ended: the exit code, or the negative number of the signal that killed it. Each takes four bytes.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn

# what `zoo predict` and `zoo train` import before they do anything
IMPORTED = ("zoo_core.cli.main", "zoo_core.cli.predict", "zoo_core.predict", "zoo_core.weights.build")
# one thread: a fork must not leave threads behind; no network: weights that are not here are not asked for
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
# light: it starts without the packages of the environment
_PROGRAM = """\
#!{python} -IS
import array, json, os, socket, sys
asked = json.dumps(["{name}", sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as line:
    line.connect({path!r})
    line.sendmsg([len(asked).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
    line.sendall(asked)
    answer = b""
    while len(answer) < 8:
        answer += line.recv(8 - len(answer)) or sys.exit(70)
code = int.from_bytes(answer[4:], "big", signed=True)
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: the signal that killed it) and what it wrote."""

    code: int
    stdout: str
    stderr: str


class ForkedZoo:
    """The server and its clients, as a context manager.

    Args:
        folder: for its files.
        modules: what is imported beforehand, beside what every command needs.
        environment: of `run` and of the server; by default this process's, with `ENVIRONMENT`.
    """

    def __init__(
        self, folder: Path, modules: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._modules = folder, [*IMPORTED, *modules]
        self._environment = dict(environment) if environment is not None else {**os.environ, **ENVIRONMENT}
        # the path of a socket has at most about 100 characters, and folders of tests may have more
        self._short = Path(tempfile.mkdtemp(prefix="zoo-"))
        self._path = self._short / "line"

    def __enter__(self) -> ForkedZoo:
        self._errors = (self._folder / "server.stderr").open("w+", encoding="utf-8")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "zoo_core.testing.forked", str(self._path), *self._modules],
            stdout=subprocess.PIPE, stderr=self._errors, text=True, env=self._environment,
        )  # fmt: skip
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "ready\n":
            self._died()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.terminate()
        self._server.communicate()
        self._errors.close()
        shutil.rmtree(self._short)

    def programs(self, folder: Path) -> None:
        """Write `zoo` and `python` into a folder, for the PATH of scripts."""
        for name in ("zoo", "python"):
            (folder / name).write_text(_PROGRAM.format(python=sys.executable, name=name, path=str(self._path)))
            (folder / name).chmod(0o755)

    def run(self, *arguments: str, cwd: Path, stdin: Path | None = None) -> Done:
        """Run `zoo` with these arguments in a folder, with a file as its stdin, and wait for its end."""
        self.start(*arguments, cwd=cwd, stdin=stdin)
        return self.wait()

    def start(
        self, *arguments: str, cwd: Path, stdin: Path | None = None, program: Literal["zoo", "python"] = "zoo"
    ) -> int:
        """Start `zoo` (or python) and return its process id; one command at a time, `wait` for it before the next."""
        asked = json.dumps([program, arguments, str(cwd), self._environment]).encode()
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(self._path))
        writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        streams = [os.open(stdin or os.devnull, os.O_RDONLY)]
        streams += [os.open(self._folder / name, writing, 0o600) for name in ("stdout", "stderr")]
        socket.send_fds(self._line, [len(asked).to_bytes(4, "big")], streams)
        self._line.sendall(asked)
        for stream in streams:
            os.close(stream)
        return self._answer()

    def wait(self) -> Done:
        """Wait for the end of what was started."""
        code = self._answer()
        self._line.close()
        texts = ((self._folder / name).read_bytes().decode(errors="replace") for name in ("stdout", "stderr"))
        return Done(code, *texts)

    def _answer(self) -> int:
        answer = _received(self._line, 4)
        return int.from_bytes(answer, "big", signed=True) if len(answer) == 4 else self._died()

    def _died(self) -> NoReturn:
        self._errors.seek(0)
        raise AssertionError(f"the server of the zoo command died:\n{self._errors.read()}")


def ranks(count: int, run: Callable[[], None]) -> int:
    """Run a function in several forked processes, set up as torchrun does it; return how many failed.

    Call it in a process that has done nothing but imports, such as a program started by `ForkedZoo.start`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    pids = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ.update({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
                run()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    return sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids)


def _received(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := line.recv(count - len(data))):
        data += more
    return data


def _serve(path: str, modules: list[str]) -> NoReturn:
    """Listen, import what takes long, then fork for each that asks, for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who watch need not be waited for
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("ready\n")  # who asks from now on is kept waiting by the system
        sys.stdout.flush()
        for name in modules:
            importlib.import_module(name)
        while True:
            line, _ = listener.accept()
            with line:
                if os.fork() == 0:
                    listener.close()
                    _watch(line)


def _watch(line: socket.socket) -> NoReturn:
    """Fork the command, tell its process id, wait for its end, and tell that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(line, 4, 3)
    asked = _received(line, int.from_bytes(length, "big"))
    pid = os.fork()
    if pid == 0:
        line.close()
        _become(streams, *json.loads(asked))
    for stream in streams:
        os.close(stream)
    line.sendall(pid.to_bytes(4, "big"))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    line.sendall(code.to_bytes(4, "big", signed=True))
    os._exit(0)


def _become(streams: list[int], name: str, arguments: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """Be the program that was asked for: its streams, folder, environment and arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        _run(name, arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        for written in (sys.stdout, sys.stderr):
            try:
                written.flush()
            except OSError:  # who reads it has left
                code = code or 1
        os._exit(code)


def _run(name: str, arguments: list[str]) -> None:
    """Do what `zoo ARGUMENTS` or `python ARGUMENTS` does."""
    if name == "zoo":
        from zoo_core.cli.main import main

        main(arguments)
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 (as python -c does)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
