"""The probe of frozen tokens: its features, its cross-validation, its scores, its files, and what it refuses."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.case import CineCase
from modeling.titok import TiTok
from scripts import probe
from scripts.probing import crossval, features, metrics, results
from tests.shards import made_up, make_shards
from tests.tiny import tiny_config, tiny_model

pytest.importorskip("sklearn", reason="an optional extra")
QUICK = ("--folds", "2", "--repeats", "1", "--permutations", "1", "--device", "cpu")


def patient(number: int, group: str | None) -> CineCase:
    """A case whose block is brighter in group DCM, and whose LV at ES is smaller the higher its number is."""
    case = made_up(number, slices=2, phases=5)
    cine, masks = case.cine.copy(), {phase: mask.copy() for phase, mask in case.masks.items()}
    if group == "DCM":
        cine[6:14, 8:18, :, :3] += 400
    masks[3][:, : 9 + number % 4] = 0
    for mask in masks.values():
        mask[:2, :2] = 1  # an RV, so that all volumes are known
    return replace(case, cine=cine, masks=masks, group=group)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of four patients of each of two groups."""
    cases = [patient(number, ("NOR", "DCM")[number % 2]) for number in range(1, 9)]
    return make_shards(tmp_path_factory.mktemp("probe") / "cohort", cases)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: frame, the same again as copy, sequence, ladder and segmenter."""
    folder = tmp_path_factory.mktemp("models")
    frame = tiny_model(decoder="titok", conditioning="resnet18")
    for name in ("frame", "copy"):
        frame.save_pretrained(folder / name)
    tiny_model(layout="sequence").save_pretrained(folder / "sequence")
    tiny_model(layout="ladder").save_pretrained(folder / "ladder")
    TiTok(tiny_config(decoder="none", conditioning="resnet18")).save_pretrained(folder / "segmenter")
    return folder


def test_the_results_are_a_table_a_csv_a_json_and_a_picture(
    cohort: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(models / name) for name in ("frame", "copy", "sequence")]
    probe.main(["--data", str(cohort), "--model", *folders, "--output_dir", str(tmp_path / "out"), *QUICK])
    captured = capsys.readouterr()
    found = json.loads((tmp_path / "out" / "probe.json").read_text())
    with (tmp_path / "out" / "probe.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["features"] for line in lines] == [row["features"] for row in found["rows"]]
    assert {row["target"]: row["n"] for row in found["rows"]} == {"group": 8, "ef": 8}
    rows = {(row["target"], row["source"], row["features"]): row for row in found["rows"]}
    assert rows["group", "frame", "mean"]["number"] == 8 * 6 and rows["group", "frame", "bag of ids"]["number"] == 64
    assert rows["group", "sequence", "embeddings"]["number"] == 6 * 3
    assert rows["group", "image", "mean and SD of the intensity"]["balanced_accuracy"] == 1
    assert rows["group", "frame", "mean, random labels"]["kind"] == "random labels"
    assert rows["ef", "constant", "mean EF"]["r"] is None  # constant predictions have no correlation
    assert rows["ef", "ground truth", "volumes of LV and RV"]["number"] == 6  # without the EF itself
    assert found["equal_features"] == {"copy": "frame"}  # the same tokens are encoded once
    assert found["chance"]["group"] == 0.5 and str(tmp_path) not in json.dumps(found)
    assert Image.open(tmp_path / "out" / "probe.png").width > 1000
    assert "constant: majority class" in captured.out and "was trained on their images" in captured.out
    assert "encoding" in captured.err and "probing group" in captured.err


def test_a_second_run_gives_the_same_numbers(cohort: Path, models: Path, tmp_path: Path) -> None:
    given = ["--data", str(cohort), "--model", str(models / "sequence"), "--target", "ef", *QUICK]
    for name in ("first", "second"):
        probe.main([*given, "--output_dir", str(tmp_path / name)])
    assert (tmp_path / "first" / "probe.csv").read_bytes() == (tmp_path / "second" / "probe.csv").read_bytes()


def test_features_of_tokens_are_averages_of_codebook_vectors(models: Path) -> None:
    model = TiTok.from_pretrained(models / "frame")
    case = patient(1, "NOR")
    x = torch.rand(1, 1, 32, 32, 2, 5, generator=torch.Generator().manual_seed(0))
    tokens, anatomy = features.token_features(model, x, case)
    ids = model.layout.split(model.encode(x, ed=1, es=3)[0], 2, 5)["frames"]
    codes = model.tokenizer.quantize.codebook().detach()[ids].numpy()  # (D, T, K, C)
    assert np.allclose(tokens["mean"], codes.mean((0, 1)), atol=1e-6)
    assert np.allclose(tokens["mean and temporal SD"][1], codes.std(1).mean(0), atol=1e-6)
    assert np.allclose(tokens["ED and ES"], codes[:, [1, 3]].mean(0), atol=1e-6)
    assert np.isclose((tokens["bag of ids"] ** 2).sum(), 1)
    assert anatomy["anatomy of ED and ES"].shape == (2, 4, 4)


def test_the_small_picture_holds_the_mean_frame_and_the_temporal_deviation() -> None:
    image = torch.zeros(16, 16, 3, 4)
    image[:2, :2, :, ::2] = 1  # one cell of the grid moves
    picture = features.image_features(image)[features.PICTURE]
    assert picture[:, 0, 0].tolist() == [0.5, 0.5] and picture.sum() == 1


def test_a_planted_signal_is_found_and_no_signal_is_at_chance() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 8)
    noise = rng.normal(size=(24, 40))
    signal = np.concatenate([noise, 3 * np.eye(3)[y]], axis=1)
    folds, weights = crossval.assign_folds(y, 4, 2, seed=0), metrics.draw_weights(y, 200, seed=0)
    ef = 50.0 - 10 * y
    scored = {}
    for name, x in (("signal", signal), ("noise", noise), ("nothing", noise[:, :0])):
        scored[name] = metrics.score_groups(crossval.predict_groups(x, y, folds, 0), y, folds, weights)
        scored[name] |= metrics.score_values(crossval.predict_values(x, ef, folds), ef, folds, weights)
    assert scored["signal"]["balanced_accuracy"][0] > 0.7 and scored["signal"]["r2"][0] > 0.3
    assert scored["signal"]["auc"][0] > 0.9 and scored["signal"]["r"][0] > 0.5
    assert scored["noise"]["balanced_accuracy"][0] < 0.6 and scored["noise"]["r2"][0] < 0.2
    assert scored["nothing"]["auc"][0] == 0.5 and np.isnan(scored["nothing"]["r"][0])


@pytest.mark.parametrize("predict", [lambda x, y, f: crossval.predict_groups(x, y, f, 0), crossval.predict_values])
def test_a_test_patient_has_no_influence_on_the_predictions_of_its_fold(predict: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(16, 30)), np.arange(16) % 2
    folds = crossval.assign_folds(y, 4, 1, seed=0)
    fold = folds[0] == folds[0, 5]
    changed_x, changed_y = x.copy(), y.copy()
    changed_x[5] += 1000
    changed_y[5] = 1 - y[5]
    before, after = predict(x, y, folds)[0], predict(changed_x, changed_y, folds)[0]
    fold[5] = False
    assert np.array_equal(before[fold], after[fold])


def test_a_feature_that_is_constant_in_training_but_for_rounding_has_no_influence() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    folds = crossval.assign_folds(np.zeros(20, int), 4, 1, seed=0)
    nearly = 0.5 + 1e-8 * rng.normal(size=(20, 1))
    nearly[7] = 1.0  # this patient is tested by the others
    test = folds[0] == folds[0, 7]
    with_it = crossval.predict_values(np.hstack([x, nearly]), y, folds)[0]
    assert np.allclose(with_it[test], crossval.predict_values(x, y, folds)[0][test])


def test_the_rotation_does_not_change_the_model() -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 60))
    y = x[:, 0] + rng.normal(size=20)
    folds = crossval.assign_folds(np.zeros(20, int), 4, 1, seed=0)
    direct = np.empty(20)
    for fold in range(4):
        test = folds[0] == fold
        model = make_pipeline(StandardScaler(), RidgeCV(alphas=crossval.PENALTIES)).fit(x[~test], y[~test])
        direct[test] = model.predict(x[test])
    assert np.allclose(crossval.predict_values(x, y, folds)[0], direct)


def test_scores_are_those_of_scikit_learn_and_weights_count_patients() -> None:
    from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score, roc_auc_score

    rng = np.random.default_rng(3)
    y, probabilities = np.arange(12) % 3, rng.dirichlet(np.ones(3), 12)
    ef = rng.normal(60, 10, 12)
    predicted = ef + rng.normal(0, 8, 12)
    counts = np.array([2, 1, 1, 0, 3, 1, 1, 1, 0, 1, 0, 2])
    weights, one_fold = np.stack([np.ones(12), counts]), np.zeros((1, 12), int)
    groups = metrics.score_groups(probabilities[None], y, one_fold, weights)
    values = metrics.score_values(predicted[None], ef, one_fold, weights)
    for place, drawn in enumerate((np.arange(12), np.repeat(np.arange(12), counts))):
        own, guess = y[drawn], probabilities[drawn]
        assert np.isclose(groups["balanced_accuracy"][place], balanced_accuracy_score(own, guess.argmax(1)))
        auc = roc_auc_score(own, guess, multi_class="ovr", average="macro")
        assert np.isclose(groups["auc"][place], auc)
        assert np.isclose(values["mae"][place], mean_absolute_error(ef[drawn], predicted[drawn]))
        assert np.isclose(values["r2"][place], r2_score(ef[drawn], predicted[drawn]))
        assert np.isclose(values["r"][place], np.corrcoef(ef[drawn], predicted[drawn])[0, 1])


def test_bootstrap_draws_keep_the_size_of_each_group() -> None:
    strata = np.array(["NOR"] * 3 + ["DCM"] * 5)
    weights = metrics.draw_weights(strata, 50, seed=0)
    assert weights.shape == (51, 8) and (weights[0] == 1).all()
    assert (weights[:, :3].sum(1) == 3).all() and (weights[:, 3:].sum(1) == 5).all() and weights.max() > 1


def test_equal_features_of_two_models_are_probed_once() -> None:
    values = np.arange(6.0).reshape(3, 2)
    sets = [features.FeatureSet(name, "mean", features.TOKENS, values + (name == "c")) for name in "abc"]
    kept, copies = results.without_copies(sets)
    assert [one.source for one in kept] == ["a", "c"] and copies == {"b: mean": "a: mean"}


def test_volumes_that_are_not_known_for_everyone_are_left_out() -> None:
    y = np.arange(8) % 2
    sets = [
        features.FeatureSet("m", "mean", features.TOKENS, np.random.default_rng(0).normal(size=(8, 3))),
        features.FeatureSet("image", features.PICTURE, features.TRIVIAL, np.ones((8, 2))),
        features.FeatureSet("masks", "volumes", features.LABELS, np.where(np.eye(8, 2) > 0, np.nan, 1.0)),
    ]
    target = results.Target("group", np.arange(8), y, y)
    rows = results.probe_target(target, sets, results.Method(2, 1, 0, 0, 10))
    assert [row["source"] for row in rows] == ["m", "image"]


def refuse(change: dict[str, Any], cohort: Path, models: Path, output: Path) -> None:
    """Run the script with changed options; it must end with an error."""
    options: dict[str, Any] = {"data": cohort, "model": models / "frame", "output_dir": output, **change}
    with pytest.raises(SystemExit):
        probe.main([word for name, value in options.items() for word in (f"--{name}", *str(value).split())])
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "nowhere"}, "manifest.json: no such file"),
        ({"model": "nowhere"}, "--model nowhere: no such folder"),
        ({"model": "MODELS", "folds": 2}, "no model.safetensors or pytorch_model.bin in it"),
        ({"model": "MODELS/ladder", "folds": 2}, "no codebook to probe; give a model of layout frame or sequence"),
        ({"model": "MODELS/segmenter", "folds": 2}, "only segments and has no tokens"),
        ({"split": "test"}, "split test: no patients; choose another --split"),
        ({"folds": 5}, "has 4 patients with a known group, fewer than --folds 5; lower --folds"),
        ({"folds": 1}, "--folds is 1, expected 2 or more"),
    ],
)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
    change: dict[str, Any],
    message: str,
    cohort: Path,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change = {name: str(value).replace("MODELS", str(models)) for name, value in change.items()}
    refuse(change, cohort, models, tmp_path / "out")
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_unknown_groups_and_labels_are_refused_before_any_image_is_read(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "extract", lambda *_: pytest.fail("images were read"))
    cases = {
        "no_group": ([patient(number, None) for number in range(1, 5)], "no patient has a group; add --target ef"),
        "one_group": ([patient(number, "NOR") for number in range(1, 5)], "all patients are of group NOR"),
        "few": ([patient(number, ("NOR", "DCM")[number % 2]) for number in range(1, 5)], "has 2 patients; a probe"),
        "no_labels": (
            [replace(patient(number, ("NOR", "DCM")[number % 2]), masks={}) for number in range(1, 9)],
            "no patient has labels at ED and ES; add --target group",
        ),
    }
    for name, (patients, message) in cases.items():
        shards = make_shards(tmp_path / name, patients)
        refuse({"folds": 2}, shards, models, tmp_path / "out")
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_missing_scikit_learn_is_named(
    cohort: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossval, "find_spec", lambda _: None)
    refuse({"folds": 2}, cohort, models, tmp_path / "out")
    assert capsys.readouterr().err.endswith("not installed: pip install scikit-learn\n")


def test_the_ef_needs_no_groups_and_a_small_group_joins_the_largest() -> None:
    groups = ["DCM"] * 3 + ["NOR"] * 2 + ["unknown"]
    assert probe.strata_of(groups, 2, "ef") == ["DCM"] * 3 + ["NOR"] * 2 + ["DCM"]
    assert probe.strata_of(groups, 2, "group") == groups
    probe.check_sizes(probe.strata_of(groups, 4, "ef"), 4, "ef", "cohort")
    with pytest.raises(ValueError, match="fewer than --folds 7"):
        probe.check_sizes(probe.strata_of(groups, 7, "ef"), 7, "ef", "cohort")
