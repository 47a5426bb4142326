"""Scores of out-of-fold predictions, with bootstrap intervals over patients.

Every score is a function of weights: the number of times that each patient is drawn. So all draws are computed at once.
Ranks and correlations compare only patients of one test fold. Predictions of different folds are by different models,
and comparing them lowers the AUC and the correlation of a model without information below chance.

Axes: W draws, R repeats, n patients, G groups.
"""

from __future__ import annotations

import numpy as np

SMALL = 1e-9  # a variance of constant predictions, up to rounding
Scores = dict[str, np.ndarray]  # name -> (W,)
GROUP_SCORES, EF_SCORES = ("balanced_accuracy", "auc"), ("mae", "r2", "r")


def draw_weights(strata: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Weights (1 + draws, n): first 1 for each patient, then bootstrap draws within each group.

    Args:
        strata: (n,) group of each patient; its size is the same in every draw.
        draws: number of bootstrap draws.
        seed: random seed.
    """
    weights, rng = np.ones((1 + draws, len(strata))), np.random.default_rng(seed)
    for group in np.unique(strata):
        members = strata == group
        count = int(members.sum())
        weights[1:, members] = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    return weights


def score_groups(probabilities: np.ndarray, y: np.ndarray, folds: np.ndarray, weights: np.ndarray) -> Scores:
    """Balanced accuracy and macro AUC, one group against the others; each a mean over repeats.

    Args:
        probabilities: (R, n, G).
        y: (n,) true groups, 0 to G - 1.
        folds: (R, n) test folds.
        weights: (W, n).
    """
    correct = (probabilities.argmax(2) == y).mean(0)  # (n,)
    together = folds[:, :, None] == folds[:, None, :]  # (R, n, n)
    recalls, areas = [], []
    for group in range(probabilities.shape[2]):
        members, score = y == group, probabilities[:, :, group]
        own, others = weights[:, members], weights[:, ~members]
        recalls.append(own @ correct[members] / own.sum(1))
        pairs = together[:, members][:, :, ~members]  # (R, members, others)
        margin = score[:, members, None] - score[:, None, ~members]
        wins = (pairs * ((margin > 0) + 0.5 * (margin == 0))).mean(0)
        areas.append(_ratio(((own @ wins) * others).sum(1), ((own @ pairs.mean(0)) * others).sum(1)))
    return {"balanced_accuracy": np.mean(recalls, axis=0), "auc": np.mean(areas, axis=0)}


def score_values(predictions: np.ndarray, y: np.ndarray, folds: np.ndarray, weights: np.ndarray) -> Scores:
    """Mean absolute error, R² and Pearson's r within test folds; the first two are means over repeats.

    Args:
        predictions: (R, n).
        y: (n,) true values.
        folds: (R, n) test folds.
        weights: (W, n).
    """
    total = weights.sum(1)
    error = predictions - y
    spread = weights @ y**2 - (weights @ y) ** 2 / total
    products = np.zeros((3, len(weights)))  # of deviations: prediction and truth, prediction twice, truth twice
    for predicted, assigned in zip(predictions, folds, strict=True):
        for fold in np.unique(assigned):
            test = assigned == fold
            w, p, t = weights[:, test], predicted[test] - predicted[test].mean(), y[test] - y[test].mean()
            for row, (a, b) in enumerate(((p, t), (p, p), (t, t))):
                products[row] += w @ (a * b) - _ratio((w @ a) * (w @ b), w.sum(1), empty=0.0)
    known = (products[1] > SMALL) & (products[2] > SMALL)
    return {
        "mae": weights @ abs(error).mean(0) / total,
        "r2": 1 - _ratio(weights @ (error**2).mean(0), spread),
        "r": np.where(known, products[0] / np.sqrt(np.where(known, products[1] * products[2], 1)), np.nan),
    }


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the draws that are known; NaN if none is."""
    known = draws[np.isfinite(draws)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def _ratio(above: np.ndarray, below: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Quotients; `empty` where the divisor is 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), empty)
