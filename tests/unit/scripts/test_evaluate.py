"""The evaluation decodes real bytes, counts them, and sets them against baselines; nothing private leaves it."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.bitstream import container
from data.bitstream.header import Header
from data.case import CineCase
from data.scoring.images import open_reference
from data.shards import samples
from data.shards.manifest import SCHEMA_VERSION, SPLITS
from data.shards.reader import ShardReader, ShardWriter
from data.shards.samples import serialize
from modeling.config import ModelConfig, TokenizerOptions
from modeling.encoder import Chunks
from modeling.titok import TiTok
from modeling.tokenizer import VQModelConfig
from modeling.weights.identity import Identity
from scripts import evaluate
from scripts.evaluation import baselines, scoring, segmenters
from scripts.files import codec
from tests.pages import draw_no_figures
from utils.baselines import zeroed
from utils.layout import FrameLayout

SIZE, SIDE, PHASES = 32, 4, 4


class BlockModel(nn.Module):
    """A tokenizer without training: a token is the mean grey value of a block of the frame."""

    segmenter: Any = None
    ladder = None
    conditioning = SimpleNamespace(leak=None)

    def __init__(self, geometry: str = "crop", anatomy: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        tokenizer = TokenizerOptions(vq_model=VQModelConfig(image_size=SIZE))
        self.config = ModelConfig(geometry=geometry, tokenizer=tokenizer)
        self.layout, self.chunks = FrameLayout(SIDE * SIDE, 256, anatomy, 16), Chunks()

    taught_by: Any = ()
    token_counts = None

    def identity(self) -> Identity:
        return Identity(1, 2)

    def teachers(self) -> list[str]:
        return list(self.taught_by)

    def encode(self, x: Tensor, keep_tokens: int | None = None) -> Tensor:
        slices, phases = x.shape[4:]
        frames = x.permute(0, 4, 5, 1, 2, 3).reshape(-1, 1, SIZE, SIZE)
        ids = (nn.functional.adaptive_avg_pool2d(frames, SIDE) * 255).round().long().reshape(1, slices, -1)
        if keep_tokens is not None:
            ids = (
                ids.unflatten(2, (-1, SIDE * SIDE)).index_fill(3, torch.arange(keep_tokens, SIDE * SIDE), -1).flatten(2)
            )
        keys = torch.tensor([0, phases - 1]).expand(1, slices, 2)
        return torch.cat([keys, ids, torch.full((1, slices, 2 * self.layout.num_anatomy), 3)], dim=2)

    def decode_tokens(self, tokens: Tensor, **options: Any) -> Tensor:
        slices, ids = tokens.shape[1], tokens[:, :, 2 : tokens.shape[2] - 2 * self.layout.num_anatomy]
        blocks = ids.clamp(min=0).reshape(-1, 1, SIDE, SIDE).float() / 255
        return (
            nn.functional.interpolate(blocks, (SIZE, SIZE))
            .reshape(1, slices, -1, 1, SIZE, SIZE)
            .permute(0, 3, 4, 5, 1, 2)
        )


def make_case(index: int, slices: int = 3, phases: int = PHASES) -> CineCase:
    """A bright square whose place differs from patient to patient, slice to slice and phase to phase."""
    cine = np.random.default_rng(index).integers(0, 40, (40, 36, slices, phases)).astype(np.int16)
    mask = np.zeros((40, 36, slices), np.uint8)
    for z in range(slices):
        for t in range(phases):
            row, col = 8 + 4 * (index % 4) + t, 6 + 6 * z
            cine[row : row + 10, col : col + 10, z, t] += 500
        mask[10:20, 10:20, z] = 3
    return CineCase(
        patient=f"patient{index:03d}",
        cine=cine,
        masks={0: mask, 2: mask} if phases > 2 else {},
        spacing_mm=(1.5, 1.5, 8.0),
        affine=np.diag([1.5, 1.5, 8.0, 1.0]),
        ed=0 if phases > 2 else None,
        es=2 if phases > 2 else None,
        group=None,
        height_cm=None,
        weight_kg=None,
        slope=1.0,
        intercept=0.0,
        source_hash="",
    )


def write_shards(folder: Path, split: dict[str, list[CineCase]]) -> Path:
    folder.mkdir()
    writer = ShardWriter(folder, 1 << 20)
    for name, cases in split.items():
        for case in cases:
            writer.add(name, serialize(case, "4d_mri"))
    patients = {name: [case.patient for case in split.get(name, [])] for name in SPLITS}
    manifest = {"schema_version": SCHEMA_VERSION, "split": patients, "shards": writer.close()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    test = [make_case(2), make_case(3, slices=2, phases=6), make_case(4)]
    return write_shards(tmp_path / "acdc_wds", {"train": [make_case(0), make_case(1)], "test": test})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Evaluate block models; gives summary.json. Pictures are drawn only where a test asks for them."""
    models = {"stage1": BlockModel("fit"), "stage2": BlockModel("crop", anatomy=2)}
    for module in (evaluate, segmenters):
        monkeypatch.setattr(module, "load_model", lambda folder, device, batch_frames: models[folder.name])
    for name in models:
        (tmp_path / name).mkdir()

    def evaluate_models(
        data: Path, *more: str, names: tuple[str, ...] = ("stage1", "stage2"), drawn: bool = False
    ) -> dict[str, Any]:
        if not drawn:
            draw_no_figures(monkeypatch)
        folders = [str(tmp_path / name) for name in names]
        output = tmp_path / "report"
        evaluate.main(["--model", *folders, "--data", str(data), "--output_dir", str(output), "--device", "cpu", *more])
        return json.loads((output / "summary.json").read_text())

    return evaluate_models


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "report" / "per_patient.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_report_has_its_page_its_tables_and_its_pictures(
    run: Callable[..., dict[str, Any]], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run(shards, drawn=True)
    written = {path.name for path in (tmp_path / "report").iterdir()}
    pictures = {f"{name}_{kind}.png" for name in ("best", "median", "worst") for kind in ("frames", "profile")}
    assert written == pictures | {"index.html", "summary.json", "per_patient.csv", "psnr_over_phases.png", "rates.png"}
    rows = read_rows(tmp_path)
    assert [(row["model"], row["patient"]) for row in rows] == [
        (model, f"patient{i:03d}") for model in ("stage1", "stage2") for i in (2, 3, 4)
    ]
    assert summary["mean"]["psnr"] == pytest.approx(np.mean([float(row["psnr"]) for row in rows[3:]]))
    assert summary["model"] == "stage2" and summary["data"] == "acdc_wds" and summary["split"] == "test"
    page = (tmp_path / "report" / "index.html").read_text()
    assert "(median PSNR of stage2)" in page and page.count('class="moving"') == 4  # by both models, and of two others
    printed = capsys.readouterr().out
    assert "baseline: tokens_shuffled" in printed and str(tmp_path / "report" / "index.html") in printed


def test_the_model_beats_decoders_that_do_not_know_the_patient(
    run: Callable[..., dict[str, Any]], shards: Path
) -> None:
    summary = run(shards)
    assert list(summary["baselines"]) == ["mean_frame", "tokens_zeroed", "tokens_shuffled"]
    for baseline in summary["baselines"].values():
        assert summary["mean"]["psnr"] > baseline["mean"]["psnr"] + 1
        assert summary["mean"]["ssim"] > baseline["mean"]["ssim"]
        assert baseline["n"] == 3 and baseline["note"]


def test_each_budget_is_a_row_at_its_own_bits(run: Callable[..., dict[str, Any]], shards: Path) -> None:
    summary = run(shards, "--keep_tokens", "4", "16", names=("stage2",))
    assert list(summary["models"]) == ["stage2, 4 tokens", "stage2, 16 tokens"]
    few, all_of_them = (entry["mean"] for entry in summary["models"].values())
    assert few["psnr"] < all_of_them["psnr"] and few["bits"] < all_of_them["bits"]
    frames = summary["cohort"]["frames"] / 3
    slices = summary["cohort"]["slices"] / 3
    assert all_of_them["tokens"] - few["tokens"] == pytest.approx(12 * frames)
    assert few["tokens"] == pytest.approx(4 * frames + 4 * slices)  # A = 2 anatomy tokens of ED and of ES
    assert summary["model"] == "stage2, 16 tokens"


def test_a_sweep_scores_every_pair_of_steps_and_realism_beside_the_one_step_decode(
    run: Callable[..., dict[str, Any]], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = BlockModel.decode_tokens

    def sampled(self: BlockModel, tokens: Tensor, steps: int, realism: float, **_: Any) -> Tensor:
        image = noisy(self, tokens)
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(steps))
        return (image + realism * 0.1 * noise).clamp(0, 1)

    monkeypatch.setattr(BlockModel, "decode_tokens", sampled)
    monkeypatch.setattr(BlockModel, "dit", nn.Identity(), raising=False)
    run(shards, "--sweep", "--steps", "1", "2", "4", "--realism", "0", "0.5", "1", names=("stage2",))
    found = json.loads((tmp_path / "report" / "sweep.json").read_text())
    pairs = [(row["steps"], row["realism"]) for row in found["rows"]]
    assert pairs == [(1, 0.0), (2, 0.5), (2, 1.0), (4, 0.5), (4, 1.0)]
    psnr = [row["psnr"] for row in found["rows"]]
    detail = [row["high_frequency_ratio"] for row in found["rows"]]
    assert psnr[0] == max(psnr) and detail[0] == min(detail) and all(row["ms_per_frame"] > 0 for row in found["rows"])
    with (tmp_path / "report" / "sweep.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 5
    assert (tmp_path / "report" / "sweep.png").is_file()


def test_bits_are_those_of_the_whole_file(run: Callable[..., dict[str, Any]], shards: Path, tmp_path: Path) -> None:
    run(shards)
    row = read_rows(tmp_path)[-1]
    model = BlockModel("crop", anatomy=2)
    data = codec.compress(model, open_reference(make_case(4), SIZE, "crop"))
    assert float(row["bits"]) == len(data) * 8 > (SIDE * SIDE * 8 * PHASES + 4 * 4) * 3
    assert float(row["ratio_int16"]) == pytest.approx(SIZE * SIZE * 3 * PHASES * 16 / (len(data) * 8))


def test_what_is_scored_comes_from_the_bytes_alone(
    run: Callable[..., dict[str, Any]], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_content(tokens: np.ndarray, header: Header) -> np.ndarray:
        return zeroed(header.layout, tokens, (header.slices, header.phases))

    pack = container.pack
    monkeypatch.setattr(container, "pack", lambda tokens, header, _: pack(without_content(tokens, header), header))
    summary = run(shards, names=("stage2",))
    assert summary["mean"]["psnr"] == summary["baselines"]["tokens_zeroed"]["mean"]["psnr"]


def test_a_ceiling_is_reported_where_the_model_resamples(
    run: Callable[..., dict[str, Any]], shards: Path, tmp_path: Path
) -> None:
    summary = run(shards)
    assert summary["models"]["stage1"]["mean"]["psnr_ceiling"] > summary["models"]["stage1"]["mean"]["psnr"]
    assert summary["mean"]["psnr_ceiling"] is None
    assert any("stage1 differs" in note for note in summary["notes"])


def test_no_private_folder_is_written(run: Callable[..., dict[str, Any]], shards: Path, tmp_path: Path) -> None:
    summary = run(shards)
    assert summary["command"]["model"] == ["stage1", "stage2"] and summary["command"]["output_dir"] == "report"
    for name in ("summary.json", "index.html", "per_patient.csv"):
        assert str(tmp_path) not in (tmp_path / "report" / name).read_text()


def test_a_second_run_gives_the_same_figures_and_leaves_no_picture_of_the_first(
    run: Callable[..., dict[str, Any]], shards: Path, tmp_path: Path
) -> None:
    assert run(shards) == run(shards)
    (tmp_path / "report" / "notes.txt").write_text("mine")
    run(shards, "--limit", "1")
    left = {path.name for path in (tmp_path / "report").iterdir()}
    assert "notes.txt" in left and not any(name.startswith("worst_") for name in left)


def test_one_patient_is_shuffled_within_and_the_report_says_so(
    run: Callable[..., dict[str, Any]], shards: Path, tmp_path: Path
) -> None:
    summary = run(shards, "--limit", "1")
    shuffled = summary["baselines"]["tokens_shuffled"]
    assert "one patient only" in shuffled["note"]
    assert shuffled["mean"]["psnr"] < summary["mean"]["psnr"]
    assert any("first 1 of 3 patients" in note for note in summary["notes"])
    assert not (tmp_path / "report" / "worst_frames.png").exists()


def test_an_empty_train_split_leaves_out_the_mean_frame_and_the_report_says_so(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    summary = run(write_shards(tmp_path / "wds", {"test": [make_case(2), make_case(3)]}))
    assert "mean_frame" not in summary["baselines"]
    assert any("no mean_frame" in note for note in summary["notes"])


def test_a_single_unlabelled_frame_can_be_evaluated(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    summary = run(write_shards(tmp_path / "wds", {"test": [make_case(2, slices=1, phases=1)]}), drawn=True)
    assert summary["cohort"]["frames"] == 1 and summary["mean"]["psnr_heart"] is None
    assert not (tmp_path / "report" / "best_profile.png").exists()


def test_the_mean_frame_is_the_mean_over_all_train_frames(shards: Path) -> None:
    image, used = baselines.mean_frame(ShardReader(shards, "train"), SIZE, "fit")
    frames = [open_reference(make_case(i), SIZE, "fit").prepared.image[0] for i in (0, 1)]
    assert used == 2
    np.testing.assert_allclose(image, np.concatenate(frames, axis=2).mean(axis=(2, 3)), atol=1e-6)


def test_each_patient_is_paired_with_the_next_and_none_is_read_ahead_of_need() -> None:
    opened = []

    def items() -> Iterator[Any]:
        for name in "abc":
            opened.append(name)
            yield name.upper(), name.encode()

    pairs = scoring.with_next(items())
    assert next(pairs) == ("A", b"a", b"b")
    assert opened == ["a", "b"]
    assert list(pairs) == [("B", b"b", b"c"), ("C", b"c", b"a")]


def test_a_model_that_gives_nan_is_named_with_its_patient(shards: Path) -> None:
    model = BlockModel()
    model.decode_tokens = lambda tokens, **_: BlockModel.decode_tokens(model, tokens) * math.nan  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"patient002: .*NaN"):
        evaluate.evaluate(model, ShardReader(shards, "test"), ["patient002"], {})  # type: ignore[arg-type]


def test_models_of_equal_folder_names_are_told_apart() -> None:
    names = evaluate.model_names([Path("/a/run"), Path("/b/run"), Path("/b/other")])
    assert names == ["run #1", "run #2", "other"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--model": "missing_model"}, "missing_model: no such folder"),
        ({"--data": "missing_data"}, "missing_data"),
        ({"--device": "warp"}, "device warp"),
        ({"--split": "val"}, "the split val has no patients"),
        ({"--limit": "0"}, "--limit is 0, expected a number from 1"),
        ({"--batch_frames": "-1"}, "--batch_frames is -1"),
    ],
)
def test_a_wrong_argument_gives_one_clear_line(
    changed: dict[str, str], message: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    arguments = {"--model": str(tmp_path / "model"), "--data": str(shards), "--output_dir": str(tmp_path / "report")}
    with pytest.raises(SystemExit) as exit_:
        evaluate.main([word for pair in {**arguments, **changed}.items() for word in pair])
    error = capsys.readouterr().err
    assert exit_.value.code == 1
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_the_folder_of_a_training_run_is_evaluated(shards: Path, tmp_path: Path) -> None:
    tiny = {"width": 16, "num_layers": 1, "num_heads": 2}
    config = ModelConfig(geometry="crop", decoder="titok")
    config.tokenizer.init = "random"
    config.tokenizer.vq_model = VQModelConfig(
        image_size=SIZE,
        codebook_size=20,
        vit_enc_model_size=tiny,
        vit_dec_model_size=tiny,
        num_latent_tokens=4,
        finetune_decoder=False,
        is_legacy=False,
    )
    TiTok(config).save_pretrained(tmp_path / "run")
    model = codec.load_model(tmp_path / "run", torch.device("cpu"), batch_frames=5)
    assert model.chunks.frames == 5 and not model.training
    (row,) = evaluate.evaluate(model, ShardReader(shards, "test"), ["patient002"], {})
    assert row["patient"] == "patient002" and row["psnr"] > 0
    assert row["bits"] % 8 == 0 and row["bits"] > 3 * PHASES * 4 * 5


def test_a_folder_without_a_model_gives_one_clear_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(SystemExit):
        evaluate.main(
            ["--model", str(tmp_path / "model"), "--data", str(shards), "--output_dir", str(tmp_path / "out")]
        )
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "no model.safetensors" in error


def test_a_patient_that_cannot_be_scored_costs_no_other_patient(
    run: Callable[..., dict[str, Any]],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone, encode = run(shards, "--limit", "1"), BlockModel.encode

    def encode_some(self: BlockModel, x: Tensor, keep_tokens: int | None = None) -> Tensor:
        if x.shape[5] == 6 and self.config.geometry == "crop":  # patient003, by the reported model alone
            raise RuntimeError("out of memory")
        return encode(self, x, keep_tokens)

    monkeypatch.setattr(BlockModel, "encode", encode_some)
    with pytest.raises(SystemExit) as exit_:
        run(shards)
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    reason = "patient003 (RuntimeError: out of memory)"
    assert exit_.value.code == 1
    assert f"1 of 3 patients could not be scored and are excluded from all metrics: {reason}" in capsys.readouterr().err
    assert summary["failed"] == [{"patient": "patient003", "reason": "RuntimeError: out of memory"}]
    assert summary["n"] == summary["cohort"]["patients"] == 2 and summary["models"]["stage1"]["n"] == 2
    assert {row["patient"] for row in read_rows(tmp_path)} == {"patient002", "patient004"}
    assert reason in (tmp_path / "report" / "index.html").read_text()
    assert alone["failed"] == []


def test_where_no_patient_can_be_scored_the_first_reason_is_told(
    run: Callable[..., dict[str, Any]],
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(BlockModel, "decode_tokens", lambda *_, **__: torch.full((1, 1, 1), math.nan))
    with pytest.raises(SystemExit):
        run(shards)
    assert "none of the 3 patients could be scored: patient002 (" in capsys.readouterr().err


def test_a_frame_below_ssim_s_window_loses_its_patient_alone(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_case(3)
    small = replace(small, cine=small.cine[8:14, 6:12], masks={}, ed=None, es=None)
    monkeypatch.setattr(samples, "SSIM_WINDOW", 1)  # shards of an earlier conversion
    folder = write_shards(tmp_path / "wds", {"train": [make_case(0)], "test": [make_case(2), small]})
    with pytest.raises(SystemExit):
        run(folder, names=("stage2",))
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert [entry["patient"] for entry in summary["failed"]] == ["patient003"] and summary["n"] == 1
