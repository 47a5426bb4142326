"""A value of the command line is taken whole, and a file cannot ask for more than a file can say."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from utils.config.recipe import ConfigError, parse
from utils.config.references import MAX_WORK
from utils.config.yaml_text import read_value, read_yaml
from utils.files import read_json


@dataclass
class Recipe:
    output_dir: str = "out"
    steps: int = 3
    globs: list[str] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "recipe.yaml"

    return to_file


@pytest.mark.parametrize(
    "text",
    [
        "run #2/run",
        " #2/run",
        "a: b",
        "- x",
        "&a run",
        "*",
        "!!str 5",
        "|",
        "a, b",
        "'",
        '"a" b',
        "2024-01-01",
        "007",
        "<<",
    ],
)
def test_a_text_on_the_command_line_is_taken_as_it_stands(text: str) -> None:
    assert parse(Recipe, [f"output_dir={text}"]).output_dir == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e4", 1e4), ("-3", -3), ("true", True), ("null", None), ("~", None), ("", None), ("'1e4'", "1e4"),
     ('"a b"', "a b"), ("[1, x]", [1, "x"]), ("{a: {b: 2}}", {"a": {"b": 2}})],
)  # fmt: skip
def test_numbers_words_quotes_and_brackets_keep_their_meaning(text: str, value: object) -> None:
    assert read_value(text) == value


@pytest.mark.parametrize("text", ["[a] #2", "[a, b #2, c]", "{a: 1} b", "[" * 5000])
def test_brackets_that_would_be_cut_off_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^globs: cannot read "):
        parse(Recipe, [f"globs={text}"])


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, write: Callable[[str], Path]) -> None:
    monkeypatch.setenv("HOME", str(write("output_dir: ~/run\n").parent))
    home = str(write("output_dir: ~/run\n").parent)
    assert parse(Recipe, ["output_dir=~/run"]).output_dir == f"{home}/run"
    assert parse(Recipe, ["config=~/recipe.yaml"]).output_dir == f"{home}/run"
    with pytest.raises(ConfigError, match=r"output_dir: no home folder is known for '~nobody_here/run'"):
        parse(Recipe, ["output_dir=~nobody_here/run"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_file_with_a_byte_order_mark_is_read(encoding: str, write: Callable[[str], Path]) -> None:
    path = write("")
    path.write_bytes("output_dir: Größe\n".encode(encoding))
    assert read_yaml(path) == {"output_dir": "Größe"}
    path.write_bytes('{"a": "ü"}'.encode(encoding))
    assert read_json(path) == {"a": "ü"}


@pytest.mark.parametrize("encoding", ["utf-16-le", "latin-1"])
def test_a_file_in_an_unmarked_encoding_is_named_with_what_was_expected(
    encoding: str, write: Callable[[str], Path]
) -> None:
    path = write("")
    path.write_bytes("output_dir: Größe\n".encode(encoding))
    for read in (read_yaml, read_json):
        with pytest.raises(ValueError, match=r"recipe\.yaml: .*UTF-8"):
            read(path)


@pytest.mark.parametrize(
    "reference", ["${oc.env:HOME}", "${oc.decode:x}", "${env:HOME}", "${ oc.env : HOME }", "${${output_dir}:x}", "${}"]
)
def test_a_recipe_refers_to_its_own_keys_and_nothing_else(reference: str, write: Callable[[str], Path]) -> None:
    for argument in (f"output_dir={reference}", f"output_dir=run_{reference}", f"free.deep=['{reference}']"):
        with pytest.raises(ConfigError, match="a reference names another key of the recipe"):
            parse(Recipe, [argument])
    with pytest.raises(ConfigError, match="a reference names another key of the recipe"):
        parse(Recipe, ["config=" + str(write('free: {a: {b: "' + reference + '"}}'))])


def test_a_reference_keeps_the_type_of_what_it_names() -> None:
    read = parse(
        Recipe, ["steps=7", "free={a: '${steps}', b: 'n${steps}', c: '${globs}', d: '${free.b}'}", "globs=[x]"]
    )
    assert read.free == {"a": 7, "b": "n7", "c": ["x"], "d": "n7"}


@pytest.mark.parametrize(
    "text",
    [
        "free: {a: '${free.b}', b: '${free.a}'}\n",
        "free:\n" + "".join(f"  k{i}: '${{free.k{i + 1}}}${{free.k{i + 1}}}'\n" for i in range(60)) + "  k60: x\n",
        "free:\n"
        + "".join(f"  k{i}: ['${{free.k{i + 1}}}', '${{free.k{i + 1}}}']\n" for i in range(60))
        + "  k60: x\n",
        "free:\n  long: '" + "x" * 1000 + "'\n  many: '" + "${free.long}" * (MAX_WORK // 500) + "'\n",
    ],
)
def test_references_that_never_end_or_write_billions_end_in_one_line(text: str, write: Callable[[str], Path]) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"free\..*(itself|too many)"):
        parse(Recipe, [f"config={write(text)}"])
    assert time.monotonic() - began < 5


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    "text", [BOMB, MERGES, "free: &a [*a]\n", "free: " + "[" * 60 + "]" * 60, "free: " + "[" * 9999]
)
def test_an_alias_bomb_and_endless_nesting_end_in_one_line(text: str, write: Callable[[str], Path]) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"recipe\.yaml: not valid YAML") as error:
        parse(Recipe, [f"config={write(text)}"])
    assert time.monotonic() - began < 5
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_endless_nesting_in_json_ends_in_one_line(write: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml: not valid JSON"):
        read_json(write("[" * 100_000))
    with pytest.raises(ValueError, match=r"recipe\.yaml: not valid JSON"):
        read_json(write("9" * 10_000))


def test_an_alias_repeats_what_it_names_and_each_copy_stands_alone(write: Callable[[str], Path]) -> None:
    config = write("free: {a: &one {k: 1}, b: *one}\n")
    assert parse(Recipe, [f"config={config}", "free.a.k=2"]).free == {"a": {"k": 2}, "b": {"k": 1}}


@pytest.mark.parametrize(
    "text",
    ['steps: !!int ""', "steps: !!bool banana", "steps: !!timestamp x", "output_dir: !!binary aGk=", "free: !!set {a}",
     "globs: !!python/tuple [a]", "output_dir: !mine x"],
)  # fmt: skip
def test_a_tag_is_not_followed(text: str, write: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"recipe.yaml: not valid YAML: the tag !.* is not read; write plain values"):
        parse(Recipe, [f"config={write(text)}"])
