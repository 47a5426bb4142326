"""The figures of a report: how each is headed, rounded and explained, and which tables show it."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """How one figure is written: its heading, decimals, and meaning."""

    heading: str
    decimals: int
    meaning: str


COLUMNS = {
    "psnr": Column(
        "PSNR (dB)", 2, "native voxels inside the field, data range 1 after the window; exact frames left out"
    ),
    "ssim": Column("SSIM", 4, "on the same voxels; Gaussian window, sigma 1.5, by scikit-image"),
    "psnr_heart": Column(
        "heart PSNR (dB)", 2, "where ED or ES shows the heart, and 10 mm around it, in labelled slices"
    ),
    "heart_in_field": Column(
        "heart in field", 3, "share of that region that the model's field covers and that is scored"
    ),
    "psnr_model_grid": Column("PSNR, model grid (dB)", 2, "before going back to the native grid; padding not scored"),
    "psnr_ceiling": Column(
        "ceiling (dB)", 2, "PSNR of going to the model grid and back alone; empty where that is exact"
    ),
    "flicker": Column(
        "flicker", 4, "mean absolute second difference over the cycle, of the reconstruction; window units"
    ),
    "flicker_original": Column("flicker, original", 4, "the same of the original, whose noise flickers too"),
    "tokens": Column("tokens", 0, "ids in the compressed file, of anatomy too; the indices of ED and ES not counted"),
    "bits": Column("bits", 0, "of the whole compressed file: header, indices, tokens, anatomy, checksum"),
    "bits_per_frame": Column("bits/frame", 1, "all bits of the file over slices x phases"),
    "ratio_int16": Column(
        "ratio, int16", 1, "16 bits for each native voxel inside the field over the bits of the file"
    ),
    "ratio_true_depth": Column("ratio, true depth", 1, "the same with the bits that the volume's largest value needs"),
    "ratio_nii_gz": Column(
        "ratio, .nii.gz", 1, "bytes of the same voxels as a gzip-compressed NIfTI over those of the file"
    ),
}
FIGURES = tuple(COLUMNS)
HEART = {
    "dice_mean": Column(
        "Dice",
        3,
        "segmented reconstruction against ground truth, mean of RV, MYO, LV at ED and ES over the stack",
    ),
    "dice_mean_original": Column(
        "Dice, original", 3, "the same segmenter on the original: what a perfect reconstruction would reach"
    ),
    "lv_ef_error": Column(
        "LV EF error",
        1,
        "absolute difference of ejection fraction, reconstruction to ground truth, in points of %; patients in whose "
        "reconstruction no LV was found at ED are left out, and n says how many remain",
    ),
    "lv_ef_error_original": Column("LV EF error, original", 1, "the same of the segmented original"),
    "ed_phase_error": Column(
        "ED phase error (%)", 1, "from the phase of the largest segmented LV to ED, around the cycle, in % of it"
    ),
    "es_phase_error": Column("ES phase error (%)", 1, "from the phase of the smallest segmented LV to ES, likewise"),
    "ed_phase_error_original": Column("ED phase error, original (%)", 1, "the same of the segmented original"),
    "es_phase_error_original": Column("ES phase error, original (%)", 1, "the same of the segmented original"),
}
COLUMNS |= HEART
COMPARED = (
    *("psnr", "ssim", "psnr_heart", "dice_mean", "dice_mean_original", "lv_ef_error", "lv_ef_error_original"),
    *("es_phase_error", "flicker", "flicker_original", "psnr_model_grid", "psnr_ceiling", "heart_in_field"),
    *("tokens", "bits", "bits_per_frame", "ratio_int16", "ratio_true_depth", "ratio_nii_gz"),
)
PATIENT = ("patient", "slices", "phases")
QUALITY = ("psnr", "ssim", "psnr_heart", "psnr_model_grid")  # what a baseline is scored by: it has no rate
