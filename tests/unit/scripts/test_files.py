"""Laws of compress, decompress and inspect_file: what comes back, what is refused, and that nothing is lost."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from data.bitstream.container import pack, unpack
from data.nifti.cine import read_cine
from data.preprocess import prepare
from data.scoring.images import open_reference, score_grid
from data.shards.manifest import SCHEMA_VERSION
from data.shards.reader import ShardReader, ShardWriter
from data.shards.samples import serialize
from modeling.titok import TiTok
from scripts import compress, decompress, inspect_file
from scripts.files.codec import compress as compress_reference
from scripts.files.codec import decompress as decoded_grid
from scripts.files.codec import read_tokens
from tests.tiny import tiny_model
from utils.layout import FrameLayout

SPACING = (1.5, 1.25, 8.0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model().save_pretrained(folder / "one")
    tiny_model(seed=5).save_pretrained(folder / "other")
    better = tiny_model()
    with torch.no_grad():
        better.dit.head[-1].bias.add_(0.1)
    better.save_pretrained(folder / "better")
    return folder


def write_cine(path: Path, seed: int = 0, shape: tuple[int, ...] = (40, 36, 2, 5), dtype: Any = np.int16) -> np.ndarray:
    """A beating square in noise, with an oblique affine, a fourth zoom in ms, a slope and an intercept."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 60, shape)
    for phase in range(shape[3]):
        values[12 : 24 + phase, 10:22, :, phase] += 300
    affine = np.array([[0, -1.25, 0, 10], [1.5, 0, 0, -20], [0, 0, 8, 5], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(values.astype(dtype), affine, dtype=dtype)
    image.header.set_zooms((*SPACING, 42.5))
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_slope_inter(2.0, -100.0)
    image.header["descrip"] = b"Jane Doe"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return values * 2.0 - 100.0


def run(script: Any, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status, and all that was printed."""
    code = 0
    try:
        script.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_cine_comes_back_on_its_own_grid_with_a_fresh_header(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cine(tmp_path / "cine.nii.gz")
    model = ("--model", model_folder / "one")
    assert run(compress, capsys, tmp_path / "cine.nii.gz", tmp_path / "c.tmri", *model)[0] == 0
    code, printed = run(decompress, capsys, tmp_path / "c.tmri", tmp_path / "back.nii.gz", *model)
    assert code == 0 and "29 % of the image is outside the field and is 0" in printed
    source, back = (nib.load(tmp_path / name) for name in ("cine.nii.gz", "back.nii.gz"))
    assert back.shape == source.shape and back.get_data_dtype() == source.get_data_dtype()
    np.testing.assert_allclose(back.affine, source.affine, atol=1e-5)
    np.testing.assert_allclose(back.header.get_zooms(), source.header.get_zooms(), rtol=1e-5)
    assert back.header.get_xyzt_units() == ("mm", "msec") and (back.dataobj.slope, back.dataobj.inter) == (2.0, -100.0)
    assert b"Jane" not in (tmp_path / "c.tmri").read_bytes() and not bytes(back.header["descrip"]).strip(b"\0")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, np.float32, np.float64])
@pytest.mark.parametrize("fraction", [0, 0.5])
def test_the_data_type_is_that_of_the_source(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], dtype: Any, fraction: float
) -> None:
    values = np.random.default_rng(0).integers(0, 200, (40, 36, 1, 2)) + fraction
    nib.save(nib.Nifti1Image(values.astype(dtype), np.diag([1.5, 1.25, 8.0, 1.0]), dtype=dtype), tmp_path / "a.nii")
    run(compress, capsys, tmp_path / "a.nii", tmp_path / "a.tmri", "--model", model_folder / "one")
    code, printed = run(decompress, capsys, tmp_path / "a.tmri", tmp_path / "b.nii", "--model", model_folder / "one")
    assert code == 0 and np.dtype(dtype).name in printed
    assert nib.load(tmp_path / "b.nii").get_data_dtype() == dtype


@pytest.mark.parametrize(("unit", "unit_mm"), [("mm", 1.0), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1.0)])
def test_the_unit_of_length_is_that_of_the_source(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], unit: str, unit_mm: float
) -> None:
    write_cine(tmp_path / "mm.nii")
    source = nib.load(tmp_path / "mm.nii")
    affine = source.affine.copy()
    affine[:3] /= unit_mm
    values = np.asarray(source.dataobj.get_unscaled())
    image = nib.Nifti1Image(values, affine, dtype=np.int16)
    image.header.set_xyzt_units(unit, "msec")
    nib.save(image, tmp_path / "a.nii")
    run(compress, capsys, tmp_path / "a.nii", tmp_path / "a.tmri", "--model", model_folder / "one")
    run(decompress, capsys, tmp_path / "a.tmri", tmp_path / "b.nii", "--model", model_folder / "one")
    back = nib.load(tmp_path / "b.nii")
    assert back.header.get_xyzt_units() == (unit, "msec")
    np.testing.assert_allclose(back.affine, affine, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(back.header.get_zooms(), image.header.get_zooms(), rtol=1e-5)
    _, printed = run(inspect_file, capsys, tmp_path / "a.tmri", "--json")
    assert json.loads(printed)["length_unit"] == {"micron": "um", "meter": "m"}.get(unit, unit)


def test_every_voxel_of_the_field_is_what_evaluation_scores_and_the_bytes_are_its_bytes(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cine(tmp_path / "cine.nii.gz")
    model = TiTok.from_pretrained(model_folder / "one")
    reference = open_reference(read_cine(tmp_path / "cine.nii.gz"), 32, "crop")
    run(compress, capsys, tmp_path / "cine.nii.gz", tmp_path / "c.tmri", "--model", model_folder / "one")
    data = (tmp_path / "c.tmri").read_bytes()
    assert data == compress_reference(model, reference)
    run(decompress, capsys, tmp_path / "c.tmri", tmp_path / "back.nii", "--model", model_folder / "one")
    grid = decoded_grid(model, data)
    real = decompress.native_cine(grid, read_tokens(model, data)[1])
    back = np.asarray(nib.load(tmp_path / "back.nii").dataobj)
    assert np.abs(back - real).max() <= 1.0 + 1e-6  # half a stored unit, of slope 2
    rows, columns = reference.box
    low, high = reference.prepared.window
    windowed = ((real[rows, columns] - low) / (high - low)).transpose(2, 3, 0, 1)
    assert score_grid(reference, grid)[1]["psnr"] == pytest.approx(
        float(np.mean(-10 * np.log10(np.square(windowed - reference.original).mean(axis=(2, 3))))), abs=1e-3
    )


def test_another_model_is_refused_by_name_and_another_decoder_is_noted(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cine(tmp_path / "cine.nii.gz")
    run(compress, capsys, tmp_path / "cine.nii.gz", tmp_path / "c.tmri", "--model", model_folder / "one")
    code, printed = run(decompress, capsys, tmp_path / "c.tmri", tmp_path / "b.nii", "--model", model_folder / "other")
    assert code == 1 and "was written by the model" in printed and not (tmp_path / "b.nii").exists()
    code, printed = run(decompress, capsys, tmp_path / "c.tmri", tmp_path / "b.nii", "--model", model_folder / "better")
    assert code == 0 and "another decoder" in printed and "differ" in printed


def test_a_forged_layout_is_refused(tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cine(tmp_path / "a.nii", shape=(40, 36, 2, 6))
    run(compress, capsys, tmp_path / "a.nii", tmp_path / "a.tmri", "--model", model_folder / "one")
    tokens, header = unpack((tmp_path / "a.tmri").read_bytes())
    half = FrameLayout(header.layout.num_tokens // 2, header.layout.codebook_size)  # tokens of 3 phases, said to be 6
    tokens[:, :2] = -1
    data = pack(tokens[:, : 2 + 6 * half.num_tokens], replace(header, layout=half))
    (tmp_path / "forged.tmri").write_bytes(data)
    code, printed = run(
        decompress, capsys, tmp_path / "forged.tmri", tmp_path / "b.nii", "--model", model_folder / "one"
    )
    assert code == 1 and "4 tokens" in printed and "8 tokens" in printed and not (tmp_path / "b.nii").exists()


def test_a_folder_gives_one_line_a_file_and_a_bad_file_costs_no_other(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_cine(tmp_path / "in" / f"cine{number}.nii.gz", number)
    whole = (tmp_path / "in" / "cine1.nii.gz").read_bytes()
    (tmp_path / "in" / "cine1.nii.gz").write_bytes(whole[: len(whole) // 2])
    model = ("--model", model_folder / "one", "--workers", 2)
    code, printed = run(compress, capsys, tmp_path / "in", tmp_path / "out", *model)
    assert code == 1 and "1 of 3 files failed, see above: cine1" in printed and "truncated or damaged" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cine0.tmri", "cine2.tmri"]
    (tmp_path / "out" / "cine2.tmri").write_bytes(b"TTMRI-RUO")
    code, printed = run(decompress, capsys, tmp_path / "out", tmp_path / "back", *model)
    assert code == 1 and "cine2.tmri" in printed and [p.name for p in (tmp_path / "back").iterdir()] == ["cine0.nii.gz"]


def test_existing_files_are_kept_unless_forced(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cine(tmp_path / "cine.nii.gz")
    (tmp_path / "c.tmri").write_bytes(b"precious")
    arguments = (tmp_path / "cine.nii.gz", tmp_path / "c.tmri", "--model", model_folder / "one")
    code, printed = run(compress, capsys, *arguments)
    assert code == 1 and "give --force" in printed and (tmp_path / "c.tmri").read_bytes() == b"precious"
    assert run(compress, capsys, *arguments, "--force")[0] == 0
    assert (tmp_path / "c.tmri").read_bytes().startswith(b"TTMRI")


def test_the_same_command_continues_a_folder_and_writes_no_file_twice(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_cine(tmp_path / "in" / f"cine{number}.nii.gz", number)
    arguments = (tmp_path / "in", tmp_path / "out", "--model", model_folder / "one")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cine0.tmri").write_bytes(b"complete")
    code, printed = run(compress, capsys, *arguments)
    assert code == 0 and "1 of 2 files exist" in printed
    assert (tmp_path / "out" / "cine0.tmri").read_bytes() == b"complete"
    assert (tmp_path / "out" / "cine1.tmri").read_bytes().startswith(b"TTMRI")
    assert run(compress, capsys, *arguments, "--force")[0] == 0
    assert (tmp_path / "out" / "cine0.tmri").read_bytes().startswith(b"TTMRI")


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_a_file_from_shards_is_the_file_from_the_nifti(tmp_path: Path, model_folder: Path, dtype: Any) -> None:
    write_cine(tmp_path / "cine.nii.gz", dtype=dtype)
    case = read_cine(tmp_path / "cine.nii.gz")
    members = dict(serialize(case, "nifti"))
    assert json.loads(members["cine_z00.json"])["time_step"] == 42.5
    writer = ShardWriter(tmp_path, 1 << 20)
    writer.add("test", list(members.items()))
    split = {"train": [], "val": [], "test": ["cine"]}
    manifest = {"schema_version": SCHEMA_VERSION, "split": split, "shards": writer.close()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    stored = ShardReader(tmp_path, "test").read_case("cine")
    model = TiTok.from_pretrained(model_folder / "one")
    first, second = (compress_reference(model, open_reference(each, 32, "crop")) for each in (case, stored))
    assert first == second


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch_frames", 0), "--batch_frames is 0, expected a number from 1"),
        (("--workers", 0), "--workers is 0, expected a number from 1"),
        (("--model", "nowhere"), "--model nowhere: no such folder"),
    ],
)
def test_values_out_of_range_are_refused_before_any_work(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], more: tuple[object, ...], message: str
) -> None:
    write_cine(tmp_path / "cine.nii.gz")
    arguments = (tmp_path / "cine.nii.gz", tmp_path / "c.tmri", "--model", model_folder / "one", *more)
    code, printed = run(compress, capsys, *arguments)
    assert code == 1 and message in printed and not (tmp_path / "c.tmri").exists()


def test_an_output_that_does_not_fit_the_input_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_folder: Path
) -> None:
    write_cine(tmp_path / "in" / "cine.nii.gz")
    (tmp_path / "file.tmri").write_bytes(b"precious")
    (tmp_path / "folder.tmri").mkdir()
    model = ("--model", model_folder / "one")
    code, printed = run(compress, capsys, tmp_path / "in", tmp_path / "file.tmri", *model)
    assert code == 1 and "is a file, and IN is a folder" in printed
    code, printed = run(compress, capsys, tmp_path / "in" / "cine.nii.gz", tmp_path / "folder.tmri", *model)
    assert code == 1 and "is a folder, and IN is a file" in printed
    code, printed = run(compress, capsys, tmp_path / "in", tmp_path / "file.tmri" / "deeper", *model)
    assert code == 1 and "cannot be written" in printed and (tmp_path / "file.tmri").read_bytes() == b"precious"


def test_one_acdc_patient_is_one_file_or_a_file_in_a_folder(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], acdc_patient: Any
) -> None:
    patient, model = acdc_patient(tmp_path / "acdc" / "patient001"), ("--model", model_folder / "one")
    code, printed = run(compress, capsys, patient, tmp_path / "one.tmri", *model)
    assert code == 0 and f"wrote {tmp_path / 'one.tmri'}" in printed and (tmp_path / "one.tmri").is_file()
    write_cine(tmp_path / "acdc" / "other.nii.gz")
    code, printed = run(compress, capsys, patient, tmp_path / "out", *model)
    assert code == 0 and f"wrote {tmp_path / 'out' / 'patient001.tmri'}" in printed and "not read" not in printed
    assert (tmp_path / "out" / "patient001.tmri").read_bytes() == (tmp_path / "one.tmri").read_bytes()
    code, printed = run(compress, capsys, tmp_path / "acdc", tmp_path / "all", *model)
    assert code == 0 and "not read in the input folder (1):\n  other.nii.gz" in printed


def test_a_folder_is_not_written_under_the_name_of_a_file(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cine(tmp_path / "in" / "a.nii.gz")
    model = ("--model", model_folder / "one")
    code, printed = run(compress, capsys, tmp_path / "in", tmp_path / "out.tmri", *model)
    assert code == 1 and "IN is a folder, so OUT is a folder too" in printed and not (tmp_path / "out.tmri").exists()
    run(compress, capsys, tmp_path / "in", tmp_path / "out", *model)
    code, printed = run(decompress, capsys, tmp_path / "out", tmp_path / "back.nii.gz", *model)
    assert code == 1 and "IN is a folder, so OUT is a folder too" in printed and not (tmp_path / "back.nii.gz").exists()


def test_hidden_files_beside_token_files_are_not_read(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cine(tmp_path / "in" / "a.nii.gz")
    model = ("--model", model_folder / "one")
    run(compress, capsys, tmp_path / "in", tmp_path / "out", *model)
    (tmp_path / "out" / ".01234567.b.tmri").write_bytes(b"TTMRI-RUO")  # left by a killed command
    (tmp_path / "out" / "._a.tmri").write_bytes(b"Mac OS X")
    code, printed = run(decompress, capsys, tmp_path / "out", tmp_path / "back", *model)
    assert code == 0 and "failed" not in printed
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["a.nii.gz"]


def test_the_line_of_a_failed_file_names_it_once(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Käse 1.nii.gz"
    path.write_bytes(b"hello")
    code, printed = run(compress, capsys, path, tmp_path / "a.tmri", "--model", model_folder / "one")
    assert code == 1 and printed.splitlines()[-1].startswith("error: Käse 1.nii.gz is not a NIfTI file")


def test_an_interruption_is_one_line_and_leaves_no_part_of_a_file(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cine(tmp_path / "cine.nii.gz")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compress, "compress_case", interrupted)
    arguments = (tmp_path / "cine.nii.gz", tmp_path / "out" / "c.tmri", "--model", model_folder / "one")
    code, printed = run(compress, capsys, *arguments)
    assert code == 130 and "interrupted" in printed and not list((tmp_path / "out").iterdir())


def test_a_terminated_command_leaves_no_part_of_a_file(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cine(tmp_path / "cine.nii.gz")
    model = ("--model", model_folder / "one")
    run(compress, capsys, tmp_path / "cine.nii.gz", tmp_path / "c.tmri", *model)

    def terminated(image: Any, path: Path) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(nib, "save", terminated)

    def of_the_caller(*_: Any) -> None:
        pytest.fail("the command did not handle SIGTERM")

    before = signal.signal(signal.SIGTERM, of_the_caller)
    try:
        code, printed = run(decompress, capsys, tmp_path / "c.tmri", tmp_path / "out" / "b.nii", *model)
        assert code == 130 and "interrupted" in printed and not list((tmp_path / "out").iterdir())
        assert signal.getsignal(signal.SIGTERM) is of_the_caller
    finally:
        signal.signal(signal.SIGTERM, before)


def test_voxels_outside_the_field_have_the_recorded_value(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = write_cine(tmp_path / "cine.nii.gz")
    model = ("--model", model_folder / "one")
    run(compress, capsys, tmp_path / "cine.nii.gz", tmp_path / "c.tmri", *model, "--outside", "mean")
    run(decompress, capsys, tmp_path / "c.tmri", tmp_path / "back.nii", *model)
    back = np.asarray(nib.load(tmp_path / "back.nii").dataobj)
    prepared = prepare(read_cine(tmp_path / "cine.nii.gz"), 32, "crop")
    from data.preprocess import native_field

    outside = ~native_field(prepared.geometry)
    assert np.ptp(back[outside]) == 0 and back[outside].flat[0] == pytest.approx(real[outside].mean(), abs=1.0)


def test_inspect_counts_every_bit_and_needs_no_model(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cine(tmp_path / "cine.nii.gz")
    run(compress, capsys, tmp_path / "cine.nii.gz", tmp_path / "c.tmri", "--model", model_folder / "one")
    code, printed = run(inspect_file, capsys, tmp_path / "c.tmri", "--json")
    found = json.loads(printed)
    assert code == 0 and sum(found["bits"].values()) == 8 * (tmp_path / "c.tmri").stat().st_size
    assert found["cine"] == {"height": 40, "width": 36, "slices": 2, "phases": 5, "dtype": "int16"}
    code, printed = run(inspect_file, capsys, tmp_path / "c.tmri")
    assert code == 0 and "range coder" in printed
    (tmp_path / "bad.tmri").write_bytes(b"hello")
    code, printed = run(inspect_file, capsys, tmp_path / "bad.tmri")
    assert code == 1 and "bad.tmri: not a TiTok-MRI file" in printed
