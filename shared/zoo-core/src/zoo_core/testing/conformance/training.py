"""A smoke run of each recipe: it learns, what it gives loads, and killed with -9 it ends as if nothing had been."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from zoo_core.testing.conformance.subject import CPU, Subject
from zoo_core.testing.conformance.suite import Suite
from zoo_core.train.log import read_table
from zoo_core.weights.build import build
from zoo_core.weights.files import sha256_of
from zoo_core.weights.find import FoundWeights

PATIENCE_SECONDS = 50.0


class TrainingChecks(Suite):
    """What `zoo train ID --smoke` shows in seconds."""

    def test_smoke_training_learns(self, trained: Subject) -> None:
        """The loss at the end is below that at the start, and the weights are those of a model that loads."""
        out, record = trained.smoke_run
        assert (record["schema"], record["status"]) == ("zoo.train/1", "finished")
        losses = [row["loss"] for row in read_table(out / "log.csv")]
        assert len(losses) > 1, "log_every in the section `smoke` must give two rows of log.csv or more"
        assert losses[-1] < losses[0], "the loss does not fall: more steps or a higher learning rate in `smoke`?"
        path = out / record["weights"]["file"]
        assert sha256_of(path) == record["weights"]["sha256"]
        module = build(trained.entry, FoundWeights(path, "path", None, "trained"), device=CPU, dtype=torch.float32)
        finite = bool(torch.isfinite(trained.compute(trained.input(), module)).all())
        assert finite, "the trained network gives values that are not finite"

    def test_killed_and_resumed_ends_bit_equal(self, trained: Subject, tmp_path: Path) -> None:
        """Killed with -9 between two checkpoints and started again, a run on the CPU gives the same file."""
        whole, record = trained.smoke_run
        out = tmp_path / "killed"
        command = trained.training(out)
        # more checkpoints than the recipe asks for, so that the kill falls into the run and not behind it
        pid = trained.zoo.start(*command, f"save_every={max(1, record['steps'] // 8)}", cwd=tmp_path)
        _wait_for_checkpoint(out, record["steps"] // 4, pid)
        _kill(pid)
        killed = trained.zoo.wait()
        assert killed.code == -signal.SIGKILL, (
            f"the run had ended (code {killed.code}) before it was killed: more steps in the section `smoke`\n"
            f"{killed.stderr}"
        )
        resumed = trained.zoo.run(*command, cwd=tmp_path)
        assert resumed.code == 0, resumed.stderr
        assert "resumed after step" in resumed.stderr
        file = record["weights"]["file"]
        equal = (out / file).read_bytes() == (whole / file).read_bytes()
        assert equal, (
            "killed and resumed, the run ends with other weights: `batch(step)` must be a pure function of seed and "
            "step, and everything that the training changes a parameter or buffer of the module or the optimiser"
        )


def _wait_for_checkpoint(out: Path, step: int, pid: int) -> None:
    """Wait until a run has saved this step or a later one, or has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and _lives(pid):
        if any(int(path.name.removeprefix("step-")) >= step for path in out.glob("checkpoints/step-*")):
            return
        time.sleep(0.001)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _kill(pid: int) -> None:
    if _lives(pid):
        os.kill(pid, signal.SIGKILL)
