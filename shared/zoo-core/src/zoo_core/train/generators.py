"""All global random generators of this process as plain data, and back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from zoo_core.train.order import mixed


def seed_all(seed: int, *, rank: int = 0) -> None:
    """Seed python, numpy and torch (all devices); processes of one run get different streams.

    Call it before the module is made, so that its start is reproducible; `fit` calls it again where the run begins.
    """
    number = mixed(seed, rank) if rank else seed
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def generator_states() -> dict[str, Any]:
    """Return the states of python's, numpy's, torch's and (if used) each CUDA device's generator, JSON-able."""
    version, numbers, gauss = random.getstate()
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}},
        "torch": _hex(torch.get_rng_state()),
        "cuda": _cuda_states(),
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Put the generators where `generator_states` found them; devices that are not here are left out."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    inner = states["numpy"]["state"]
    np.random.set_state({**states["numpy"], "state": {**inner, "key": np.array(inner["key"], dtype=np.uint32)}})
    torch.set_rng_state(_tensor(states["torch"]))
    for index, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_tensor(state), index)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Whatever is drawn inside leaves no trace in the generators."""
    states = generator_states()
    try:
        yield
    finally:
        restore_generators(states)


def _cuda_states() -> list[str]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    return [_hex(state) for state in torch.cuda.get_rng_state_all()]


def _hex(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
