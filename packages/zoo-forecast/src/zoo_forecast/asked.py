"""What a Forecaster asks of the engine of a model, and what every such engine answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from torch import Tensor, device

from zoo_forecast.seasons import find_period
from zoo_forecast.series import Series, Values
from zoo_forecast.words import Pieces


@dataclass(frozen=True, eq=False)
class Asked:
    """One series to forecast.

    Args:
        series: with at least two different values.
        key: of its noise, see `zoo_forecast.noise.key`.
        text: what `Runs.read_texts` made of its text, or None.
        period: points after which it usually repeats, or None if that is not known.
        covariates: (C, L + H) float64 of numbers that are known in the future too, or None; NaN is missing.
        image: a picture that a user put beside it, as `zoo_forecast.image.as_picture` returns it, or None.
    """

    series: Series
    key: int
    text: Tensor | None = None
    period: int | None = None
    covariates: Values | None = None
    image: Tensor | None = None

    @cached_property
    def season(self) -> int:
        """The period, found in the series if nobody named it; 1 where there is none."""
        return self.period if self.period is not None else find_period(self.series.values)


@dataclass(frozen=True)
class Request:
    """What holds for all series of a call.

    Args:
        horizon: H, points to forecast.
        samples: S, paths of each.
        token_length: q, points of a token; None leaves it to the engine.
        context_tokens: most tokens of a series that are read; None leaves it to the engine.
        steps: of the sampler; None leaves it to the engine.
    """

    horizon: int
    samples: int
    token_length: int | None = None
    context_tokens: int | None = None
    steps: int | None = None


class Runs(Protocol):
    """The engine of a model."""

    device: device
    reads: frozenset[str]  # what it takes beside series and texts: "covariates", "images"
    picture: int  # side of the images that it reads, in pixels
    shortest_texts: int  # texts are padded to so many pieces at least

    def cut(self, text: str | None) -> Pieces | None:
        """Return the word pieces of a text that are read, or None where there is no text."""

    def read_texts(self, pieces: Tensor, lengths: Tensor) -> Tensor:
        """Return what is kept of texts, one row (...) each: pieces (B, T), of which lengths (B,) are the text's."""

    def group(self, one: Asked, request: Request) -> Hashable:
        """Return what series must have in common to be computed together."""

    def draw(self, group: Sequence[Asked], request: Request) -> Tensor:
        """Return sample paths (B, S, H) of series that `group` puts together, float64, in their units.

        They may be on a GPU, and not be computed yet.
        """


@runtime_checkable
class Embeds(Protocol):
    """An engine that gives embeddings."""

    def embed(self, group: Sequence[Asked], request: Request) -> Tensor:
        """Return one vector a series, (B, d) float32 on the CPU, of series that `Runs.group` puts together."""
