"""An error of a user or of the machine is one line."""

from pathlib import Path

import pytest
import torch

from utils.errors import user_errors


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (ValueError("patient001: wrong\n  shape"), "error: patient001: wrong shape\n"),
        (FileNotFoundError("acdc_wds: no such folder"), "error: acdc_wds: no such folder\n"),
        (PermissionError(13, "Permission denied", "out"), "error: out: Permission denied\n"),
        (ValueError(), "error: ValueError\n"),
        (MemoryError(), "error: out of memory (no details); lower training.global_batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), "error: out of memory (CUDA out of memory. Tried"),
        (
            RuntimeError("[../gloo/pair.cc] Connection closed by peer [127.0.0.1]"),
            "error: another rank ended",
        ),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error."), "error: a loading process ended"),
        (RuntimeError("DataLoader timed out after 1800 seconds"), "error: no batch arrived (DataLoader timed out"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_1(raised, line, capsys, monkeypatch):
    monkeypatch.delenv("TITOK_MRI_TRACEBACK", raising=False)

    @user_errors()
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(line.rstrip()) and said.count("\n") == 1


class Broken(torch.utils.data.Dataset):
    def __getitem__(self, index: int):
        try:
            raise OSError("what was behind it")
        except OSError as error:
            raise ValueError("train-000001.tar: has 5 bytes instead of 9") from error

    def __len__(self) -> int:
        return 1


def test_an_error_of_a_loading_process_is_that_error_in_one_line(capsys, monkeypatch):
    monkeypatch.delenv("TITOK_MRI_TRACEBACK", raising=False)
    with pytest.raises(SystemExit), user_errors():
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert capsys.readouterr().err == "error: train-000001.tar: has 5 bytes instead of 9\n"


def test_the_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("TITOK_MRI_TRACEBACK", "1")
    with pytest.raises(ValueError, match="why"), user_errors():
        raise ValueError("why")


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(KeyError), user_errors():
        raise KeyError("bug")


def test_a_rank_is_named_in_its_line(capsys, monkeypatch):
    monkeypatch.delenv("TITOK_MRI_TRACEBACK", raising=False)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit), user_errors():
        raise ValueError("why")
    assert capsys.readouterr().err == "error (rank 3): why\n"


def test_an_error_of_the_program_in_a_loading_process_keeps_its_traceback():
    class Wrong(torch.utils.data.Dataset):
        def __getitem__(self, index: int):
            raise RuntimeError("a bug")

        def __len__(self) -> int:
            return 1

    with pytest.raises(RuntimeError, match="a bug"), user_errors():
        next(iter(torch.utils.data.DataLoader(Wrong(), num_workers=1)))


class Gone(torch.utils.data.Dataset):
    def __getitem__(self, index: int):
        return Path("no/such/file").read_bytes()

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_file_is_the_same_line_with_and_without_loading_processes(workers, capsys, monkeypatch):
    monkeypatch.delenv("TITOK_MRI_TRACEBACK", raising=False)
    with pytest.raises(SystemExit), user_errors():
        next(iter(torch.utils.data.DataLoader(Gone(), num_workers=workers)))
    assert capsys.readouterr().err == "error: no/such/file: No such file or directory\n"
