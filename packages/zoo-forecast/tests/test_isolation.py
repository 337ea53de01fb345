"""A series' forecast is its own: the same alone, in any batch and order, beside any text, and however it is padded."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from tiny_aurora import tiny_aurora
from torch import Tensor

from zoo_forecast.engine import Engine
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.mode import CORRECTED, OFFICIAL, Mode

# of the largest value: another batch size lets a library add up in another order
TOLERANCE = 1e-5
TEXTS = (
    "A promotion starts on Monday; sales should rise by a fifth.",
    None,
    "Outage.",
    "",
    "The plant is closed for maintenance until the end of March, " * 8,
    "Outage.",
    None,
    "Prices fell.",
)


def a_batch(seed: int = 0) -> list[np.ndarray]:
    """Series of several lengths and periods."""
    random = np.random.default_rng(seed)
    lengths = (100, 97, 37, 64, 200, 100, 5, 100)
    return [
        np.sin(np.arange(length) * 2 * np.pi / period) * 10**place + random.normal(size=length)
        for place, (length, period) in enumerate(zip(lengths, (7, 12, 24, 5, 30, 12, 3, 9), strict=True))
    ]


def off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(tiny_aurora())


def test_alone_and_in_any_batch_and_order(forecaster: Forecaster) -> None:
    series = a_batch()
    together = forecaster.predict(series, 40, texts=TEXTS, num_samples=7).samples
    order = list(range(len(series)))
    random.Random(0).shuffle(order)
    shuffled = forecaster.predict([series[n] for n in order], 40, texts=[TEXTS[n] for n in order], num_samples=7)
    split = Forecaster(forecaster.module, batch_size=2).predict(series, 40, texts=TEXTS, num_samples=7).samples
    for place, n in enumerate(order):
        alone = forecaster.predict([series[n]], 40, texts=[TEXTS[n]], num_samples=7).samples[0]
        assert max(off(x, alone) for x in (together[n], shuffled.samples[place], split[n])) <= TOLERANCE, n


def test_beside_any_text(forecaster: Forecaster) -> None:
    series = a_batch()
    without = forecaster.predict(series, 40, num_samples=7).samples
    told = forecaster.predict(series, 40, texts=TEXTS, num_samples=7).samples
    for n, text in enumerate(TEXTS):
        same = off(told[n], without[n]) <= TOLERANCE
        assert same == (text in (None, "")), "a text changes its own series, and no other one"


@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_a_blank_text_is_no_text(forecaster: Forecaster, blank: str) -> None:
    series = a_batch()[:2]
    assert torch.equal(
        forecaster.predict(series, 20, texts=[blank, blank]).samples, forecaster.predict(series, 20).samples
    )


def test_noise_belongs_to_seed_and_item(forecaster: Forecaster) -> None:
    (series,) = a_batch()[:1]

    def samples(item: str, seed: int = 0, count: int = 5) -> Tensor:
        return forecaster.predict([series], 20, items=[item], seed=seed, num_samples=count).samples[0]

    assert torch.equal(samples("a"), samples("a"))
    assert off(samples("a", count=9)[:5], samples("a")) <= TOLERANCE, "more samples leave the first ones as they are"
    assert not torch.allclose(samples("a"), samples("b"))
    assert not torch.allclose(samples("a"), samples("a", seed=1))


def test_padding_of_a_text_changes_nothing() -> None:
    engine = Engine(tiny_aurora(), CORRECTED)
    pieces = torch.tensor([[101, 2023, 2003, 1037, 2689, 102]])
    lengths = torch.tensor([6])
    with torch.inference_mode():
        alone = engine.read_texts(pieces, lengths)
        for longest in (125, 256, 500):
            filled = torch.full((1, longest), 7)
            filled[:, :6] = pieces
            assert off(engine.read_texts(filled, lengths), alone) <= TOLERANCE
        official = Engine(engine.module, OFFICIAL)
        filled = torch.cat([pieces, torch.zeros(1, 119, dtype=torch.long)], 1)
        assert off(official.read_texts(filled, lengths), official.read_texts(pieces, lengths)) > 0.01


def test_gaps_before_the_first_observation_change_nothing(forecaster: Forecaster) -> None:
    series = a_batch()[:3]
    padded = [np.concatenate([np.full(50, np.nan), row]) for row in series]
    assert torch.equal(forecaster.predict(padded, 20).samples, forecaster.predict(series, 20).samples)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Mode)])
def test_each_part_of_the_official_mode_is_copied(field: str) -> None:
    """Every switch changes a forecast, so that parity and correction are really two things."""
    module, values = tiny_aurora(), [row * 1e-4 for row in a_batch()[:3]]
    arguments = {"texts": ["Outage."] * 3, "items": ["a", "b", "c"], "token_length": 12, "num_samples": 3}
    switched = dataclasses.replace(CORRECTED, **{field: getattr(OFFICIAL, field)})
    plain, changed = (
        Forecaster(module, mode=mode).predict(values, 30, **arguments).samples for mode in (CORRECTED, switched)
    )  # type: ignore[arg-type]
    assert off(changed, plain) > 1e-4


def test_only_the_official_period_depends_on_the_batch() -> None:
    module, series = tiny_aurora(), a_batch()[:1] + a_batch()[5:6]
    shared = Forecaster(module, mode=Mode(shared_period=True))
    assert off(shared.predict(series, 20).samples[0], shared.predict(series[:1], 20).samples[0]) > 1e-4
