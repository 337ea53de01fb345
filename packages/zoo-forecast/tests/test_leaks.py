"""Nothing that is measured is trained on: not by name, not by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_aurora import PACKS

import zoo_forecast
from zoo_core.errors import InputError
from zoo_core.io.packs import pack_paths
from zoo_forecast.leaks import Probes, check_training_packs, leaks, pack_leaks
from zoo_forecast.measuring.data import read_pack
from zoo_forecast.measuring.suites import suites

PRETRAIN, EVAL = (sorted(Path(PACKS, "forecast", folder).glob("*.parquet")) for folder in ("pretrain", "eval"))
RECIPES = sorted(Path(zoo_forecast.__file__).parent.glob("recipes/*.yaml"))
EXOGENOUS = ("exog1", "exog2")
needs_packs = pytest.mark.skipif(not PRETRAIN or not EVAL, reason="the data packs are not here: set ZOO_PACKS")


@needs_packs
@pytest.mark.parametrize("path", PRETRAIN, ids=lambda path: path.stem)
def test_no_pack_for_training_leaks(path: Path) -> None:
    assert pack_leaks(path) == []


@needs_packs
@pytest.mark.skipif(not RECIPES, reason="this package has no recipe yet")
def test_no_recipe_trains_on_a_pack_that_leaks() -> None:
    for recipe in RECIPES:
        packs = yaml.safe_load(recipe.read_text()).get("packs", [])
        check_training_packs(pack_paths(packs, below="forecast/pretrain"))


@needs_packs
@pytest.mark.parametrize("path", EVAL, ids=lambda path: path.stem)
def test_every_measured_pack_is_refused_under_any_name(path: Path, tmp_path: Path) -> None:
    ids = pq.read_table(path, columns=["item_id"]).column("item_id").unique().to_pylist()
    assert {leak.name for leak in leaks(ids)} == set(ids)
    assert leaks([], pack=path.stem)
    with pytest.raises(InputError, match="models are measured on that"):
        check_training_packs([path])


@pytest.mark.parametrize(
    "name",
    [
        "fredmd/UNRATE", "fredmd/UEMP5TO14", "fredmd/CLAIMSx", "fredmd/HWI", "fredmd/OILPRICEx", "fredmd/EXUSUKx",
        "fredmd/TWEXAFEGSMTHx", "fredmd/WPSFD49207", "fredmd/BUSINV", "us_gasoline", "ILINet", "usdeur/y",
        "electricity/DE", "Traffic/12", "solar_10_minutes/3", "PEMS08/1", "wind/0", "NYSE/AAPL", "M1/Y1",
        "nn5_daily/T1", "EPA-Air/NY", "aqi/New York", "trade_balance", "epf/NP", "M4_D12", "vehicle miles/US",
    ],
)  # fmt: skip
def test_the_list_of_the_specification_is_known(name: str) -> None:
    assert leaks([name])


@pytest.mark.parametrize(
    "name", ["fredmd/RPI", "gefcom2012_wp/wp1", "ercot/EAST", "M3/N0001", "beijing/TEMP", "turbine/AT", "taylor"]
)
def test_other_names_pass(name: str) -> None:
    assert not leaks([name])


def test_sources_count() -> None:
    assert leaks([], sources=["jeslago/epftoolbox", "unit8co/darts"])[0].name == "jeslago/epftoolbox"


def test_a_copy_under_another_name_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    measured = rng.normal(size=500)
    probes = Probes([measured, np.zeros(100)])
    assert probes.copied(np.concatenate([rng.normal(size=50), measured[:200]]))
    assert not probes.copied(rng.normal(size=500))
    assert not probes.copied(np.zeros(100))  # a run of one value is nobody's
    assert not probes.copied(np.zeros(3))


@needs_packs
def test_no_series_for_training_is_a_copy_of_a_measured_one() -> None:
    measured = [path for path in EVAL if path.stem != "timemmd_texts"]
    probes = Probes(
        values
        for path in measured
        for one in read_pack(path, rows="file", covariates=EXOGENOUS if path.stem == "epf" else ())
        for values in (one.values, *one.covariates)
    )
    for path in PRETRAIN:
        assert [one.name for one in read_pack(path, rows="file") if probes.copied(one.values)] == []


@needs_packs
def test_loads_of_pjm_are_of_years_after_the_market_that_is_measured() -> None:
    """EPF's PJM has forecasts of the system's load beside prices; the loads to train on must not be of those hours."""

    def stamps(pack: str, like: str) -> pa.ChunkedArray:
        table = pq.read_table(
            next(path for path in PRETRAIN + EVAL if path.stem == pack), columns=["item_id", "timestamp"]
        )
        return table.filter(pc.match_substring(table["item_id"], like))["timestamp"]

    trained, measured = stamps("hourly", "pjm"), stamps("epf", "PJM")
    assert len(trained)
    assert len(measured)
    assert pc.min(trained).as_py() > pc.max(measured).as_py()
    assert next(one for one in suites()["epf"]["sets"] if one["name"] == "PJM")["note"]


def test_what_is_no_pack_is_said(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="no pack of series"):
        check_training_packs([tmp_path / "p.parquet"])
