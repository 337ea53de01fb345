"""`zoo predict` with this model: bad inputs stop nothing, nothing is overwritten, stdout carries results alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from zoo_core.testing.conformance.subject import Subject
from zoo_core.testing.conformance.suite import Suite
from zoo_core.testing.forked import Done


def _records(done: Done) -> list[dict[str, Any]]:
    """Parse stdout of `--format json`: one object a line, each of which names its schema."""
    try:
        records = [json.loads(line) for line in done.stdout.splitlines()]
    except json.JSONDecodeError:
        pytest.fail(f"stdout is for results: print nothing in the package, log with logging\n{done.stdout}")
    assert all(record["schema"] == "zoo.predict/1" for record in records)
    return records


def _content(folder: Path) -> dict[str, str]:
    """Return all files below a folder, hidden ones too, with their hashes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class PredictingChecks(Suite):
    """The contract of the command."""

    def test_hostile_inputs(self, subject: Subject, tmp_path: Path) -> None:
        """Each bad input is one sentence and a failed record; the good one beside them is written; exit code 3."""
        inputs = tmp_path / "inputs"
        inputs.mkdir()
        good = Path(shutil.copy(subject.example, inputs))
        bad = self.bad_files(subject.entry, good, inputs)
        before = _content(inputs)
        names = [f"inputs/{path.name}" for path in (*bad, good)]
        done = subject.predict(*names, "inputs/not-there", "-o", "out", "--format", "json", cwd=tmp_path)
        assert done.code == 3, f"some inputs are bad: the exit code must be 3, not {done.code}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        *failed, written, missing = _records(done)
        for record in (*failed, missing):
            assert record["status"] == "failed", f"{record['input']} was taken for a good input"
            assert "fault in zoo or in the model's package" not in record["try"], (
                f"{record['input']}: `read` of the predictor must raise zoo_core.errors.InputError with a sentence, "
                f"not let this through: {record['error']}"
            )
            assert record["error"][-1] in ".?!", f"{record['error']!r} is no sentence"
        assert written["status"] == "done", written
        assert written["files"]
        assert _content(tmp_path / "out").keys() == _files(tmp_path, written["files"]), (
            "the folder of the results holds something else than the results; write with zoo_core.io.atomic.whole"
        )
        assert _content(inputs) == before, "the inputs were changed"

    def test_nothing_is_overwritten_unasked(self, subject: Subject, tmp_path: Path) -> None:
        """A second run fails, with --skip-existing skips, with --overwrite replaces."""
        command = (subject.example, "-o", "out", "--format", "json")
        (first,) = _records(subject.predict(*command, cwd=tmp_path))
        assert first["status"] == "done", first
        result = tmp_path / first["files"][0]
        if result.is_dir():
            result = next(path for path in sorted(result.rglob("*")) if path.is_file())
        result.write_bytes(b"mine")
        kept = _content(tmp_path / "out")
        refused = subject.predict(*command, cwd=tmp_path)
        assert refused.code == 3
        assert "exists already" in refused.stderr, "write with zoo_core.io.atomic.whole, which refuses existing files"
        skipped = subject.predict(*command, "--skip-existing", cwd=tmp_path)
        assert (skipped.code, [record["status"] for record in _records(skipped)]) == (0, ["skipped"]), skipped.stderr
        assert _content(tmp_path / "out") == kept, "a result that existed was changed"
        replaced = subject.predict(*command, "--overwrite", cwd=tmp_path)
        assert replaced.code == 0, f"Result.save must pass overwrite on\n{replaced.stderr}"
        assert _content(tmp_path / "out").keys() == kept.keys()
        assert result.read_bytes() != b"mine"

    def test_command_contract(self, subject: Subject, tmp_path: Path) -> None:
        """Results alone on stdout, one line an input; stdin as an input; usage errors are exit code 2."""
        piped = subject.predict("-", "-o", "piped", "--format", "json", cwd=tmp_path, stdin=subject.example)
        assert piped.code == 0, f"an input from stdin: read it with Source.read_bytes\n{piped.stderr}"
        (record,) = _records(piped)
        assert (record["model"], record["input"], record["status"]) == (subject.id, "stdin", "done")
        assert isinstance(record["result"], dict), "Result.as_dict returns a dict that JSON can hold"
        human = subject.predict(subject.example, "-o", "human", cwd=tmp_path)
        assert (human.code, len(human.stdout.splitlines())) == (0, 1), (
            f"stdout is for results: print nothing in the package, log with logging\n{human.stdout}"
        )
        dry = subject.predict(subject.example, "-o", "dry", "--dry-run", cwd=tmp_path)
        assert (dry.code, (tmp_path / "dry").exists()) == (0, False)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["human", "piped"], "results belong into -o alone"
        for wrong in ("--conformance-no-such-option", "--limit=none"):
            done = subject.predict(subject.example, wrong, "-o", "wrong", cwd=tmp_path)
            assert (done.code, done.stdout) == (2, ""), done.stderr
            assert done.stderr.startswith("error: ")


def _files(folder: Path, written: list[str]) -> set[str]:
    """Return the files that a record names, relative to out/; a folder stands for what is in it."""
    files: set[str] = set()
    for name in written:
        path = folder / name
        inside = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        files |= {str(file.relative_to(folder / "out")) for file in inside}
    return files
