"""From log-probabilities to readings, the whole way: temperature, masks, decoder, language, confidences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError, did_you_mean
from zoo_htr.align import best_spans, log_likelihoods
from zoo_htr.alphabet import Alphabet
from zoo_htr.backends import Bounds
from zoo_htr.beam import WIDTH, Hypothesis, Scorer, beam_search
from zoo_htr.confidence import Calibration, DecoderName, features, find_calibration, read_calibration, tempered
from zoo_htr.correct import better
from zoo_htr.fingerprint import fingerprint
from zoo_htr.greedy import alternatives, greedy_lines, line_confidence
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.language import Language
from zoo_htr.lexicon import Lexicon, Together, masked, permitted, read_entries
from zoo_htr.ngram.model import Mixture
from zoo_htr.options import BELOW, HTROptions
from zoo_htr.reading import Char, Reading

DECODERS = ("greedy", "beam")
OTHERS = 4  # texts that a reading names beside its own
LANGUAGE_SCALE = 0.5  # where nothing was calibrated
BONUS = 1.0
MOST_CHOICES = 20_000
_CHOICES_AT_ONCE = 256


class Decoder:
    """Reads the log-probabilities of lines.

    Args:
        alphabet: of the network.
        decoder: greedy (the likeliest symbol of each frame) or beam (prefix beam search with character n-grams).
        language: of the n-grams: auto, fr, en, none, or an n-gram file; for greedy, of the confidences alone.
        width: of the beam.
        below: the beam reads lines whose greedy reading is less sure than this, by the mean posterior of its symbols;
            the others stay as greedy reads them. 1 gives it all lines, as a lexicon does whatever stands here.
        lexicon: a list of words, for the beam.
        charset: characters that may be read, as in the brackets of a regular expression's set.
        choices: a list of all lines that can occur; the likeliest of them is taken, whatever the decoder.
        correct: let the language change what the greedy decoder is unsure of; the reading keeps both texts.
        calibration: of the network's weights; without it confidences are plain posteriors.

    Raises:
        UsageError: no such decoder, language or set, or options that exclude each other.
        InputError: a list or an n-gram file cannot be read.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        *,
        decoder: str = "greedy",
        language: str = "auto",
        width: int = WIDTH,
        below: float = BELOW,
        lexicon: Path | None = None,
        charset: str | None = None,
        choices: Path | None = None,
        correct: bool = False,
        calibration: Calibration | None = None,
    ) -> None:
        if decoder not in DECODERS:
            raise UsageError(f"There is no decoder {decoder!r}.", did_you_mean(decoder, DECODERS))
        if width < 1:
            raise UsageError(f"The width of a beam is at least 1, not {width}.")
        if not 0 <= below <= 1:
            raise UsageError(f"A confidence is from 0 to 1, not {below}.")
        if decoder == "greedy" and lexicon is not None:
            raise UsageError("The greedy decoder has no lexicon.", "Add --decoder beam.")
        if correct and (decoder != "greedy" or language == "none"):
            raise UsageError(
                "Correction needs the greedy decoder and a language.", "The beam uses the language anyway."
            )
        self.alphabet, self.width, self.correct, self.calibration = alphabet, width, correct, calibration
        self.decoder: DecoderName = "beam" if decoder == "beam" else "greedy"
        asked = decoder == "beam" or correct or calibration is not None
        self.language = Language(language) if asked and language != "none" else None
        self.below = 1.0 if lexicon is not None else below
        self.lexicon = Lexicon(read_entries(lexicon), alphabet) if lexicon is not None else None
        self.allowed = permitted(alphabet, charset) if charset is not None else None
        self.choices = self._labels(choices) if choices is not None else None

    @classmethod
    def by_options(cls, entry: CatalogEntry, network: HTRJAND, options: HTROptions) -> Decoder:
        """Make the decoder that options ask for.

        Raises:
            UsageError, InputError: see the class; or the calibration named is another network's.
        """
        weights = fingerprint(network)
        if options.calibration is not None:
            calibration: Calibration | None = read_calibration(options.calibration)
            if calibration is not None and calibration.weights != weights:
                raise UsageError(
                    f"{options.calibration} belongs to weights {calibration.weights}, these are {weights}.",
                    "Fit one for them: python -m zoo_htr.calibrate.",
                )
        else:
            calibration = find_calibration(weights, [entry.folder / "weights"])
        return cls(
            network.alphabet,
            decoder=options.decoder,
            language=options.lm,
            width=options.beam_width,
            below=options.beam_below,
            lexicon=options.lexicon,
            charset=options.charset,
            choices=options.choices,
            correct=options.correct,
            calibration=calibration,
        )

    @property
    def described(self) -> str:
        """The decoder in words, for files that say what read them."""
        parts: list[str] = [self.decoder]
        if self.decoder == "beam":
            parts += [f"width {self.width}", f"below {self.below:g}"]
        parts += [name for name in ("lexicon", "choices") if getattr(self, name) is not None]
        parts += ["charset"] if self.allowed is not None else []
        parts += ["corrected"] if self.correct else []
        return ", ".join(parts)

    @property
    def facts(self) -> dict[str, Any]:
        """What a result says of how it was decoded."""
        return {
            "decoder": self.decoder,
            "width": self.width if self.decoder == "beam" else None,
            "below": self.below if self.decoder == "beam" else None,
            "language": self.language.name if self.language else None,
            "ngrams": self.language.facts if self.language else {},
            "corrected": self.correct,
            "calibrated": self.calibration is not None,
        }

    def read(self, log_probs: Sequence[Tensor]) -> list[Reading]:
        """Read the lines of one page, or of one hand: they share the weights of the language models.

        Args:
            log_probs: for each line (T, V) log-softmax, T may be 0.
        """
        logs = [self._prepared(line) for line in log_probs]
        first = greedy_lines([torch.from_numpy(line) for line in logs], self.alphabet)
        mixture = self._mixture([reading.text for reading in first])
        if self.choices is not None:
            return [self._chosen(line, mixture) for line in logs]
        if self.decoder == "beam":
            return [
                self._sure(line, reading, mixture, "greedy") if self._is_sure(reading) else self._beam(line, mixture)
                for line, reading in zip(logs, first, strict=True)
            ]
        readings = [self._sure(line, reading, mixture, "greedy") for line, reading in zip(logs, first, strict=True)]
        if self.correct and mixture is not None:
            readings = [self._corrected(line, r, mixture) for line, r in zip(logs, readings, strict=True)]
        return readings

    def features(self, log_probs: Sequence[Tensor], readings: Sequence[Reading]) -> list[NDArray[np.float64]]:
        """Return the features of the characters of readings of one page: what a calibration is fitted on.

        Args:
            log_probs: as for `read`.
            readings: what `read` made of them.
        """
        logs = [self._prepared(line) for line in log_probs]
        first = greedy_lines([torch.from_numpy(line) for line in logs], self.alphabet)
        mixture = self._mixture([reading.text for reading in first])
        return [reading_features(x, r, self.alphabet, mixture) for x, r in zip(logs, readings, strict=True)]

    def _prepared(self, line: Tensor) -> NDArray[np.float32]:
        logs: NDArray[np.float32] = line.detach().float().cpu().numpy()
        if self.calibration is not None:
            logs = tempered(logs, self.calibration.temperature)
        return logs if self.allowed is None else masked(logs, self.allowed)

    def _mixture(self, texts: Sequence[str]) -> Mixture | None:
        if self.language is None:
            return None
        scale = self.calibration.language_scale if self.calibration else LANGUAGE_SCALE
        return self.language.mixture(texts, self.alphabet, scale=scale)

    @property
    def bounds(self) -> Bounds:
        """What the calibration knows of the numbers in the network, for int8; empty if nothing."""
        return self.calibration.bounds if self.calibration is not None else {}

    @property
    def _bonus(self) -> float:
        if self.language is None:
            return 0.0
        return self.calibration.bonus if self.calibration else BONUS

    def _beam(self, logs: NDArray[np.float32], mixture: Mixture | None) -> Reading:
        scorers: list[Scorer] = [scorer for scorer in (mixture, self.lexicon) if scorer is not None]
        scorer = Together(scorers) if len(scorers) > 1 else next(iter(scorers), None)
        found = beam_search(logs, scorer, width=self.width, bonus=self._bonus)
        return self._reading(logs, found, mixture)

    def _chosen(self, logs: NDArray[np.float32], mixture: Mixture | None) -> Reading:
        assert self.choices is not None  # noqa: S101 (for mypy)
        scores: list[float] = []
        for at in range(0, len(self.choices), _CHOICES_AT_ONCE):
            scores += log_likelihoods(logs, self.choices[at : at + _CHOICES_AT_ONCE])
        order = np.argsort([-score for score in scores], kind="stable")[: OTHERS + 1]
        found = [Hypothesis(self.choices[i], scores[i], scores[i]) for i in order if np.isfinite(scores[i])]
        return self._reading(logs, found, mixture)

    def _corrected(self, logs: NDArray[np.float32], reading: Reading, mixture: Mixture) -> Reading:
        found = better(logs, reading, self.alphabet, mixture, bonus=self._bonus, width=self.width)
        if found is None:
            return reading
        return replace(self._reading(logs, [found], mixture), others=reading.others, before=reading.text)

    def _reading(self, logs: NDArray[np.float32], found: Sequence[Hypothesis], mixture: Mixture | None) -> Reading:
        """Make a reading of hypotheses, the first of which is taken."""
        if not found:
            return Reading((), 0.0, -np.inf)
        best, *rest = found
        spans = best_spans(logs, best.label)
        peaks = [start + int(logs[start:end, c].argmax()) for c, (start, end) in zip(best.label, spans, strict=True)]
        rivals = alternatives(logs[peaks], np.array(best.label, int), self.alphabet)
        chars = []
        for symbol, (start, end), others in zip(best.label, spans, rivals, strict=True):
            own = logs[start:end, symbol]
            sure = min(float(np.exp(own).mean()), 1.0)
            chars.append(Char(self.alphabet.symbols[symbol], sure, start, end, others))
        empty = float(np.exp(logs[:, 0]).mean()) if len(logs) else 1.0
        texts = tuple((self.alphabet.decode(h.label), h.score) for h in rest[:OTHERS])
        reading = Reading(tuple(chars), line_confidence(chars, empty), best.score, texts)
        return self._sure(logs, reading, mixture, self.decoder)

    def _is_sure(self, reading: Reading) -> bool:
        """Whether a greedy reading, as yet uncalibrated, needs no search."""
        return self.below < 1 and reading.confidence >= self.below

    def _sure(
        self, logs: NDArray[np.float32], reading: Reading, mixture: Mixture | None, decoder: DecoderName
    ) -> Reading:
        """Return a reading of a decoder with calibrated confidences, if there is a calibration."""
        if self.calibration is None:
            return reading
        return self.calibration.apply(decoder, reading, reading_features(logs, reading, self.alphabet, mixture))

    def _labels(self, path: Path) -> list[tuple[int, ...]]:
        entries = read_entries(path)
        if len(entries) > MOST_CHOICES:
            raise UsageError(f"{path} has {len(entries)} lines; choices are at most {MOST_CHOICES}.", "Use --lexicon.")
        labels = [tuple(self.alphabet.encode(entry)) for entry in entries if not self.alphabet.unknown(entry)]
        if not labels:
            raise UsageError(f"No line of {path} can be written with the model's characters.")
        return labels


def label_of(reading: Reading, alphabet: Alphabet) -> list[int]:
    """Return the symbol indices of a reading, blanks at its ends included."""
    return [alphabet.index(char.text) for char in reading.chars]


def reading_features(
    logs: NDArray[np.floating], reading: Reading, alphabet: Alphabet, mixture: Mixture | None
) -> NDArray[np.float64]:
    """Return the features of a reading's characters, (L, 4); see `zoo_htr.confidence.features`."""
    label = label_of(reading, alphabet)
    known = mixture.symbol_logs(label)[:-1] if mixture is not None else [0.0] * len(label)
    return features(logs, label, [(char.start, char.end) for char in reading.chars], known)
