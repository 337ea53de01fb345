"""`zoo` and `python` for the examples of the docs: real processes, forked from one that has done nothing but imports.

A start costs milliseconds instead of the seconds that importing PyTorch takes, so every example of every page can run.
`python forked_zoo.py SOCKET` is the process that is forked; the programs that `programs` writes ask it to.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

_CLIENT = """\
#!{python} -IS
import array, json, os, socket, sys
asked = json.dumps(["{name}", sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as line:
    line.connect({path!r})
    line.sendmsg([len(asked).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
    line.sendall(asked)
    code = line.recv(1)
sys.exit(code[0] if code else 70)
"""
# the workspace is synced before tests run, and a test installs nothing
_UV = """\
#!/bin/sh
[ "$1" = run ] || { echo "only uv run is known here" >&2; exit 70; }
shift
exec "$@"
"""
_PIP = """\
#!/bin/sh
[ "$*" = "install uv" ] || { echo "only pip install uv is known here" >&2; exit 70; }
"""


def programs(folder: Path, path: Path) -> None:
    """Write zoo, python, uv and pip into a folder for PATH; the first two ask the process that listens at `path`."""
    texts = {name: _CLIENT.format(python=sys.executable, name=name, path=str(path)) for name in ("zoo", "python")}
    for name, text in {**texts, "uv": _UV, "pip": _PIP}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def serve(path: str) -> NoReturn:
    """Listen, import what takes long, then fork a process for each that asks, for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        # who asks already is kept waiting by the system
        for name in ("zoo_core.weights.build", "zoo_sr.eval", "zoo_sr.predict", "zoo_sr.train"):
            importlib.import_module(name)
        while True:
            line, _ = listener.accept()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            with line:
                if os.fork() == 0:
                    listener.close()
                    _become(line)


def _become(line: socket.socket) -> NoReturn:
    """Be the program that was asked for: its arguments, folder, environment and three streams."""
    length, streams, _, _ = socket.recv_fds(line, 4, 3)
    asked = b""
    while len(asked) < int.from_bytes(length, "big"):
        asked += line.recv(1 << 16)
    name, arguments, folder, environment = json.loads(asked)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 0
    try:
        _run(name, arguments)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else bool(left.code)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    line.sendall(bytes([code]))
    os._exit(code)


def _run(name: str, arguments: list[str]) -> None:
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
    serve(sys.argv[1])
