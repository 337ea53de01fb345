"""What the project promises about safety, watched from inside: the interpreter reports every attempt (PEP 578).

Promises that are about one part are tested beside it: hashes in test_hub and test_weights, bounded readers in
test_io_images and test_packs, half-written files in test_io_atomic, manifests in test_manifest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo_sr.imdn import IMDN_RTC

PHOTO = Path(__file__).parents[1] / "examples/photo.png"
WATCHED = """
import os, sys
seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "os.system"):
        seen.append((event, str(arguments)))
    elif event == "pickle.find_class":
        seen.append((event, str(arguments)))
    elif event == "subprocess.Popen" and any(word in str(arguments) for word in ("pip", "uv", "conda", "curl", "wget")):
        seen.append((event, str(arguments)))
sys.addaudithook(watch)
from zoo_core.cli.main import main
try:
    main(sys.argv[1:])
finally:
    for line in seen:
        print("SEEN", *line, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "rtc.safetensors"
    save_file(IMDN_RTC().state_dict(), path)
    return path


def watched(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `zoo` in a process that notes what it must not do; nothing turns the network off for it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
    )


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "info imdn-rtc",
        "doctor",
        "weights verify",
        "weights convert WEIGHTS",
        "predict imdn-rtc PHOTO --weights WEIGHTS -o out",
        "train imdn-rtc --smoke steps=2 -o run",
    ],
)
def test_no_network_no_pickle_no_installer(command: str, weights: Path, tmp_path: Path) -> None:
    words = command.replace("WEIGHTS", str(weights)).replace("PHOTO", str(PHOTO)).split()
    done = watched(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SEEN" not in done.stderr


def test_the_watch_sees_what_it_is_to_see(tmp_path: Path) -> None:
    code = WATCHED.replace(
        "main(sys.argv[1:])", "import pickle, pathlib; pickle.loads(pickle.dumps(pathlib.Path('x')))"
    )
    code = code.replace("finally:", "finally:\n    import socket; socket.socket().connect_ex(('127.0.0.1', 9))")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=55)
    assert "SEEN pickle.find_class" in done.stderr
    assert "SEEN socket.connect" in done.stderr


def test_a_runtime_that_reports_home_is_kept_from_it() -> None:
    pytest.importorskip("openvino", reason='needs pip install "zoo-sr[openvino]"')
    code = """
import torch
from zoo_sr import IMDN, converted
converted.openvino(IMDN(2, channels=16, blocks=1).eval(), torch.rand(1, 3, 24, 32))()
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=55)
    assert done.stdout.split()[-1] == "openvino.tools.ovc.telemetry_stub", done.stderr


@pytest.mark.parametrize("verb", ["predict imdn-rtc PHOTO -o out --weights EVIL", "weights convert EVIL", "info EVIL"])
def test_a_pickle_is_never_read_unasked(verb: str, tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    torch.save({"state": IMDN_RTC().state_dict()}, evil)
    done = watched(*verb.replace("EVIL", str(evil)).replace("PHOTO", str(PHOTO)).split(), cwd=tmp_path)
    assert done.returncode != 0
    assert "SEEN" not in done.stderr
    assert "pickle" in done.stderr


def test_code_in_a_pickle_is_not_run_even_when_asked(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    evil = tmp_path / "evil.pth"
    torch.save({"weight": Payload()}, evil)
    done = watched("weights", "convert", "--from-pickle", str(evil), cwd=tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "owned").exists()
    assert "Traceback" not in done.stderr
