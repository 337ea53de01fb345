"""Batches made ahead by other processes or threads: the same ones in the same order for any number of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Literal

import torch
from torch import Tensor

from zoo_core.nn.structure import map_tensors

_make: Callable[[int], Any] | None = None


def _keep(make: Callable[[int], Any]) -> None:
    """Start a worker process: it gets the batch maker once, and one thread, since there are several workers.

    Ctrl-C reaches a whole process group, but the training process must be able to finish its step, so workers do not
    listen; they end with it, also when it is killed.
    """
    global _make
    _make = make
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(step: int) -> Any:
    assert _make is not None  # noqa: S101 (set by the initializer)
    return _make(step)


def prefetched(
    make: Callable[[int], Any], steps: range, *, workers: int, kind: Literal["process", "thread"] = "process"
) -> Iterator[Any]:
    """Yield make(step) for each of `steps`, up to workers + 1 made ahead.

    Args:
        make: a pure function of the step. For processes it must be picklable: a small object with `__call__`, not the
            method of a task that holds a network.
        steps: consecutive steps.
        workers: how many work at a time; 0 makes each batch when it is asked for, here.
        kind: processes for batches that keep Python busy; threads for those that wait or decode.
    """
    if workers == 0:
        # no map: a StopIteration out of `make` would end it as if all were well
        for step in steps:
            yield make(step)
        return
    pool: Executor
    if kind == "thread":
        pool, call = ThreadPoolExecutor(workers), make
    else:
        # spawned, not forked: a fork would copy the locks and the CUDA state of this process
        context = multiprocessing.get_context("spawn")
        pool, call = ProcessPoolExecutor(workers, context, _keep, (make,)), _call
    ahead: deque[Future[Any]] = deque()
    try:
        for step in steps:
            ahead.append(pool.submit(call, step))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Part:
    """Makes the batch of all processes and keeps the rows of one: of every tensor whose first dimension is the batch.

    Args:
        make: the maker of whole batches.
        batch: samples of a whole batch.
        rank: which process.
        world: how many there are.
    """

    def __init__(self, make: Callable[[int], Any], batch: int, rank: int, world: int) -> None:
        self.make, self.batch, self.rank, self.world = make, batch, rank, world

    def __call__(self, step: int) -> Any:
        """Return this process's part of the batch of a step."""
        rows = self.batch // self.world
        return map_tensors(lambda tensor: self._rows(tensor, rows), self.make(step))

    def _rows(self, tensor: Tensor, rows: int) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != self.batch:
            return tensor
        return tensor[self.rank * rows : (self.rank + 1) * rows]
