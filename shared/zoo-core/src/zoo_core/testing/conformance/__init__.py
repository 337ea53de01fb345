"""The conformance suite: what every model must live up to, ours or a third party's.

The tests of a package use it in three lines; its models then appear as `test_strict_load[imdn-x4]` and so on::

    from zoo_core.testing.conformance import Conformance

    class TestConformance(Conformance):
        package = "zoo_sr"

The package must be installed (editable will do). Models without published weights are tested with fresh ones and skip
what needs published ones. What the core cannot make up, a subclass overrides: `example_input`, `example_file` and
`bad_files` for kinds of inputs that the core does not know, `compute` for networks that take more than one tensor.
Every failure says what to do.
"""

import pytest

# before they are imported, so that a failed assert shows its values
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("listing", "manifest", "numbers", "predicting", "training", "weights"))
)

from zoo_core.testing.conformance.listing import ListingChecks  # noqa: E402
from zoo_core.testing.conformance.manifest import ManifestChecks  # noqa: E402
from zoo_core.testing.conformance.numbers import NumberChecks  # noqa: E402
from zoo_core.testing.conformance.predicting import PredictingChecks  # noqa: E402
from zoo_core.testing.conformance.subject import Subject  # noqa: E402
from zoo_core.testing.conformance.training import TrainingChecks  # noqa: E402
from zoo_core.testing.conformance.weights import WeightChecks  # noqa: E402

__all__ = ["Conformance", "Subject"]


class Conformance(ListingChecks, ManifestChecks, WeightChecks, NumberChecks, PredictingChecks, TrainingChecks):
    """All checks; a subclass names its package, and overrides the hooks of `Suite` where the core cannot guess."""
