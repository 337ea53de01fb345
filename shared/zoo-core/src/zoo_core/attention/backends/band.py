"""Our own kernel for bands with decay; see `zoo_core.kernels.band`."""

from __future__ import annotations

from zoo_core.attention.call import Call, Result


def refusal(call: Call) -> str:
    """Return why it cannot run a call."""
    return "it is not written yet"


def run(call: Call) -> Result:
    """Compute a call."""
    raise NotImplementedError
