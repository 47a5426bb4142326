"""Laws of the phantom: ACDC's layout, exact volumes, a plausible cycle, and the same bytes from the same seed."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from data.case import CineCase
from data.phantom.heart import GROUPS, LEFT_VENTRICLE, Heart, make_heart
from data.sources.phantom import Options, PhantomSource, build
from utils.config.recipe import from_plain

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "make_phantom.py"
TINY = {"patients": 5, "size": 64, "spacing_mm": 3.0, "slices": 5, "phases": 8}


@pytest.fixture(scope="module")
def source() -> PhantomSource:
    return build(Options(patients=5, size=96, spacing_mm=2.0, slices=8, phases=10, seed=3))


@pytest.fixture(scope="module")
def cases(source: PhantomSource) -> list[CineCase]:
    return [source.load(name) for name in source.patients()]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_phantom", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def voxel_ml(case: CineCase, phase: int, label: int) -> float:
    return float((case.masks[phase] == label).sum() * np.prod(case.spacing_mm) / 1000)


def test_true_volumes_agree_with_the_voxels_of_the_masks(source: PhantomSource, cases: list[CineCase]) -> None:
    for case in cases:
        truth = source.truth(case.patient)
        for label, name in ((1, "RV"), (2, "MYO"), (3, "LV")):
            for moment, phase in (("ED", case.ed), ("ES", case.es)):
                assert voxel_ml(case, phase, label) == pytest.approx(truth[f"{name}_{moment}_ml"], rel=0.03, abs=1.0)


def test_true_ejection_fraction_agrees_with_the_masks(source: PhantomSource, cases: list[CineCase]) -> None:
    for case in cases:
        ed, es = voxel_ml(case, case.ed, 3), voxel_ml(case, case.es, 3)
        ef = source.truth(case.patient)["LV_EF_percent"]
        assert 100 * (ed - es) / ed == pytest.approx(ef, abs=1.5)
        assert 12 <= ef <= 78


def test_ed_is_the_fullest_and_es_the_emptiest_phase(source: PhantomSource, cases: list[CineCase]) -> None:
    for case in cases:
        lv = source.volume_curves_ml(case.patient)["LV"]
        assert (case.ed, case.es) == (lv.argmax(), lv.argmin())
        assert list(case.masks) == [case.ed, case.es]


def test_the_wall_keeps_its_volume_while_it_thickens(source: PhantomSource) -> None:
    for name in source.patients():
        wall = source.volume_curves_ml(name)["MYO"]
        assert wall.max() / wall.min() < 1.06


def test_systole_takes_about_a_third_of_the_cycle_and_ed_is_not_always_first() -> None:
    source = build(Options(patients=40, phases=30, slices=1))
    moments = [source.volume_curves_ml(name)["LV"] for name in source.patients()]
    ed = np.array([lv.argmax() for lv in moments])
    share = (np.array([lv.argmin() for lv in moments]) - ed) % 30 / 30
    assert share.min() >= 0.26
    assert share.max() <= 0.49
    assert 0 < (ed != 0).mean() < 0.6


def test_a_heart_fits_the_smallest_field_that_is_allowed() -> None:
    source = build(Options(patients=10, size=51, spacing_mm=3.7, slices=3, phases=2, seed=1))
    for name in source.patients():
        case, truth = source.load(name), source.truth(name)
        assert voxel_ml(case, case.ed, 1) == pytest.approx(truth["RV_ED_ml"], rel=0.1)


def test_blood_is_bright_and_muscle_and_lung_are_dark(cases: list[CineCase]) -> None:
    for case in cases:
        image, mask = case.cine[..., case.ed], case.masks[case.ed]
        rv, wall, lv = (image[mask == label].mean() for label in (1, 2, 3))
        assert wall < 0.75 * min(rv, lv)
        assert np.percentile(image, 10) < 0.2 * lv


def test_voxels_are_int16_with_a_maximum_of_the_patients_own(cases: list[CineCase]) -> None:
    tops = {int(case.cine.max()) for case in cases}
    assert all(case.cine.dtype == np.int16 and case.cine.min() >= 0 for case in cases)
    assert len(tops) == len(cases)
    assert 200 <= min(tops) <= max(tops) <= 1500


def test_the_heart_moves_more_than_the_noise_and_the_chest_does_not(cases: list[CineCase]) -> None:
    for case in cases:
        change = np.abs(case.cine[..., case.ed].astype(float) - case.cine[..., case.es])
        heart = (case.masks[case.ed] > 0) | (case.masks[case.es] > 0)
        assert change[heart].mean() > 2 * change[~heart].mean()


def test_patients_and_seeds_differ(source: PhantomSource, cases: list[CineCase]) -> None:
    other = build(Options(patients=5, size=96, spacing_mm=2.0, slices=8, phases=10, seed=4)).load("patient001")
    assert len({case.cine.tobytes() for case in [*cases, other]}) == 6
    hashes = {case.source_hash for case in [*cases, other]}
    assert len(hashes) == 6
    assert len({case.spacing_mm for case in cases}) == 5
    assert [case.group for case in cases] == list(GROUPS)


def test_a_patient_follows_from_seed_and_number_alone() -> None:
    few, many = build(Options(**TINY)), build(Options(**{**TINY, "patients": 1200}))
    first, again = few.load("patient004"), many.load("patient004")
    assert first.cine.tobytes() == again.cine.tobytes()
    assert all(first.masks[p].tobytes() == again.masks[p].tobytes() for p in first.masks)
    assert many.patients()[-1] == "patient1200"
    assert many.load("patient1200").patient == "patient1200"


@pytest.mark.parametrize("slices", [1, 2, 18])
def test_any_number_of_slices_can_be_drawn(slices: int) -> None:
    source = build(Options(**{**TINY, "patients": 1, "slices": slices, "phases": 2}))
    case = source.load("patient001")
    assert case.cine.shape == (64, 64, slices, 2)
    assert source.truth("patient001")["LV_ED_ml"] > 0
    assert 5 <= case.spacing_mm[2] <= 10


@pytest.mark.parametrize("name", ["patient000", "patient006", "patient1", "case001", "../patient001"])
def test_an_unknown_patient_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"no patient.*patient001 to patient005"):
        build(Options(**TINY)).load(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 32}, "a heart needs 150 mm"),
        ({"spacing_mm": float("nan")}, "phantom.spacing_mm: expected a number above 0"),
        ({"phases": 1}, "phantom.phases: expected a number from 2"),
        ({"patients": 0}, "phantom.patients: expected a number from 1"),
        ({"seed": -1}, "phantom.seed: expected a number from 0"),
        ({"noise_percent_low": 9.0}, "noise"),
    ],
)
def test_impossible_options_say_what_is_wrong(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_plain(Options, {**TINY, **change}, "phantom")


def test_the_cohort_has_acdcs_layout_for_a_plain_nifti_reader(tmp_path: Path) -> None:
    options = Options(**{**TINY, "patients": 2})
    _, truth = script().make(options, tmp_path, "patient002")
    folder = tmp_path / "patient002"
    info = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
    assert list(info) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
    assert info["Group"] == truth["group"] == "MINF"
    cine = nib.load(folder / "patient002_4d.nii.gz")
    assert cine.shape == (64, 64, 5, int(info["NbFrame"]))
    assert cine.get_data_dtype() == np.int16
    expected = {"Info.cfg", "patient002_4d.nii.gz"}
    for moment in ("ED", "ES"):
        stem = f"patient002_frame{int(info[moment]):02d}"
        expected |= {f"{stem}.nii.gz", f"{stem}_gt.nii.gz"}
        frame, labels = (nib.load(folder / f"{stem}{end}.nii.gz") for end in ("", "_gt"))
        assert np.array_equal(frame.dataobj, np.asarray(cine.dataobj)[..., int(info[moment]) - 1])
        assert frame.shape == labels.shape
        assert set(np.unique(labels.dataobj)) == {0, 1, 2, 3}
        voxel = np.prod(labels.header.get_zooms()) / 1000
        assert (np.asarray(labels.dataobj) == 3).sum() * voxel == pytest.approx(
            truth[f"LV_{moment}_ml"], rel=0.06, abs=2
        )
    assert {path.name for path in folder.iterdir()} == expected


def run_script(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_the_script_writes_truth_resumes_and_refuses_another_cohort(tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path / "out"), *(f"--{key}={value}" for key, value in TINY.items())]
    done = run_script(*flags, "--patients=2", "--workers=2")
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "out" / "patient001" / "patient001_4d.nii.gz").stat().st_mtime_ns
    (tmp_path / "out" / ".0a1b2c3d.patient003").mkdir()  # as a killed run leaves it
    assert run_script(*flags, "--patients=3").returncode == 0
    assert not list((tmp_path / "out").glob(".*"))
    assert (tmp_path / "out" / "patient001" / "patient001_4d.nii.gz").stat().st_mtime_ns == before
    truth = json.loads((tmp_path / "out" / "truth.json").read_text())
    assert list(truth) == ["patient001", "patient002", "patient003"]
    assert {"LV_ED_ml", "LV_ES_ml", "RV_ED_ml", "RV_ES_ml", "MYO_ED_ml", "MYO_ES_ml"} < set(truth["patient001"])
    refused = run_script(*flags, "--patients=3", "--seed=7")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "other settings" in refused.stderr


def test_the_script_imports_no_torch() -> None:
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def hearts(group: str, count: int = 8) -> list[Heart]:
    return [make_heart(np.random.default_rng([11, n]), group, 8, 10, 100.0) for n in range(count)]


def typical(group: str, measure: Callable[[Heart], float]) -> float:
    return float(np.median([measure(heart) for heart in hearts(group)]))


def edv(name: str) -> Callable[[Heart], float]:
    return lambda heart: float(heart.volumes_ml()[name][heart.ed])


def ef(name: str) -> Callable[[Heart], float]:
    return lambda heart: float(100 * (1 - heart.volumes_ml()[name][heart.es] / heart.volumes_ml()[name][heart.ed]))


def wall_mm(heart: Heart) -> float:
    labelled = heart.level == LEFT_VENTRICLE
    return float((heart.epi - heart.endo)[labelled, heart.ed].mean())


def test_a_dilated_heart_is_large_and_weak() -> None:
    assert typical("DCM", edv("LV")) > 1.3 * typical("NOR", edv("LV"))
    assert max(ef("LV")(heart) for heart in hearts("DCM")) < 40 < min(ef("LV")(heart) for heart in hearts("NOR"))


def test_a_hypertrophic_heart_has_a_thick_wall_and_ejects_normally() -> None:
    assert typical("HCM", wall_mm) > 1.3 * typical("NOR", wall_mm)
    assert min(ef("LV")(heart) for heart in hearts("HCM")) > 50


def test_an_abnormal_right_ventricle_is_large_and_weak_beside_a_left_one_that_is_not() -> None:
    assert typical("RV", edv("RV")) > 1.4 * typical("NOR", edv("RV"))
    assert typical("RV", ef("RV")) < 45 < typical("NOR", ef("RV"))
    assert typical("RV", ef("LV")) > 45


def test_after_an_infarction_a_segment_of_the_wall_neither_moves_nor_thickens_while_the_rest_does() -> None:
    for heart in hearts("MINF"):
        labelled = heart.level == LEFT_VENTRICLE
        moved = 1 - heart.endo[labelled, heart.es] / heart.endo[labelled, heart.ed]  # (D, K)
        wall = (heart.epi - heart.endo)[labelled]
        thickened = wall[:, heart.es] / wall[:, heart.ed] - 1
        still = np.abs(moved) < 0.02
        share = np.sort(still.mean(axis=1))
        assert share[-2] > 0.05, "fewer than two slices with a segment of 18 degrees or more that stands still"
        assert thickened[still].max() < 0.08 < thickened[~still].mean()
        assert moved.mean() > 0.08 and ef("LV")(heart) < 50
    assert not any(
        (np.abs(1 - h.endo[h.level == 0, h.es] / h.endo[h.level == 0, h.ed]) < 0.02).any() for h in hearts("NOR")
    )


def test_two_papillary_muscles_are_dark_in_the_cavity_and_labelled_as_cavity(cases: list[CineCase]) -> None:
    dark = []
    for case in cases:
        for phase, mask in case.masks.items():
            for z in range(mask.shape[2]):
                inside = ndimage.binary_erosion(mask[..., z] == 3, iterations=2)
                if inside.sum() > 60:
                    values = case.cine[..., z, phase][inside] / np.percentile(case.cine[..., z, phase][inside], 90)
                    dark.append(float((values < 0.6).mean()))
    assert len(dark) > 4 and np.median(dark) > 0.02 and max(dark) < 0.6
