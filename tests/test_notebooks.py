"""The contract of the committed notebooks, and the proof that nbval would notice a wrong number in them."""

import ast
import copy
import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import nbformat
import pytest

from mlkit.cli import main
from mlkit.cli.given import given_recipe
from mlkit.data.sample import ensure_sample
from mlkit.errors import ParameterError
from mlkit.notebooks import CHAIN, TRAINING
from mlkit.parameters import Between, check_parameters, convert_parameters, known_parameters, read_parameters
from mlkit.training import recipe
from mlkit.training.config import TrainConfig
from mlkit.training.recipe import Recipe, known_settings

FOLDER = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
DATA_BOOKS = ("01_explore_label_imbalance", "10_audit_data")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_each_notebook_has_a_number_of_its_own_and_the_chain_is_among_them_in_order():
    numbers = [path.stem.split("_")[0] for path in PATHS]
    assert all(re.fullmatch(r"\d\d", number) for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert list(CHAIN) == sorted(CHAIN)
    assert set(CHAIN) <= {path.stem for path in PATHS}


def test_opens_with_a_question_and_ends_with_the_answer(notebook):
    first, *_, heading, last = notebook.cells
    assert first.cell_type == "markdown"
    assert re.match(r"# \d+\. .*\?", first.source)
    assert heading.source == "## Answer"
    assert "print" in last.source
    assert last.outputs


def test_has_one_tagged_cell_of_commented_literals(notebook):
    (cell,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    for line in cell.source.splitlines():
        (statement,) = ast.parse(line).body
        ast.literal_eval(statement.value)  # raises for anything computed
        assert "  # " in line


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_parameters_are_converted_before_they_are_used(path):
    """As papermill gives them: `-p overwrite false` is a text, and true."""
    _, imports, *_ = code(nbformat.read(path, as_version=4))
    assert imports.source.endswith(f'\nconvert_parameters("{path.stem}", globals())')
    known = known_parameters(path.stem)
    texts = {name: str(value).lower() for name, value in known.items() if isinstance(value, bool | int | float)}
    namespace = known | texts | {"else": "5"}
    convert_parameters(path.stem, namespace)
    assert namespace == known | {"else": "5"}
    for name in texts:
        with pytest.raises(ParameterError, match=f"parameter {name} is 'maybe'; it must be"):
            convert_parameters(path.stem, known | {name: "maybe"})


def test_defines_nothing_and_no_cell_is_longer_than_a_screen(notebook):
    for cell in code(notebook):
        assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)
        assert len(cell.source.splitlines()) <= (60 if "parameters" in cell.metadata.get("tags", []) else 40)


def test_is_executed_in_order_by_the_plain_kernel_without_error(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert not [output for cell in code(notebook) for output in cell.outputs if output.output_type == "error"]


def test_is_small_shows_figures_and_holds_no_path_of_a_machine():
    for path in PATHS:
        text = path.read_text(encoding="utf-8")
        assert len(text) < 200_000, path.name
        assert re.search("image/(png|jpeg)", text)
        assert not re.search(r"plt\.show|savefig", text), "plots.show keeps figures small"
        assert not re.search(r"[\"' ](/home/|/root/|/work/|/Users/|/tmp/)", text), path.name


def test_some_cells_are_compared_by_nbval():
    checked = [cell for path in PATHS for cell in code(nbformat.read(path, 4)) if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert len(checked) >= 4
    assert all(cell.outputs for cell in checked)


def test_the_data_is_looked_at_first_and_audited_in_a_notebook_of_its_own():
    first, audit = ("".join(cell.source for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells) for name in DATA_BOOKS)
    order = ["image_grid", "label_counts", "cooccurrence", "na_patterns", "dataset.report", "## Answer"]
    assert [first.index(word) for word in order] == sorted(first.index(word) for word in order)
    for name in ("duplicate_groups", "label_errors", "missingness"):
        assert name not in first
        assert name in audit
    assert "Can these labels be trusted?" in audit
    assert "10_audit_data" not in CHAIN


@pytest.mark.parametrize("name", DATA_BOOKS)
def test_notebooks_of_the_data_open_it_by_a_recipe(name):
    known = known_parameters(name)
    assert list(known)[:4] == ["images", "labels", "recipe", "settings"]
    plan = Recipe.read(known["recipe"], known["settings"] | {"match": "case"}, known["images"], known["labels"])
    assert (plan.source.images, plan.source.match, plan.config.image_size) == ("data/sample/images", "case", 64)


def test_nbval_passes_the_committed_numbers_and_fails_a_wrong_one(tmp_path):
    """A checked cell of notebook 01 alone, on the sample's label file; as a whole, nbval tests the notebook anyway."""
    ensure_sample("data/sample/labels.csv")
    notebook = nbformat.read(FOLDER / "01_explore_label_imbalance.ipynb", as_version=4)
    cell = next(cell for cell in code(notebook) if "label_counts" in cell.source)
    reads = [
        "from types import SimpleNamespace",
        "import mlkit.plots  # which sets how tables look",
        "from mlkit.data import labels as label_tools",
        "from mlkit.data.labelfile import read_labels",
        "dataset = SimpleNamespace(labels=read_labels('data/sample/labels.csv').iloc[:-1])  # whose file is not there",
    ]
    wrong = copy.deepcopy(cell)
    wrong.id = "wrong"
    for kind, text in wrong.outputs[0].data.items():
        wrong.outputs[0].data[kind] = text.replace("11.", "12.")
    notebook.cells = [nbformat.v4.new_code_cell("\n".join(reads)), cell, wrong]
    nbformat.write(notebook, tmp_path / "copy.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q", "-c", "none.ini", "copy.ipynb"]
    (tmp_path / "none.ini").touch()
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout
    assert "1 failed, 2 passed" in result.stdout
    assert "FAILED copy.ipynb::Cell 2" in result.stdout
    assert "mismatch" in result.stdout


def test_notebooks_that_read_data_take_it_and_its_recipe_by_the_same_names():
    for notebook in ("01_explore_label_imbalance", TRAINING, "06_missing_labels", "08_tune", "10_audit_data"):
        defaults = known_parameters(notebook)
        assert {"images", "labels", "recipe", "settings"} <= set(defaults)
        assert Recipe.read(defaults["recipe"], defaults["settings"], defaults["images"], defaults["labels"])
    assert len(known_parameters(TRAINING)) <= 9


@pytest.mark.parametrize("name", ["sample", "seed"])
def test_recipe_files_say_what_a_setting_means_as_its_field_does(name):
    text, known = (FOLDER / "parameters" / f"{name}.yaml").read_text(encoding="utf-8"), known_settings()
    for line in text.splitlines():
        if not line.startswith("#"):
            setting, _, rest = line.partition(":")
            assert rest.partition("  # ")[2] == known[setting].meaning
    assert check_parameters(read_parameters(FOLDER / "parameters" / f"{name}.yaml"), known)


def test_a_new_setting_is_one_line_in_one_file(monkeypatch, tmp_path, capsys):
    """A field that is added to the configuration is a setting everywhere: recipes, command line, help, run folder."""

    @dataclasses.dataclass(frozen=True)
    class More(TrainConfig):
        dropout: Annotated[float, Between(0, 1), "share of activations that are left out"] = 0.0

    monkeypatch.setattr(recipe, "TrainConfig", More)
    (tmp_path / "mine.yaml").write_text("dropout: 0.2\n")
    assert Recipe.read(str(tmp_path / "mine.yaml")).parameters()["dropout"] == 0.2
    assert given_recipe({"dropout": "0.3"}).config.dropout == 0.3
    with pytest.raises(ParameterError, match=r"dropout is 2\.0; it must be at least 0 and at most 1"):
        Recipe.read(settings={"dropout": 2})
    with pytest.raises(ParameterError, match="unknown parameter 'dropuot'; did you mean 'dropout'"):
        Recipe.read(settings={"dropuot": 0.1})
    assert main(["train", "--help-parameters"]) == 0
    assert "share of activations that are left out [0 to 1]" in capsys.readouterr().out


def test_seed_file_is_the_recipe_of_the_seed():
    defaults = Recipe().parameters()
    seed = check_parameters(read_parameters(FOLDER / "parameters" / "seed.yaml"), known_settings())
    assert seed["learning_rate"] == 0.001
    assert (seed["backbone"], seed["weights"], seed["image_size"]) == ("resnet18", "imagenet", 224)
    assert seed.items() <= defaults.items()
    assert Recipe.of(seed).config.pos_weight_policy == "balanced"
    sample = read_parameters(FOLDER / "parameters" / "sample.yaml")
    assert set(sample) - {"images", "labels"} <= set(seed), "own data must not be trained with settings of the sample"
