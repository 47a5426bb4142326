"""Every rule on an ACDC case that is sound but for one fault."""

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import RULES, CaseRefused
from data.shards.samples import serialize
from data.sources.acdc import AcdcSource

PIXDIM_1, VOX_OFFSET, SCL_SLOPE, XYZT_UNITS = 80, 108, 112, 123  # places in a NIfTI-1 header
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WHOLE, MASK = "_4d.nii.gz", "_frame02_gt.nii.gz"


def voxels(
    suffix: str, change: Callable[[np.ndarray], np.ndarray], edges: tuple[float, ...] = (-1.5, -1.25, 8.0, 1.0)
) -> Callable[[Path], None]:
    def spoil(patient: Path) -> None:
        path = patient / f"{patient.name}{suffix}"
        changed = np.ascontiguousarray(change(np.asarray(nib.load(path).dataobj).copy()))
        nib.save(nib.Nifti1Image(changed, np.diag(edges)), path)

    return spoil


def raw(suffix: str, offset: int, value: bytes) -> Callable[[Path], None]:
    def change(data: bytes) -> bytes:
        plain = gzip.decompress(data)
        return gzip.compress(plain[:offset] + value + plain[offset + len(value) :])

    return content(suffix, change)


def header(suffix: str, offset: int, value: float) -> Callable[[Path], None]:
    return raw(suffix, offset, struct.pack("<f", value))


def content(suffix: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(patient: Path) -> None:
        path = patient / f"{patient.name}{suffix}"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def uncompressed(keep: int) -> Callable[[Path], None]:
    def spoil(patient: Path) -> None:
        path = patient / f"{patient.name}{WHOLE}"
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes())[:keep])
        path.unlink()

    return spoil


def info(old: str, new: str) -> Callable[[Path], None]:
    def spoil(patient: Path) -> None:
        text = (patient / "Info.cfg").read_text()
        assert old in text
        (patient / "Info.cfg").write_text(text.replace(old, new))

    return spoil


def without(name: str) -> Callable[[Path], None]:
    def spoil(patient: Path) -> None:
        for path in patient.glob(name):
            path.unlink()

    return spoil


def name_too_long(patient: Path) -> None:
    for path in [*patient.iterdir(), patient]:
        path.rename(path.with_name(path.name.replace("patient001", "p" * 65)))


def small(patient: Path) -> None:
    for path in patient.glob("*_gt.nii.gz"):
        path.unlink()
    voxels(WHOLE, lambda values: values[:, 8:18])(patient)


def put(index: tuple, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float32) if isinstance(value, float) else values
        values[index] = value
        return values

    return change


FAULTS: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("bad_name", "4d_mri", name_too_long, "the patient name is 'ppp"),
    ("missing_file", "4d_mri", without("Info.cfg"), "Info.cfg is missing; re-download"),
    ("missing_file", "4d_mri", without("*_4d*"), "_4d.nii.gz is missing; its ED and ES .* --modality ed_es"),
    ("missing_file", "4d_mri", without("*.nii.gz"), "_4d.nii.gz is missing; re-download the case"),
    (
        "missing_file",
        "ed_es",
        without("*_frame04*"),
        "_frame04.nii.gz is missing; its 4-D .* --modality 4d_mri",
    ),
    ("damaged_file", "4d_mri", content(WHOLE, lambda data: data[:1000]), "_4d.nii.gz is truncated .*re-download"),
    ("damaged_file", "4d_mri", content(WHOLE, lambda data: b""), "_4d.nii.gz is truncated or damaged"),
    ("not_nifti", "4d_mri", content(WHOLE, lambda data: gzip.compress(b"<html>404</html>" * 99)), "is a web page"),
    ("not_nifti", "4d_mri", content(WHOLE, lambda data: LFS), "_4d.nii.gz is a Git LFS pointer.*git lfs pull"),
    ("not_nifti", "4d_mri", content(MASK, lambda data: bytes(128) + b"DICM"), "_gt.nii.gz is a DICOM file.*dcm2niix"),
    ("not_nifti", "4d_mri", content(WHOLE, gzip.compress), "_4d.nii.gz is a gzip file inside another one"),
    ("not_nifti", "4d_mri", content(WHOLE, lambda data: b"hello"), "not a NIfTI file, it begins with b'hello'"),
    ("not_nifti", "4d_mri", raw(WHOLE, 344, b"ni1"), "one half of a .hdr/.img pair"),
    ("damaged_file", "4d_mri", content(WHOLE, lambda data: data[:-4]), "_4d.nii.gz is truncated or damaged"),
    ("damaged_file", "4d_mri", content(WHOLE, lambda data: data[:-8] + bytes(4) + data[-4:]), "CRC check failed"),
    ("damaged_file", "4d_mri", raw(WHOLE, 70, b"\x0f\x27"), "_4d.nii.gz is truncated or damaged"),  # no such type
    ("damaged_file", "4d_mri", header(WHOLE, VOX_OFFSET, 0.0), "the voxels begin at byte 0, inside the header"),
    ("damaged_file", "4d_mri", uncompressed(keep=3000), "_4d.nii is truncated or damaged"),
    ("damaged_file", "4d_mri", uncompressed(keep=300), "_4d.nii is truncated or damaged"),
    ("damaged_file", "4d_mri", content(MASK, lambda data: data[:100]), "_frame02_gt.nii.gz is truncated"),
    ("wrong_type", "4d_mri", voxels(WHOLE, lambda v: v.astype(np.complex64)), "voxels of type complex64"),
    ("wrong_axes", "4d_mri", voxels(WHOLE, lambda v: v[..., 0]), r"shape \(20, 24, 2\), expected \(H, W, D, T\)"),
    ("wrong_axes", "ed_es", voxels("_frame02.nii.gz", lambda v: np.stack([v, v], -1)), r"expected \(H, W, D\)"),
    ("not_finite", "4d_mri", voxels(WHOLE, put((3, 3, 0, 0), np.nan)), "_4d.nii.gz holds 1 NaN"),
    ("not_finite", "4d_mri", voxels(WHOLE, put((3, 3, 0), np.inf)), "_4d.nii.gz holds 5 NaN or infinite"),
    ("too_small", "4d_mri", small, "frames are 20 x 10 pixels, expected 11 x 11 or more for SSIM"),
    ("empty_frame", "4d_mri", voxels(WHOLE, put((..., 4), 0)), "2 frames are empty, the first at slice 0, phase 4"),
    ("empty_frame", "ed_es", voxels("_frame02.nii.gz", put((..., 1), 9)), "1 frames are empty, .* slice 1, phase 0"),
    ("empty_window", "4d_mri", voxels(WHOLE, lambda v: put((3, 3), 1)(0 * v)), "99.5th percentile .* is 0.0"),
    ("bad_spacing", "4d_mri", header(WHOLE, PIXDIM_1, 0.0), r"spacing_mm is \(0.0, 1.25, 8.0\)"),
    ("bad_spacing", "4d_mri", header(MASK, PIXDIM_1, np.inf), r"gt.nii.gz: spacing_mm is \(inf, 1.25, 8.0\)"),
    ("bad_spacing", "4d_mri", raw(WHOLE, XYZT_UNITS, b"\x0d"), "_4d.nii.gz: the unit of length has the code 5"),
    ("bad_spacing", "4d_mri", header(WHOLE, PIXDIM_1, np.nan), r"spacing_mm is \(nan, 1.25, 8.0\)"),
    ("bad_scale", "4d_mri", header(WHOLE, SCL_SLOPE, -2.0), "slope -2.0"),
    ("no_key_frame", "4d_mri", info("ES: 4\n", ""), "Info.cfg has no ES"),
    ("no_key_frame", "4d_mri", info("ES: 4", "ES: four"), "ES=four, expected a whole number from 1"),
    ("no_key_frame", "4d_mri", info("ED: 2", "ED: 0"), "ED=0, expected a whole number from 1"),
    ("same_key_frames", "4d_mri", info("ES: 4", "ES: 2"), "ED and ES at the same frame 2"),
    ("key_frame_outside", "4d_mri", info("ES: 4", "ES: 9"), "ES=9, but patient001_4d.nii.gz has 5 phases"),
    ("phase_count", "4d_mri", info("NbFrame: 5", "NbFrame: 7"), "image has 5 phases but Info.cfg has NbFrame=7"),
    ("phase_count", "4d_mri", info("NbFrame: 5", "NbFrame: all"), "NbFrame=all, expected a whole number"),
    ("frame_shapes", "ed_es", voxels("_frame02.nii.gz", lambda v: v[:-1]), r"frame02.nii.gz has shape \(19, 24, 2\)"),
    (
        "other_grid",
        "4d_mri",
        voxels(MASK, lambda v: v, (-1.5, -1.5, 8.0, 1.0)),
        "1.5 x 1.5 x 8 mm, expected 1.5 x 1.25",
    ),
    (
        "other_grid",
        "ed_es",
        voxels("_frame04.nii.gz", lambda v: v, (-1.5, -1.25, 5.0, 1.0)),
        "04.nii.gz has another grid",
    ),
    ("mask_shape", "4d_mri", voxels(MASK, lambda v: v[:-1]), r"gt.nii.gz has shape \(19, 24, 2\).*\(20, 24, 2\)"),
    ("mask_shape", "ed_es", voxels(MASK, lambda v: v[..., :1]), r"gt.nii.gz has shape \(20, 24, 1\)"),
    ("mask_labels", "4d_mri", voxels(MASK, lambda v: v * 2), r"frame02_gt.nii.gz holds labels \[6.0\], expected 0, 1"),
    ("mask_labels", "4d_mri", voxels(MASK, put((0, 0, 0), 0.5)), r"holds labels \[0.5\]"),
    ("mask_labels", "4d_mri", voxels(MASK, put((0, 0, 0), -1.0)), r"holds labels \[-1.0\]"),
]


@pytest.mark.parametrize(("rule", "modality", "spoil", "message"), FAULTS)
def test_a_fault_refuses_the_case_by_its_rule(tmp_path, acdc_patient, rule, modality, spoil, message):
    spoil(acdc_patient(tmp_path / "patient001"))
    source = AcdcSource(tmp_path, modality)
    (patient,) = source.patients()
    with pytest.raises(CaseRefused, match=message) as refusal:
        serialize(source.load(patient), modality)
    assert (refusal.value.rule, refusal.value.patient) == (rule, patient)
    assert str(refusal.value).startswith(f"{patient}: ") and str(tmp_path) not in str(refusal.value)


def test_every_rule_has_its_fault():
    assert {rule for rule, *_ in FAULTS} == set(RULES)


def test_a_rule_without_a_sentence_cannot_be_raised():
    with pytest.raises(KeyError, match="'too_pretty' is not in RULES"):
        CaseRefused("too_pretty", "patient001", "it is")


def test_a_refusal_survives_the_way_between_processes():
    refusal = pickle.loads(pickle.dumps(CaseRefused("not_finite", "patient001", "the cine holds 3 NaN")))
    assert (refusal.rule, refusal.patient, str(refusal)) == (
        "not_finite",
        "patient001",
        "patient001: the cine holds 3 NaN",
    )


def test_the_data_page_lists_every_rule_as_the_code_says_it():
    page = (Path(__file__).resolve().parents[4] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip(" `"): row[1].strip() for row in rows if len(row) == 2}
    assert {rule: told.get(rule) for rule in RULES} == RULES
