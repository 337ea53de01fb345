"""What a user may give, and what a forecast must be then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pil
from tiny_aurora import tiny_aurora

from zoo_core.errors import InputError, UsageError
from zoo_forecast.forecaster import Forecast, Forecaster
from zoo_forecast.series import clean

WAVE = np.sin(np.arange(100) / 5)


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(tiny_aurora())


@pytest.mark.parametrize("horizon", [1, 16, 17, 40, 16 * 64 + 5])
def test_shapes_and_quantiles(forecaster: Forecaster, horizon: int) -> None:
    forecast = forecaster.predict([WAVE, WAVE[:30]], horizon, num_samples=9)
    assert forecast.samples.shape == (2, 9, horizon)
    assert torch.isfinite(forecast.samples).all()
    quantiles = forecast.quantiles([0.1, 0.5, 0.9])
    assert quantiles.shape == (2, 3, horizon)
    assert (quantiles.diff(dim=1) >= 0).all()
    assert torch.equal(forecast.median, quantiles[:, 1])
    assert torch.equal(forecast.median, forecast.samples.sort(1).values[:, 4])


def test_a_row_of_a_tensor_is_a_series(forecaster: Forecaster) -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    listed = forecaster.predict([row.tolist() for row in rows], 5).samples
    assert torch.equal(forecaster.predict(rows, 5).samples, listed)


@pytest.mark.parametrize("scale", [1e-12, 1e-300, 1e12, 1e300])
def test_any_magnitude(forecaster: Forecaster, scale: float) -> None:
    plain = forecaster.predict([WAVE], 20, items=["a"]).samples
    scaled = forecaster.predict([WAVE * scale], 20, items=["a"]).samples
    torch.testing.assert_close(scaled / scale, plain, rtol=0, atol=1e-5)


def test_a_small_wave_on_a_high_level(forecaster: Forecaster) -> None:
    plain = forecaster.predict([WAVE], 20, items=["a"]).samples
    lifted = forecaster.predict([WAVE + 1e9], 20, items=["a"]).samples
    torch.testing.assert_close(lifted - 1e9, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 7.1, 1234567.1, -1e12])
def test_a_constant_series_goes_on_exactly(forecaster: Forecaster, value: float) -> None:
    assert (forecaster.predict([np.full(50, value)], 20).samples == value).all()


def test_nothing_observed_is_nan_and_said(forecaster: Forecaster) -> None:
    forecast = forecaster.predict([[], np.full(9, np.nan), WAVE], 5)
    assert forecast.samples[:2].isnan().all()
    assert torch.isfinite(forecast.samples[2]).all()
    assert "nothing was observed" in forecast.notes[0][0]
    assert forecast.notes[2] == ()


@pytest.mark.parametrize("value", [5.0, -2e12, 3e-12])
def test_one_value_has_a_flat_and_honest_spread(forecaster: Forecaster, value: float) -> None:
    for given in ([value], [np.nan, value, np.nan]):
        forecast = forecaster.predict([given], 7)
        low, middle, high = forecast.quantiles([0.1, 0.5, 0.9])[0]
        torch.testing.assert_close(middle, torch.full((7,), value, dtype=torch.float64))
        assert ((high - low) / abs(value) > 1).all()
        assert (forecast.samples == forecast.samples[..., :1]).all()
        assert "one value was observed" in forecast.notes[0][-1]


@pytest.mark.parametrize("length", [1, 2, 3, 15, 16, 17])
def test_series_shorter_than_a_token(forecaster: Forecaster, length: int) -> None:
    assert torch.isfinite(forecaster.predict([WAVE[:length]], 20, num_samples=5).samples).all()


def test_a_long_series_is_read_at_its_end(forecaster: Forecaster) -> None:
    long = np.concatenate([np.random.default_rng(0).normal(size=1_000_000), np.tile(WAVE, 4)])
    samples = forecaster.predict([long], 20, items=["a"], context_tokens=25).samples
    assert torch.equal(samples, forecaster.predict([long[-400:]], 20, items=["a"], context_tokens=25).samples)


def test_gaps_are_bridged_never_zero() -> None:
    series = clean([np.nan, 10, np.nan, np.nan, 16, 20, None])
    assert series.values.tolist() == [10, 12, 14, 16, 20, 20]
    assert series.notes == ("3 missing values were bridged by straight lines",)


def test_infinite_values_are_refused_by_place(forecaster: Forecaster) -> None:
    with pytest.raises(InputError, match="series 1 is infinite at place 2"):
        forecaster.predict([WAVE, [1.0, 2.0, np.inf]], 5)


@pytest.mark.parametrize("given", [["a", "b"], [[1.0, 2.0]], {"a": 1}])
def test_what_is_no_row_of_numbers_is_refused(given: object) -> None:
    with pytest.raises(InputError, match="the series"):
        clean(given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prediction_length": 0},
        {"num_samples": 0},
        {"token_length": 0},
        {"context_tokens": 0},
        {"texts": ["one"]},
        {"texts": "a text for all"},
        {"items": ["one"]},
        {"gap": -1},
        {"images": [None]},
    ],
)
def test_numbers_and_lists_out_of_place(forecaster: Forecaster, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        forecaster.predict([WAVE, WAVE], **{"prediction_length": 5, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0, 1, -0.1, 50])
def test_levels_are_between_0_and_1(forecaster: Forecaster, level: float) -> None:
    with pytest.raises(UsageError, match="quantile level"):
        forecaster.predict([WAVE], 5, num_samples=3).quantiles([0.5, level])


def test_quantiles_of_more_numbers_than_torch_takes() -> None:
    samples = torch.arange(2.0**24 + 64, dtype=torch.float64).reshape(1, -1, 64)
    assert Forecast(samples, ((),)).quantiles([0.5])[0, 0, 0] == samples[0, :, 0].mean()


def test_counts_are_whole_and_never_negative(forecaster: Forecaster) -> None:
    demand = np.random.default_rng(0).poisson(0.4, 200)
    plain = forecaster.predict([demand], 12)
    counts = forecaster.predict([demand], 12, lowest=0, whole=True)
    assert (plain.samples < 0).any()
    for values in (counts.samples, counts.quantiles([0.1, 0.25, 0.9]), counts.median):
        assert (values >= 0).all()
        assert (values == values.round()).all()
    assert torch.equal(counts.samples, plain.samples.round().clamp(min=0))


def test_a_gap_before_the_forecast(forecaster: Forecaster) -> None:
    whole = forecaster.predict([WAVE], 20, items=["a"]).samples
    later = forecaster.predict([WAVE], 15, items=["a"], gap=5).samples
    assert torch.equal(later, whole[..., 5:])


def test_median_or_mean(forecaster: Forecaster) -> None:
    forecast = forecaster.predict([WAVE], 5)
    assert torch.equal(forecast.points("mean"), forecast.samples.mean(1))
    assert torch.equal(forecast.points("median"), forecast.median)
    with pytest.raises(UsageError, match="'mode'"):
        forecast.points("mode")


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "P", "gray array", "channels first", "with opacity", "floats"])
def test_images_of_any_channels(forecaster: Forecaster, kind: str) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    three = np.stack([gray] * 3, 2)
    image: Any = {
        "gray array": gray,
        "channels first": three.transpose(2, 0, 1),
        "with opacity": np.concatenate([three, np.full((48, 64, 1), 255, np.uint8)], 2),
        "floats": three / 255,
    }.get(kind)
    if image is None:
        colours = pil.fromarray(gray)
        image = colours if kind == "P" else colours.convert(kind)
    plain = forecaster.predict([WAVE, WAVE], 5, items=["a", "a"], images=[three, None]).samples
    given = forecaster.predict([WAVE, WAVE], 5, items=["a", "a"], images=[image, None]).samples
    torch.testing.assert_close(given, plain)
    assert (given[0] != given[1]).any()


@pytest.mark.parametrize("image", [np.zeros((5, 5, 5)), np.full((8, 8, 3), 300), np.full((8, 8), np.nan), "a.png"])
def test_what_is_no_picture_is_refused(forecaster: Forecaster, image: object) -> None:
    with pytest.raises(InputError, match="the image of series 1"):
        forecaster.predict([WAVE, WAVE], 5, images=[None, image])


def test_embeddings_are_those_of_the_series_alone(forecaster: Forecaster) -> None:
    many = forecaster.embed([WAVE, WAVE[:50] ** 3, 5 * WAVE + 9, []], texts=[None, "Rain.", None, None])
    assert many.shape == (4, 32)
    torch.testing.assert_close(many[1:2], forecaster.embed([WAVE[:50] ** 3], texts=["Rain."]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(many[0], many[2], rtol=1e-4, atol=1e-4)
    assert (many[1] - forecaster.embed([WAVE[:50] ** 3])[0]).abs().max() > 1e-3
    assert many[3].isnan().all()


def test_of_a_long_text_the_end_is_read_and_that_is_said(forecaster: Forecaster) -> None:
    end = "sales fell " * 255
    forecast = forecaster.predict([WAVE, WAVE], 5, texts=["rain " * 400 + end, end], items=["a", "a"])
    assert forecast.notes == (("the text is too long: 510 word pieces were read, 400 left out",), ())
    assert torch.equal(forecast.samples[0], forecast.samples[1])


def test_each_text_is_read_once(forecaster: Forecaster) -> None:
    read: list[int] = []
    hook = forecaster.module.model.TextEncoder.register_forward_hook(lambda _, given, __: read.append(len(given[0])))
    texts = ["Rain is expected.", "Snow is expected.", None, "Rain is expected.", " Rain is expected. "]
    forecaster.predict([WAVE + n for n in range(5)], 5, texts=texts)
    forecaster.predict([WAVE], 5, texts=["Snow is expected."])
    hook.remove()
    assert sum(read) == 2
