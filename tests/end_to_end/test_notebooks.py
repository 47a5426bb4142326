"""The notebook runs from its first to its last cell on a phantom, without a GPU, a network or Jupyter."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from modeling.titok import TiTok
from scripts.decompress import native_cine
from scripts.files.codec import decode, read_tokens
from tests.tiny import REPOSITORY

NOTEBOOK = REPOSITORY / "notebooks" / "quickstart.ipynb"
LARGEST = 600_000  # bytes of the file with its pictures
RUNNER = """
import json, sys
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
facts = {name: names[name] for name in sys.argv[3:]}
facts = {name: list(value.shape) if hasattr(value, "shape") else value for name, value in facts.items()}
json.dump(facts, open(sys.argv[2], "w"))
"""
ASKED = ("x", "tokens", "decoded", "rates", "qualities", "frame_rate", "frame_quality", "own_scores")


def execute(notebook: Path, workplace: Path, *asked: str) -> subprocess.CompletedProcess[str]:
    """Run the code cells in one namespace and write the asked variables, or their shapes, to facts.json."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(workplace)}
    command = [sys.executable, "-c", RUNNER, str(notebook), str(workplace / "facts.json"), *asked]
    return subprocess.run(
        command, cwd=notebook.parent, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with facts.json, and the folder that the notebook wrote."""
    folder = tmp_path_factory.mktemp("notebook")
    done = execute(NOTEBOOK, folder, *ASKED)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_tokens_decode_to_the_shape_of_the_cine_and_more_bytes_give_a_better_picture(workplace: Path) -> None:
    facts = json.loads((workplace / "facts.json").read_text())
    assert facts["x"] == facts["decoded"] == [1, 1, 128, 128, 2, 12]
    assert facts["tokens"] == [1, 2, 2 + 12 * 32]
    assert facts["rates"] == sorted(facts["rates"], reverse=True) and len(facts["rates"]) == 5
    assert facts["qualities"] == sorted(facts["qualities"], reverse=True)
    assert 17 < facts["frame_quality"] < min(facts["qualities"]) and facts["frame_rate"] < min(facts["rates"])
    assert facts["own_scores"]["psnr"] == pytest.approx(facts["frame_quality"], abs=1e-3)  # the same model, saved


def test_the_file_on_disk_decodes_to_the_written_nifti_on_the_grid_of_its_source(workplace: Path) -> None:
    (written,) = workplace.glob("quickstart_*")
    source, back = nib.load(written / "patient001" / "patient001_4d.nii.gz"), nib.load(written / "back.nii.gz")
    assert back.shape == source.shape and back.get_data_dtype() == source.get_data_dtype()
    assert np.allclose(back.affine, source.affine)
    data = (written / "cine.tmri").read_bytes()
    assert 0.96 * 200 <= len(data) / 24 <= 1.01 * 200
    ladder = TiTok.from_pretrained(REPOSITORY / "configs" / "ladder_mini")
    tokens, header = read_tokens(ladder, data)
    again = native_cine(decode(ladder, tokens, header), header)
    assert abs(np.asarray(back.dataobj) - again).max() <= 0.501  # rounded to whole numbers


def test_a_cell_that_raises_fails_the_run(tmp_path: Path) -> None:
    broken = [{"cell_type": "markdown", "source": ["no code"]}, {"cell_type": "code", "source": ["a = 1\n", "a / 0"]}]
    (tmp_path / "broken.ipynb").write_text(json.dumps({"cells": broken}))
    done = execute(tmp_path / "broken.ipynb", tmp_path)
    assert done.returncode != 0 and "cell 1" in done.stderr and "ZeroDivisionError" in done.stderr


def test_the_stored_outputs_are_small_complete_and_free_of_errors(cells: list[dict[str, Any]]) -> None:
    assert NOTEBOOK.stat().st_size < LARGEST
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run all cells in order"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


def test_the_files_that_the_notebook_names_exist(cells: list[dict[str, Any]]) -> None:
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    named = re.findall(r"\b(?:configs|docs|notebooks|scripts)/[\w./]*\w", text)
    assert len(named) > 5 and not [name for name in named if not (REPOSITORY / name).exists()]
