"""The `zoo` command as a user and a script meet it: run as a process, judged by exit code, stdout and stderr.

The package in `cli_package` counts letters; the one in `cli_broken` has a bad manifest and raises when it is imported.
"""

from __future__ import annotations

import json
import os
import platform
import pty
import signal
import subprocess
import sys
import sysconfig
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zoo_core.cli import output

HERE = Path(__file__).parent
PACKAGE, BROKEN = HERE / "cli_package", HERE / "cli_broken"
ZOO = str(Path(sysconfig.get_path("scripts")) / "zoo")
VERBS = ["list", "info", "predict", "train", "eval", "bench", "weights", "doctor", "export", "serve", "demo"]


def environment(*packages: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "PYTHONPATH")}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, packages or [PACKAGE])), **more}


def zoo(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, **more: Any) -> Any:
    return subprocess.run(
        [ZOO, *arguments], cwd=cwd, env=env or environment(), capture_output=True, text=True, timeout=50, **more
    )


def lines_of(stdout: str, schema: str) -> list[dict[str, Any]]:
    """Parse what `--format json` printed: one object a line, each naming its schema."""
    records = [json.loads(line) for line in stdout.splitlines()]
    assert all(record["schema"] == schema for record in records)
    return records


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    for name, content in {"a.txt": b"hello", "b.txt": b"\xff\xfe", "c.txt": b"crash", "d.txt": b"hi"}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_help_names_every_verb() -> None:
    done = zoo("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.partition("Commands:\n")[2].splitlines()[: len(VERBS)]] == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    done = zoo(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: zoo {verb} ")


def test_without_a_verb_the_help_goes_to_stderr() -> None:
    done = zoo()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: zoo" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["predcit", "letters", "a.txt"], "'predict'"),
        (["info", "leters"], "'letters'"),
        (["predict", "leters", "a.txt"], "'letters'"),
        (["train", "leters"], "'letters'"),
        (["list", "--tsak", "x"], "'--task'"),
        (["predict", "letters", "a.txt", "--overwrit"], "'--overwrite'"),
        (["predict", "letters", "a.txt", "--minimun", "3"], "'--minimum'"),
        (["weights", "list"], "ls"),
    ],
)
def test_a_slip_gets_the_nearest_name(arguments: list[str], nearest: str) -> None:
    done = zoo(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert nearest in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("verb", "release"), [("export", "0.2"), ("serve", "0.3"), ("demo", "0.3")])
def test_later_verbs_name_their_release(verb: str, release: str) -> None:
    done = zoo(verb, "letters", "--to", "onnx")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: `zoo {verb}` comes with zoo {release}.\n"


def test_list_shows_models_and_says_which_package_is_broken() -> None:
    done = zoo("list", "letters*", env=environment(PACKAGE, BROKEN))
    assert done.returncode == 0
    heading, first, second = done.stdout.splitlines()
    assert heading.split() == ["id", "task", "params", "size", "licence", "weights"]
    assert first.split() == ["letters", "letter-count", "1", "108", "B", "Apache-2.0", "embedded"]
    assert second.split() == ["letters-bare", "nothing", "1", "-", "-", "none"]
    # the package itself raises when it is imported: that this line is about its manifest shows that it was not
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("warning: acme_broken is broken: ")


def test_list_for_programs() -> None:
    done = zoo("list", "--task", "letter-count", "--format", "json")
    (record,) = lines_of(done.stdout, "zoo.list/1")
    assert (record["id"], record["weights"], record["size_bytes"]) == ("letters", "embedded", 108)


@pytest.mark.parametrize(
    ("arguments", "nearest"), [(["lettres"], "letters"), (["--task", "leter-count"], "letter-count")]
)
def test_list_without_a_match_says_what_is_near(arguments: list[str], nearest: str) -> None:
    done = zoo("list", *arguments)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"'{nearest}'" in done.stderr


def test_info_has_all_of_the_manifest_and_an_example() -> None:
    manifest = json.loads((PACKAGE / "acme_letters/manifests/letters.json").read_text())
    text = zoo("info", "abc").stdout
    for piece in (
        "Counts letters",
        manifest["weights"][0]["sha256"],
        "it cannot read",
        "zoo predict letters input.txt",
    ):
        assert piece in text
    (record,) = lines_of(zoo("info", "letters", "--format", "json").stdout, "zoo.info/1")
    assert manifest.keys() <= record.keys()


def test_info_lists_the_points_of_a_model() -> None:
    (record,) = lines_of(zoo("info", "abc", "--points", "--format", "json").stdout, "zoo.info-points/1")
    assert record["id"] == "letters"
    assert record["points"] == [{"path": "", "module": "Factor", "shape": [3], "also": []}]
    done = zoo("info", "letters-bare", "--points")
    assert done.returncode == 2
    assert "letters-bare states no size of an input" in done.stderr


def test_info_says_what_a_weights_file_is() -> None:
    done = zoo("info", str(PACKAGE / "acme_letters/weights/letters.safetensors"), "--format", "json")
    assert done.returncode == 0, done.stderr
    (record,) = lines_of(done.stdout, "zoo.info-file/1")
    assert record["model"].startswith("letters")
    missing = zoo("info", "none.safetensors")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "none.safetensors" in missing.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [ZOO, "list", "--format", "json"], env=environment(), stdout=writing, stderr=subprocess.PIPE, timeout=50
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    piped = subprocess.run(
        ["bash", "-c", f"'{ZOO}' list | head -1"], env=environment(), capture_output=True, text=True, timeout=50
    )
    assert piped.stdout.startswith("id ")
    assert piped.stderr == ""


def test_colour_is_for_terminals_and_no_color_turns_it_off() -> None:
    def on_a_terminal(**more: str) -> bytes:
        ours, theirs = pty.openpty()
        subprocess.run(
            [ZOO, "info", "leters"],
            env=environment(TERM="xterm", **more),
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=50,
        )
        os.close(theirs)
        shown = os.read(ours, 10_000)
        os.close(ours)
        return shown

    assert b"\x1b[" in on_a_terminal()
    assert b"\x1b[" not in on_a_terminal(NO_COLOR="1")
    assert "\x1b[" not in zoo("info", "leters").stderr


def test_debug_shows_the_trace_wherever_it_stands() -> None:
    for arguments in (["--debug", "info", "leters"], ["info", "leters", "--debug"]):
        done = zoo(*arguments)
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert done.stderr.rstrip().endswith("try: Did you mean 'letters'?")


def test_predict_goes_on_after_bad_inputs_and_reports_in_order(texts: Path) -> None:
    names = ["d.txt", "b.txt", "c.txt", "none.txt", "a.txt"]
    done = zoo("predict", "letters", *names, "-o", "out", "--format", "json", "--level", "2", "--no-sort", cwd=texts)
    assert done.returncode == 3
    records = lines_of(done.stdout, "zoo.predict/1")
    assert [record["input"] for record in records] == names
    assert [record["status"] for record in records] == ["done", "failed", "failed", "failed", "done"]
    assert records[-1]["files"] == ["out/a.count"]
    chosen = records[-1]["result"]["options"]
    assert (chosen["level"], chosen["sort"], chosen["window"]) == (2, False, "auto")
    assert "none.txt does not exist" in records[3]["error"]
    assert records[3]["try"]
    assert "ValueError: a bug of the package" in done.stderr
    assert "warning: d.txt: it is short" in done.stderr
    assert "Traceback" not in done.stderr
    assert (texts / "out/a.count").read_text() == "5\n"


def test_predict_writes_nothing_twice_unless_told(texts: Path) -> None:
    zoo("predict", "letters", "a.txt", "-o", "out", cwd=texts)
    (texts / "out/a.count").write_text("mine")
    refused = zoo("predict", "letters", "a.txt", "-o", "out", cwd=texts)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "out/a.count exists already" in refused.stderr
    skipped = zoo("predict", "letters", "a.txt", "d.txt", "-o", "out", "--skip-existing", cwd=texts)
    assert skipped.returncode == 0
    assert skipped.stdout.splitlines() == ["a.txt: skipped, its result exists", "d.txt -> out/d.count"]
    assert (texts / "out/a.count").read_text() == "mine"
    zoo("predict", "letters", "a.txt", "-o", "out", "--overwrite", cwd=texts)
    assert (texts / "out/a.count").read_text() == "5\n"


def test_predict_reads_folders_and_stdin_and_stops_when_asked(texts: Path) -> None:
    piped = zoo("predict", "letters", "-", "--limit", "1", "--format", "json", cwd=texts, input="three words here")
    assert lines_of(piped.stdout, "zoo.predict/1")[0]["result"]["count"] == 14
    stopped = zoo("predict", "letters", ".", "--fail-fast", cwd=texts)
    assert stopped.returncode == 3
    assert [line.partition(":")[0] for line in stopped.stdout.splitlines()] == ["a.txt"]


def test_predict_dry_run_says_what_would_be_written(texts: Path) -> None:
    done = zoo("predict", "letters", "*.txt", "-o", "out", "--dry-run", "--limit", "2", cwd=texts)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["a.txt -> out/a.count", "b.txt -> out/b.count"])
    assert not (texts / "out").exists()


def test_options_of_the_model_are_shown_and_checked_by_its_class(texts: Path) -> None:
    shown = " ".join(zoo("predict", "letters", "--help").stdout.partition("Options of letters:")[2].split())
    for piece in (
        "--minimum INT Count words from so many letters on. [1 to 99; default 1]",
        "--window INT|auto Words looked at together. [default auto]",
        "--case [keep|lower] What to do with capitals. [default keep]",
        "--unique Count equal words once.",
        "--sort / --no-sort Sort the words. [default on]",
    ):
        assert piece in shown
    wrong = zoo("predict", "letters", "a.txt", "--minimum", "100", cwd=texts)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: --minimum: ")
    # an option may also stand before the model that it belongs to
    assert zoo("predict", "--minimum", "2", "letters", "a.txt", cwd=texts).returncode == 0


def test_train_hands_over_what_was_asked(tmp_path: Path) -> None:
    done = zoo("train", "abc", "x=1", "--device", "cpu", "--smoke", "--format", "json", cwd=tmp_path)
    (record,) = lines_of(done.stdout, "zoo.train/1")
    called = {"overrides": ["x=1", "device=cpu"], "resume": "auto", "dry_run": False, "smoke": True}
    assert record["recipe"] == {**called, "out": "runs/letters-smoke"}
    assert record["metrics"] == {"error": 0.25}
    assert done.stderr.startswith("training begins\n")  # what the package logs is a note, not a result
    assert "--weights runs/letters-smoke/weights.safetensors" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["letters", "--resume", "nowhere"], 2, "nowhere"),
        (["letters", "how=terminated"], 143, "Stopped after saving."),
        (["letters", "how=missing"], 5, "no_such_backend is not installed"),
        (["letters-bare"], 2, "acme_letters does not offer it"),
    ],
)
def test_train_ends_with_the_code_of_its_error(arguments: list[str], code: int, says: str) -> None:
    done = zoo("train", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr


def test_ctrl_c_ends_quietly() -> None:
    with subprocess.Popen(
        [ZOO, "train", "letters", "how=sleep"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a suite that runs in the background of a script has SIGINT ignored, and what it starts would inherit that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "training begins\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout.strip(), stderr.strip()) == (130, "", "")


def test_eval_prints_one_report_and_keeps_it(tmp_path: Path) -> None:
    done = zoo(
        "eval", "letters", "--data", "good", "--limit", "2", "-o", "report.json", "--format", "json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (record,) = lines_of(done.stdout, "zoo.eval/1")
    assert (record["n"], record["dataset"], record["facts"]["limit"]) == (2, "good", "2")
    assert record["error"] is None  # an infinite figure is no JSON
    assert json.loads((tmp_path / "report.json").read_text()) == record
    again = zoo("eval", "letters", "--data", "good", "-o", "report.json", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (3, "")
    failing = zoo("eval", "letters", "--data", "bad", cwd=tmp_path)
    assert failing.returncode == 1
    assert "FAILS: never worse than nothing (on b.txt)" in failing.stdout


def test_eval_against_a_model_says_what_is_kept_of_it() -> None:
    done = zoo("eval", "letters", "--data", "finite", "--against", "abc", "--against", "a-peer", "--format", "json")
    assert done.returncode == 0, done.stderr
    (record,) = lines_of(done.stdout, "zoo.eval/1")
    assert record["facts"]["against"] == "('a-peer',)"  # what is no model is the package's to know
    assert record["teachers"] == {"letters": {"retention": {"error": 1.0}, "agreement": 1.0}}
    assert record["against"]["letters"]["ours_minus_this"]["error"]["mean"] == 0
    file = PACKAGE / "acme_letters/weights/letters.safetensors"
    (record,) = lines_of(
        zoo("eval", "letters", "--data", "finite", "--against", str(file), "--format", "json").stdout, "zoo.eval/1"
    )
    assert record["facts"]["teacher letters"]["weights"] == str(file)
    other = zoo("eval", "letters", "--data", "finite", "--against", "letters-bare")
    assert other.returncode == 2
    assert "letters-bare (nothing) cannot stand beside letters (letter-count)" in other.stderr


def test_eval_takes_options_of_the_model() -> None:
    shown = " ".join(zoo("eval", "letters", "--help").stdout.partition("Options of letters:")[2].split())
    assert "--alphabet [latin|greek] Measure on this instead of a pack." in shown
    done = zoo("eval", "letters", "--alphabet", "greek", "--format", "json")
    (record,) = lines_of(done.stdout, "zoo.eval/1")
    assert (record["dataset"], record["facts"]["options"]) == ("greek", "alphabet='greek'")
    missing = zoo("eval", "letters")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "--data is missing" in missing.stderr
    wrong = zoo("eval", "letters", "--alphabt", "greek")
    assert wrong.returncode == 2
    assert "--alphabet" in wrong.stderr


def test_bench_fails_when_outputs_differ() -> None:
    good = zoo("bench", "letters", "--against", "one", "--against", "two", "--format", "json")
    (record,) = lines_of(good.stdout, "zoo.bench/1")
    assert record["called"]["against"] == "('one', 'two')"
    assert zoo("bench", "letters", "--size", "13x13").returncode == 1


def test_doctor_finds_a_broken_package_and_a_torchvision_that_does_not_fit(tmp_path: Path) -> None:
    # anchors.md, finding 4: a CPU torch beside a CUDA torchvision
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    (tmp_path / "torchvision-0.28.0.dist-info/METADATA").write_text("Name: torchvision\nVersion: 0.28.0\n")
    secret = {"HTTPS_PROXY": "http://me:secret@proxy.invalid:80"}
    done = zoo("doctor", "--format", "json", env=environment(tmp_path, PACKAGE, BROKEN, **secret))
    assert done.returncode == 5
    found = lines_of(done.stdout, "zoo.doctor/1")
    problems = {record["what"].partition(":")[0].split()[0]: record for record in found if record["level"] == "problem"}
    assert "operator torchvision::nms does not exist" in problems["torchvision"]["what"]
    assert "Traceback" in problems["acme_broken"]["trace"]
    assert {"python", "torch", "versions", "cache"} <= {record["topic"] for record in found}
    assert "secret" not in done.stdout
    assert any("acme-letters[fast]" in record["what"] for record in found if record["topic"] == "optional")


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (999, "999"), (1000, "1.0 k"), (715_176, "715 k"), (999_900, "1.0 M"), (2_861_000, "2.9 M")],
)
def test_counts_are_short(count: int, shown: str) -> None:
    assert output.short_count(count) == shown


def test_tables_align_figures_to_the_right() -> None:
    assert output.aligned([["a", "n"], ["bcd", "12"]], right=[False, True]) == ["a     n", "bcd  12"]


def test_output_is_utf8_safe(tmp_path: Path) -> None:
    """A file name with bytes that are no text fails as an input, not while it is printed."""
    if sys.platform == "darwin":
        pytest.skip("this file system takes UTF-8 names only")
    name = os.fsdecode(b"a\xff.txt")
    (tmp_path / name).write_text("hello")
    done = zoo("predict", "letters", ".", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a\\udcff.txt: ")


PAGES = """
import resource, sys
import numpy as np
from zoo_core.cli.memory import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else False
[np.ones(3 * 2**19) for _ in range(8)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    [np.ones(3 * 2**19) for _ in range(8)]
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory its own way")
def test_a_command_keeps_the_memory_of_the_last_image_for_the_next() -> None:
    """Eight maps of 12 MiB for each of five images: their 24,000 pages come from the system once, not every time."""

    def run(way: str, **environment: str) -> tuple[str, int]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        clean["NUMPY_MADVISE_HUGEPAGE"] = "0"  # so that pages can be counted
        done = subprocess.run(
            [sys.executable, "-c", PAGES, way], env=clean | environment, capture_output=True, text=True, check=True
        )
        told, pages = done.stdout.split()
        return told, int(pages)

    assert run("leave")[1] > 20_000
    assert run("keep")[0] == "True"
    assert run("keep")[1] < 8_000
    assert run("keep", MALLOC_ARENA_MAX="2")[0] == "False"
