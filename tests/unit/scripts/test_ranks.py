"""Two processes of a launcher divide the patients, and write and print what one process does."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.ranks import FAILING, commands
from tests.tiny import REPOSITORY, launch, tiny_model
from tests.training import STAGE2
from utils.device import cpu_cores


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(printed: str, output: Path) -> list[str]:
    """Printed lines without the measured time and the name of the folder."""
    return [line.replace(str(output), "") for line in printed.splitlines() if not line.startswith("encoding took")]


def test_two_processes_write_and_print_what_one_does(
    tmp_path: Path, phantom_shards: Path, phantom_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(conditioning="unet").save_pretrained(tmp_path / "model")
    tiny_model().save_pretrained(tmp_path / "first")
    (tmp_path / "recipe.yaml").write_text(STAGE2)
    for number in range(1, 6):
        name = f"patient{number:03d}_4d.nii.gz"
        (tmp_path / "cines").mkdir(exist_ok=True)
        shutil.copy(phantom_folder / name[:10] / name, tmp_path / "cines")
    (tmp_path / "cines" / "patient004_4d.nii.gz").write_bytes(b"damaged")
    inputs, one, two = (tmp_path, phantom_shards, tmp_path / "cines"), tmp_path / "one", tmp_path / "two"

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, cpu_cores() // 2))  # as each of two ranks
    commands(*inputs, one)
    torch.set_num_threads(threads)
    alone = capsys.readouterr()
    done = launch(REPOSITORY / "tests" / "ranks.py", *inputs, two)

    assert done.returncode == 0, done.stderr
    assert content(one) == content(two)
    assert {"report/index.html", "tokens/tokens.npy", "compressed/patient005_4d.tmri"} <= content(two).keys()
    assert lines(alone.out, one) == lines(done.stdout, two)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [line.replace(str(one), str(two)) for line in alone.err.splitlines() if line.startswith("error: ")]
    summary = json.loads((two / "report" / "summary.json").read_text())
    assert len(errors) == 2 and summary["n"] == 3 and FAILING in summary["failed"][0]["reason"]
