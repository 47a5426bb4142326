"""Clinical equivalence: up to which compression ratio a segmenter measures the same heart as before compression.

Research use only, not a medical device.

    python scripts/compare_codecs.py --data acdc_wds --model acdc128_output/ladder_refinement --image_size 128 \\
        --segmenter acdc128_output/reference --output_dir codec_report
    python scripts/equivalence.py codec_report --output_dir equivalence_report

The input is the report of one or more runs of compare_codecs.py with --segmenter, on the same patients and the same
field: the runs may differ in methods, settings and segmenters. Intervals are a bootstrap over patients.

OUTPUT_DIR then holds index.html, equivalence.png and equivalence.json, and as tables headline.csv, points.csv,
agreement.csv and groups.csv.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from scripts.evaluation.measured import collect, read_results
from utils.clinical import DISTANCES
from utils.config.ranges import AboveZero, Range, check_options
from utils.equivalence import (
    VOLUMES,
    Margins,
    Measured,
    agreement,
    by_group,
    certain_ratio,
    criterion,
    headline,
    resampled,
    worst_group,
)
from utils.errors import user_errors
from utils.files import user_path, write_json, write_text
from utils.metrics import finite_mean
from utils.report import equivalence
from utils.report.command import command_line, public_arguments
from utils.report.evaluation import NOTE
from utils.report.rate_distortion import ORIGINAL
from utils.report.tables import MARK, text_table

Row = dict[str, Any]


FEWEST, FEW = 3, 8  # patients: of limits of agreement, and of a report without a warning
WEAK_DICE = 0.7  # of a structure in the originals


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    default = Margins()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("results", type=user_path, nargs="+", metavar="REPORT", help="folders that compare_codecs.py wrote")
    add("--output_dir", type=user_path, required=True, metavar="DIR", help="folder for the report")
    add("--dice", type=float, default=default.dice, help="largest decrease of the mean Dice (default 0.01)")
    add("--ef_bias", type=float, default=default.ef_bias, help="largest bias of the LV EF in points (default 1)")
    limits = "largest increase of the half-width of the limits of agreement of the LV EF in points (default 1)"
    add("--ef_limits", type=float, default=default.ef_limits, help=limits)
    add("--resamples", type=int, default=2000, help="resamples of the bootstrap (default 2000)")
    args = parser.parse_args(argv)
    resamples = Annotated[int, Range(100, 10**6)]
    check_options(args, {"dice": AboveZero, "ef_bias": AboveZero, "ef_limits": AboveZero, "resamples": resamples})
    return args


def heart_means(hearts: Mapping[str, np.ndarray]) -> Row:
    """Means over patients of Dice and distances: each structure and key frame, and the mean of them."""
    means = {key: finite_mean(values) for key, values in hearts.items() if key.startswith(("dice", *DISTANCES))}
    for kind, suffix in itertools.product(DISTANCES, ("", "_to_original")):
        parts = [means[f"{kind}_{place}{suffix}"] for place in equivalence.PLACES if f"{kind}_{place}{suffix}" in means]
        means[f"{kind}_mean{suffix}"] = finite_mean(parts)
    means.setdefault("dice_mean_to_original", math.nan)
    return means


def analyse(methods: Sequence[Measured], margins: Margins, resamples: int) -> Row:
    """All tables of the report; every method has the same resamples, so that methods can be compared."""
    patients = resampled(len(methods[0].groups), resamples)
    tables: Row = {name: [] for name in ("headline", "pairs", "originals", "points", "agreement", "groups")}
    tables["shown"] = {}
    best: dict[str, list[tuple[str, np.ndarray]]] = {}
    for one in methods:
        place = {"segmenter": one.segmenter, "method": one.method}
        if one.segmenter not in tables["shown"]:
            tables["shown"][one.segmenter] = []
            at = {"segmenter": one.segmenter, "method": ORIGINAL, "setting": ""}
            tables["originals"].append({**at, **heart_means(one.original)})
            tables["agreement"] += _agreements(at, one.original, {"ground truth": one.truth}, patients)
            tables["shown"][one.segmenter].append((ORIGINAL, ""))
        top = headline(one, margins, patients)
        samples = top.pop("resamples")
        rows = criterion(one, margins, patients)
        top["certain_ratio"] = certain_ratio(one.ratio, rows)
        ends = {"lowest": float(one.ratio[0]), "highest": float(one.ratio[-1])}
        tables["headline"].append({**place, **top, **ends, "position": _position_of(top["ratio"])})
        for method, other in best.setdefault(one.segmenter, []):
            share = float(np.mean(samples > other) + np.mean(samples == other) / 2)
            tables["pairs"].append({**place, "anchor": method, "share": share})
        best[one.segmenter].append((one.method, samples))
        equivalent = [index for index, row in enumerate(rows) if row["equivalent"] and one.ratio[index] <= top["ratio"]]
        tables["shown"][one.segmenter].append((one.method, one.settings[equivalent[-1] if equivalent else 0]))
        for index, (setting, row) in enumerate(zip(one.settings, rows, strict=True)):
            at = {**place, "setting": setting}
            rate = {"bytes_per_frame": float(one.bytes_per_frame[index]), "ratio_int16": float(one.ratio[index])}
            measured = {key: values[index] for key, values in one.hearts.items()}
            quality = {"psnr": float(one.psnr[index]), **row, **heart_means(measured)}
            tables["points"].append({**at, **rate, **quality})
            against = {"ground truth": one.truth, "original": one.original}
            tables["agreement"] += _agreements(at, measured, against, patients)
            groups = by_group(one, index)
            worst = worst_group(groups, margins)
            tables["groups"] += [{**at, "group": name, **of, "worst": name == worst} for name, of in groups.items()]
    return tables


def doubts_of(originals: Sequence[Row], n: int) -> list[str]:
    """Say why the result is weak: few patients, or a segmenter that does not find the heart in the originals."""
    doubts = [f"{equivalence.WARNING} {n} patients are too few for a conclusion."] if n < FEW else []
    for row in originals:
        dice = {place: row.get(f"dice_{place}", math.nan) for place in equivalence.PLACES}
        weak = [f"{place} {value:.2f}" for place, value in dice.items() if not value >= WEAK_DICE]
        if weak:
            doubts.append(
                f"{equivalence.WARNING} the segmenter {row['segmenter']} has Dice below {WEAK_DICE} on the originals: "
                f"{', '.join(weak)}. Its measurements say little; train a better one."
            )
    return doubts


def _position_of(ratio: float) -> str:
    """Where the highest equivalent ratio lies, for JSON and CSV, which have no infinity."""
    return {0.0: "below all measured ratios", math.inf: "above all measured ratios"}.get(ratio, "measured range")


def _agreements(at: Row, measured: Any, against: Row, patients: np.ndarray) -> list[Row]:
    return [
        {**at, "quantity": key, "against": name, **agreement(reference[key], measured[key], patients)}
        for key in VOLUMES
        for name, reference in against.items()
    ]


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    margins = Margins(args.dice, args.ef_bias, args.ef_limits)
    reports = read_results(args.results)
    methods = collect(reports)
    if (n := len(methods[0].groups)) < FEWEST:
        raise ValueError(
            f"{args.results[0]} has {n} patients with labels, expected {FEWEST} or more for limits of agreement; "
            "repeat compare_codecs.py with more patients (--limit, --split)"
        )
    segmenters = list(dict.fromkeys(one.segmenter for one in methods))
    command = public_arguments(vars(args))
    notes = list(dict.fromkeys(note for report in reports for note in report["notes"]))
    tables = analyse(methods, margins, args.resamples)
    doubts = doubts_of(tables["originals"], n)
    summary = {
        "caption": reports[0]["caption"],
        **{key: reports[0][key] for key in ("data", "split", "field")},
        "n": n,
        "margins": asdict(margins),
        "resamples": args.resamples,
        "segmenters": segmenters,
        **tables,
        "notes": [
            *doubts,
            f"Intervals: bootstrap over {n} patients, {args.resamples} resamples, for each setting alone.",
            *notes,
        ],
        "note": NOTE,
        "command": command,
        "command_line": command_line("scripts/equivalence.py", argv),
    }
    write_report(args.output_dir, summary)


def write_report(folder: Path, summary: Row) -> None:
    """Write all files of the report, and print the headline."""
    picture = folder / "equivalence.png"
    write_json(folder / "equivalence.json", summary)
    for name in ("headline", "points", "agreement", "groups"):
        write_text(folder / f"{name}.csv", equivalence.csv_text(summary[name]))
    equivalence.draw(picture, summary)
    write_text(folder / "index.html", equivalence.html_page(summary, picture))
    print(text_table(*equivalence.headline_table(summary["headline"])))
    marked = [note for note in summary["notes"] if note.startswith((MARK, equivalence.WARNING))]
    print("\n".join([f"{summary['caption']}; n = {summary['n']}", *marked, NOTE]))
    print(f"The report is {folder / 'index.html'}; all values are in equivalence.json and the CSV files beside it")


if __name__ == "__main__":
    main()
