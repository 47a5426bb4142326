"""Real cines, where they are at hand: conversion keeps every voxel and the crop keeps the heart."""

import os
from pathlib import Path

import numpy as np
import pytest

from data.preprocess import native_field, prepare
from data.shards.reader import ShardReader
from data.sources.acdc import AcdcSource
from tests.tiny import run_script

DATA = os.environ.get("TITOK_MRI_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="set TITOK_MRI_DATA to a folder that holds acdc/ and pig_cine/")
PATIENTS = ("patient001", "patient042", "patient090")


def test_real_pairs_come_back_from_shards_voxel_for_voxel_with_the_heart_inside_the_crop(tmp_path: Path) -> None:
    folder, shards = tmp_path / "in", tmp_path / "wds"
    folder.mkdir()
    chosen = [name for name in PATIENTS if (Path(DATA or ".") / "acdc" / name).is_dir()]
    for name in chosen:
        (folder / name).symlink_to(Path(DATA or ".").resolve() / "acdc" / name)
    options = ("--modality", "ed_es", "--val_fraction", 0, "--test_fraction", 0, "--workers", 1)
    done = run_script("convert_acdc_to_wds.py", "--input_dir", folder, "--output_dir", shards, *options)
    assert done.returncode == 0, done.stderr
    reader, source = ShardReader(shards, "train"), AcdcSource(folder, "ed_es")
    assert sorted(reader.patients()) == chosen
    for name in chosen:
        stored, original = reader.read_case(name), source.load(name)
        assert np.array_equal(stored.cine, original.cine) and stored.spacing_mm == original.spacing_mm
        assert all(np.array_equal(stored.masks[phase], original.masks[phase]) for phase in (0, 1))
        field = native_field(prepare(stored, 128, "crop").geometry)
        for mask in stored.masks.values():
            assert not mask[~field].any()


def test_the_4d_file_that_a_folder_lacks_is_named_with_what_to_do(tmp_path: Path) -> None:
    done = run_script(
        "convert_acdc_to_wds.py", "--input_dir", Path(DATA or ".") / "acdc", "--output_dir", tmp_path / "o"
    )
    assert done.returncode == 1 and "--modality ed_es" in done.stderr and not (tmp_path / "o").exists()


def test_a_real_4d_cine_converts_with_its_phases(tmp_path: Path) -> None:
    pig = Path(DATA or ".") / "pig_cine"
    done = run_script("convert_acdc_to_wds.py", "--input_dir", pig, "--output_dir", tmp_path / "o", "--workers", 1)
    assert done.returncode == 0, done.stderr
    case = ShardReader(tmp_path / "o", "train").read_case("patient901")
    assert case.cine.shape[3] == 20 and (case.ed, case.es) == (14, 7)


def test_every_real_mask_shares_the_grid_of_its_image() -> None:
    source = AcdcSource(Path(DATA or ".") / "acdc", "ed_es")
    assert all(sorted(source.load(patient).masks) == [0, 1] for patient in source.patients())
