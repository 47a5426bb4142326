"""Fixtures shared by the rooms: a tiny cohort of phantoms and its shards."""

from pathlib import Path

import pytest

from tests.tiny import run_script


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten phantoms of 48 px, 3 slices and 6 phases in ACDC's layout."""
    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    settings = ("--patients", 10, "--size", 48, "--spacing_mm", 4.0, "--slices", 3, "--phases", 6, "--workers", 1)
    done = run_script("make_phantom.py", "--output_dir", folder, *settings)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def phantom_shards(phantom_folder: Path) -> Path:
    """The phantoms as shards."""
    folder = phantom_folder.parent / "phantom_wds"
    options = ("--modality", "4d_mri", "--workers", 1)
    done = run_script("convert_acdc_to_wds.py", "--input_dir", phantom_folder, "--output_dir", folder, *options)
    assert done.returncode == 0, done.stderr
    return folder
