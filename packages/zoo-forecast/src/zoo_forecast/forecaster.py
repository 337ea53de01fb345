"""Forecasts of many series at once: sample paths of each, the same whoever else is in the batch."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.catalog import find
from zoo_core.errors import UsageError
from zoo_core.predict import DTYPES, choose_device, choose_precision
from zoo_core.weights.build import build
from zoo_core.weights.find import find as find_weights
from zoo_forecast import noise
from zoo_forecast.asked import Asked, Embeds, Request
from zoo_forecast.engines import engine_of
from zoo_forecast.image import as_picture
from zoo_forecast.mode import CORRECTED, Mode
from zoo_forecast.ridge import Explained, checked, explain
from zoo_forecast.series import Series, Values, clean, numbers
from zoo_forecast.transfer import to_device, to_host
from zoo_forecast.words import Pieces

TEXTS = 4096  # whose tokens are kept, 10 kB each at the official size


@dataclass(frozen=True)
class Forecast:
    """Sample paths.

    Args:
        samples: (B, S, H) float64, on the CPU, in the units of the series; NaN where nothing was observed.
        notes: of each series, what a reader should know, a sentence each.
        whole: whether all values are whole numbers; quantiles are then, too.
    """

    samples: Tensor
    notes: tuple[tuple[str, ...], ...]
    whole: bool = False

    @property
    def mean(self) -> Tensor:
        """The point forecast for squared errors, (B, H)."""
        return self.samples.mean(1)

    @property
    def median(self) -> Tensor:
        """The point forecast for absolute errors, (B, H)."""
        return self.quantiles([0.5])[:, 0]

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Return quantiles (B, levels, H), interpolated between samples, of whole numbers the nearest one.

        Args:
            levels: each above 0 and below 1.

        Raises:
            UsageError: a level is not.
        """
        check_levels(levels)
        # not torch's, which refuses more than 2^24 numbers
        found = np.quantile(self.samples.numpy(), levels, axis=1, method="nearest" if self.whole else "linear")
        return torch.from_numpy(found).transpose(0, 1)

    def points(self, kind: str) -> Tensor:
        """Return the point forecast, (B, H).

        Args:
            kind: "median" or "mean".

        Raises:
            UsageError: it is neither.
        """
        if kind not in ("median", "mean"):
            raise UsageError(f"There is no point forecast {kind!r}.", "Ask for the median or the mean.")
        return self.median if kind == "median" else self.mean


class Forecaster:
    """Aurora with weights, ready to forecast.

    Args:
        module: the network, in evaluation mode, on its device and of its type.
        mode: how it is run; the default puts upstream's slips right, `zoo_forecast.mode.OFFICIAL` copies them.
        batch_size: series that are computed together.
    """

    def __init__(self, module: nn.Module, *, mode: Mode = CORRECTED, batch_size: int = 64) -> None:
        self.module, self.mode, self.batch_size = module, mode, batch_size
        self.engine = engine_of(module, mode)
        self.device = self.engine.device
        self._texts: OrderedDict[Pieces, Tensor] = OrderedDict()

    @classmethod
    def load(
        cls,
        model: str = "aurora-small",
        *,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: str = "fp32",
        mode: Mode = CORRECTED,
        batch_size: int = 64,
    ) -> Forecaster:
        """Open a model by its id.

        Args:
            model: id.
            weights: a safetensors file instead of the model's own.
            device: auto, cpu, cuda, ...
            precision: fp32 or bf16.
            mode: see the class.
            batch_size: see the class.

        Raises:
            UsageError: no such model or device.
            WeightsError: no weights, or wrong ones.
        """
        entry, place = find(model), choose_device(device)
        found = find_weights(entry, weights=Path(weights) if weights else None)
        dtype = DTYPES[choose_precision(entry, precision, place)]
        module = build(entry, found, device=place, dtype=dtype)
        return cls(module, mode=mode, batch_size=batch_size)

    @torch.inference_mode()
    def predict(
        self,
        context: Sequence[Any] | Tensor,
        prediction_length: int,
        *,
        num_samples: int = 100,
        texts: Sequence[str | None] | None = None,
        items: Sequence[str] | None = None,
        seed: int = 0,
        periods: Sequence[int | None] | None = None,
        token_length: int | None = None,
        context_tokens: int | None = None,
        steps: int | None = None,
        covariates: Sequence[Any] | None = None,
        images: Sequence[Any] | None = None,
        gap: int = 0,
        lowest: float | None = None,
        whole: bool = False,
    ) -> Forecast:
        """Forecast series.

        A series' samples depend on itself, its text, its item and the seed: not on the others, their order, or how many
        there are. Without `items` a series is known by its values, so that it is itself in any order.

        Args:
            context: series, oldest value first: rows of an array (B, L) or a sequence of B rows of any lengths. NaN is
                a gap.
            prediction_length: H, points to forecast, at least 1.
            num_samples: S.
            texts: of each series, the newest that was known at its end; None or "" is no text.
            items: ids of the series, for the noise.
            seed: of the noise.
            periods: points after which each series usually repeats, 24 of hours; by default the model finds out.
            token_length: q, points of a token: best a period of the series or a multiple of it. Default the model's.
            context_tokens: most tokens of a series that are read, the newest. Default the model's.
            steps: of the sampler, default the model's.
            covariates: of each series, numbers that are known in the future too, (C, L + gap + H), or None. A model
                that reads none forecasts what they leave over, see `zoo_forecast.ridge`.
            images: of each series, a picture for the vision tower instead of the series' own, or None; see
                `zoo_forecast.image.as_picture`.
            gap: points between the end of a series and the first that is forecast.
            lowest: what no value can be below, 0 for counts and prices; paths are cut there.
            whole: the series counts something: paths are rounded to whole numbers.

        Raises:
            UsageError: a number out of place, a list of another length than the context, or images for a model that
                reads none.
            InputError: a series, covariate or image that cannot be read.
        """
        if gap < 0:
            raise UsageError(f"gap is {gap}, but must be at least 0.")
        _check(Request(prediction_length, num_samples, token_length, context_tokens, steps))
        request = Request(gap + prediction_length, num_samples, token_length, context_tokens, steps)
        beside = {"texts": texts, "items": items, "periods": periods, "covariates": covariates, "images": images}
        for name, given in beside.items():
            if given is not None and (isinstance(given, str) or len(given) != len(context)):
                said = f"`{name}` must be a list with one entry for each of the {len(context)} series."
                raise UsageError(said, "One text for all of them is [text] * len(context)." if name == "texts" else "")
        read = [self.engine.cut(text) for text in texts] if texts is not None else [None] * len(context)
        self._remember(read)  # first: a GPU reads them while all else is made ready
        rows = [numbers(row, name=f"series {number}") for number, row in enumerate(context)]
        tracks = _tracks(rows, covariates, request.horizon)
        explained: dict[int, Explained] = {}
        if "covariates" not in self.engine.reads:
            explained = {row: explain(rows[row], own) for row, own in tracks.items()}
        left = [own - explained[row].past if row in explained else own for row, own in enumerate(rows)]
        series = [clean(row, name=f"series {number}") for number, row in enumerate(left)]
        looks = self._looks(images)
        asked = {
            row: Asked(
                one,
                noise.key(seed, items[row] if items is not None else _itself(one)),
                self._texts[told] if (told := read[row]) is not None else None,
                periods[row] if periods is not None else None,
                # what was before the first observation is left out of the series
                tracks[row][:, len(rows[row]) - len(one.values) :] if row in tracks and not explained else None,
                looks.get(row),
            )
            for row, one in enumerate(series)
            if len(one.values) and not one.constant
        }
        drawn = (
            (group, self.engine.draw([asked[row] for row in group], request)) for group in self._groups(asked, request)
        )
        begun = list(islice(drawn, 1))  # a GPU computes while there is made room
        samples = torch.full((len(series), num_samples, request.horizon), float("nan"), dtype=torch.float64)
        for group, paths in chain(begun, drawn):
            samples[group] = to_host(paths)
        for row, one in enumerate(series):
            if one.observed == 1:
                samples[row] = _guess(float(one.values[0]), num_samples)[:, None]
            elif len(one.values) and one.constant:
                samples[row] = float(one.values[0])  # exactly, and without width
            if row in explained:
                samples[row] += torch.from_numpy(explained[row].future)
        samples = samples[..., gap:]
        if whole:
            samples = samples.round()
        if lowest is not None:
            samples = samples.clamp(min=lowest)
        notes = tuple(
            (*one.notes, *_alone(one), *(explained[row].notes if row in explained else ()), *_cut(text))
            for row, (one, text) in enumerate(zip(series, read, strict=True))
        )
        return Forecast(samples, notes, whole)

    @torch.inference_mode()
    def embed(
        self,
        context: Sequence[Any] | Tensor,
        *,
        texts: Sequence[str | None] | None = None,
        images: Sequence[Any] | None = None,
        token_length: int | None = None,
    ) -> Tensor:
        """Return what the model makes of series, one vector each, (B, d) float32; NaN where nothing was observed.

        A vector does not depend on the level, the scale or the other series. Arguments and errors as of `predict`.
        """
        if not isinstance(self.engine, Embeds):
            raise UsageError("This model gives no embeddings.")
        request = Request(1, 1, token_length)
        _check(request)
        series = [clean(row, name=f"series {number}") for number, row in enumerate(context)]
        read = [self.engine.cut(text) for text in texts] if texts is not None else [None] * len(series)
        if len(read) != len(series):
            raise UsageError(f"`texts` must be a list with one entry for each of the {len(series)} series.")
        self._remember(read)
        looks = self._looks(images)
        asked = {
            row: Asked(one, 0, self._texts[told] if (told := read[row]) is not None else None, image=looks.get(row))
            for row, one in enumerate(series)
            if len(one.values)
        }
        found: list[Tensor | None] = [None] * len(series)
        for rows in self._groups(asked, request):
            for row, vector in zip(rows, self.engine.embed([asked[row] for row in rows], request), strict=True):
                found[row] = vector
        width = next((len(vector) for vector in found if vector is not None), 0)
        unknown = torch.full((width,), float("nan"))
        return torch.stack([unknown if vector is None else vector for vector in found]) if found else torch.empty(0, 0)

    def predict_df(self, df: Any, future_df: Any = None, *, prediction_length: int, **options: Any) -> Any:
        """Forecast every item of a long pandas frame; arguments and result as of `zoo_forecast.frames.predict_df`."""
        from zoo_forecast.frames import predict_df

        return predict_df(self, df, future_df, prediction_length=prediction_length, **options)

    def cross_validation_df(self, df: Any, *, prediction_length: int, **options: Any) -> Any:
        """Forecast a pandas frame's own past; arguments and result as of `zoo_forecast.frames.cross_validation_df`."""
        from zoo_forecast.frames import cross_validation_df

        return cross_validation_df(self, df, prediction_length=prediction_length, **options)

    def forget(self) -> None:
        """Forget the texts that were read, of which the newest ones are kept for later calls."""
        self._texts.clear()

    def _looks(self, images: Sequence[Any] | None) -> dict[int, Tensor]:
        given = {row: one for row, one in enumerate(images or ()) if one is not None}
        if given and "images" not in self.engine.reads:
            raise UsageError("This model reads no images.", "Leave them out, or take aurora-base.")
        side = self.engine.picture
        return {row: as_picture(one, side, name=f"the image of series {row}") for row, one in given.items()}

    def _groups(self, asked: Mapping[int, Asked], request: Request) -> Iterator[list[int]]:
        """Yield rows that are computed together."""
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for row, one in asked.items():
            groups[self.engine.group(one, request)].append(row)
        for rows in groups.values():
            for begin in range(0, len(rows), self.batch_size):
                yield rows[begin : begin + self.batch_size]

    def _remember(self, read: Sequence[Pieces | None]) -> None:
        """Read each distinct text that is not known yet, short ones together."""
        wanted = list(dict.fromkeys(text for text in read if text is not None))
        for text in wanted:
            if text in self._texts:
                self._texts.move_to_end(text)
        new = sorted((text for text in wanted if text not in self._texts), key=lambda text: len(text.numbers))
        for begin in range(0, len(new), self.batch_size):
            batch = new[begin : begin + self.batch_size]
            lengths = np.array([len(text.numbers) for text in batch])
            numbered = np.zeros((len(batch), max(lengths[-1], self.engine.shortest_texts)), dtype=np.int64)
            for row, text in enumerate(batch):
                numbered[row, : lengths[row]] = text.numbers
            tokens = self.engine.read_texts(to_device(numbered, self.device), to_device(lengths, self.device))
            self._texts.update(zip(batch, tokens, strict=True))
        while len(self._texts) > max(TEXTS, len(wanted)):
            self._texts.popitem(last=False)


def check_levels(levels: Sequence[float]) -> None:
    """Raise UsageError for the first level that is not between 0 and 1."""
    if wrong := [level for level in levels if not 0 < level < 1]:
        raise UsageError(f"{wrong[0]} is no quantile level.", "Levels lie between 0 and 1, such as 0.1 0.5 0.9.")


def _check(request: Request) -> None:
    for name, number in (
        ("prediction_length", request.horizon),
        ("num_samples", request.samples),
        ("token_length", request.token_length),
        ("context_tokens", request.context_tokens),
    ):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}, but must be at least 1.")


def _tracks(rows: Sequence[Values], covariates: Sequence[Any] | None, horizon: int) -> dict[int, Values]:
    """Return the covariates of the series that have some, (C, L + horizon) each."""
    given = {row: one for row, one in enumerate(covariates or ()) if one is not None and len(one)}
    return {row: checked(one, len(rows[row]) + horizon, name=f"series {row}") for row, one in given.items()}


def _guess(value: float, samples: int) -> Tensor:
    """Return samples (S,) after a single observation: normal around it, with half of its size as standard deviation.

    That is a convention, as one value shows no spread: flat over the horizon, and of the units of the series. Zero has
    no size: there it is half of 1.
    """
    ranks = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    around: Tensor = value + (abs(value) or 1.0) / 2 * torch.special.ndtri(ranks)
    return around


def _alone(series: Series) -> tuple[str, ...]:
    if series.observed != 1:
        return ()
    return ("one value was observed: the width of the forecast is a guess, half of that value or of 1",)


def _itself(series: Series) -> str:
    """Return a name for a series that has none: what it is made of."""
    return hashlib.blake2b(series.values.tobytes(), digest_size=16).hexdigest()


def _cut(text: Pieces | None) -> tuple[str, ...]:
    if text is None or not text.left_out:
        return ()
    return (f"the text is too long: {len(text.numbers) - 2} word pieces were read, {text.left_out} left out",)
