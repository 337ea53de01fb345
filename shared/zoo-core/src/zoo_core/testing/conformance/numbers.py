"""The network computes the same for an example, whatever is beside it and however often, and in every precision."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoo_core.predict import DTYPES, run
from zoo_core.testing.conformance.subject import Subject
from zoo_core.testing.conformance.suite import Suite

# All as a share of the largest value of the output. Another batch size lets a library choose another kernel, which
# adds up in another order; half precision has a mantissa of 10 or 7 bits and rounds at every layer.
BATCH_TOLERANCE = 1e-5
PRECISION_TOLERANCE = {"fp16": 0.01, "bf16": 0.05}


def difference(output: Tensor, reference: Tensor) -> float:
    """Return the largest difference as a share of the largest value; infinite if anything is not finite."""
    if not torch.isfinite(output).all():
        return float("inf")
    return float((output.double() - reference.double()).abs().max() / reference.abs().max().clamp_min(1e-12))


class NumberChecks(Suite):
    """What a batch, a seed or a precision may change."""

    def test_deterministic(self, subject: Subject) -> None:
        """The same call twice gives the same bits; so does the same seed in a network that draws random numbers."""
        batch = subject.input()
        outputs = []
        for _ in range(2):
            torch.manual_seed(0)
            outputs.append(subject.compute(batch))
        # figures before the asserts, here and below: a failure then shows them and not whole tensors
        equal, largest = torch.equal(*outputs), float(outputs[0].abs().max())
        assert equal, "two calls with equal weights, inputs and seeds differ"
        assert 0 < largest < float("inf"), "the output for an ordinary input is zero everywhere or not finite"

    def test_predictions_repeat(self, subject: Subject, tmp_path: Path) -> None:
        """Two predictions of a file write the same bytes, whatever the caller's random generator did before."""
        predictor = subject.predictor()
        written = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            (outcome,) = run(predictor, [subject.example], out=tmp_path / str(seed))
            assert outcome.error is None, f"{subject.example.name}: {outcome.error}"
            written.append({path.name: path.read_bytes() for path in outcome.written})
        names = written[0].keys() | written[1].keys()
        differing = sorted(name for name in names if written[0].get(name) != written[1].get(name))
        assert not differing, "draw random numbers from a generator with a seed of its own, not the global one"

    def test_independent_of_the_batch(self, subject: Subject) -> None:
        """An example alone, among others, and among garbage gives the same output."""
        first, second, third = (subject.input(seed) for seed in range(3))
        alone = subject.compute(first)
        batches = {
            "one other example": [first, second],
            "two others before it": [third, second, first],
            "itself": [first, first],
            "huge values": [first, torch.full_like(first, 1e30)],
            "values that are not a number": [torch.full_like(first, torch.nan), first],
        }
        for mates, examples in batches.items():
            output = subject.compute(torch.cat(examples))
            place = next(i for i, example in enumerate(examples) if example is first)
            assert len(output) == len(examples), "the output must have the batch axis first; or override compute"
            off = difference(output[place], alone[0])
            assert off <= BATCH_TOLERANCE, (
                f"beside {mates} in its batch an example has another output: is anything averaged over the batch "
                "(a batch norm that is not in eval mode, a maximum or mean over all of a tensor)?"
            )
        apart = difference(subject.compute(second), alone)
        assert apart > BATCH_TOLERANCE, "the output does not depend on the input"

    @pytest.mark.parametrize("precision", list(PRECISION_TOLERANCE))
    def test_half_precision(self, subject: Subject, precision: str) -> None:
        """Each precision of the manifest runs and is near fp32."""
        if precision not in subject.manifest.precisions:
            pytest.skip(f"{subject.id} does not list {precision} in its precisions")
        batch, dtype = subject.input(), DTYPES[precision]
        half = copy.deepcopy(subject.module).to(dtype)
        off = difference(subject.compute(batch.to(dtype), half), subject.compute(batch))
        assert off <= PRECISION_TOLERANCE[precision], (
            f"{precision} is {off:.2g} of the largest value off: keep sums and normalisations in fp32, or take "
            f"{precision} out of the manifest's precisions"
        )
        if subject.manifest.entry.predictor is not None:
            subject.predictor(precision).predict(subject.example)
