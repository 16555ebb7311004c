"""A small ranker for prompts that were never answered: ridge regression on what a prompt's text shows."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORDS = re.compile(r"[^\W\d_]+")
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
_BUCKETS = 48
_COUNTED = (
    re.compile(r"[-+*/^=<>×÷]"),  # operators
    re.compile(r"\\[A-Za-z]+"),  # TeX commands
    re.compile(r"[()\[\]{}]"),
    re.compile(r"\?"),
    re.compile(r"\n"),
    re.compile(r"\$"),
)
FEATURES = 5 + len(_COUNTED) + _BUCKETS


def prompt_features(text: str, tokens: int) -> NDArray[np.float64]:
    """What is known of a prompt before it is answered: (FEATURES,), the first being the constant 1.

    Args:
        text: the prompt; may be empty where only its size is known.
        tokens: tokens of the prompt.
    """
    words, numbers = _WORDS.findall(text.lower()), _NUMBERS.findall(text)
    digits = sum(len(number) for number in numbers)
    counts = [float(tokens), len(words), len(numbers), digits, *(len(kind.findall(text)) for kind in _COUNTED)]
    buckets = np.zeros(_BUCKETS)
    for word in set(words):
        # Python's own hash differs from process to process.
        value = zlib.crc32(word.encode())
        buckets[value % _BUCKETS] += 1.0 if value >> 31 else -1.0
    norm = math.sqrt(float(buckets @ buckets))
    return np.concatenate([[1.0], np.log1p(counts), buckets / norm if norm else buckets])


class LengthRanker:
    """Ridge regression from `prompt_features` to a target, learnt step by step.

    It keeps the sufficient statistics alone (X'X and X'y, faded by `fading` a step, so that old policies are
    forgotten), never the prompts.

    Args:
        fading: what a step leaves of the statistics before it, in (0, 1].
        penalty: ridge penalty on all weights but the constant's.
    """

    def __init__(self, fading: float = 0.99, penalty: float = 3.0) -> None:
        if not 0 < fading <= 1 or not penalty > 0:
            raise ValueError(f"fading = {fading}, penalty = {penalty}: allowed are 0 < fading <= 1 and penalty > 0")
        self.fading, self.penalty = fading, penalty
        self._square = np.zeros((FEATURES, FEATURES))
        self._product = np.zeros(FEATURES)
        self._weights: NDArray[np.float64] | None = None

    @property
    def rows(self) -> float:
        """How many prompts the statistics stand for, faded ones in part."""
        return float(self._square[0, 0])

    def learn(self, features: NDArray[np.float64], targets: Sequence[float]) -> None:
        """Take in one step: features (P, FEATURES) and targets (P,)."""
        self._square = self.fading * self._square + features.T @ features
        self._product = self.fading * self._product + features.T @ np.asarray(targets, dtype=np.float64)
        self._weights = None

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Targets of prompts (P, FEATURES): (P,); zeros before anything was learnt."""
        if not self.rows:
            return np.zeros(len(features))
        if self._weights is None:
            penalty = np.full(FEATURES, self.penalty)
            penalty[0] = 1e-9
            self._weights = np.asarray(np.linalg.solve(self._square + np.diag(penalty), self._product))
        targets: NDArray[np.float64] = features @ self._weights
        return targets

    def state(self) -> dict[str, Any]:
        """Plain JSON values; `restore` gives the same predictions to the last bit."""
        upper = self._square[np.triu_indices(FEATURES)]
        return {"features": FEATURES, "square": upper.tolist(), "product": self._product.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: the state was saved by a version with other features.
        """
        if state["features"] != FEATURES:
            raise ValueError(
                f"the saved length ranker has {state['features']} features, this version {FEATURES} -> start the"
                " predictor anew; it learns from the next steps"
            )
        square = np.zeros((FEATURES, FEATURES))
        square[np.triu_indices(FEATURES)] = state["square"]
        self._square = square + np.triu(square, 1).T
        self._product = np.asarray(state["product"], dtype=np.float64)
        self._weights = None
