"""Whether the text beside a series helps: true texts against none and against those of other origins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zoo_core.evaluate import Table
from zoo_forecast.measuring.data import Tested
from zoo_forecast.measuring.windows import Window

RULE = "of each series the newest text of a row before the origin"
RUNS = {"none": "ours, no text", "shuffled": "ours, shuffled text"}
RISK = 0.05  # of taking chance for help


def use(series: Sequence[Tested], chosen: Sequence[Window], run: str) -> dict[str, Any]:
    """Return how text was used.

    Args:
        series: that were measured.
        chosen: their windows.
        run: true, none, shuffled or all.
    """
    if not any(one.texts for one in series):
        return {"used": False, "why": "there are no texts"}
    told = sum(series[w.series].text(w.origin) is not None for w in chosen)
    if run == "none":
        return {"used": False, "why": "--texts none", "windows_with_text": told}
    return {"used": told > 0, "run": run, "rule": RULE, "windows_with_text": told}


def effect(
    differences: Mapping[str, Mapping[str, Any]], ours: Mapping[str, float], others: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return what true texts change, with p values; nothing if the other runs were not measured.

    Args:
        differences: run -> metric -> ours minus that run, paired.
        ours: metric -> our figure.
        others: run -> metric -> its figure.

    Returns:
        true_minus_RUN and true_over_RUN of each run; `helps`: CRPS is lower than in both, with p < 0.05 each.
    """
    if not differences:
        return {}
    result: dict[str, Any] = {}
    for run, found in differences.items():
        result[f"true_minus_{run}"] = dict(found)
        result[f"true_over_{run}"] = {
            metric: ours[metric] / others[run][metric] if others[run][metric] else math.nan
            for metric in ("mae", "crps")
        }
    crps = [found["crps"] for found in differences.values()]
    return {**result, "helps": len(crps) == len(RUNS) and all(one["mean"] < 0 and one["p"] < RISK for one in crps)}


def table(found: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return a table of what texts do, a row a set; none if the three runs were not measured.

    Args:
        found: set -> its `use` and `effect`.
    """
    head = ("", "windows with text", *(f"crps over {run}" for run in RUNS), *(f"p, {run}" for run in RUNS), "helps")
    rows = [
        (
            name,
            str(one["windows_with_text"]),
            *(f"{one[f'true_over_{run}']['crps']:.4f}" for run in RUNS),
            *(f"{one[f'true_minus_{run}']['crps']['p']:.4f}" for run in RUNS),
            "yes" if one["helps"] else "no",
        )
        for name, one in found.items()
        if "helps" in one
    ]
    return [Table("true texts against none and against those of other origins", (head, *rows))] if rows else []
