"""Write a cohort of synthetic cardiac cines in ACDC's file layout, with a truth.json of their exact volumes.

Research use only, not a medical device: results on phantoms do not transfer to patients.

    python scripts/make_phantom.py --output_dir phantom --patients 100 --size 128 --seed 0

Each patient's folder is written completely or not at all. The same command adds missing patients.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nibabel as nib
import numpy as np
from tqdm import tqdm

from data.case import CineCase
from data.sources.phantom import Options, build
from utils.config.recipe import from_plain
from utils.errors import user_errors
from utils.files import atomic_dir, read_json, sweep, user_path, write_json, write_text


def save_nifti(path: Path, voxels: np.ndarray, spacing_mm: tuple[float, ...]) -> None:
    """Write int16 or uint8 voxels with a new header: spacing in the zooms (mm; the fourth zoom, time, is 1)."""
    image = nib.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def save_case(folder: Path, case: CineCase) -> None:
    """Write one patient as ACDC does: Info.cfg, the 4-D cine, image and labels of ED and ES (frames count from 1)."""
    assert case.ed is not None and case.es is not None
    info = {"ED": case.ed + 1, "ES": case.es + 1, "Group": case.group, "Height": case.height_cm}
    info |= {"NbFrame": case.cine.shape[3], "Weight": case.weight_kg}
    with atomic_dir(folder) as temporary:
        write_text(temporary / "Info.cfg", "".join(f"{key}: {value}\n" for key, value in info.items()))
        save_nifti(temporary / f"{case.patient}_4d.nii.gz", case.cine, case.spacing_mm)
        for phase in (case.ed, case.es):
            stem = temporary / f"{case.patient}_frame{phase + 1:02d}"
            save_nifti(stem.with_name(f"{stem.name}.nii.gz"), case.cine[..., phase], case.spacing_mm)
            save_nifti(stem.with_name(f"{stem.name}_gt.nii.gz"), case.masks[phase], case.spacing_mm)


def make(options: Options, output_dir: Path, patient: str) -> tuple[str, dict[str, float | str]]:
    """Generate and write one patient unless its folder exists; returns its name and its true volumes."""
    source = build(options)
    if not (output_dir / patient).is_dir():
        save_case(output_dir / patient, source.load(patient))
    return patient, source.truth(patient)


def check_folder(output_dir: Path, settings: dict) -> None:
    """Refuse a folder that holds anything other than a part of this cohort."""
    record = output_dir / "settings.json"
    if record.is_file():
        saved = read_json(record)
        if not isinstance(saved, dict) or type(saved.get("patients")) is not int:
            raise ValueError(f"{record}: expected the settings of a phantom cohort; choose another --output_dir")
        if saved | {"patients": 0} != settings | {"patients": 0}:
            raise ValueError(f"{output_dir} holds a cohort with other settings ({saved}); choose another --output_dir")
        if saved["patients"] > settings["patients"]:
            raise ValueError(f"{output_dir} holds {saved['patients']} patients; give --patients that number or more")
    elif output_dir.is_dir() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty and holds no phantom cohort; choose another --output_dir")
    write_json(record, settings)


@user_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Options()
    parser.add_argument("--output_dir", type=user_path, required=True, help="folder for the patients and truth.json")
    parser.add_argument("--patients", type=int, default=default.patients, help="number of patients")
    parser.add_argument("--size", type=int, default=default.size, help="side of the images in pixels")
    parser.add_argument(
        "--spacing_mm",
        type=float,
        default=default.spacing_mm,
        help="mean pixel size; that of a patient is within 20 %%",
    )
    parser.add_argument("--slices", type=int, default=default.slices, help="slices of a patient")
    parser.add_argument("--phases", type=int, default=default.phases, help="phases of the cycle")
    parser.add_argument("--seed", type=int, default=default.seed, help="random seed of the cohort")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    arguments = vars(parser.parse_args())
    output_dir, workers = arguments.pop("output_dir"), arguments.pop("workers")
    options = from_plain(Options, arguments, "phantom")
    if workers < 1:
        raise ValueError(f"--workers is {workers}, expected 1 or more")
    check_folder(output_dir, arguments)
    sweep(output_dir)

    names = build(options).patients()
    truth = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(make, options, output_dir, name) for name in names]
        try:
            for job in tqdm(as_completed(jobs), total=len(jobs), unit="patient"):
                name, volumes = job.result()
                truth[name] = volumes
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_json(output_dir / "truth.json", {name: truth[name] for name in names})
    print(f"{len(names)} patients and truth.json are in {output_dir}")


if __name__ == "__main__":
    main()
