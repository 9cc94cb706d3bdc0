"""What holds the project together: the floors of the modules, one list of dependencies, the sample data."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

import mlkit
from mlkit.data import sample as sample_module
from mlkit.data.labelfile import read_labels
from mlkit.data.labels import label_counts, to_codes
from mlkit.losses import loss_table
from mlkit.notebooks import CHAIN
from mlkit.parameters import notebook_cells
from mlkit.runs import FILES

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FLOORS = [  # rooms; on the two lowest, single modules, each of which may import those before it
    ["__init__", "errors", "files", "progress"],
    ["parameters", "runs", "fanout", "plots", "notebooks"],
    ["losses", "data"],
    ["models", "evaluation"],
    ["training"],
    ["inference"],
    ["curation"],
    ["experiments"],
    ["bench"],
    ["cli"],
    ["__main__"],
]
CARD = ["torch", "torchvision", "jupyterlab", "papermill", "matplotlib", "seaborn", "pandas", "nbval"]


def test_rooms_import_only_from_floors_below():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    package = ROOT / "mlkit"
    rooms = {path: path.relative_to(package).with_suffix("").parts[0] for path in package.rglob("*.py")}
    assert set(floor) == set(rooms.values())
    for path, own in rooms.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlkit"):
                names = [alias.name for alias in node.names] if node.module == "mlkit" else [node.module.split(".")[1]]
                row = FLOORS[floor[own]] if floor[own] < 2 else []
                below = {room for room in floor if floor[room] < floor[own]} | set(row[: row.index(own)] if row else [])
                assert set(names) - {own} <= below, f"{path.relative_to(ROOT)} imports {names}"


def test_modules_of_a_room_import_each_other_in_no_circle():
    imports = {}
    for path in (ROOT / "mlkit").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlkit")]
        imports[name] = {f"{node.module}.{alias.name}" for node in found for alias in node.names} | {n.module for n in found}
    order = TopologicalSorter({name: {one for one in others if one in imports} - {name} for name, others in imports.items()})
    assert list(order.static_order())


def test_what_takes_seconds_to_import_is_imported_where_it_is_used():
    slow = {"torchvision", "sklearn", "scipy", "seaborn", "iterstrat", "torch._dynamo"}
    program = f"""
import sys, mlkit.plots, mlkit.data.plots, mlkit.training.recipe, mlkit.training.loop, mlkit.inference.predictor
assert not {slow} & set(sys.modules), {slow} & set(sys.modules)
import mlkit.evaluation.predictions, mlkit.evaluation.plots, mlkit.models.vision
from mlkit.models.modelfile import _shapes
_shapes(dict(backbone="resnet18", attributes=["a"], image_size=32))
slow = {slow | {"scipy.stats"}} - {{"scipy", "torchvision"}}
assert not slow & set(sys.modules), slow & set(sys.modules)
from torch._dynamo.utils import is_compile_supported, istensor  # the real one
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_torch_is_imported_by_those_alone_who_compute_with_it(sample):
    imports = [notebook_cells(name)[2]["source"] for name in (CHAIN[0], CHAIN[2], CHAIN[4])]
    assert all(any("mlkit" in line for line in lines) for lines in imports)
    program = f"""
import sys
from mlkit.cli import main
import mlkit.notebooks.pipeline
mlkit.notebooks.pipeline.execute = lambda *_: None
main(["run", "--images", {str(sample / "images")!r}, "--labels", {str(sample / "labels.csv")!r}, "--name", "light"])
main(["train", "--help-parameters"])
main(["labels", "check", {str(sample / "labels.csv")!r}, "--images", {str(sample / "images")!r}])
main(["runs"])
for lines in {[lines[1:-1] for lines in imports]}:
    exec("".join(lines))
assert not {{"torch", "jupyterlab", "rfc3987_syntax"}} & set(sys.modules)  # the last is of the report
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "[5/5] 05_evaluate: done" in result.stdout


def test_every_folder_with_code_is_a_package_which_the_installation_finds():
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["mlkit*"]
    assert all((path.parent / "__init__.py").exists() for path in (ROOT / "mlkit").rglob("*.py"))


def test_a_package_says_what_it_is_for_and_holds_no_code_of_its_own():
    for path in (ROOT / "mlkit").rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        if path.parent.name != "cli":  # whose code is the command itself
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)], path


def test_the_version_stands_in_one_place():
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mlkit.__version__"}
    assert re.search(rf"^## {re.escape(mlkit.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)


def sources(folder):
    """Path -> source of the modules, or the code cells of the notebooks, of a folder."""
    modules = {path: path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")}
    for path in (ROOT / folder).glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        lines = [line for cell in cells if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]]
        modules[path] = "".join(line for line in lines if not line.startswith("%"))
    return modules


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("mlkit", ["dask", "jobqueue", "grpc", "heif", "tensorboard", "export", "int8", "peers", "distributed"]),
        ("notebooks", []),
        ("tests", ["dask", "grpc", "heif", "tensorboard", "test", "fuzz", "export", "int8", "distributed"]),
    ],
)
def test_every_package_that_is_imported_is_declared(folder, extras):
    declared = [*PYPROJECT["project"]["dependencies"]]
    declared += [text for extra in extras for text in PYPROJECT["project"]["optional-dependencies"][extra]]
    names = {re.match(r"[\w.-]+", text).group().lower().replace("_", "-") for text in declared}
    distributions = packages_distributions()
    own = {"mlkit", *(path.stem for path in (ROOT / folder).rglob("*.py"))}
    for path, text in sources(folder).items():
        for node in ast.walk(ast.parse(text)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {module.split(".")[0] for module in modules} - own - sys.stdlib_module_names:
                found = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
                assert found & names, f"{path.name} imports {module}, and pyproject.toml names none of {found}"


def test_every_file_of_a_run_folder_is_explained():
    text = "\n".join([*sources("mlkit").values(), *sources("notebooks").values()])
    calls = r"""(?:write_(?:table|json)\(\s*|\.new\(|(?:chosen|run|results) / )["']([\w]+\.\w+)["']"""
    explained = (ROOT / "outputs" / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(set(re.findall(calls, text))) if name not in explained] == []
    assert set(re.findall(r"""(?:chosen|run)\.(?:new|write_table)\(["']([\w]+\.\w+)["']""", text)) - set(FILES) == set()
    rows = [f"| `{name}` | {maker} | {meaning} |" for name, (maker, meaning) in FILES.items()]
    assert "\n".join(rows) in explained, "outputs/README.md has the table of mlkit.runs"


def test_environment_file_shows_the_packages_and_leaves_versions_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    project = PYPROJECT["project"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    required = project["dependencies"] + project["optional-dependencies"]["test"]
    known = {re.match(r"[\w-]+", text).group().lower() for text in required}
    listed = [name for name in pip if not name.startswith("-e")]
    assert "-e .[test]" in pip
    assert set(CARD) <= set(listed) <= known, "a bare name of pyproject.toml each, without a version"
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python"))
    assert python.removeprefix("python") == project["requires-python"]


def test_top_level_is_what_the_readme_says():
    allowed = {"notebooks", "mlkit", "data", "outputs", "tests"}
    ignored = {path.name for path in ROOT.iterdir() if path.name.startswith(".") or path.name.endswith(".egg-info")}
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} - ignored == allowed


def test_the_readme_is_a_tour_of_at_most_130_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


PAGES = ["README.md", "CONTRIBUTING.md", "data/README.md", "notebooks/README.md", "notebooks/SPEED.md", "outputs/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target


def test_the_page_of_the_notebooks_names_each_and_has_the_table_of_losses():
    text = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]", text, re.M) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    table = loss_table()
    rows = [
        ["`loss`", *table.columns],
        *([f"`{name}`", *row] for name, row in zip(table.index, table.to_numpy(), strict=True)),
    ]
    for row in rows:
        assert f"| {' | '.join(row)} |".replace("|  |", "| |") in text, "notebooks/README.md has the table of mlkit.losses"


def test_sample_is_deterministic_has_its_faults_and_its_prevalences(sample, tmp_path):
    sample_module.make_sample(tmp_path / "again", count=60)
    for file in sorted(path.relative_to(sample) for path in sample.rglob("*") if path.is_file()):
        assert (sample / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    labels, truth = read_labels(sample / "labels.csv"), read_labels(sample / "truth.csv")
    assert not truth.isna().to_numpy().any()
    known = to_codes(labels) >= 0
    disagree = known & (to_codes(labels) != to_codes(truth))
    assert disagree.sum() == 1  # the copy that contradicts its original
    assert not (sample / "images" / labels.index[-1]).exists()


def test_sample_prevalences_and_unknown_share_are_those_promised(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_module, "draw_garment", lambda truth, rng: sample_module.Image.new("RGB", (8, 8)))
    sample_module.make_sample(tmp_path / "many", count=2000)
    prevalence = label_counts(read_labels(tmp_path / "many" / "truth.csv")).prevalence
    np.testing.assert_allclose(prevalence, [0.88, 0.8, 0.5, 0.08], atol=0.03)
    rare = (0.05, 0.04, 0.03, 0.02)
    sample_module.make_sample(tmp_path / "rare", count=2000, prevalence=rare)
    np.testing.assert_allclose(label_counts(read_labels(tmp_path / "rare" / "truth.csv")).prevalence, rare, atol=0.015)
    assert read_labels(tmp_path / "many" / "labels.csv").isna().to_numpy().mean() == pytest.approx(0.1, abs=0.01)


def test_the_lock_satisfies_pyproject_and_names_no_index():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M)}
    for extra in ("", "test"):
        for line in project["dependencies"] if not extra else project["optional-dependencies"][extra]:
            wanted = Requirement(line)
            if wanted.name != project["name"]:
                assert wanted.specifier.contains(locked[wanted.name.lower().replace("_", "-")]), line
    entries = re.split(r"\n(?=\S)", text)
    assert all("--hash=" in entry for entry in entries if not entry.startswith("#"))
    assert "://" not in text


def test_notebooks_are_cleaned_before_a_commit_as_make_cleans_them():
    flags = re.compile(r"nbstripout (.+?\")\s*(?:language|notebooks)", re.S)
    files = [(ROOT / name).read_text(encoding="utf-8").replace("\\", "") for name in ("Makefile", ".pre-commit-config.yaml")]
    first, second = (flags.search(text).group(1).split() for text in files)
    assert first == second
