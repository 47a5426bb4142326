from pathlib import Path

import numpy as np
import pytest

from utils.files import atomic_dir, atomic_path, read_json, write_json, write_text


def test_an_atomic_file_appears_with_its_content_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "new" / "volume.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("whole", encoding="utf-8")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_as_it_was(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.txt: nothing was written"), atomic_path(tmp_path / "a.txt"):
        pass


def test_an_atomic_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "shards"
    for name in ("first", "second"):
        with atomic_dir(target) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / name).touch()
    assert [path.name for path in (target / "deep").iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_the_old_folder_as_it_was(tmp_path):
    target = tmp_path / "shards"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), atomic_dir(target) as temporary:
        (temporary / "new").touch()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_never_takes_the_place_of_a_file(tmp_path):
    (tmp_path / "shards").write_text("mine", encoding="utf-8")
    with pytest.raises(NotADirectoryError, match="found a file"), atomic_dir(tmp_path / "shards"):
        pass
    assert (tmp_path / "shards").read_text(encoding="utf-8") == "mine"


def test_json_holds_numpy_values_and_paths_and_no_nan(tmp_path):
    data = {
        "psnr": np.float32(38.5),
        "ef": float("nan"),
        "ids": np.arange(3),
        "hd": [np.float64("inf")],
        "p": Path("a/b"),
    }
    write_json(tmp_path / "report.json", {**data, "name": "左心室"})
    expected = {"psnr": 38.5, "ef": None, "ids": [0, 1, 2], "hd": [None], "p": "a/b", "name": "左心室"}
    assert read_json(tmp_path / "report.json") == expected


def test_a_truncated_or_missing_json_file_is_named_in_the_error(tmp_path):
    (tmp_path / "manifest.json").write_text('{"split": ', encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json: not valid JSON"):
        read_json(tmp_path / "manifest.json")
    with pytest.raises(FileNotFoundError, match=r"other\.json"):
        read_json(tmp_path / "other.json")
