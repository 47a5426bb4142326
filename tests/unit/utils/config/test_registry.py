import pytest

from utils.config.recipe import ConfigError
from utils.config.registry import build, names, option_names

COMPONENT = """
from dataclasses import dataclass

@dataclass
class Options:
    weight: float = 1.0

def build(options, scale=1):
    return options.weight * scale
"""


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    name = f"terms_of_{abs(hash(request.node.name))}"  # imports are remembered by name
    folder = tmp_path / name
    folder.mkdir()
    for file in ("__init__.py", "_shared.py", "Upper.py"):
        (folder / file).touch()
    for file in ("flow.py", "pixel.py"):
        (folder / file).write_text(COMPONENT, encoding="utf-8")
    (folder / "broken.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_the_files_of_the_folder_are_the_names(package):
    assert names(package) == ["broken", "flow", "pixel"]


def test_a_component_is_built_from_its_options_and_the_context(package):
    assert build(package, "flow", {"weight": 2}, "losses.flow", scale=3) == 6.0


def test_the_name_that_a_section_repeats_is_no_option(package):
    assert build(package, "flow", {"name": "flow"}, "conditioning") == 1.0
    with pytest.raises(ConfigError, match=r"conditioning\.name: unknown key"):
        build(package, "flow", {"name": "pixel"}, "conditioning")


def test_an_unknown_key_suggests_the_nearest_component(package):
    with pytest.raises(ConfigError, match=r"^losses\.flwo: unknown key; did you mean losses\.flow\?$"):
        build(package, "flwo", {}, "losses.flwo")


def test_an_unknown_name_lists_the_known_ones(package):
    with pytest.raises(
        ConfigError, match=r"conditioning: unknown name 'pxel'; did you mean pixel\? known names: broken, flow, pixel"
    ):
        build(package, "pxel", {}, "conditioning")


@pytest.mark.parametrize("name", ["os", "_shared", "../flow", "flow.Options", "__init__", "Upper", ""])
def test_nothing_but_the_folder_is_ever_imported(package, name):
    with pytest.raises(ConfigError, match="unknown"):
        build(package, name, {}, "conditioning")


def test_a_wrong_option_carries_its_section(package):
    with pytest.raises(ConfigError, match=r"losses\.flow\.wait: unknown key"):
        build(package, "flow", {"wait": 1}, "losses.flow")


def test_the_options_of_a_component_can_be_listed(package):
    assert option_names(package, "flow", "source") == ["weight"]
    with pytest.raises(ConfigError, match="source: unknown name 'flwo'; did you mean flow"):
        option_names(package, "flwo", "source")
