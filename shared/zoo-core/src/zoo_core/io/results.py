"""Which file each input's result goes to: known before the work begins, never an input, never twice the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source


@dataclass(frozen=True)
class Planned:
    """An input and the file that its result goes to; `problem` says why it cannot go there."""

    source: Source
    path: Path
    problem: InputError | None = None


def plan(sources: Sequence[Source], folder: Path, file_names: Callable[[Source], tuple[str, ...]]) -> list[Planned]:
    """Give every input its output file.

    Two inputs that would get the same name (a.png and a.jpg, or a.png of two folders) both get a longer one: with the
    extension of the input, then with the name of its folder, then with a number. Inputs that were found in a folder or
    by a glob and are outputs of others (of an earlier run into the same folder) are left out.

    Args:
        sources: the inputs, in order.
        folder: where the results go.
        file_names: names of the files that an input gives if nothing is in the way; first that of the result, then of
            what lies beside it.

    Returns:
        the plan, in the order of the inputs.
    """
    sources = _without_outputs(sources, folder, [file_names(source) for source in sources])
    names = _distinct(sources, [file_names(source)[0] for source in sources])
    inputs = {_place(source.path) for source in sources if source.path is not None}
    planned = []
    for source, name in zip(sources, names, strict=True):
        path, problem = folder / name, None
        if _place(path) in inputs:
            problem = InputError(
                f"The result of {source.name} would be written over an input, {path}.",
                "Choose another folder with -o, or another --suffix.",
            )
        planned.append(Planned(source, path, problem))
    return planned


def _without_outputs(sources: Sequence[Source], folder: Path, files: Sequence[tuple[str, ...]]) -> list[Source]:
    """Leave out what was found and is made from another input."""
    maker = {_place(folder / name): source for source, names in zip(sources, files, strict=True) for name in names}
    return [
        source
        for source in sources
        if source.named or source.path is None or maker.get(_place(source.path), source) is source
    ]


def _distinct(sources: Sequence[Source], names: list[str]) -> list[str]:
    """Make names differ, also on file systems that take upper and lower case for the same."""

    def with_extension(source: Source, name: str) -> str:
        suffix = source.path.suffix.lstrip(".") if source.path else ""
        return _after_stem(source, name, f"_{suffix}") if suffix else name

    def with_folder(source: Source, name: str) -> str:
        return f"{source.path.absolute().parent.name}_{name}" if source.path else name

    for longer in (with_extension, with_folder):
        taken = Counter(name.casefold() for name in names)
        names = [
            longer(source, name) if taken[name.casefold()] > 1 else name
            for source, name in zip(sources, names, strict=True)
        ]
    taken = Counter(name.casefold() for name in names)
    used = set(taken)
    result, repeats = [], Counter[str]()
    for source, name in zip(sources, names, strict=True):
        key = name.casefold()
        repeats[key] += 1
        number, unique = repeats[key], name
        while number > 1 and (unique.casefold() in used or unique == name):
            unique = _after_stem(source, name, f"_{number}")
            number += 1
        used.add(unique.casefold())
        result.append(unique)
    return result


def _after_stem(source: Source, name: str, addition: str) -> str:
    if name.startswith(source.stem):
        return source.stem + addition + name[len(source.stem) :]
    stem, dot, suffix = name.partition(".")
    return stem + addition + dot + suffix


def _place(path: Path) -> Path:
    # resolve() of the folder only: a link is an input of its own, and a file to be written need not exist
    return path.parent.resolve() / path.name
