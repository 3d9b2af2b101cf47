"""Configs from YAML, values and settings: what is taken, and what is refused with which words."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from deepreduce.config.load import (
    RESULT_FREE,
    differing_keys,
    differing_keys_of_run,
    dump_config,
    load_config,
    read_run_config,
    read_yaml,
)
from deepreduce.config.schema import DataConfig, ModelConfig, OptimizeConfig
from deepreduce.config.yaml_text import dump_yaml
from deepreduce.errors import ConfigError
from deepreduce.utils.records import write_record

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(*given: str, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(settings=given, values=values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is taken ------------------------------------------------------------------------------------------


def test_a_setting_overrides_a_value_and_a_value_overrides_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\ntraining: {epochs: 1, batch_size: 1, momentum: 0.1}\n")
    values = {"training.epochs": 2, "training": {"batch_size": 2}}
    config = load_config(path, values=values, settings=["training.batch_size=3", "training.batch_size=4"])
    assert config.seed == 1
    assert config.training.momentum == 0.1
    assert config.training.epochs == 2
    assert config.training.batch_size == 4


def test_neither_values_nor_what_they_hold_are_changed() -> None:
    values: dict[str, Any] = {"training": {"epochs": 2}, "data": {"name": "digits"}}
    before = copy.deepcopy(values)
    config = load_config(
        values=values, settings=["training={epochs: 3}", "training.batch_size=8", "data=cifar10", "data.pad=2"]
    )
    assert config.training.epochs == 3
    assert values == before


def test_model_and_data_may_be_a_plain_name_beside_their_other_keys(tmp_path: Path) -> None:
    path = written(tmp_path, "model: resnet32\ndata: cifar10\n")
    config = load_config(path, settings=["model.width=8", "data=cifar100", "data.val_fraction=0.2"])
    assert config.model == ModelConfig(name="resnet32", width=8)
    assert config.data == DataConfig(name="cifar100", val_fraction=0.2)


def test_a_plain_name_keeps_what_the_file_says_beside_it(tmp_path: Path) -> None:
    path = written(tmp_path, "model: {name: resnet32, width: 8}\n")
    assert load_config(path, values={"model": "resnet20"}).model == ModelConfig(name="resnet20", width=8)


@pytest.mark.parametrize("text", ["5e-4", "5E-4", "5.e-4", "0.5e-3", "+5e-4", ".0005", "0.0005"])
def test_a_number_may_be_written_as_people_write_numbers(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, f"training:\n  weight_decay: {text}\n")
    for config in (load_config(path), load_config(settings=[f"training.weight_decay={text}"])):
        assert config.training.weight_decay == 5 / 10_000
    assert read_yaml(path) == {"training": {"weight_decay": 5 / 10_000}}


def test_a_whole_number_may_be_written_with_an_exponent() -> None:
    assert load_config(settings=["max_relus=5e4"]).max_relus == 50_000
    assert "max_relus is 0.5" in refusal("max_relus=5e-1")


@pytest.mark.parametrize("text", ["S1,S4,S2", "S1, S4, S2", "[S1, S4, S2]", "'S1, S4,S2'"])
def test_a_cull_order_may_be_a_text_or_a_list(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, f"method:\n  name: deepreduce\n  cull_order: {text}\n")
    for config in (load_config(path), load_config(settings=["method=deepreduce", f"method.cull_order={text}"])):
        assert config.method.cull_order == ("S1", "S4", "S2")


def test_a_list_of_one_needs_no_brackets() -> None:
    config = load_config(
        values={"method": "deepreduce"},
        settings=["method.alphas=0.5", "method.rhos=1,0.5", "method.cull_order=S1", "model.blocks=2"],
    )
    assert config.method.alphas == (0.5,)
    assert config.method.rhos == (1.0, 0.5)
    assert config.method.cull_order == ("S1",)
    assert config.model.blocks == (2,)


def test_a_text_that_yaml_reads_as_a_number_or_a_date_stays_a_text() -> None:
    config = load_config(settings=["plot.title=2024", "data.root=2024-12-31", "plot.published=1:30"])
    assert config.plot.title == "2024"
    assert config.data.root == "2024-12-31"


def test_a_setting_of_null_or_nothing_gives_the_field_its_none() -> None:
    given = {"training": {"clip_norm": 1.0}}
    assert load_config(values=given, settings=["training.clip_norm=null"]).training.clip_norm is None
    assert load_config(values=given, settings=["training.clip_norm="]).training.clip_norm is None


def test_a_value_may_hold_an_equals_sign() -> None:
    assert load_config(settings=["plot.title=a=b"]).plot.title == "a=b"


@pytest.mark.parametrize("content", ["", "# nothing\n", "training:\n  # epochs: 3\n", "\ufeff---\n"])
def test_an_empty_file_or_section_is_the_defaults(tmp_path: Path, content: str) -> None:
    assert load_config(written(tmp_path, content)) == OptimizeConfig()


# -- what is refused ----------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once() -> None:
    message = refusal(
        "training.epochs=0", "training.momentum=1", "method.unit=middle", "no setting", "seed=[", "mdel=x"
    )
    assert message.startswith("6 mistakes: (1) ")
    for part in ("training.epochs is 0", "training.momentum is 1", "method.unit is 'middle'"):
        assert part in message
    for part in ("'no setting' is not key=value", "setting 'seed=['", "did you mean 'model'?"):
        assert part in message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("training.epoks", "'training.epochs'"),
        ("training.lerning_rate", "'training.learning_rate'"),
        ("trainnig.epochs", "'training'"),
        ("epochs", "'training.epochs'"),
        ("training.temperature", "'distill.temperature'"),
        ("name", "'model.name' or 'data.name' or 'method.name'"),
        ("Seed", "'seed'"),
        ("max-relus", "'max_relus'"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest(key: str, nearest: str) -> None:
    message = refusal(f"{key}=1")
    assert message.startswith("unknown config key ")
    assert f"did you mean {nearest}?" in message


def test_an_unknown_key_that_resembles_nothing_comes_with_all_of_its_section() -> None:
    message = refusal("distill.zzz=1")
    assert message == "unknown config key 'distill.zzz'; known in distill: temperature, weight, remember_gb"


@pytest.mark.parametrize("setting", ["", "=", "=3", "training.epochs", ".epochs=3", "training..epochs=3", "seed.=1"])
def test_a_setting_must_be_a_key_and_a_value(setting: str) -> None:
    assert refusal(setting) == f"setting {setting!r} is not key=value, as in training.epochs=2"


@pytest.mark.parametrize("setting", ["seed={", "seed=[1", "seed=!!int x", "seed=!!python/object:os.system x"])
def test_a_setting_must_be_yaml(setting: str) -> None:
    assert refusal(setting).startswith(f"setting {setting!r}: ")


def test_a_section_is_no_number_and_a_number_no_section() -> None:
    assert refusal("training=3") == "training is 3; it needs keys and values, as in training: {...}"
    assert refusal("model=3").startswith("model is 3; it needs a name, or keys and values")
    assert refusal("seed.x=3").startswith("seed is {'x': 3}: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("seed: 1\ntraining: [", "not YAML: line 2, column 12"),
        ("seed: 1\n\tepochs: 2\n", "not YAML: line 2, column 1"),
        ("seed: 1\nmodel: vgg16\nseed: 2\n", "line 3, column 1: the key 'seed' is given twice"),
        ("training:\n  epochs: 1\n  'epochs': 2\n", "line 3, column 3: the key 'epochs' is given twice"),
        ("- a\n", "holds a list; it needs keys and values"),
        ("resnet18\n", "holds a str; it needs keys and values"),
        ("3\n", "holds a int; it needs keys and values"),
        ("1: 2\n", "line 1, column 1: the key 1 is no text; keys are names"),
        ("seed: 1\n---\nseed: 2\n", "not YAML: line 2"),
        ("seed: !!python/object/apply:os.getcwd []\n", "not YAML: line 1"),
        (b"\xff\xfe\xff", "not text in UTF-8"),
        ("seed: \x00", "not YAML: "),
        ("[" * 3_000, "not YAML: "),
    ],
)
def test_a_file_that_is_no_mapping_in_yaml_is_refused_by_name(
    tmp_path: Path, content: str | bytes, words: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=r"^config .*config\.yaml ") as caught:
        load_config(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_can_not_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml can't be read: No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load_config(tmp_path)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "training: {epochs: 0}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: training\.epochs is 0"):
        load_config(path)


@in_one_folder
@given(st.one_of(st.text(max_size=40), st.text(alphabet="a1.e-:[]{}#&*!|>'\"%@`,\n \t", max_size=40)))
def test_any_text_is_a_mapping_or_refused_in_one_line(tmp_path: Path, content: str) -> None:
    try:
        read = read_yaml(written(tmp_path, content.encode("utf-8", "surrogatepass")))
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(key, str) for key in read)


# -- and back -----------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
tricky = st.sampled_from(
    ["5e-4", "1_000", "null", "~", "yes", "2020-01-01", "1:30", "0x10", ".5", "-", " ", "a: b", "=", "<<"]
)
positive = st.floats(min_value=1e-12, max_value=1e6)
configs = st.builds(
    lambda model, data, training, method, plot, rest: OptimizeConfig.model_validate(
        {"model": model, "data": data, "training": training, "method": method, "plot": plot, **rest}
    ),
    model=st.fixed_dictionaries(
        {"name": texts | tricky, "blocks": st.none() | st.lists(st.integers(1, 9), max_size=4)}
    ),
    data=st.fixed_dictionaries({"flip": st.none() | st.booleans(), "root": st.none() | texts | tricky}),
    training=st.fixed_dictionaries({"learning_rate": positive, "clip_norm": st.none() | positive}),
    method=st.fixed_dictionaries(
        {
            "name": st.just("deepreduce"),
            "cull_order": st.none() | st.lists(texts | tricky, max_size=4),
            "rhos": st.lists(st.integers(1, 9).map(lambda n: 1 / n), min_size=1, max_size=3),
            "depths": st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), max_size=2),
        }
    ),
    plot=st.fixed_dictionaries({"title": st.none() | texts | tricky}),
    rest=st.fixed_dictionaries({"max_relus": st.none() | st.integers(0, 10**7)}),
)


@in_one_folder
@given(configs)
def test_a_dumped_config_loads_back_equal(tmp_path: Path, config: OptimizeConfig) -> None:
    loaded = load_config(written(tmp_path, dump_config(config)))
    assert loaded == config
    assert differing_keys(loaded, config) == []
    assert dump_config(loaded) == dump_config(config)


def test_a_dumped_config_has_every_key() -> None:
    dumped = dump_config(OptimizeConfig())
    for key in every_key(OptimizeConfig):
        assert f"{key.rpartition('.')[2]}:" in dumped


def every_key(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += every_key(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


@pytest.mark.parametrize(
    ("key", "value", "free"),
    [
        ("side_by_side", 2, True), ("threads", 2, True), ("distill.remember_gb", 0, True), ("recipe", "full", False),
        ("fast.price", 2.0, False), ("fast.batch", 1.0, False), ("fast.views", 5, False),
    ],
)  # fmt: skip
def test_a_run_may_go_on_with_another_value_only_where_that_changes_no_number(
    key: str, value: object, free: bool
) -> None:
    other = load_config(values={key: value})
    assert other != OptimizeConfig()
    different = differing_keys(OptimizeConfig(), other)
    assert different == [] if free else len(different) == 1 and different[0].startswith(f"{key} (")


def test_differing_keys_are_told_with_both_values() -> None:
    a = load_config(settings=["training.epochs=2", "method.alphas=1,0.5"])
    b = load_config(settings=["training.epochs=3", "method.alphas=1", "model.blocks=1,1"])
    assert differing_keys(a, a) == []
    assert differing_keys(a, b) == [
        "model.blocks (None, now [1, 1])",
        "training.epochs (2, now 3)",
        "method.alphas ([1.0, 0.5], now [1.0])",
    ]


def test_keys_that_change_no_number_do_not_differ() -> None:
    changed = ["plot.title=x", "data.root=x", "data.workers=2", "data.download=yes", "training.checkpoint_seconds=1"]
    assert differing_keys(OptimizeConfig(), load_config(settings=changed)) == []


def test_the_keys_that_change_no_number_exist() -> None:
    known = [*every_key(OptimizeConfig), *OptimizeConfig.model_fields]
    assert set(RESULT_FREE) <= set(known)


def test_an_option_of_another_method_is_said_to_be_one() -> None:
    with pytest.raises(ConfigError, match=r"'method.cull_order'; it is an option of deepreduce and levers, so give"):
        load_config(values={"method": {"cull_order": ["S1"]}})


def run_of_earlier_version(folder: Path, recipe: str) -> Path:
    """A run's config when recipe `fast` had three keys more."""
    config = OptimizeConfig(recipe=recipe).model_dump(mode="json")
    config["fast"] |= {"draft_share": 0.8, "margin": 0.02, "rate": 0.25}
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    write_record(folder / "environment.json", {})
    return folder / "config.yaml"


def test_a_run_of_an_earlier_version_is_read_but_its_recipe_fast_is_another(tmp_path: Path) -> None:
    for recipe, gone in (("fast", ["draft_share (0.8", "margin (0.02", "rate (0.25"]), ("paper", [])):
        path, config = run_of_earlier_version(tmp_path / recipe, recipe), OptimizeConfig(recipe=recipe)
        assert read_run_config(path.parent) == config
        assert differing_keys_of_run(path, config) == [f"fast.{key}, now gone)" for key in gone]
        with pytest.raises(ConfigError, match=r"unknown config key 'fast\.draft_share'"):
            load_config(path)
