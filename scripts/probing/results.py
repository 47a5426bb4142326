"""Probes of all feature sets, and their tables and picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from tqdm import tqdm

from scripts.probing.crossval import assign_folds, predict_groups, predict_values
from scripts.probing.features import ANATOMY, CONSTANT, LABELS, PICTURE, TOKENS, TRIVIAL, FeatureSet
from scripts.probing.metrics import EF_SCORES, GROUP_SCORES, Scores, draw_weights, interval, score_groups, score_values
from utils.report.drawing.figures import COLORS, INK, save

Row = dict[str, Any]
GROUP, EF = "group", "ef"
RANDOM = "random labels"
SCORES = {GROUP: GROUP_SCORES, EF: EF_SCORES}  # the first is drawn, and compared with the picture
HEADINGS = {
    "balanced_accuracy": "balanced accuracy",
    "auc": "macro AUC",
    "mae": "MAE (EF points)",
    "r2": "R²",
    "r": "r",
}
CONSTANTS = {GROUP: "majority class", EF: "mean EF"}  # what is predicted without features
KINDS = {
    TRIVIAL: "#9aa5b1",
    RANDOM: "#cbd2d9",
    TOKENS: COLORS[0],
    ANATOMY: COLORS[2],
    LABELS: COLORS[1],
}


class Method(NamedTuple):
    """How features are probed.

    Args:
        folds: number of folds.
        repeats: number of repeats of the cross-validation.
        seed: random seed.
        permutations: number of random orders of the labels.
        draws: number of bootstrap draws.
    """

    folds: int
    repeats: int
    seed: int
    permutations: int
    draws: int


class Target(NamedTuple):
    """What is predicted.

    Args:
        name: GROUP or EF.
        members: (n,) indices of the patients whose target is known.
        y: (n,) target of each of them: index of the group, or EF in %.
        strata: (n,) their groups, over which the folds are balanced.
    """

    name: str
    members: np.ndarray
    y: np.ndarray
    strata: np.ndarray

    def score(self, x: np.ndarray, folds: np.ndarray, weights: np.ndarray, seed: int) -> Scores:
        """Scores of features, see scripts/probing/metrics.py."""
        if self.name == GROUP:
            return score_groups(predict_groups(x, self.y, folds, seed), self.y, folds, weights)
        return score_values(predict_values(x, self.y, folds), self.y, folds, weights)


def without_copies(sets: Sequence[FeatureSet]) -> tuple[list[FeatureSet], dict[str, str]]:
    """Leave out sets that are equal to an earlier one; the second result names them: label -> label of the earlier."""
    kept: list[FeatureSet] = []
    copies: dict[str, str] = {}
    for features in sets:
        same = [other for other in kept if np.array_equal(other.values, features.values, equal_nan=True)]
        if same:
            copies[features.label] = same[0].label
        else:
            kept.append(features)
    return kept, copies


def probe_target(target: Target, sets: Sequence[FeatureSet], method: Method) -> list[Row]:
    """Probe all feature sets for one target; sets with unknown values are left out.

    Args:
        target: what is predicted.
        sets: features of all patients.
        method: how.

    Returns:
        One row a set, and one for random labels: target, source, features, kind, n, number, then each score as value,
        low and high, and the difference of the first score to that of the picture.
    """
    chosen: list[tuple[FeatureSet, np.ndarray]] = []
    for features in sets:
        values = features.values[target.members]
        if features.kind == LABELS and target.name == EF:
            values = values[:, :-1]  # the EF itself, which is the last
        if np.isfinite(values).all():
            chosen.append((features, values))
    folds = assign_folds(target.strata, method.folds, method.repeats, method.seed)
    weights = draw_weights(target.strata, method.draws, method.seed)
    tokens, of_tokens = next(pair for pair in chosen if pair[0].kind == TOKENS)
    rows, scores = [], []
    with tqdm(total=len(chosen) + method.permutations, desc=f"probing {target.name}", unit="probe") as bar:
        for features, values in chosen:
            scores.append(target.score(values, folds, weights, method.seed))
            if features.source == CONSTANT:
                features = features._replace(name=CONSTANTS[target.name])
            rows.append(_row(target, features, values, scores[-1]))
            bar.update()
        drawn = []
        for index in range(method.permutations):
            drawn.append(_shuffled(target, of_tokens, method, index))
            bar.update()
    first = SCORES[target.name][0]
    picture = next(
        score[first] for score, (features, _) in zip(scores, chosen, strict=True) if features.name == PICTURE
    )
    for row, score in zip(rows, scores, strict=True):
        if row["features"] != PICTURE:
            row |= _three("minus_picture", score[first] - picture)
    if drawn:
        random = {name: np.array([score[name][0] for score in drawn]) for name in SCORES[target.name]}
        centred = {name: np.concatenate([[values.mean()], values]) for name, values in random.items()}
        labels = FeatureSet(tokens.source, f"{tokens.name}, {RANDOM}", RANDOM, tokens.values)
        rows.append(_row(target, labels, of_tokens, centred))
    return rows


def _shuffled(target: Target, x: np.ndarray, method: Method, index: int) -> Scores:
    """Scores of one cross-validation with the targets in a random order."""
    order = np.random.default_rng((method.seed, index)).permutation(len(target.y))
    mixed = target._replace(y=target.y[order], strata=target.strata[order])
    folds = assign_folds(mixed.strata, method.folds, 1, method.seed + index)
    return mixed.score(x, folds, np.ones((1, len(order))), method.seed)


def _row(target: Target, features: FeatureSet, values: np.ndarray, scores: Scores) -> Row:
    row: Row = {"target": target.name, "source": features.source, "features": features.name, "kind": features.kind}
    row |= {"n": len(values), "number": values.shape[1]}
    for name in SCORES[target.name]:
        row |= _three(name, scores[name])
    return row


def _three(name: str, draws: np.ndarray) -> Row:
    """Value and interval of a score, whose first entry is the value."""
    low, high = interval(draws[1:])
    return {name: float(draws[0]), f"{name}_low": low, f"{name}_high": high}


def table(rows: Sequence[Row], target: str) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one target."""
    scores = SCORES[target]
    keys = (*scores, "minus_picture")
    headings = [f"{target} from", "n", "features", *(HEADINGS[key] for key in scores), "minus picture"]
    cells = []
    for row in rows:
        name = f"{row['source']}: {row['features']}" + (f" ({row['kind']})" if row["kind"] == LABELS else "")
        cells.append([name, str(row["n"]), str(row["number"]), *(_cell(row, key) for key in keys)])
    return headings, cells


def _cell(row: Row, key: str) -> str:
    value, low, high = (row.get(f"{key}{end}", math.nan) for end in ("", "_low", "_high"))
    digits = 1 if row["target"] == EF and key in ("mae", "minus_picture") else 2
    if not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low) else f"{value:.{digits}f}"


def csv_text(rows: Sequence[Row]) -> str:
    """One line a target and feature set; a score that does not apply is an empty cell."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, keys, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()})
    return stream.getvalue()


def draw(path: Path, rows: Mapping[str, Sequence[Row]], chance: Mapping[str, float], caption: str) -> None:
    """Save one panel of bars a target.

    Args:
        path: a .png file.
        rows: target -> rows.
        chance: target -> score without information, drawn as a line.
        caption: data and method.
    """
    longest = max(len(of_target) for of_target in rows.values())
    size = (7.2 * len(rows), 0.34 * longest + 1.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for ax, (target, of_target) in zip(panels, rows.items(), strict=True):
        _draw_target(ax, target, of_target, chance[target])
    used = {row["kind"] for of_target in rows.values() for row in of_target}
    patches = [Patch(color=color, label=kind) for kind, color in KINDS.items() if kind in used]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False)
    figure.suptitle(f"{caption}; lines: 95 % intervals", fontsize=9, color=INK)
    save(figure, path)


def _draw_target(ax: Axes, target: str, rows: Sequence[Row], chance: float) -> None:
    key = SCORES[target][0]
    places, values = np.arange(len(rows)), np.array([row[key] for row in rows])
    ends = np.array([[row[f"{key}_low"] for row in rows], [row[f"{key}_high"] for row in rows]])
    reach = np.abs(np.nan_to_num(ends - values))
    ax.barh(places, values, color=[KINDS[row["kind"]] for row in rows], height=0.7)
    ax.errorbar(values, places, xerr=reach, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    ax.axvline(chance, color=INK, linestyle="--", linewidth=1)
    best = "higher" if target == GROUP else "lower"
    ax.set_xlabel(f"{HEADINGS[key]}, {best} is better; dashed: without information", fontsize=8, color=INK)
    ax.set_yticks(places, [f"{row['source']}: {row['features']}" for row in rows], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, 1 if target == GROUP else None)
    ax.set_title({GROUP: "diagnostic group", EF: "ejection fraction of the left ventricle"}[target], fontsize=9)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x", color="#e4e7eb", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
