"""Options of every kind that the command can show."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zoo_core.options import EvaluateOptions, Options


class LettersOptions(Options):
    minimum: int = Field(default=1, ge=1, le=99, description="Count words from so many letters on.")
    window: int | Literal["auto"] = Field(default="auto", description="Words looked at together.")
    case: Literal["keep", "lower"] = Field(default="keep", description="What to do with capitals.")
    level: Literal[1, 2] = Field(default=1, description="How hard to look.")
    unique: bool = Field(default=False, description="Count equal words once.")
    sort: bool = Field(default=True, description="Sort the words.")
    word: tuple[str, ...] = Field(default=(), description="Count these words alone.")


class LettersEvaluateOptions(EvaluateOptions):
    alphabet: Literal["latin", "greek"] | None = Field(default=None, description="Measure on this instead of a pack.")

    @property
    def needs_data(self) -> bool:
        return self.alphabet is None
