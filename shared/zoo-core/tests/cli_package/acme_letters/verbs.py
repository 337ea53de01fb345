"""Stands for a package's training, evaluation and bench: says what it was called with, or fails as it is told."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_core.errors import InterruptedRunError
from zoo_core.evaluate import Check, Report, Way
from zoo_core.train.record import RunRecord


def train(
    entry: Any, overrides: list[str], *, recipe: Path | None, out: Path, resume: Any, dry_run: bool, smoke: bool
) -> RunRecord:
    logging.getLogger(__name__).info("training begins")
    if "how=sleep" in overrides:
        time.sleep(60)
    if "how=terminated" in overrides:
        raise InterruptedRunError("Stopped after saving.", "The same command goes on.", exit_code=143)
    if "how=missing" in overrides:
        import no_such_backend  # noqa: F401
    called = {"overrides": overrides, "out": str(out), "resume": str(resume), "dry_run": dry_run, "smoke": smoke}
    return RunRecord(
        status="finished", recipe=called, recipe_hash="", seed=0, data_fingerprint="", steps=3, sessions=1, seconds=0.5,
        ended="", versions={}, commit=None, hardware={}, parameters=1, metrics={"error": 0.25},
        weights={"file": "weights.safetensors", "sha256": "0" * 64, "size_bytes": 1},
    )  # fmt: skip


def evaluate(entry: Any, data: str | None, **settings: Any) -> Report:
    settings.pop("progress")(1, 1)
    figures = [0.5, 0.25] if data == "finite" else [0.25, float("inf")]
    ours = replace(Way.of("ours", {"error": figures}), answers=("hello", "hi"))
    facts = {name: str(value) for name, value in settings.items()}
    check = Check("never worse than nothing", data != "bad", "" if data != "bad" else "on b.txt")
    return Report(
        entry.manifest.id,
        data or settings["options"].alphabet,
        "by hand",
        ("a.txt", "b.txt"),
        ours,
        checks=(check,),
        facts=facts,
    )


@dataclass(frozen=True)
class Times:
    called: dict[str, str]
    agrees: bool

    def as_dict(self) -> dict[str, Any]:
        return {"called": self.called, "agrees": self.agrees}

    def text(self) -> str:
        return "one way, 1 ms" if self.agrees else "the outputs differ"


def bench(entry: Any, **settings: Any) -> Times:
    settings.pop("progress")(1, 1)
    return Times({name: str(value) for name, value in settings.items()}, agrees=settings["size"] != "13x13")
