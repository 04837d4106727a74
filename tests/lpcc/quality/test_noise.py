"""Distance of outputs in one number."""

from __future__ import annotations

import numpy as np

from lpcc.quality.noise import noise_parts


def probabilities(seed=0, classes=300):
    logits = np.random.default_rng(seed).normal(size=(16, classes)) * 2
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def decisions(expected, found):
    return noise_parts([({"y": expected}, {"y": found})]).decisions


def test_rounded_probabilities_stay_probabilities():
    exact = probabilities()
    rounded = np.rint(exact * 256) / np.float32(256)
    assert abs(rounded.sum(axis=1) - 1).max() > 1e-3, "they do not add up to one any more"
    assert 0 < decisions(exact, rounded) < 0.05
    assert decisions(exact, rounded) < decisions(exact, np.rint(probabilities(seed=1) * 256) / np.float32(256))


def test_logits_and_their_probabilities_diverge_alike():
    logits = np.random.default_rng(2).normal(size=(16, 10)).astype(np.float32)
    moved = logits + np.float32(0.1) * np.random.default_rng(3).normal(size=(16, 10)).astype(np.float32)
    both = [np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, moved)]
    assert np.isclose(decisions(logits, moved), decisions(*both), rtol=1e-4)
    assert decisions(logits, logits) == 0
