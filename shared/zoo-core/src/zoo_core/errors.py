"""Errors that a user sees: one sentence on what and where, one on what to do now, and the exit code of the process.

Exit codes of every `zoo` command: 0 all good, 1 failed, 2 usage, 3 some inputs failed and the others were written,
4 weights missing or wrong, 5 the environment lacks something, 130 interrupted, 143 terminated after saving.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZooError(Exception):
    """What went wrong, what to do about it, and with which exit code a command ends.

    Args:
        message: one sentence that names the file, key or place.
        remedy: one sentence that says what to do now; may be empty where nothing can be done.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class UsageError(ZooError):
    """The command, an option, a model id or a recipe key is off."""

    exit_code = 2


class InputError(ZooError):
    """One input cannot be used; the rest of a batch goes on."""

    exit_code = 3


class WeightsError(ZooError):
    """Weights are missing, unreadable, not the ones that the manifest names, or of another model."""

    exit_code = 4


class MissingDependencyError(ZooError):
    """The environment lacks something; the remedy is the exact install line."""

    exit_code = 5


class InterruptedRunError(ZooError):
    """Stopped by SIGINT (130) or SIGTERM (143) after saving."""

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = 130) -> None:
        super().__init__(message, remedy)
        self.exit_code = exit_code


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a remedy that names the nearest known word, or lists what is known when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}." if names else ""
