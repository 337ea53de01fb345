"""A tiny training problem, and a driver that runs sessions of it in forked processes and disturbs them.

Run as a program because a fork is only safe from a process that has done nothing but imports; and forks, because each
session then costs milliseconds instead of the seconds that importing Lightning takes. Reads one JSON list a line (verb,
folder, argument, recipe keys) and answers each with a JSON object.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.errors import InterruptedRunError
from zoo_core.train import Order, TrainRecipe, seed_all
from zoo_core.train.loop import fit

N = 103  # a prime: no batch divides it


class Recipe(TrainRecipe):
    """With a section, as packages have them."""

    class Net(TrainRecipe.__base__):  # type: ignore[name-defined,misc]
        width: int = 16
        dropout: float = 0.1

    net: Net = Net()
    bad_step: int = -1
    delay_seconds: float = 0.0


class Network(nn.Module):
    """Draws from torch's generator (dropout), and counts in a buffer how often it has learned from each sample."""

    def __init__(self, net: Recipe.Net) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, net.width), nn.Dropout(net.dropout), nn.ReLU(), nn.Linear(net.width, 1))
        self.register_buffer("seen", torch.zeros(N, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Tiny:
    """Learn a sum of eight numbers."""

    def __init__(self, recipe: Recipe, *, data_seed: int = 0) -> None:
        self.recipe = recipe
        generator = torch.Generator().manual_seed(data_seed)
        self.x = torch.randn(N, 8, generator=generator)
        self.data_seed = data_seed
        self.order = Order(N, recipe.batch, recipe.seed)
        seed_all(recipe.seed)
        self.module: nn.Module = Network(recipe.net)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), betas=(0.9, 0.95))

    def learning_rate(self, step: int) -> float:
        return 1e-2 * (1 - step / self.recipe.steps)

    def batch(self, step: int) -> dict[str, Tensor]:
        chosen = torch.from_numpy(self.order.indices(step))
        x = self.x[chosen]
        if step == self.recipe.bad_step:
            x = x * torch.inf
        return {"x": x, "y": self.x[chosen].sum(dim=1, keepdim=True), "sample": chosen}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(self.recipe.delay_seconds)
        self.module.seen.index_add_(0, batch["sample"], torch.ones_like(batch["sample"]))
        # draws from python's and numpy's generators, which must be resumed too
        weight = 1.0 if self.recipe.net.dropout == 0 else 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())
        error = self.module(batch["x"]) - batch["y"]
        return weight * error.square().mean(), {"mae": error.detach().abs().mean()}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        # draws, so that a test sees whether an evaluation disturbs the training
        noise = torch.randn(()) * 1e-6 + random.random() * 1e-6
        return {"mse": float((module(self.x) - self.x.sum(dim=1, keepdim=True)).square().mean() + noise)}

    def fingerprint(self) -> str:
        return f"{self.data_seed:064x}"

    def describe(self, step: int) -> str:
        return f"row {self.order.indices(step)[0]}, ..."


def recipe(**keys: Any) -> Recipe:
    return Recipe(
        **{"steps": N, "batch": 16, "ema_decay": 0.99, "save_every": 5, "eval_every": 20, "log_every": 7, **keys}
    )


def session(out: Path, keys: dict[str, Any], environment: dict[str, str] | None = None) -> int:
    """Begin or resume a run in a forked process; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(environment or {})
        settings = recipe(**keys)
        fit(Tiny(settings), settings, out)
        code = 0
    except InterruptedRunError as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Return the exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(folder: Path, kills: int, keys: dict[str, Any]) -> dict[str, Any]:
    """Run once undisturbed; then run and kill -9 `kills` times, at random moments and in the middle of saves."""
    moments = random.Random(1)
    code = wait(session(folder / "whole", keys))
    checkpoints = folder / "killed" / "checkpoints"
    died_while_saving = died = 0
    while died < kills:
        pid = session(folder / "killed", keys)
        give_up = time.monotonic() + moments.uniform(0.02, 0.3)
        file = moments.choice([None, "model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"])
        skip = moments.randrange(6)
        seen: set[str] = set()
        while time.monotonic() < give_up:
            if file and (hits := [str(p) for p in checkpoints.glob(f".partial-*/{file}")]):
                seen.update(hits)
                if len(seen) > skip:
                    break
        os.kill(pid, signal.SIGKILL)
        if wait(pid) != -signal.SIGKILL:
            return {"error": "the run ended before it was killed", "died": died}
        died += 1
        died_while_saving += any(checkpoints.glob(".partial-*"))
    last = wait(session(folder / "killed", keys))
    return {"whole": code, "killed": last, "died": died, "died_while_saving": died_while_saving}


def stop(folder: Path, name: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Send a signal to a run when it has written a checkpoint, then let it go on to its end."""
    pid = session(folder, keys)
    while not any((folder / "checkpoints").glob("step-*")):
        time.sleep(0.001)
    os.kill(pid, signal.Signals[name])
    return {"stopped": wait(pid), "resumed": wait(session(folder, keys))}


def ddp(folder: Path, processes: int, keys: dict[str, Any]) -> dict[str, Any]:
    """Run in several processes, as torchrun sets them up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    pids = [session(folder, keys, {**shared, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(processes)]
    return {"codes": [wait(pid) for pid in pids]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    verbs: dict[str, Any] = {"kill": kill, "stop": stop, "ddp": ddp}
    for line in sys.stdin:
        verb, place, argument, settings = json.loads(line)
        sys.stdout.write(json.dumps(verbs[verb](Path(place), argument, settings)) + "\n")
        sys.stdout.flush()
