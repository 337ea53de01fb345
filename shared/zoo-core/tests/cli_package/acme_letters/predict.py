"""Counts letters; a file with the word `crash` is one that the package itself fails on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo_core.errors import InputError
from zoo_core.io.atomic import whole
from zoo_core.io.inputs import Source
from zoo_core.predict import Predictor, Progress, silent


@dataclass(frozen=True)
class Letters:
    text: str
    count: int
    options: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"count": self.count, "options": self.options, "notes": ["it is short"] if self.count < 3 else []}

    def save(self, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        with whole(path, overwrite=overwrite) as aside:
            aside.write_text(f"{self.count}\n")
        return (path,)

    def draw(self) -> None:
        return None


class LettersPredictor(Predictor[str, torch.Tensor, torch.Tensor]):
    suffixes: ClassVar[frozenset[str]] = frozenset({".txt"})

    def read(self, source: Source) -> Iterator[str]:
        try:
            yield source.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{source.name} is no text.", "Give a text file.") from error

    def prepare(self, item: str) -> torch.Tensor:
        if "crash" in item:
            raise ValueError("a bug of the package")
        return torch.tensor([float(sum(map(str.isalpha, item)))])

    def forward(self, prepared: torch.Tensor, *, progress: Progress = silent) -> torch.Tensor:
        progress(1.0)
        return self.module(prepared)

    def finish(self, item: str, output: torch.Tensor) -> Letters:
        return Letters(item, int(output), self.options.model_dump())

    def file_names(self, source: Source) -> tuple[str, ...]:
        return (f"{source.stem}.count",)
