"""Every command and snippet of README and docs runs, on phantoms and tiny models; a new one must be added here."""

import importlib
import json
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from accelerate.state import AcceleratorState

from tests.tiny import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SIZE = {"width": 32, "num_layers": 2, "num_heads": 2}
VQ = {"image_size": 32, "codebook_size": 64, "token_size": 6, "num_latent_tokens": 8, "finetune_decoder": False,
      "is_legacy": False, "vit_enc_model_size": SIZE, "vit_dec_model_size": SIZE, "vit_enc_patch_size": 8,
      "vit_dec_patch_size": 8}  # fmt: skip
SMALL = (
    "model.tokenizer.init=random", f"model.tokenizer.vq_model={json.dumps(VQ)}", "model.adapters.phase_heads=2",
    f"model.dit.size={json.dumps(SIZE | {'num_layers': 12})}", "model.dit.patch_size=8", "model.dit.head_channels=4",
    "model.geometry=crop", "dataset.workers=0", "dataset.phases=2", "dataset.max_phases=null",
)  # fmt: skip
QUICK = (
    *SMALL, "training.max_steps=1", "training.global_batch_size=2", "training.mixed_precision=no",
    "optimizer.warmup_steps=1",
)  # fmt: skip
TRAIN = "accelerate launch scripts/train_mri_titok.py config=configs/"
CODECS = (
    *("--limit", "1", "--codec_option", "svt_av1.ladder=[63]", "x265.ladder=[40]", "jpeg2000.ladder=[24]"),
    *("jpegxl.ladder=[16]", "jpegxl.effort=1"),
)
RUN: dict[str, tuple[str, ...]] = {  # how a command begins, in the order in which they run, and what makes it small
    "make setup": (),
    "make demo": (),
    "make test": (),
    "python scripts/convert_acdc_to_wds.py --input_dir /path/to": ("--workers", "1"),
    "python scripts/convert_acdc_to_wds.py --input_dir CINES": ("--workers", "1", "--output_dir", "cines_wds"),
    "python scripts/convert_acdc_to_wds.py --input_dir ACDC": ("--workers", "1"),
    TRAIN + "training/MRI/stage1/": (*QUICK, "losses.contrastive.width=32"),
    TRAIN + "training/MRI/stage2/": QUICK,
    TRAIN + "training/MRI/stage3/": QUICK,
    "python scripts/plot_run.py": (),
    "python scripts/evaluate.py --data acdc_wds --split test --output_dir report": ("--limit", "1"),
    TRAIN + "acdc128/segmenter": (*QUICK, "dataset.shards=acdc_edes"),
    TRAIN + "acdc128/reference": (*QUICK, "dataset.shards=acdc_edes"),
    TRAIN + "acdc128/stage1": (*QUICK, "losses={reconstruction: {}}"),
    TRAIN + "acdc128/stage2": QUICK,
    TRAIN + "acdc128/stage3": QUICK,
    TRAIN + "acdc128/sequence": QUICK,
    "python scripts/evaluate.py --data acdc_wds --output_dir report --segmenter": ("--limit", "1"),
    "python scripts/fit_sequence.py": ("--limit", "3"),
    TRAIN + "acdc128/ladder": QUICK,
    "python scripts/evaluate.py --model acdc128_output/ladder": ("--limit", "1"),
    "python scripts/evaluate.py --recon_dir OTHER_METHOD": ("--limit", "1"),
    "python scripts/evaluate.py --model MODEL --keep_tokens": ("--keep_tokens", "4", "--limit", "1"),
    "python scripts/evaluate.py --model MODEL --sweep": ("--steps", "2", "--realism", "0.5", "--limit", "1"),
    "python scripts/compare_codecs.py --data acdc_wds --model acdc128_output/ladder": (
        *("--split", "train", "--limit", "3", "--image_size", "32", "--steps", "0.5"),
        *("--codecs", "svt_av1", "x265", "--codec_option", "svt_av1.ladder=[63]", "x265.ladder=[40]"),
    ),
    "python scripts/equivalence.py codec_report": ("--resamples", "100"),
    "python scripts/compare_codecs.py --data acdc_wds --model acdc128_output/harmonic": ("--limit", "1"),
    "python scripts/compare_codecs.py --data acdc_wds --split": CODECS,
    "python scripts/probe.py": (
        *("--target", "ef", "--folds", "2", "--repeats", "1", "--permutations", "2"),  # two phantoms of each group
    ),
    "python scripts/pretokenize.py config=configs/demo": (
        *(*SMALL, "dataset.shards=acdc_wds", "experiment.init_weight=acdc128_output/stage1"),
        *("model.conditioning.weights=null", "--workers", "0", "--variants", "1", "--output_dir", "tokens_demo"),
    ),
    "python scripts/pretokenize.py config=configs/training": (
        *(*SMALL, "--workers", "0", "--variants", "1", "--output_dir", "tokens_mri"),
    ),
    "python scripts/ablate.py config=configs/demo": (
        *(*QUICK, "dataset.shards=acdc_wds", "experiment.init_weight=acdc128_output/stage1"),
        *("model.conditioning.weights=acdc128_output/segmenter", "experiment.output_dir=ablation_demo"),
        *("--segmenter", "acdc128_output/segmenter", "--terms", "flow"),
    ),
    "python scripts/show_augmentation.py": (),
    "python scripts/compress.py cine.nii.gz": ("--force",),
    "python scripts/inspect_file.py": (),
    "python scripts/decompress.py cine": ("--force",),
    "python scripts/draw_strip.py": (
        *("--model", "mri_titok_e2e_stage3_output", "--data", "acdc_wds", "--patient", "patient001"),
    ),
    "python scripts/benchmark.py bound": (*("--split", "train", "--image_size", "32", "--bits", "64"),),
    "python scripts/benchmark.py data": ("--seconds", "0.2", "--rounds", "1", "--workers", "0", "--image_size", "16"),
    "OMP_NUM_THREADS=2 python scripts/benchmark.py tokenizer": (
        *("--variants", "s128", "--batch", "1", "--rounds", "1", "--work", "encode", "--dtype", "fp32"),
    ),
    "python scripts/benchmark.py ladder": ("--rates", "200", "--psnr", "25", "--crf", "60"),
    "python scripts/benchmark.py decode": (
        *("--size", "S", "--image_size", "32", "--phases", "1", "--rounds", "1", "--steps", "1", "--dtype", "fp32"),
    ),
    "python scripts/benchmark.py memory": (*SMALL, "losses.contrastive.width=32"),
    "python scripts/benchmark.py phases": ("--limit", "1"),
    "python scripts/benchmark.py rehearse": SMALL,
    "python scripts/benchmark.py scale": SMALL,
    "python scripts/benchmark.py train": (*QUICK, "--steps", "1", "--rounds", "1"),
}
NEEDS = {  # optional packages of a command, by the names in Python
    "python scripts/compare_codecs.py": ("av", "imagecodecs"),
    "python scripts/probe.py": ("sklearn",),
}
PLACES = {
    "OTHER_METHOD": "acdc",
    "/path/to/acdc_dataset": "acdc",
    "CINES": "acdc",
    "ACDC": "acdc",
    "MODEL": "acdc128_output/stage2",
}


def commands() -> list[str]:
    """The lines of all bash blocks, without comments, those that end in a backslash joined."""
    lines_of_blocks = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            lines_of_blocks += [line.split("  #")[0].split(" #")[0].strip() for line in lines if line.strip()]
    return list(dict.fromkeys(lines_of_blocks))


def prefix_of(command: str) -> str | None:
    """The entry of `RUN` that covers a command."""
    return next((start for start in RUN if command.startswith(start)), None)


def run(words: list[str]) -> None:
    """Run a script in this process, as `python SCRIPT ...` would."""
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    module = importlib.import_module(f"scripts.{Path(words[at]).stem}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[at:])
        AcceleratorState._reset_state(reset_partial_state=True)
        module.main()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Path:
    """A folder with the phantoms as `acdc`, and one of their cines as `cine.nii.gz`."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "acdc").symlink_to(phantom_folder)
    (folder / "cine.nii.gz").symlink_to(phantom_folder / "patient001" / "patient001_4d.nii.gz")
    return folder


def test_each_command_of_the_documentation_is_covered_and_nothing_else() -> None:
    uncovered = [command for command in commands() if prefix_of(command) is None]
    assert not uncovered, f"add these to RUN: {uncovered}"
    unused = set(RUN) - {prefix_of(command) for command in commands()}
    assert not unused, f"no page has these: {unused}"
    assert {"demo", "test"} <= set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def test_every_command_and_snippet_of_the_documentation_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("scripts.ablate.run", lambda command, what: run(command))
    chosen = sorted(commands(), key=lambda command: list(RUN).index(str(prefix_of(command))))
    left_out = []
    for command in chosen:
        if command.startswith("make "):
            continue  # the demo has its own run, and this is the test
        needed = [name for start, names in NEEDS.items() if command.startswith(start) for name in names]
        if missing := [name for name in needed if find_spec(name) is None]:
            left_out.append(f"{command} (needs {' '.join(missing)})")
            continue
        print("documented:", command, flush=True)
        words = [PLACES.get(word, word) for word in shlex.split(command)]
        try:
            run([*words, *RUN[str(prefix_of(command))]])
        except (SystemExit, Exception) as error:
            raise AssertionError(f"this command of the documentation fails: {command}") from error
    names: dict[str, object] = {}
    for snippet in snippets():
        exec(snippet.replace("/path/to/acdc_dataset", "acdc").replace("keep_tokens=16", "keep_tokens=4"), names)
    source, decoded = nib.load("cine.nii.gz"), nib.load("decoded.nii.gz")
    assert decoded.shape == source.shape and decoded.get_data_dtype() == source.get_data_dtype()
    assert np.allclose(decoded.affine, source.affine)
    if left_out:
        pytest.skip(f"everything else runs, but not: {'; '.join(left_out)}")


def test_the_readme_goes_from_nifti_to_tokens_and_back_in_six_lines() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    lines = [line for line in snippet.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(lines) == 6


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    for page in [*PAGES, REPOSITORY / "README.zh-CN.md"]:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in link:
                continue
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}: no such file"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}: no such heading"


def snippets() -> list[str]:
    """All Python blocks, page by page."""
    return [text for page in PAGES for text in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
