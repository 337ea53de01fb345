"""What a user names becomes a list of inputs, and every input gets a file of its own."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source, expand
from zoo_core.io.results import plan

KINDS = {".png", ".jpg"}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(sources: Sequence[Source]) -> list[str]:
    return [source.path.name for source in sources if source.path]


def test_a_folder_gives_its_pictures_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "10.png", "2.png", "1.JPG", ".hidden.png", "notes.txt", "deeper/3.png")
    assert names(expand([tmp_path], suffixes=KINDS)) == ["1.JPG", "2.png", "10.png"]


def test_a_quoted_glob_is_expanded(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.png", "c.txt", "deeper/d.png")
    assert names(expand([f"{tmp_path}/*.png"], suffixes=KINDS)) == ["a.png", "b.png"]
    assert names(expand([f"{tmp_path}/*"], suffixes=KINDS)) == ["a.png", "b.png"]
    assert sorted(names(expand([f"{tmp_path}/**"], suffixes=KINDS))) == ["a.png", "b.png", "d.png"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].png", "a1.png")
    assert names(expand([tmp_path / "a[1].png"], suffixes=KINDS)) == ["a[1].png"]


def test_a_named_file_is_taken_whatever_its_extension_and_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.dat")
    assert names(expand([tmp_path / "a.dat", tmp_path / "a.dat"], suffixes=KINDS)) == ["a.dat"]


def test_nothing_raises_before_its_turn(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sources = expand([tmp_path / "empty", tmp_path / "*.png", tmp_path / "gone.png"], suffixes=KINDS)
    said = []
    for source in sources:
        with pytest.raises(InputError) as caught:
            source.read_bytes()
        said.append(str(caught.value))
    assert "no file of a known kind (.jpg, .png)" in said[0]
    assert "No file matches" in said[1]
    assert "gone.png does not exist" in said[2]


def test_stdin_is_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"data")))
    (source,) = expand(["-"], suffixes=KINDS)
    assert (source.read_bytes(), source.stem) == (b"data", "stdin")


def test_what_is_too_long_is_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (source,) = expand([tmp_path / "a.png"], suffixes=KINDS)
    with pytest.raises(InputError, match="has 1 bytes; the limit is 0"):
        source.read_bytes(limit_bytes=0)


def same_png(source: Source) -> tuple[str, ...]:
    return (f"{source.stem}_x4.png",)


def test_inputs_of_one_stem_get_different_files(tmp_path: Path) -> None:
    """a.png and a.jpg, or the same name in two folders, must not end up in one file."""
    paths = ["1/a.png", "1/a.jpg", "2/a.png", "2/b.png"]
    sources = [Source(p, tmp_path / p) for p in paths]
    planned = [p.path.name for p in plan(sources, tmp_path / "out", same_png)]
    assert planned == ["1_a_png_x4.png", "a_jpg_x4.png", "2_a_png_x4.png", "b_x4.png"]


@given(
    st.lists(st.sampled_from(["a.png", "A.png", "a.jpg", "a_jpg.png", "x/a.png", "x/y/a.png", "x/a_2.png"]), max_size=8)
)
def test_no_two_results_share_a_file(paths: list[str]) -> None:
    sources = [Source(path, Path("in") / path) for path in paths]
    planned = [p.path.name.casefold() for p in plan(sources, Path("out"), same_png)]
    assert len(set(planned)) == len(sources)


def test_a_result_never_lands_on_an_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (planned,) = plan([Source("a.png", tmp_path / "a.png")], tmp_path, lambda source: ("a.png",))
    assert planned.problem is not None
    assert "over an input" in planned.problem.message


def test_results_of_an_earlier_run_are_no_inputs(tmp_path: Path) -> None:
    """`zoo predict imdn-x4 photos -o photos` twice must not enlarge the enlarged."""
    touch(tmp_path, "a.png", "a_x4.png")
    found = plan(expand([tmp_path], suffixes=KINDS), tmp_path, same_png)
    assert [(p.source.stem, p.problem) for p in found] == [("a", None)]
    named = plan(expand([tmp_path / "a_x4.png"], suffixes=KINDS), tmp_path, same_png)
    assert [p.source.stem for p in named] == ["a_x4"]
