"""Training: where it starts, what it learns from, and that what it gives can be used."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from zoo_core.catalog import find
from zoo_core.config import load_recipe
from zoo_core.distill import CrossFitted
from zoo_core.errors import UsageError, WeightsError
from zoo_core.train import fit
from zoo_core.train.log import read_table
from zoo_core.weights.build import CONFIG, build, construct
from zoo_core.weights.files import read_tensors, write_tensors
from zoo_core.weights.find import FoundWeights
from zoo_htr.alphabet import Alphabet
from zoo_htr.data import part_of, scribbles
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.learning import Seen, lesson
from zoo_htr.task import HTRTask, Recipe
from zoo_htr.train import grown, start, train

CPU = torch.device("cpu")
ENTRY = find("htr-jand-student")
ALPHABET = Alphabet(("", *"abcdef "))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(seed: int = 0, **changes: Any) -> HTRJAND:
    torch.manual_seed(seed)
    config = {"channels": (8,) * 6, "width": 16, "heads": 2, "feed_forward": 16, "blocks": 1, **changes}
    return HTRJAND(ALPHABET.symbols, **config)


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"packs": (), "steps": 6, "batch": 2, "warmup_steps": 1, "learning_rate": 2e-3, **changes})


def task(network: HTRJAND, settings: Recipe, **lines: Any) -> HTRTask:
    given = {"real": scribbles(8, ALPHABET, seed=1), "validation": scribbles(3, ALPHABET, seed=2), **lines}
    return HTRTask(network, settings, CPU, **given)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights of the student as a file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    write_tensors(path, construct(ENTRY).state_dict(), {})
    return path


# -- the start ---------------------------------------------------------------------------------------------------------


def test_new_symbols_are_added_and_said_and_nothing_known_changes(
    student: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        network, changed = start(ENTRY, recipe(init=student), ["déjà ∑", "ω a"])
    assert "2 symbols: ω (U+03C9) ∑ (U+2211)" in caplog.text
    known = ENTRY.manifest.config["alphabet"]
    assert changed == {"alphabet": [*known, "ω", "∑"]}
    before = read_tensors(student)[0]
    after = network.state_dict()
    assert torch.equal(after["head.weight"][:140], before["head.weight"])
    assert torch.allclose(after["head.weight"][140:], before["head.weight"].mean(0).expand(2, -1), atol=1e-6)
    assert after["head.bias"][140:].tolist() == [-4.0, -4.0]
    assert all(torch.equal(after[key], before[key]) for key in before if not key.startswith("head"))


def test_nothing_is_said_if_the_alphabet_is_enough(student: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, changed = start(ENTRY, recipe(init=student), ["déjà vu"])
    assert (changed, caplog.text) == ({}, "")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "other.safetensors", tiny().state_dict(), {})
    with pytest.raises(WeightsError):
        start(ENTRY, recipe(init=tmp_path / "other.safetensors"), ["a"])


def test_an_ablation_is_another_network(student: Path) -> None:
    network, changed = start(ENTRY, recipe(branches="mhsa"), ["a"])
    assert changed == {"branches": "mhsa"}
    assert network.blocks[0].proxima is None


# -- fine-tuning -------------------------------------------------------------------------------------------------------


def test_one_command_learns_a_hand_with_new_symbols(
    student: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder of pairs; the alphabet grows, statistics stay, and what comes out loads with its own alphabet."""
    (tmp_path / "mine").mkdir()
    for i, one in enumerate(scribbles(11, ALPHABET, seed=5)):
        Image.fromarray(one.pixels).save(buffer := io.BytesIO(), "png")
        (tmp_path / f"mine/{i}.png").write_bytes(buffer.getvalue())
        (tmp_path / f"mine/{i}.gt.txt").write_text(f"{one.text}ω\n", encoding="utf-8")
    keys = [f'packs=["{tmp_path}/mine"]', f"init={student}", "replay=[]", "epochs=2", "batch=4", "device=cpu"]
    with caplog.at_level(logging.INFO):
        record = train(ENTRY, keys, recipe=ENTRY.recipe_path(Path("htr-jand-finetune")), out=tmp_path / "run")
    assert "the alphabet grows by 1 symbols: ω (U+03C9)" in caplog.text
    assert (record.status, record.steps) == ("finished", 5)  # twice ten lines by four
    path = tmp_path / "run/weights.safetensors"
    tensors, facts = read_tensors(path)
    assert json.loads(facts[CONFIG])["alphabet"][-1] == "ω"
    network = build(ENTRY, FoundWeights(path, "path", None, ""), device=CPU, dtype=torch.float32)
    assert isinstance(network, HTRJAND)
    assert network.alphabet.symbols[-1] == "ω"
    before = read_tensors(student)[0]
    moved = {
        key
        for key, tensor in before.items()
        if not torch.equal(tensor, tensors[key][: len(tensor)] if tensor.ndim else tensors[key])
    }
    assert not [key for key in moved if "running" in key], "a few hundred lines are too few for batch statistics"
    assert "stages.0.conv.weight" in moved
    # and it is where the next fine-tuning may start
    again, changed = start(ENTRY, recipe(init=path), ["ω"])
    assert again.alphabet.symbols[-1] == "ω"
    assert changed["alphabet"][-1] == "ω"


def test_a_recipe_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="htr-jand-finetune"):
        ENTRY.recipe_path(Path("htr-jand-finetun"))
    for name in ("htr-jand-finetune", "htr-jand-teacher", "htr-jand-student"):
        path = ENTRY.recipe_path(Path(name))
        load_recipe(path, [], Recipe)
        assert load_recipe(path, [], Recipe, smoke=True).steps < 50


def test_no_replay_is_said_and_no_error(student: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from zoo_htr.train import lines_of

    (tmp_path / "mine").mkdir()
    for i in range(2):
        Image.fromarray(np.full((64, 80), 200, np.uint8)).save(tmp_path / f"mine/{i}.png")
        (tmp_path / f"mine/{i}.gt.txt").write_text("ab")
    settings = recipe(packs=(str(tmp_path / "mine"),), replay=("not/there.parquet",))
    with caplog.at_level(logging.WARNING):
        lines = lines_of(settings, ALPHABET)
    assert lines.keys() == {"real", "validation"}
    assert "nothing is replayed from not/there.parquet" in caplog.text


# -- what is learnt ----------------------------------------------------------------------------------------------------


def test_the_loss_is_ctc_a_character_averaged_over_lines() -> None:
    problem = task(tiny(), recipe(shortcut_weight=0.1, augment=False))
    problem.module.eval()
    batch = problem.batch(0)
    loss, parts = problem.loss(batch)
    made = problem.rendered(batch)
    network = problem.module.get_submodule("module.network")
    by_hand = []
    for i in range(2):
        picture = made.grey[i : i + 1, :, : made.widths[i]]
        seen = Seen.of(*_standard(picture), made.labels[i : i + 1, : made.lengths[i]], made.lengths[i : i + 1])
        log_probs = network(seen.lines, seen.widths).logits.log_softmax(2).transpose(0, 1)
        whole = nn.functional.ctc_loss(log_probs, seen.labels, seen.frames, seen.lengths, reduction="none")
        by_hand.append(float(whole.detach()) / int(made.lengths[i]))
    assert float(parts["ctc"]) == pytest.approx(sum(by_hand) / 2, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(float(parts["ctc"]) + 0.1 * float(parts["shortcut"]), rel=1e-5)


def _standard(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from zoo_htr.normalise import standardise

    widths = torch.tensor([picture.shape[2]])
    return standardise(picture, widths), widths


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(student: Path) -> None:
    network, _ = start(ENTRY, recipe(init=student), ["a"])
    settings = recipe(teacher=student, augment=False, kd_guide=0.3)
    taught = lesson(network, settings, CPU)
    assert taught.teacher is not None
    taught.student.eval()
    lines = torch.randn(2, 1, 64, 60)
    seen = Seen.of(lines, torch.tensor([60, 44]), torch.tensor([[5, 6], [7, 0]]), torch.tensor([2, 1]))
    theirs = taught.teacher(seen)
    seen = seen._replace(path=torch.zeros(2, 15, dtype=torch.long))
    _, parts = taught.objective(taught.student(seen.lines, seen.widths), theirs, seen, 0)
    assert float(parts["kd"]) == pytest.approx(0, abs=1e-6)
    assert parts.keys() == {"ctc", "shortcut", "kd", "features", "guide"}
    # the weights of the terms go from half to a fifth of CTC
    assert taught.objective.weights(0)["ctc"] == 0.5
    assert taught.objective.weights(settings.steps)["ctc"] == pytest.approx(0.2)
    assert taught.objective.weights(settings.steps)["kd"] == pytest.approx(0.8)
    assert taught.objective.weights(2)["guide"] == 0


def test_teachers_of_parts_teach_the_lines_that_they_left_out(student: Path, tmp_path: Path) -> None:
    lines = scribbles(30, Alphabet(tuple(ENTRY.manifest.config["alphabet"])), seed=1)
    parts = [part_of(line.name, 2) for line in lines]
    assert 5 < sum(parts) < 25
    network, _ = start(ENTRY, recipe(init=student), ["a"])
    settings = recipe(teachers=[student, student], parts=2, augment=False)
    task = HTRTask(network, settings, CPU, real=lines, validation=lines[:2])
    asked: list[Any] = []
    assert isinstance(task.teacher, CrossFitted)
    task.teacher.part = lambda seen: (asked.append(seen.part), seen.part)[1]
    batch = task.batch(0)
    task.loss(batch)
    assert asked[0].tolist() == [parts[i] for i in batch.choice.line.tolist()]
    with pytest.raises(UsageError, match="1 teachers for 2 parts"):
        lesson(network, recipe(teachers=[student], parts=2), CPU)


def test_a_part_that_is_left_out_is_not_learnt(tmp_path: Path) -> None:
    record = train(ENTRY, ["left_out=1"], out=tmp_path / "run", smoke=True)
    whole = train(ENTRY, [], out=tmp_path / "whole", smoke=True)
    assert record.data_fingerprint != whole.data_fingerprint


def test_a_teacher_of_another_alphabet_is_refused(student: Path) -> None:
    with pytest.raises(UsageError, match="reads 139 symbols"):
        lesson(tiny(), recipe(teacher=student), CPU)


def test_a_graph_that_would_freeze_the_weights_of_losses_is_refused(student: Path) -> None:
    network, _ = start(ENTRY, recipe(init=student), ["a"])
    with pytest.raises(UsageError, match="graph=true keeps the weights"):
        lesson(network, recipe(teacher=student, graph=True), CPU)
    assert lesson(network, recipe(teacher=student, graph=True, kd=0.6, kd_end=0.6), CPU).teacher is not None


def test_a_student_is_taught_killed_and_resumed_bit_equal(student: Path, tmp_path: Path) -> None:
    def run(out: Path, **keys: Any) -> bytes:
        settings = recipe(steps=4, teacher=student, ema_decay=0.9, save_every=2, **keys)
        torch.manual_seed(1)
        network, _ = start(ENTRY, settings, ["a"])
        fit(task(network, settings), settings, out)
        return (out / "weights.safetensors").read_bytes() if (out / "weights.safetensors").is_file() else b""

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "cut", time_limit_minutes=1e-9) == b""
    assert run(tmp_path / "cut") == whole
    names = read_tensors(tmp_path / "whole/weights.safetensors")[0].keys()
    assert names == construct(ENTRY).state_dict().keys(), "no adapter, no second head, no teacher"


def test_decay_spares_scales_shifts_and_distances() -> None:
    problem = task(tiny(), recipe(weight_decay=0.02))
    decayed, free = problem.optimizer().param_groups
    names = {id(p): name for name, p in problem.module.named_parameters()}
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    spared = {names[id(p)].rpartition(".")[2] for p in free["params"]}
    assert {"rho", "mu", "gain", "bias"} <= spared
    assert not [p for p in decayed["params"] if p.ndim < 2]
    rates = [problem.learning_rate(step) for step in (0, 1, 5)]
    assert rates[0] == rates[1] == 2e-3 > rates[2] > 2e-5


def test_evaluation_counts_edits_over_characters_a_corpus() -> None:
    problem = task(tiny(), recipe())
    with torch.no_grad():
        for parameter in problem.module.get_submodule("module.network.head").parameters():
            parameter.zero_()
        problem.module.get_parameter("module.network.head.bias")[0] = 5
    # all blank: every character is missing
    assert problem.evaluate(problem.module.eval()) == {"cer": 1.0, "cer_scribbles": 1.0}


def test_growing_needs_no_float32(student: Path) -> None:
    halved = {key: tensor.half() for key, tensor in tiny().state_dict().items()}
    assert grown(halved, 12)["head.weight"].dtype == torch.float16
    assert grown(halved, 12)["head.weight"].shape == (12, 16)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_student_learns_64_short_lines_by_heart(tmp_path: Path) -> None:
    """From the plateau where everything is blank to (nearly) no error: the network can be trained."""
    torch.manual_seed(0)
    settings = recipe(
        steps=400, batch=16, warmup_steps=20, final_share=0.05, clip_norm=1.0, augment=False,
        eval_every=400, log_every=50, save_every=400,
    )  # fmt: skip
    lines = scribbles(64, Alphabet(tuple(ENTRY.manifest.config["alphabet"])), seed=1)
    network, _ = start(ENTRY, settings, ["a"])
    record = fit(HTRTask(network, settings, CPU, real=lines, validation=lines), settings, tmp_path / "run")
    losses = [row["ctc"] for row in read_table(tmp_path / "run/log.csv")]
    assert losses[-1] < 0.1 < losses[0]
    assert record.metrics["cer"] < 0.02
