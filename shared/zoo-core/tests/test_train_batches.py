"""Batches made ahead, by workers or not, and what may be in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from zoo_core.nn.structure import map_tensors, tensors_in
from zoo_core.train import Order
from zoo_core.train.prefetch import Part, prefetched


@pytest.mark.parametrize(("workers", "kind"), [(0, "process"), (1, "thread"), (4, "thread"), (2, "process")])
def test_workers_change_nothing(workers: int, kind: Any) -> None:
    order = Order(103, 16, 0)
    made = list(prefetched(order.indices, range(3, 23), workers=workers, kind=kind))
    assert [batch.tolist() for batch in made] == [order.indices(step).tolist() for step in range(3, 23)]


WORKERS = """
import multiprocessing, sys, time
from zoo_core.train.order import Order
from zoo_core.train.prefetch import prefetched
if __name__ == "__main__":
    batches = prefetched(Order(9, 2, 0).indices, range(10**9), workers=1)
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


def test_workers_outlive_signals_but_not_their_parent(tmp_path: Path) -> None:
    # else kill -9 would leave processes behind, and Ctrl-C would break the batches before the state is saved
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker, number)
        time.sleep(0.2)
        os.kill(worker, 0)
        process.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            # an orphan that nobody collects stays in the table as a zombie
            if f"{worker} " not in (stat := Path(f"/proc/{worker}/stat").read_text()) or ") Z " in stat:
                return
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")


def test_a_failing_batch_is_an_error_in_its_place() -> None:
    def make(step: int) -> int:
        if step == 4:
            raise ValueError("bad sample")
        return step

    batches = prefetched(make, range(9), workers=3, kind="thread")
    assert [next(batches) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="bad sample"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_runs_out_of_something_does_not_end_the_run_as_if_all_were_well(workers: int) -> None:
    def make(step: int) -> int:
        return step if step < 2 else next(iter(()))

    batches = prefetched(make, range(9), workers=workers, kind="thread")
    assert [next(batches) for _ in range(2)] == [0, 1]
    with pytest.raises((RuntimeError, StopIteration)) as caught:
        next(batches)
    assert caught.type is RuntimeError


@dataclass(frozen=True)
class Crops:
    low: Tensor
    names: list[str]


class Pair(NamedTuple):
    a: Tensor
    b: Any


def test_batches_may_be_nested() -> None:
    batch = {
        "x": [torch.ones(4, 2), (torch.zeros(()), "text")],
        "y": Crops(torch.ones(4), ["a"]),
        "z": Pair(torch.ones(4), None),
    }
    doubled = map_tensors(lambda t: t * 2, batch)
    assert [float(t.sum()) for t in tensors_in(doubled)] == [16, 0, 8, 8]
    assert doubled["x"][1][1] == "text"
    assert isinstance(doubled["y"], Crops)
    assert isinstance(doubled["z"], Pair)


def test_parts_of_a_batch_make_it_whole() -> None:
    def make(step: int) -> dict[str, Tensor]:
        return {"x": torch.arange(6) + step, "weight": torch.tensor(0.5)}

    parts = [Part(make, 6, rank, 3)(10) for rank in range(3)]
    assert torch.cat([part["x"] for part in parts]).tolist() == list(range(10, 16))
    assert all(part["weight"] == 0.5 for part in parts)
