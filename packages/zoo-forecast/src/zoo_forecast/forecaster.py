"""Forecasts of many series at once: sample paths of each, the same whoever else is in the batch."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo_core.catalog import find
from zoo_core.errors import UsageError
from zoo_core.predict import DTYPES, choose_device, choose_precision
from zoo_core.weights.build import build
from zoo_core.weights.find import find as find_weights
from zoo_forecast import noise
from zoo_forecast.asked import Asked, Request
from zoo_forecast.engines import engine_of
from zoo_forecast.mode import CORRECTED, Mode
from zoo_forecast.series import Series, clean
from zoo_forecast.words import Pieces

TEXTS = 4096  # whose tokens are kept, 10 kB each at the official size


@dataclass(frozen=True)
class Forecast:
    """Sample paths.

    Args:
        samples: (B, S, H) float64, on the CPU, in the units of the series; NaN where nothing was observed.
        notes: of each series, what a reader should know, a sentence each.
    """

    samples: Tensor
    notes: tuple[tuple[str, ...], ...]

    @property
    def mean(self) -> Tensor:
        """The point forecast for squared errors, (B, H)."""
        return self.samples.mean(1)

    @property
    def median(self) -> Tensor:
        """The point forecast for absolute errors, (B, H)."""
        return self.quantiles([0.5])[:, 0]

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Return quantiles (B, levels, H), interpolated between samples.

        Args:
            levels: each above 0 and below 1.

        Raises:
            UsageError: a level is not.
        """
        if wrong := [level for level in levels if not 0 < level < 1]:
            raise UsageError(f"{wrong[0]} is no quantile level.", "Levels lie between 0 and 1, such as 0.1 0.5 0.9.")
        return torch.quantile(self.samples, torch.tensor(levels, dtype=torch.float64), dim=1).transpose(0, 1)


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
        model: str = "aurora-base",
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

        Raises:
            UsageError: a number out of place, or a list of another length than the context.
            InputError: a series that cannot be read.
        """
        request = Request(prediction_length, num_samples, token_length, context_tokens, steps)
        _check(request)
        for name, given in (("texts", texts), ("items", items), ("periods", periods)):
            if given is not None and (isinstance(given, str) or len(given) != len(context)):
                raise UsageError(f"`{name}` must be a list with one entry for each of the {len(context)} series.")
        series = [clean(row, name=f"series {number}") for number, row in enumerate(context)]
        read = [self.engine.cut(text) for text in texts] if texts is not None else [None] * len(series)
        self._remember(read)
        asked = {
            row: Asked(
                one,
                noise.key(seed, items[row] if items is not None else _itself(one)),
                self._texts[told] if (told := read[row]) is not None else None,
                periods[row] if periods is not None else None,
            )
            for row, one in enumerate(series)
            if len(one.values) and not one.constant
        }
        samples = torch.full((len(series), num_samples, prediction_length), float("nan"), dtype=torch.float64)
        for rows in self._groups(asked, request):
            samples[rows] = self.engine.draw([asked[row] for row in rows], request)
        for row, one in enumerate(series):
            if len(one.values) and one.constant:
                samples[row] = float(one.values[0])  # exactly, and without width
        notes = tuple((*one.notes, *_cut(text)) for one, text in zip(series, read, strict=True))
        return Forecast(samples, notes)

    def predict_df(self, df: Any, *, prediction_length: int, **options: Any) -> Any:
        """Forecast every item of a long pandas frame; arguments and result as of `zoo_forecast.frames.predict_df`."""
        from zoo_forecast.frames import predict_df

        return predict_df(self, df, prediction_length=prediction_length, **options)

    def cross_validation_df(self, df: Any, *, prediction_length: int, **options: Any) -> Any:
        """Forecast a pandas frame's own past; arguments and result as of `zoo_forecast.frames.cross_validation_df`."""
        from zoo_forecast.frames import cross_validation_df

        return cross_validation_df(self, df, prediction_length=prediction_length, **options)

    def forget(self) -> None:
        """Forget the texts that were read, of which the newest ones are kept for later calls."""
        self._texts.clear()

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
            longest = max(len(batch[-1].numbers), self.engine.shortest_texts)
            numbers = torch.stack([pad(torch.tensor(t.numbers), (0, longest - len(t.numbers))) for t in batch])
            lengths = torch.tensor([len(text.numbers) for text in batch])
            tokens = self.engine.read_texts(numbers.to(self.device), lengths.to(self.device))
            self._texts.update(zip(batch, tokens, strict=True))
        while len(self._texts) > max(TEXTS, len(wanted)):
            self._texts.popitem(last=False)


def _check(request: Request) -> None:
    for name, number in (
        ("prediction_length", request.horizon),
        ("num_samples", request.samples),
        ("token_length", request.token_length),
        ("context_tokens", request.context_tokens),
    ):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}, but must be at least 1.")


def _itself(series: Series) -> str:
    """Return a name for a series that has none: what it is made of."""
    return hashlib.blake2b(series.values.tobytes(), digest_size=16).hexdigest()


def _cut(text: Pieces | None) -> tuple[str, ...]:
    if text is None or not text.left_out:
        return ()
    return (f"the text is too long: {len(text.numbers) - 2} word pieces were read, {text.left_out} left out",)
