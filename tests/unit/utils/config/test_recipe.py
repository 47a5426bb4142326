from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from utils.config.recipe import ConfigError, find_file, from_plain, options, parse, section, to_plain


@dataclass
class Training:
    learning_rate: float = 1e-4
    max_steps: int = 100
    mixed_precision: str = "no"
    ema: bool = True
    clip_norm: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    trainable: list[str] = field(default_factory=lambda: ["*"])
    schedule: Literal["constant", "cosine"] = "cosine"


@dataclass
class Recipe:
    output_dir: str
    training: Training = field(default_factory=Training)
    losses: dict[str, Any] = field(default_factory=dict)
    source: str | dict = "phantom"
    folder: Path | None = None


@dataclass
class FlowOptions:
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}, expected at least 0")


def recipe(*argv: str) -> Recipe:
    return parse(Recipe, ["output_dir=out", *argv])


@pytest.fixture
def yaml_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return "config=recipe.yaml"

    return write


def test_the_command_line_beats_the_file_and_the_file_beats_the_default(yaml_file):
    config = yaml_file("training:\n  max_steps: 5\n  learning_rate: 0.5\n")
    training = recipe("training.max_steps=7", config).training
    assert (training.max_steps, training.learning_rate, training.clip_norm) == (7, 0.5, None)


def test_a_typo_on_the_command_line_names_the_full_key_and_the_nearest_one():
    with pytest.raises(ConfigError, match=r"^training\.max_step: unknown key; did you mean training\.max_steps\?$"):
        recipe("training.max_step=3")


def test_a_typo_in_the_file_names_the_full_key_and_the_nearest_one(yaml_file):
    with pytest.raises(ConfigError, match=r"training\.emma: unknown key; did you mean training\.ema\?"):
        recipe(yaml_file("training:\n  emma: true\n"))


def test_a_key_that_is_like_no_other_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"training\.zzz: unknown key; known here: betas, clip_norm"):
        recipe("training.zzz=3")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("training.max_steps=many", r"training\.max_steps: expected int, found 'many' \(str\)"),
        ("training.max_steps=1.5", r"training\.max_steps: expected int, found 1\.5 \(float\)"),
        ("training.max_steps=true", r"training\.max_steps: expected int, found True \(bool\)"),
        ("training.clip_norm=big", r"training\.clip_norm: expected float, found 'big' \(str\)"),
        ("training.ema=1", r"training\.ema: expected bool, found 1 \(int\)"),
        ("training.trainable=dit", r"training\.trainable: expected list\[str\], found 'dit' \(str\)"),
        ("training.trainable=[dit, 1.5]", r"training\.trainable\[1\]: expected str, found 1\.5 \(float\)"),
        ("training.betas=[0.9]", r"training\.betas: expected tuple\[float, float\], found \[0\.9\] \(list\)"),
        ("training.schedule=linear", r"training\.schedule: expected one of constant, cosine, found 'linear'"),
        ("training.mixed_precision=true", r"training\.mixed_precision: expected str, found True .*quote it"),
        ("training=fast", r"training: expected a section .* found 'fast' \(str\)"),
        ("training.max_steps=", r"training\.max_steps: expected int, found null"),
        ("source=1.5", r"source: expected str or dict, found 1\.5 \(float\)"),
    ],
)
def test_a_wrong_type_names_the_key_the_value_and_what_was_expected(argument, message):
    with pytest.raises(ConfigError, match=message):
        recipe(argument)


@pytest.mark.parametrize("word", ["no", "yes", "on", "off"])
def test_a_word_that_yaml_1_1_takes_for_a_boolean_stays_a_text_in_a_text_field(word, yaml_file):
    assert recipe(f"training.mixed_precision={word}").training.mixed_precision == word
    assert recipe(yaml_file(f"training:\n  mixed_precision: {word}\n")).training.mixed_precision == word


@pytest.mark.parametrize(("word", "value"), [("no", False), ("off", False), ("False", False), ("yes", True)])
def test_the_same_words_are_booleans_in_a_boolean_field(word, value):
    assert recipe(f"training.ema={word}").training.ema is value


@pytest.mark.parametrize("text", ["1e4", "1.0e4", "10000", "10000.0", "'1e4'"])
def test_scientific_notation_serves_whole_and_real_numbers(text, yaml_file):
    training = recipe(yaml_file(f"training:\n  max_steps: {text}\n"), f"training.learning_rate={text}").training
    assert training.max_steps == 10000
    assert isinstance(training.max_steps, int)
    assert training.learning_rate == 10000.0
    assert isinstance(training.learning_rate, float)


def test_a_whole_number_in_a_text_field_is_that_text_and_leading_zeros_stay():
    assert recipe("output_dir=2024").output_dir == "2024"
    assert recipe("output_dir=007").output_dir == "007"


def test_a_text_with_a_special_character_needs_no_quotes():
    assert recipe("output_dir=*").output_dir == "*"
    with pytest.raises(ConfigError, match=r"training\.trainable: cannot read '\[\*\]'"):
        recipe("training.trainable=[*]")


def test_an_empty_value_sets_an_optional_field_to_none():
    assert recipe("training.clip_norm=3", "training.clip_norm=").training.clip_norm is None


def test_a_list_becomes_a_tuple_where_the_field_is_one_and_a_list_again_in_plain_form():
    config = recipe("training.betas=[0, 1]", "folder=a/b")
    assert config.training.betas == (0.0, 1.0)
    assert config.folder == Path("a/b")
    plain = to_plain(config)
    assert plain["training"]["betas"] == [0.0, 1.0]
    assert plain["folder"] == "a/b"
    assert from_plain(Recipe, plain) == config


def test_a_free_section_keeps_whatever_is_in_it(yaml_file):
    config = yaml_file("losses:\n  flow: {weight: 1.0}\n  pixel: {weight: 0.1}\n")
    losses = recipe(config, "losses.flow.weight=2", "losses.cycle.weight=1e-3").losses
    assert losses == {"flow": {"weight": 2}, "pixel": {"weight": 0.1}, "cycle": {"weight": 0.001}}


def test_a_section_given_on_the_command_line_replaces_the_one_that_stood_there(yaml_file):
    config = yaml_file("losses: {flow: {weight: 1.0}, pixel: {weight: 0.1}}\n")
    assert recipe(config, "losses={flow: {weight: 2}}").losses == {"flow": {"weight": 2}}


def test_a_field_that_is_a_text_or_a_section_takes_both():
    assert recipe("source=acdc").source == "acdc"
    assert recipe("source.name=acdc").source == {"name": "acdc"}


def test_an_interpolation_sees_every_layer_and_an_unresolved_one_names_its_key(yaml_file):
    config = yaml_file("output_dir: run_${training.max_steps}_${training.schedule}\n")
    assert parse(Recipe, [config, "training.max_steps=3"]).output_dir == "run_3_cosine"
    with pytest.raises(ConfigError, match=r"training\.mixed_precision: .*nowhere.* not found"):
        recipe("training.mixed_precision=${nowhere}")


def test_a_missing_required_value_says_how_to_give_it(yaml_file):
    for argv in ([], [yaml_file("output_dir: ???\n")]):
        with pytest.raises(ConfigError, match=r"output_dir: a value is required; give output_dir=VALUE"):
            parse(Recipe, argv)


def test_an_argument_that_is_no_assignment_says_how_to_write_one():
    for argument in ("--training.max_steps=3", "train", "=3"):
        with pytest.raises(ConfigError, match="write key=value"):
            recipe(argument)


def test_two_config_files_are_refused():
    with pytest.raises(ConfigError, match=r"config is given 2 times \(a\.yaml, b\.yaml\)"):
        recipe("config=a.yaml", "config=b.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: [1", "recipe.yaml: not valid YAML"),
        ("training: {}\ntraining: {}\n", "the key training stands twice"),
        ("- 1\n", "recipe.yaml: expected `key: value` lines"),
        ("training: !!python/object/apply:os.getcwd []\n", "recipe.yaml: not valid YAML"),
    ],
)
def test_a_broken_file_is_named(text, message, yaml_file):
    with pytest.raises(ConfigError, match=message):
        recipe(yaml_file(text))


def test_an_empty_file_changes_nothing(yaml_file):
    assert recipe(yaml_file("# nothing\n")) == Recipe("out")


def test_a_config_file_is_found_in_the_current_folder_then_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file("pyproject.toml").parent != tmp_path
    (tmp_path / "pyproject.toml").touch()
    assert find_file("pyproject.toml").parent == tmp_path
    with pytest.raises(FileNotFoundError, match=r"nope\.yaml and .*nope\.yaml"):
        find_file("nope.yaml")


def test_component_options_are_as_strict_and_carry_their_section():
    assert options(FlowOptions, {"weight": 2}, "losses.flow").weight == 2.0
    with pytest.raises(ConfigError, match=r"losses\.flow\.wieght: unknown key; did you mean losses\.flow\.weight\?"):
        options(FlowOptions, {"wieght": 2}, "losses.flow")
    with pytest.raises(ConfigError, match=r"losses\.flow: expected a section .* found 1\.0 \(float\)"):
        options(FlowOptions, 1.0, "losses.flow")  # type: ignore[arg-type]


def test_a_section_can_be_given_as_arguments():
    assert section(["weight=2", "name=a=b", "list=[1, x]"]) == {"weight": 2, "name": "a=b", "list": [1, "x"]}
    with pytest.raises(ConfigError, match="'weight' is not an option; write key=value"):
        section(["weight"])


def test_what_a_dataclass_finds_wrong_with_itself_carries_its_section_too():
    with pytest.raises(ConfigError, match=r"^losses\.flow: weight is -1\.0, expected at least 0$"):
        options(FlowOptions, {"weight": -1}, "losses.flow")


def test_a_value_without_a_plain_form_is_refused():
    with pytest.raises(TypeError, match="plain values only"):
        to_plain({"when": object()})
