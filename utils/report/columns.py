"""The metrics of a report: heading, decimals and meaning of each, and the tables that show it."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """How one metric is written: its heading, decimals, and meaning."""

    heading: str
    decimals: int
    meaning: str


class Table(NamedTuple):
    """A table of texts: one heading a column, and rows of the same length."""

    headings: list[str]
    rows: list[list[str]]


COLUMNS = {
    "psnr": Column(
        "PSNR (dB)",
        2,
        "native voxels inside the model's field, data range 1 after the window; frames without any error are left out",
    ),
    "ssim": Column("SSIM", 4, "the same voxels; scikit-image with a Gaussian window, sigma 1.5"),
    "psnr_heart": Column(
        "heart PSNR (dB)",
        2,
        "PSNR in the heart region: the labels of ED and ES and a margin of 10 mm, in labelled slices",
    ),
    "heart_in_field": Column(
        "heart in field", 3, "share of the heart region that lies inside the model's field and is therefore scored"
    ),
    "psnr_model_grid": Column(
        "PSNR, model grid (dB)", 2, "PSNR before the return to the native grid; padding is not scored"
    ),
    "psnr_ceiling": Column(
        "ceiling (dB)", 2, "PSNR of resampling to the model grid and back without a model; no value where this is exact"
    ),
    "flicker": Column(
        "flicker", 4, "mean absolute second difference over the cycle of the reconstruction, in units of the window"
    ),
    "flicker_original": Column("flicker, original", 4, "the same for the original; noise in the original adds to it"),
    "tokens": Column(
        "tokens", 0, "token ids in the compressed file, with anatomy tokens, without the indices of ED and ES"
    ),
    "bits": Column("bits", 0, "size of the whole compressed file: header, indices, tokens, anatomy, checksum"),
    "bits_per_frame": Column("bits/frame", 1, "bits of the file divided by slices x phases"),
    "ratio_int16": Column(
        "ratio, int16", 1, "16 bits for each native voxel inside the model's field, divided by the bits of the file"
    ),
    "ratio_true_depth": Column(
        "ratio, true depth", 1, "the same with the number of bits that the largest value of the volume needs"
    ),
    "ratio_nii_gz": Column(
        "ratio, .nii.gz", 1, "size of the same voxels as a gzip-compressed NIfTI, divided by the size of the file"
    ),
}
METRICS = tuple(COLUMNS)
HEART_METRICS = {
    "dice_mean": Column(
        "Dice", 3, "segmented reconstruction against ground truth: mean of RV, MYO and LV at ED and ES over the stack"
    ),
    "dice_mean_original": Column(
        "Dice, original", 3, "the same segmenter on the original: the value for a perfect reconstruction"
    ),
    "lv_ef_error": Column(
        "LV EF error",
        1,
        "absolute difference of the ejection fractions of reconstruction and ground truth, in "
        "points of %; undefined where the segmenter detects no LV at ED in the reconstruction; n counts the "
        "patients with a value",
    ),
    "lv_ef_error_original": Column("LV EF error, original", 1, "the same for the segmented original"),
    "ed_phase_error": Column(
        "ED phase error (%)", 1, "distance around the cycle from ED to the phase of the largest segmented LV, in %"
    ),
    "es_phase_error": Column(
        "ES phase error (%)", 1, "distance around the cycle from ES to the phase of the smallest segmented LV, in %"
    ),
    "ed_phase_error_original": Column("ED phase error, original (%)", 1, "the same for the segmented original"),
    "es_phase_error_original": Column("ES phase error, original (%)", 1, "the same for the segmented original"),
}
COLUMNS |= HEART_METRICS
COMPARED = (  # columns of the comparison
    *("psnr", "ssim", "psnr_heart", "dice_mean", "dice_mean_original", "lv_ef_error", "lv_ef_error_original"),
    *("es_phase_error", "flicker", "flicker_original", "psnr_model_grid", "psnr_ceiling", "heart_in_field"),
    *("tokens", "bits", "bits_per_frame", "ratio_int16", "ratio_true_depth", "ratio_nii_gz"),
)
TILES = ("psnr", "ssim", "psnr_heart", "dice_mean", "lv_ef_error", "bits_per_frame", "ratio_int16")  # in large type
PATIENT = ("patient", "slices", "phases")
BASELINE_METRICS = ("psnr", "ssim", "psnr_heart", "psnr_model_grid")  # a baseline has no rate
