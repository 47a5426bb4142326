"""Linear probes by repeated cross-validation over patients.

Standardisation, rotation and the choice of the regularisation are fitted on the training patients of each fold. A
feature that is constant among these patients has no influence; otherwise its standardised value in a test patient could
be of any size. The rotation, for more features than patients, is to the directions in which the training patients
differ. It does not change a linear model with an L2 penalty, whose weights lie in these directions, and makes the fit
much faster.

Axes: R repeats, n patients, G groups.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

STRENGTHS = np.logspace(-5, 1, 7)  # C of the logistic regression, the inverse of its penalty
PENALTIES = np.logspace(-1, 6, 15)  # alpha of the ridge regression
INNER_FOLDS = 3
ITERATIONS = 2000
ROUNDING = 1e-5  # a feature that varies less than this share of its largest value is constant, but for rounding


def require_sklearn() -> None:
    """Raise a ValueError if scikit-learn, an optional package, is not installed."""
    if find_spec("sklearn") is None:
        raise ValueError("probe.py needs a package that is not installed: pip install scikit-learn")


def assign_folds(strata: np.ndarray, folds: int, repeats: int, seed: int) -> np.ndarray:
    """Assign each patient to a test fold, in each repeat; every fold has the same share of each group.

    Args:
        strata: (n,) group of each patient.
        folds: number of folds.
        repeats: R.
        seed: random seed.

    Returns:
        (R, n) index of the fold in which a patient is tested.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold  # optional, see `require_sklearn`

    splitter = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    assigned = np.empty((repeats, len(strata)), int)
    for index, (_, test) in enumerate(splitter.split(np.zeros(len(strata)), strata)):
        assigned[index // folds, test] = index % folds
    return assigned


def predict_groups(x: np.ndarray, y: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities of the groups by logistic regression, (R, n, G), each for a patient outside the training fold.

    Args:
        x: (n, number of features); without features, the frequencies of the training fold are predicted.
        y: (n,) group of each patient, 0 to G - 1; every group is in every training fold.
        folds: from `assign_folds`.
        seed: random seed of the inner folds.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    def model(y: np.ndarray) -> Any:
        if not x.shape[1]:
            return DummyClassifier()
        inner = StratifiedKFold(min(INNER_FOLDS, np.bincount(y).min()), shuffle=True, random_state=seed)
        logistic = LogisticRegression(class_weight="balanced", max_iter=ITERATIONS)
        return GridSearchCV(logistic, {"C": STRENGTHS}, cv=inner, scoring="neg_log_loss")

    return _out_of_fold(x, y, folds, model, "predict_proba", (len(np.unique(y)),))


def predict_values(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """A number by ridge regression, (R, n), each for a patient outside the training fold.

    Args:
        x: (n, number of features); without features, the mean of the training fold is predicted.
        y: (n,) the number of each patient.
        folds: from `assign_folds`.
    """
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import RidgeCV

    def model(y: np.ndarray) -> Any:
        return RidgeCV(alphas=PENALTIES) if x.shape[1] else DummyRegressor()  # leave-one-out inside the training fold

    return _out_of_fold(x, y, folds, model, "predict", ())


def _out_of_fold(
    x: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    make: Callable[[np.ndarray], Any],
    method: str,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Predictions (R, n, *shape) by models that are fitted anew on the training patients of each fold.

    Args:
        x: (n, number of features).
        y: (n,) target.
        folds: from `assign_folds`.
        make: targets of the training patients -> a model of scikit-learn.
        method: name of the method that predicts.
        shape: shape of a prediction.
    """
    from sklearn.preprocessing import StandardScaler

    predictions = np.empty((*folds.shape, *shape))
    for repeat, assigned in enumerate(folds):
        for fold in np.unique(assigned):
            test = assigned == fold
            train, probe = x[~test], make(y[~test])
            features = x
            if x.shape[1]:
                features = StandardScaler().fit(train).transform(x)
                features[:, train.std(0) <= ROUNDING * np.abs(train).max(0)] = 0
            if x.shape[1] > len(x):
                features = features @ np.linalg.svd(features[~test], full_matrices=False)[2].T
            predictions[repeat, test] = getattr(probe.fit(features[~test], y[~test]), method)(features[test])
    return predictions
