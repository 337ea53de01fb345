"""What only a CUDA device shows: nothing waits for it, graphs and compilers train the same, lines stay alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zoo_core.catalog import find
from zoo_core.nn.number_format import number_format
from zoo_core.nn.structure import map_tensors
from zoo_core.train import fit, launch
from zoo_core.train.log import read_table
from zoo_htr.alphabet import Alphabet
from zoo_htr.data import scribbles
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.task import HTRTask, Recipe
from zoo_htr.train import start

ENTRY = find("htr-jand-student")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(300),
]


class FewParts(HTRTask):
    """Compiles a stage and the blocks: the other stages are the same code, and each costs some ten seconds."""

    def parts(self) -> list[nn.Module]:
        return [self.network.stages[1], *self.network.blocks]


def task(kind: type[HTRTask] = HTRTask, **keys: Any) -> tuple[HTRTask, Recipe]:
    given = {"packs": (), "steps": 40, "batch": 16, "warmup_steps": 5, "learning_rate": 1e-3, "log_every": 10, **keys}
    recipe = Recipe(**{"device": "cuda", "clip_norm": 1.0, **given})
    torch.manual_seed(0)
    network, _ = start(ENTRY, recipe, ["a"])
    lines = scribbles(64, Alphabet(tuple(ENTRY.manifest.config["alphabet"])), seed=1)
    device = launch(recipe).device
    return kind(network.to(device), recipe, device, real=lines, validation=lines[:8]), recipe


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # that it is a prototype
def test_a_step_waits_for_nothing() -> None:
    problem, _ = task()
    batch = map_tensors(lambda tensor: tensor.cuda(), problem.batch(0))
    problem.module.train()
    problem.loss(batch)[0].backward()  # kernels are compiled, workspaces made
    try:
        torch.cuda.set_sync_debug_mode("error")
        problem.loss(batch)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("default")  # what PyTorch's compiler says of a machine is shown, and no fault of ours
@pytest.mark.parametrize(
    "keys",
    [{"graph": True}, {"compile": True}, {"compile": True, "graph": True}, {"compile": True, "precision": "bf16"},
     {"compile": True, "graph": True, "precision": "bf16"}],
)  # fmt: skip
def test_fast_ways_train_the_same(tmp_path: Path, keys: dict[str, Any]) -> None:
    # without chance: dropout and noise draw otherwise when compiled
    calm = {"augment": False}
    losses = {}
    for name, ways in {"plain": {}, "fast": keys}.items():
        problem, recipe = task(FewParts, **calm, **ways)
        for module in problem.module.modules():
            if isinstance(module, (nn.Dropout, nn.Dropout2d)):
                module.p = 0.0
        fit(problem, recipe, tmp_path / name)
        losses[name] = [row["ctc"] for row in read_table(tmp_path / name / "log.csv")]
    assert losses["fast"][-1] < losses["fast"][0]
    assert losses["fast"] == pytest.approx(losses["plain"], rel=0.05, abs=2e-3)  # the last is near 0.015


def test_a_line_alone_is_the_line_in_a_batch() -> None:
    problem, _ = task()
    network = problem.module.get_submodule("module.network").eval()
    assert isinstance(network, HTRJAND)
    lines = torch.randn(5, 1, 64, 200, device="cuda")
    widths = torch.tensor([200, 31, 77, 128, 4], device="cuda")
    with torch.inference_mode(), number_format("fp32"):
        together = network(lines, widths).logits.log_softmax(2)
        for i, n in enumerate(widths.tolist()):
            alone = network(lines[i : i + 1, ..., :n]).logits[0].log_softmax(1)
            assert (alone - together[i, : len(alone)]).abs().max() < 1e-4
