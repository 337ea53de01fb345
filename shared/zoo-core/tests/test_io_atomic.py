"""A file under its name is whole, whatever happened to the process that wrote it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo_core.errors import InputError, ZooError
from zoo_core.io.atomic import check_writable, remove_leftovers, whole, whole_folder


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with whole(target) as aside:
        aside.write_text("half")
        assert not target.exists()
        aside.write_text("whole")
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole(tmp_path / "a.txt") as aside:  # noqa: PT012
        aside.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_without_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("mine")
    with pytest.raises(InputError, match=r"exists already.*--overwrite"), whole(target):
        pass
    with whole(target, overwrite=True) as aside:
        aside.write_text("yours")
    assert target.read_text() == "yours"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    """Two processes that enlarge the same folder must not replace each other's work."""
    target = tmp_path / "a.txt"
    with pytest.raises(InputError, match="exists already"), whole(target) as aside:  # noqa: PT012
        aside.write_text("late")
        target.write_text("early")
    assert target.read_text() == "early"


def test_a_file_system_without_hard_links_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with whole(tmp_path / "a.txt") as aside:
        aside.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with whole(tmp_path / "a.txt") as aside:
            aside.write_text("x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ZooError, match=r"cannot be made.*-o"):
        check_writable(tmp_path / "out" / "deeper")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ZooError, match="cannot be written to"):
            check_writable(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="disk is full"), whole(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long"), whole(tmp_path / ("a" * 300)):
        pass


def test_killed_with_9_no_file_has_the_name(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from zoo_core.io.atomic import whole\n"
        f"with whole(Path({str(tmp_path / 'a.png')!r})) as aside:\n"
        "    aside.write_bytes(b'half'); print('now', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"now\n"
        child.send_signal(signal.SIGKILL)
    left = list(tmp_path.iterdir())
    assert [p.suffix for p in left] == [".part"]
    assert remove_leftovers(tmp_path) == 0  # too young: its process may be alive
    os.utime(left[0], (time.time() - 1e6,) * 2)
    assert remove_leftovers(tmp_path) == 1


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    with pytest.raises(RuntimeError), whole_folder(target) as aside:  # noqa: PT012
        (aside / "1").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(target) as aside:
        (aside / "1").write_text("x")
    with pytest.raises(InputError, match="exists already"), whole_folder(target):
        pass
    with whole_folder(target, overwrite=True) as aside:
        (aside / "2").write_text("x")
    assert [p.name for p in target.iterdir()] == ["2"]
