import pytest

from data.shards.journal import Journal


def test_lines_come_back_as_they_were_given(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"a": 0.1, "b": (1, float("nan"))})
    before = journal.lines
    journal.close()
    again = Journal(tmp_path / "j.jsonl")
    assert again.lines == before == [{"a": 0.1, "b": [1, None]}]
    again.close()


@pytest.mark.parametrize("tail", [b'{"a": ', b'{"a": 3}', b"\x00\xff\n", b"[1]\n"])
def test_a_last_line_that_is_not_whole_is_cut_off(tmp_path, tail):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n' + tail)
    journal = Journal(path)
    assert journal.lines == [{"a": 1}, {"a": 2}]
    journal.append({"a": 4})
    journal.close()
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n{"a": 4}\n'


def test_lines_can_be_taken_back(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    for value in range(4):
        journal.append({"a": value})
    journal.keep(2)
    journal.append({"a": 9})
    journal.close()
    assert (tmp_path / "j.jsonl").read_bytes() == b'{"a": 0}\n{"a": 1}\n{"a": 9}\n'


def test_a_journal_belongs_to_one_process_at_a_time(tmp_path):
    first = Journal(tmp_path / "j.jsonl")
    with pytest.raises(ValueError, match="another process"):
        Journal(tmp_path / "j.jsonl")
    first.close()
    Journal(tmp_path / "j.jsonl").close()
