"""Parameters as people write them become values of the type that each default has, or an error that says what to write."""

import pytest

from mlkit.errors import ParameterError
from mlkit.parameters import check_parameters, parameters_of, read_parameters

KNOWN = {
    "learning_rate": 0.1,
    "epochs": 10,
    "seed": 0,
    "augment": True,
    "backbone": "resnet18",
    "classes": ["a"],
    "shares": [0.5],
}


def write(tmp_path, text):
    path = tmp_path / "given.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_yaml_file_gives_typed_values(tmp_path):
    given = read_parameters(write(tmp_path, "# fast\nlearning_rate: 1e-3\nepochs: 2\naugment: false\nbackbone: resnet50\n"))
    assert given["learning_rate"] == "1e-3"  # what YAML makes of it
    expected = {"learning_rate": 0.001, "epochs": 2, "augment": False, "backbone": "resnet50"}
    assert check_parameters(given, KNOWN) == expected


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", "5", 5.0),
        ("learning_rate", 1, 1.0),
        ("epochs", "3", 3),
        ("epochs", " 3 ", 3),
        ("epochs", 3.0, 3),
        ("epochs", "1e2", 100),
        ("seed", "-1", -1),
        ("seed", "12345678901234567891", 12345678901234567891),
        ("seed", 12345678901234567891, 12345678901234567891),
        ("augment", "false", False),
        ("augment", "No", False),
        ("augment", "TRUE", True),
        ("augment", False, False),
        ("backbone", "none", "none"),
        ("backbone", "", ""),
        ("classes", ["b", "c"], ["b", "c"]),
        ("classes", "[b, c]", ["b", "c"]),
        ("shares", "[0.1, 1e-3, 1]", [0.1, 0.001, 1.0]),
        ("shares", ["0.1"], [0.1]),
        ("shares", "[]", []),
    ],
)
def test_value_takes_the_type_of_its_default(name, given, expected):
    value = check_parameters({name: given}, KNOWN)[name]
    assert value == expected
    assert type(value) is type(KNOWN[name])


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("learning_rate", "fast", "a number, such as 0.1"),
        ("learning_rate", True, "a number"),
        ("learning_rate", None, "a number"),
        ("learning_rate", [0.1], "a number"),
        ("epochs", 2.5, "a whole number, such as 10"),
        ("epochs", "2.5", "a whole number"),
        ("epochs", "inf", "a whole number"),
        ("epochs", "nan", "a whole number"),
        ("epochs", True, "a whole number"),
        ("epochs", "", "a whole number"),
        ("augment", "maybe", "true or false, such as True"),
        ("augment", 1, "true or false"),
        ("backbone", 18, "text, such as 'resnet18'"),
        ("backbone", False, "text"),
        ("classes", "b", "a list, such as ['a']"),
    ],
)
def test_value_of_another_type_is_refused(name, given, kind):
    with pytest.raises(ParameterError) as error:
        check_parameters({name: given}, KNOWN)
    assert f"parameter {name} is {given!r}; it must be {kind}" in str(error.value)


def test_misspelt_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(ParameterError, match="unknown parameter 'learning_rat'; did you mean 'learning_rate'"):
        check_parameters({"epochs": 1, "learning_rat": 0.1}, KNOWN)


def test_name_that_is_near_nothing_is_refused_with_the_list_of_the_known():
    with pytest.raises(ParameterError, match="unknown parameter 'zzz'; known are learning_rate, epochs, seed"):
        check_parameters({"zzz": 1}, KNOWN)


def test_nothing_given_is_nothing_changed():
    assert check_parameters({}, KNOWN) == {}


@pytest.mark.parametrize("text", ["", "# nothing\n", "- epochs\n", "epochs\n", "1: 2\n", "on: 2\n"])
def test_yaml_file_that_holds_something_else_is_refused(tmp_path, text):
    with pytest.raises(ParameterError, match=r"given\.yaml must hold one `name: value` a line"):
        read_parameters(write(tmp_path, text))


@pytest.mark.parametrize("text", ["epochs: [1\n", "a: b: c\n", "when: 2020-13-01\n", b"name: \xff\n", b"name: \x00\n"])
def test_broken_yaml_file_is_refused(tmp_path, text):
    with pytest.raises(ParameterError, match=r"given\.yaml cannot be read \(.+\)"):
        read_parameters(write(tmp_path, text))


def test_missing_yaml_file_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"absent\.yaml cannot be read \(.*No such file"):
        read_parameters(tmp_path / "absent.yaml")
    with pytest.raises(ParameterError, match="cannot be read"):
        read_parameters(tmp_path)


def test_every_setting_of_a_training_has_a_meaning_and_is_listed(capsys):
    from mlkit.cli import main
    from mlkit.training.config import TrainConfig

    assert main(["train", "--help-parameters"]) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name, parameter in parameters_of(TrainConfig).items():
        assert parameter.meaning in listed[name], name
        assert parameter.meaning
        assert parameter.allowed in listed[name]


def test_a_loss_that_is_added_to_the_registry_is_a_choice_at_once(monkeypatch):
    from mlkit.losses import LOSSES
    from mlkit.training.config import TrainConfig

    monkeypatch.setitem(LOSSES, "ninth", LOSSES["masked_bce"])
    assert TrainConfig(loss="ninth").pos_weight_policy == "balanced"
    assert "ninth" in parameters_of(TrainConfig)["loss"].allowed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: [*x, *x]", "aliases"),
        ("a: " + "[" * 5000, "cannot be read"),
        ("a: " + "x" * 1_100_000, "1,100,003 characters are no parameters"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_hostile_parameter_file_is_refused(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=message):
        read_parameters(tmp_path / "p.yaml")
