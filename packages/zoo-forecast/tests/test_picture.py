"""Pictures of series: folded by their period, each by its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from zoo_forecast import picture
from zoo_forecast.picture import draw, periods


def one_by_one(series: Tensor, period: Tensor, side: int) -> Tensor:
    """Fold each series and let torch resize the image, in float64."""
    drawn = []
    for row, each in zip(series.double(), period.tolist(), strict=True):
        folded = pad(row, (-len(row) % each, 0)).reshape(-1, each).mT
        drawn.append(interpolate(folded[None, None], size=(side, side), mode="bilinear", antialias=True))
    return torch.cat(drawn)


@pytest.mark.parametrize("length", [1, 2, 7, 48, 97, 512, 1056])
def test_all_periods_are_drawn_at_once(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    series = torch.randn(9, length, generator=random)
    period = torch.randint(1, length + 1, (9,), generator=random)
    period[:2] = torch.tensor([1, length])
    for side in (64, 224):  # larger and smaller than most of the folded images
        together = draw(series, period, side)
        torch.testing.assert_close(together.double(), one_by_one(series, period, side), rtol=0, atol=2e-6)
    monkeypatch.setattr(picture, "WEIGHTS", 2 * 64 * length)  # two series at a time
    torch.testing.assert_close(draw(series, period, 64).double(), one_by_one(series, period, 64), rtol=0, atol=2e-6)


def test_periods_are_those_of_waves() -> None:
    place = torch.arange(240.0)
    waves = torch.stack([torch.sin(2 * torch.pi * place / each) for each in (7, 12, 24, 60)])
    assert periods(waves).tolist() == [7, 12, 24, 60]
    assert len(set(periods(waves, shared=True).tolist())) == 1
    # no wave, or one as long as the series, names no period
    assert periods(torch.stack([torch.zeros(240), torch.sin(2 * torch.pi * place / 240)])).tolist() == [48, 48]
    assert periods(torch.zeros(2, 1)).tolist() == [1, 1]
