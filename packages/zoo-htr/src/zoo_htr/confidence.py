"""How sure a reading is: from posteriors, which are too sure and nearly all 0 or 1, to probabilities of being right.

A calibration is fitted on lines that the network was not trained on (`python -m zoo_htr.calibrate`) and belongs to one
set of weights. It holds a temperature for the logits, the weights of the language model, and for each decoder a map:
features of a character -> logistic regression -> a monotone step function (isotonic regression) -> probability.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoo_core.errors import InputError
from zoo_htr.alphabet import BLANK
from zoo_htr.greedy import LEAST, line_confidence
from zoo_htr.reading import Char, Reading

Floats: TypeAlias = NDArray[np.float64]
DecoderName: TypeAlias = Literal["greedy", "beam"]

FEATURES = ("mean_log", "margin", "language_log", "log_frames")
SUFFIX = ".calibration.json"
MOST_BYTES = 1 << 20
_LOWEST = -12.0  # logs below say the same: impossible


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Share = Annotated[float, Field(ge=0, le=1)]


class Monotone(_Data):
    """A function that never falls: straight between points, level outside of them."""

    x: tuple[float, ...] = Field(min_length=1, max_length=4096)
    y: tuple[Share, ...] = Field(min_length=1, max_length=4096)

    @model_validator(mode="after")
    def _rises(self) -> Monotone:
        if len(self.x) != len(self.y) or list(self.x) != sorted(self.x) or list(self.y) != sorted(self.y):
            raise ValueError("x and y of a monotone function are as long as each other, and rise")
        return self

    def __call__(self, values: Floats | float) -> Floats:
        """Return the function at values."""
        return np.asarray(np.interp(values, self.x, self.y), np.float64)


class ConfidenceMap(_Data):
    """How one decoder's features become probabilities."""

    centre: tuple[float, ...] = Field(min_length=4, max_length=4, description="of each feature")
    spread: tuple[float, ...] = Field(min_length=4, max_length=4, description="of each feature")
    slope: tuple[float, ...] = Field(min_length=4, max_length=4, description="of each feature over its spread")
    bias: float = Field(description="of the logistic regression")
    char: Monotone = Field(description="from its log-odds to P(character right)")
    word: Monotone = Field(description="from the characters' geometric mean to P(word right)")
    line: Monotone = Field(description="from the characters' geometric mean to 1 - CER of the line")
    empty: Share = Field(1.0, description="share of the lines without a reading that are empty")
    exact: Monotone = Field(description="from the sum of the characters' logs to P(line without an error)")

    def chars(self, features: Floats) -> Floats:
        """Return P(right) of characters, (L,), from their features (L, 4)."""
        values = (features - np.array(self.centre)) / np.array(self.spread)
        return self.char(values @ np.array(self.slope) + self.bias)


class Calibration(_Data):
    """What was fitted for one file of weights."""

    format: Literal[1] = 1
    model: str = Field(description="id of the model")
    weights: str = Field(pattern=r"^[0-9a-f]{16}$", description="fingerprint of the weights that it belongs to")
    fitted_on: str = Field(description="the lines, in words")
    temperature: float = Field(gt=0, le=100, description="logits are divided by it")
    language_scale: float = Field(ge=0, le=10, description="alpha: weight of the language model in the beam search")
    bonus: float = Field(ge=-10, le=10, description="beta: nats a character in the beam search")
    maps: dict[DecoderName, ConfidenceMap] = Field(default_factory=dict, description="by decoder")
    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict, description="of numbers in the network: int8")

    def apply(self, decoder: DecoderName, reading: Reading, features: Floats) -> Reading:
        """Return a reading whose confidences are probabilities; as it is, if the decoder was not calibrated.

        Args:
            decoder: that made it.
            reading: as it came out of the decoder.
            features: (L, 4), of its characters; see `features`.
        """
        chosen = self.maps.get(decoder)
        if chosen is None:
            return reading
        if not reading.chars:
            empty = reading.confidence * chosen.empty
            return replace(reading, confidence=empty, exact=empty)
        sure = chosen.chars(features)
        pairs = zip(reading.chars, sure.tolist(), strict=True)
        chars = tuple(Char(char.text, p, char.start, char.end, char.alternatives) for char, p in pairs)
        plain = Reading(chars, line_confidence(chars, 1.0), reading.score)
        words = chosen.word(np.array([word.confidence for word in plain.words()]))
        return replace(
            reading,
            chars=chars,
            confidence=float(chosen.line(plain.confidence)),
            word_confidences=tuple(float(p) for p in words),
            exact=float(chosen.exact(log_sum(chars))),
        )


def log_sum(chars: Sequence[Char]) -> float:
    """Return the sum of the logs of confidences: of the probability that all are right, if they did not depend."""
    return sum(math.log(max(char.confidence, LEAST)) for char in chars)


def tempered(log_probs: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return log-probabilities (T, V) as if the logits had been divided by the temperature before the softmax."""
    if temperature == 1 or not log_probs.size:
        return log_probs
    cooled = log_probs / np.float32(temperature)
    cooled -= cooled.max(axis=1, keepdims=True)
    total: NDArray[np.float32] = np.log(np.exp(cooled).sum(axis=1, keepdims=True))
    return cooled - total


def features(
    log_probs: NDArray[np.floating],
    label: Sequence[int],
    spans: Sequence[tuple[int, int]],
    language_logs: Sequence[float],
) -> Floats:
    """Return what is known of each character, (L, 4), in the order of `FEATURES`.

    Args:
        log_probs: (T, V) log-softmax, tempered.
        label: symbol indices.
        spans: frames [start, end) of each.
        language_logs: log probability of each by the language model; zeros without one.
    """
    table = np.zeros((len(label), len(FEATURES)))
    if not label:
        return table
    starts, ends = np.array(spans).T
    lengths = ends - starts
    firsts = np.cumsum(lengths) - lengths  # of each character among the frames of all of them
    frames = np.arange(lengths.sum()) + np.repeat(starts - firsts, lengths)
    symbols = np.repeat(np.array(label), lengths)
    logs, rows = log_probs[frames].astype(np.float64), np.arange(len(frames))
    own = np.maximum(logs[rows, symbols], _LOWEST)
    logs[:, BLANK] = logs[rows, symbols] = -np.inf
    rivals = np.maximum(logs.max(axis=1), _LOWEST)
    table[:, 0] = np.add.reduceat(own, firsts) / lengths
    table[:, 1] = np.maximum.reduceat(own - rivals, firsts)
    table[:, 2] = np.maximum(language_logs, _LOWEST)
    # its own frames, and half of those from the end of its neighbour before to the begin of the one behind
    before = np.append(max(starts[0] - 4, 0), ends[:-1])
    behind = np.append(starts[1:], min(ends[-1] + 4, len(log_probs)))
    table[:, 3] = np.log(np.maximum(ends - starts + (behind - before) / 2, 0.5))
    return table


def read_calibration(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        InputError: missing, too large, or not one.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is no calibration: it has more than {MOST_BYTES} bytes.")
        return Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no calibration ({reason}).", "python -m zoo_htr.calibrate makes one.") from error


def find_calibration(weights: str, folders: Sequence[Path]) -> Calibration | None:
    """Return the calibration of weights with this fingerprint from the first folder that has one; None if none has.

    Raises:
        InputError: a file of the right name there is no calibration.
    """
    for folder in folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            found = read_calibration(path)
            if found.weights == weights:
                return found
    return None


def as_json(calibration: Calibration) -> str:
    """Return the text of a calibration's file."""
    return json.dumps(calibration.model_dump(mode="json"), indent=1) + "\n"
