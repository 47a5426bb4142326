"""Laws of the repository: three floors without circles, small folders and files, short lines."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.tiny import REPOSITORY

MAY_IMPORT = {
    "utils": {"utils"},
    "data": {"data", "utils"},
    "modeling": {"modeling", "utils"},
    "scripts": {"scripts", "data", "modeling", "utils"},
}
FILES_IN_A_FOLDER = 15
REGISTRIES = {"modeling/losses", "modeling/conditioning", "data/codecs", "data/sources"}
COMMANDS = {"scripts"}  # a file is a command that users type: its path cannot move to a folder; shared code is below it
LINES_OF_A_FILE = 300
FILES = [path for folder in MAY_IMPORT for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """The project's modules that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name in MODULES and MODULES[name].name != "__init__.py")


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_a_floor_imports_only_itself_and_the_floors_below(floor: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if module.split(".")[0] == floor
        for name in imports(path)
        if name.split(".")[0] not in MAY_IMPORT[floor]
    ]
    assert not wrong


def test_no_imports_form_a_circle() -> None:
    graph = {module: set(imports(path)) for module, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # CycleError names a circle


def test_a_folder_holds_about_a_dozen_files_unless_it_is_a_registry_which_grows_by_a_file_an_entry() -> None:
    folders = {path.parent for path in FILES}
    counts = {str(folder.relative_to(REPOSITORY)): len(list(folder.glob("[!_]*.py"))) for folder in folders}
    too_many = {folder: count for folder, count in counts.items() if count > FILES_IN_A_FOLDER}
    assert too_many.keys() <= REGISTRIES | COMMANDS <= counts.keys()


def test_no_file_has_a_prefix_that_its_folder_says() -> None:
    named = [
        path for path in FILES if path.stem.startswith((f"{path.parent.name}_", f"{path.parent.name.rstrip('s')}_"))
    ]
    assert named == []


def test_a_file_can_be_read_at_once() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > LINES_OF_A_FILE} == {}


def lines_below_the_docstring(function: ast.FunctionDef) -> int:
    code = function.body[1:] if ast.get_docstring(function) else function.body
    return 1 + (code[-1].end_lineno or 0) - code[0].lineno if code else 0


def test_a_function_has_at_most_60_lines_below_its_docstring_but_for_the_training_loop() -> None:
    lengths = {
        f"{module}: {node.name}": lines_below_the_docstring(node)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert [name for name, lines in lengths.items() if lines > 60] == ["scripts.train_mri_titok: train"]


def test_lines_of_documentation_recipes_and_shell_scripts_end_at_120_columns() -> None:
    kinds = ("*.md", "docs/*.md", "configs/**/*.md", "configs/**/*.yaml", "configs/**/*.sh", "scripts/*.sh")
    pages = [page for kind in kinds for page in REPOSITORY.glob(kind)]
    long = [
        f"{page.relative_to(REPOSITORY)}: {line[:60]}"
        for page in pages
        for line in page.read_text(encoding="utf-8").splitlines()
        if len(line) > 120 and not line.lstrip().startswith("|")  # rows of a table cannot be broken
    ]
    assert pages and long == []


def test_the_packages_have_empty_init_files() -> None:
    assert [module for module, path in MODULES.items() if path.name == "__init__.py" and path.read_text().strip()] == []


def test_the_version_is_the_same_wherever_it_stands() -> None:
    version = re.search(
        r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version
    for name in ("README.md", "README.zh-CN.md", "modeling/weights/card.md.j2"):
        assert f"version = {{{version[1]}}}" in (REPOSITORY / name).read_text(encoding="utf-8"), name
    assert f"## {version[1]}," in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert len(list((REPOSITORY / "docs").glob("*.md"))) <= 8
