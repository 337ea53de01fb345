"""Weights are loaded whole and right or not at all, and give what they gave when they were published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoo_core.errors import WeightsError
from zoo_core.manifest import WeightSet
from zoo_core.testing.conformance.subject import CPU, Subject
from zoo_core.testing.conformance.suite import Suite
from zoo_core.weights.build import build
from zoo_core.weights.files import load_strict, read_tensors, sha256_of, write_tensors
from zoo_core.weights.find import FoundWeights, find
from zoo_core.weights.golden import GOLDEN_TOLERANCE, golden_difference, golden_path


def _misfits(tensors: dict[str, Tensor]) -> dict[str, tuple[dict[str, Tensor], str]]:
    """Return files that do not fit, by what is wrong: the tensors, and the key that a message must name."""
    key = next(iter(tensors))
    rest = {name: tensor for name, tensor in tensors.items() if name != key}
    return {
        "missing key": (rest, key),
        "unknown key": ({**tensors, "conformance.unknown": torch.zeros(1)}, "conformance.unknown"),
        "wrong shape": ({**rest, key: torch.zeros(*tensors[key].shape, 2)}, key),
    }


def _refused_by_command(subject: Subject, weights: Path) -> None:
    """Check that `zoo predict --weights` refuses a file with exit code 4 and writes nothing."""
    if subject.manifest.entry.predictor is None:
        return
    done = subject.predict(subject.example, "-o", "refused", cwd=subject.folder, weights=weights)
    assert (done.code, done.stdout) == (4, ""), f"zoo predict --weights {weights.name}:\n{done.stderr}"
    assert weights.name in done.stderr
    assert not (subject.folder / "refused").exists()


class WeightChecks(Suite):
    """Nothing is left over, nothing is guessed."""

    def test_strict_load(self, subject: Subject, tmp_path: Path) -> None:
        """A missing key, an unknown key, a wrong shape and a file cut short are each refused and named."""
        tensors, facts = read_tensors(subject.found.path)
        for fault, (misfit, key) in _misfits(tensors).items():
            path = tmp_path / f"{fault.replace(' ', '-')}.safetensors"
            write_tensors(path, misfit, facts)
            with pytest.raises(WeightsError) as caught:
                build(subject.entry, FoundWeights(path, "path", None, ""), device=CPU, dtype=torch.float32)
            assert key in str(caught.value), f"{fault}: the message does not name the key"
            _refused_by_command(subject, path)
        short = tmp_path / "short.safetensors"
        short.write_bytes(subject.found.path.read_bytes()[:-1])
        with pytest.raises(WeightsError):
            read_tensors(short)
        _refused_by_command(subject, short)
        _refused_by_command(subject, tmp_path / "not-there.safetensors")

    def test_a_model_without_weights_says_so(self, subject: Subject) -> None:
        """Without published weights and without --weights the command ends with exit code 4 and says what to give."""
        if subject.manifest.weights or subject.manifest.entry.predictor is None:
            pytest.skip(f"{subject.id} has weights, or no predictor")
        done = subject.zoo.run("predict", subject.id, str(subject.example), cwd=subject.folder)
        assert (done.code, done.stdout) == (4, ""), done.stderr
        assert "--weights FILE" in done.stderr

    def test_wrong_bytes_are_refused(self, subject: Subject, tmp_path: Path) -> None:
        """An embedded file of the right size whose last byte differs is not loaded."""
        path = subject.found.path
        described = WeightSet(
            source="embedded", file="tampered.safetensors", size_bytes=path.stat().st_size, sha256=sha256_of(path),
            licence="none", trained_on="nothing",
        )  # fmt: skip
        manifest = subject.manifest.model_copy(update={"weights": (described,)})
        entry = replace(subject.entry, manifest=manifest, folder=tmp_path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / described.file).write_bytes(data)
        with pytest.raises(WeightsError, match="sha256"):
            find(entry)

    def test_save_and_load_round_trip(self, subject: Subject, tmp_path: Path) -> None:
        """What is saved gives the same output when it is loaded into a fresh network, bit for bit."""
        path = tmp_path / "saved.safetensors"
        write_tensors(path, subject.module.state_dict(), {})
        again = subject.fresh().eval()
        load_strict(again, read_tensors(path)[0], what="saved.safetensors")
        batch = subject.input()
        equal = torch.equal(subject.compute(batch, again), subject.compute(batch))
        assert equal, (
            "the network computes with something that is not in its state dict: make it a parameter or a buffer"
        )

    def test_golden_output(self, subject: Subject) -> None:
        """The published weights give the output that is kept in the package."""
        if not subject.manifest.weights:
            pytest.skip(f"{subject.id} is published without weights")
        weight_set = subject.found.weight_set
        if weight_set is None:
            pytest.skip(f"the weights of {subject.id} are not on this machine: zoo weights get {subject.id}")
        path = golden_path(subject.entry, weight_set)
        assert path.is_file(), (
            f"{subject.id} has weights and no golden example: `zoo weights golden {subject.id}` writes {path} for "
            "models of images; for others write that safetensors file with `input` and `output` yourself"
        )
        difference = golden_difference(subject.module, read_tensors(path)[0], what=str(path))
        assert difference <= GOLDEN_TOLERANCE, (
            f"the network no longer gives what it gave when {path.name} was made: find out what changed; after new "
            f"weights: zoo weights golden {subject.id} --overwrite"
        )
