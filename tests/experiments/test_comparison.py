"""Runs side by side: listed whatever they lack, ranked on common images, effects of parameters recovered or doubted."""

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from mlkit.cli import main
from mlkit.errors import RunError
from mlkit.evaluation import intervals
from mlkit.evaluation.predictions import Predictions
from mlkit.experiments import trainings
from mlkit.experiments.comparison import plots
from mlkit.experiments.comparison.conclusion import answer, architectures
from mlkit.experiments.comparison.effects import effects, seed_deviation
from mlkit.experiments.comparison.overview import FACTS, overview, readable, shorten
from mlkit.experiments.comparison.ranking import Comparison, choose_runs, results_folder
from mlkit.experiments.search import conclusion as search
from mlkit.runs import Run, list_runs
from mlkit.training.config import TrainConfig
from mlkit.training.recipe import Recipe, known_settings

mpl.use("Agg")
import matplotlib.pyplot as plt

NAMES = ["a", "b", "c"]
IMAGES = [f"{i:03d}.jpg" for i in range(80)]
SETTINGS = {"images": "data/x", "backbone": "resnet18", "learning_rate": 0.001, "loss": "masked_bce", "seed": 0}
DEVICE = "cpu bf16"
PRUNED = {"reason": "pruned", "epoch": 2}


def make_run(name, skill=1.0, images=IMAGES, names=NAMES, data="data", validation=0.7, drop=(), facts=(), **parameters):
    """A finished run; the higher `skill`, the better its predictions, whose noise all runs share but for their seed."""
    parameters = {key: value for key, value in (SETTINGS | parameters).items() if value is not None}
    run = Run.create(name, parameters, data)
    y = truth(images)[:, : len(names)]
    noise = np.random.default_rng(parameters.get("seed", 0)).normal(size=(1000, 3))
    rows = [int(image[:3]) for image in images]
    p = 1 / (1 + np.exp(-(skill * (np.abs(y) - 0.5) + noise[rows, : len(names)])))
    cells = pd.DataFrame(
        {
            "split": "test",
            "image": np.repeat(images, len(names)),
            "attribute": np.tile(names, len(images)),
            "target": pd.Series(y.ravel(), dtype="Int8").where(y.ravel() >= 0),
            "logit": p.ravel(),
            "probability": p.ravel(),
        }
    )
    half = cells.assign(split="validation", image="v" + cells.image)
    run.write_table("predictions.csv", pd.concat([cells, half]))
    epochs = pd.DataFrame({"epoch": [1, 2, 3], "mAP": [0.1, validation, 0.2]})
    history = pd.DataFrame({"iteration": range(1, 13), "epoch": np.repeat([1, 2, 3], 4), "loss": np.linspace(1, 0.2, 12)})
    for file, table in (("epochs.csv", epochs), ("history.csv", history)):
        run.write_table(file, table)
    metrics = {
        "judged_on": "test",
        "best_epoch": 2,
        "stopped": None,
        "seconds": 90.0,
        "img_per_s": 150.0,
        "parameters": 11_000_000,
        "ran_on": DEVICE,
        "mean": {"AP": 0.5},
        "attributes": {name: {"threshold": 0.5} for name in names},
        "training_prevalence": dict.fromkeys(names, 0.5),
    } | dict(facts)
    run.write_json("metrics.json", {key: value for key, value in metrics.items() if key not in drop})
    return run


def truth(images):
    """(images, attributes) targets, every seventh of the first attribute unknown."""
    numbers = np.array([int(image[:3]) for image in images])
    y = np.stack([numbers % 2, numbers % 3 == 0, numbers % 5 < 2], axis=1).astype(int)
    y[numbers % 7 == 0, 0] = -1
    return y


def make_ensemble(name, **facts):
    run = make_run(name, drop=("img_per_s", "best_epoch", "seconds", "parameters", "ran_on"), facts=facts)
    config = run.config()
    run.write_json(
        "config.json", config | {"parameters": {"members": ["one", "two"], "images": "data/x", "backbone": "resnet18"}}
    )
    for file in ("epochs.csv", "history.csv"):
        (run / file).unlink()
    return run


def mean_ap(run):
    """mAP by scikit-learn, with the unknown cells removed."""
    table = run.read_table("predictions.csv").query("split == 'test'").dropna()
    return np.mean([average_precision_score(cells.target, cells.probability) for _, cells in table.groupby("attribute")])


# --- the table of runs


def test_overview_has_a_column_for_what_differs_and_only_for_that():
    runs = [make_run("one"), make_run("two", learning_rate=0.01, facts={"stopped": PRUNED})]
    table = overview(runs)
    assert list(table.columns) == ["created", "learning_rate", *FACTS]
    assert list(table.index) == ["one", "two"]
    assert table.learning_rate.tolist() == [0.001, 0.01]
    assert table.validation_mAP.tolist() == [0.7, 0.7]
    assert table.state.tolist() == ["finished", "stopped early: pruned, after epoch 2"]


def test_equal_numbers_are_no_difference_and_other_data_is():
    table = overview([make_run("one", epochs=3, data="aaaaaaaaaa"), make_run("two", epochs=3.0, data="bbbbbbbbbb")])
    assert list(table.columns) == ["created", "data", *FACTS]
    assert table.data.tolist() == ["aaaaaaaa", "bbbbbbbb"]


def test_no_parameter_is_called_as_a_fact_is():
    assert not {"created", *FACTS} & set(TrainConfig.__dataclass_fields__)


def test_runs_of_any_age_and_kind_are_listed_with_blanks():
    old = make_run("old", drop=("judged_on", "seconds", "img_per_s", "parameters", "ran_on", "mean"), loss=None)
    bare = Run.create("bare", {}, "data")
    bare.write_json("metrics.json", {})
    ensemble, unfinished = make_ensemble("ensemble"), Run.create("unfinished", SETTINGS, "data")
    young = Run.create("young", SETTINGS, "data")
    young.write_table("epochs.csv", pd.DataFrame({"epoch": [1, 2], "mAP": [0.4, 0.3]}))
    table = overview([old, bare, ensemble, unfinished, young, make_run("new", loss="asl")])
    assert table.state.tolist() == ["finished"] * 3 + ["unfinished"] * 2 + ["finished"]
    assert table.loc["old", ["mAP", "judged_on", "seconds", "img_per_s", "parameters", "ran_on", "loss"]].isna().all()
    assert table.validation_mAP["young"] == 0.4, "the best so far"
    assert table.validation_mAP["ensemble"] == pytest.approx(mean_ap(ensemble)), "from its predictions"
    assert table.members["ensemble"] == ["one", "two"]
    assert "backbone" not in table, "a run that lacks a parameter does not make it differ"
    text = readable(table)
    assert text.loc["ensemble", "members"] == "one, two"
    assert text.loc["bare"].drop(["when", "state"]).eq("").all()
    assert text.loc["new", ["time", "img/s", "size", "ran on"]].tolist() == ["90 s", "150", "11.0 M", "cpu bf16"]


def test_columns_that_are_empty_for_all_are_left_out_and_long_values_shortened():
    runs = [make_run(f"r{i}", drop=("seconds",), weights=f"some/long/folder/of/weights-{i}.pth") for i in range(2)]
    text = readable(overview(runs))
    assert "time" not in text
    assert text["weights"].tolist() == ["…/of/weights-0.pth", "…/of/weights-1.pth"]
    assert overview(runs).weights["r1"] == "some/long/folder/of/weights-1.pth"


# --- the command


def runs_printed(capsys, *arguments):
    assert main(["runs", *arguments]) == 0
    return capsys.readouterr().out


def test_command_lists_all_runs_or_those_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert "no run in" in runs_printed(capsys)
    make_run("tune-1"), make_run("tune-2", learning_rate=0.01), Run.create("other", SETTINGS, "data")
    lines = runs_printed(capsys).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["tune-1", "tune-2", "other"]
    assert "learning_rate" in lines[0]
    assert lines[3].endswith("unfinished")
    printed = runs_printed(capsys, "tune-*")
    assert "other" not in printed
    assert main(["runs", "gone"]) == 2
    assert "known runs: tune-1, tune-2, other" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 120])
def test_many_runs_that_differ_in_much_fit_the_terminal_and_nothing_is_lost(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    for i in range(30):
        many = {f"parameter_number_{j}": i * 0.001 + j for j in range(9)}
        stopped = {"stopped": {"reason": "patience", "epoch": 7}} if i % 2 else {}
        make_run(f"run-with-a-name-{i}", backbone=f"a_very_long_backbone_{i}", facts=stopped, **many)
    lines = runs_printed(capsys).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(f"parameter_number_{j}" in text for j in range(9))
    assert "stopped early: no better epoch for long, after epoch 7" in text


def test_csv_holds_everything_whole(tmp_path, capsys):
    make_run("one")
    make_run("two", weights="a/very/long/path/to/some/weights.pth")
    assert runs_printed(capsys, "--csv", str(tmp_path / "runs.csv")) == ""
    table = pd.read_csv(tmp_path / "runs.csv", index_col="run")
    assert table.columns.tolist() == ["created", *FACTS], "one run alone has weights: nothing to differ from"
    assert table.parameters.tolist() == [11_000_000] * 2


# --- the comparison


def test_ranking_goes_by_validation_and_judges_on_the_test_images():
    runs = [make_run("good", 3, validation=0.6), make_run("chosen", 2, validation=0.8), make_run("bad", 0.2, validation=0.1)]
    compared = Comparison.of(runs)
    table = compared.ranking()
    assert list(table.index) == ["chosen", "good", "bad"]
    np.testing.assert_allclose(table.mAP, [mean_ap(runs[1]), mean_ap(runs[0]), mean_ap(runs[2])])
    own = Predictions.read(runs[0]).bounds().loc[("AP", intervals.MEAN)]
    np.testing.assert_allclose(table.loc["good", ["low", "high"]].astype(float), own[["low", "high"]].astype(float))
    assert table.difference["good"] == pytest.approx(table.mAP["good"] - table.mAP["chosen"])
    assert table.loc["chosen", ["difference", "difference_low", "difference_high"]].isna().all()
    assert "3 runs on the 80 test images that judge them all, 228 of 240 cells known" in str(compared)


def test_run_that_a_search_gave_up_is_named_and_left_out():
    runs = [make_run("whole", 2), make_run("other"), make_run("half", 3, facts={"stopped": PRUNED})]
    compared = Comparison.of(runs)
    assert set(compared.predicted) == {"whole", "other"}
    assert "left out: half: a search gave it up (stopped early: pruned, after epoch 2)" in str(compared)


def test_differences_are_paired_and_widened_for_their_number():
    runs = [make_run(f"r{i}", 1 + i / 5, validation=0.9 - i / 10) for i in range(5)]
    compared = Comparison.of(runs, level=0.9)
    row = compared.ranking().iloc[2]
    pairs = [compared.predicted[name].probabilities for name in ("r2", "r0")]
    alone, among_four = (
        intervals.compare(*pairs, compared.predicted["r0"].targets, NAMES, level=level).loc[("AP", intervals.MEAN)]
        for level in (0.9, 1 - 0.1 / 4)
    )
    np.testing.assert_allclose(row[["difference", "difference_low", "difference_high"]].astype(float), among_four)
    assert row.difference_high - row.difference_low > alone.high - alone.low


def test_unknown_cells_have_no_influence():
    runs = [make_run("one", 2), make_run("two", 1, validation=0.6)]
    clean = Comparison.of(runs)
    for run in runs:
        table = run.read_table("predictions.csv")
        table.loc[table.target.isna(), ["logit", "probability"]] = 0.999
        run.write_table("predictions.csv", table)
    changed = Comparison.of(runs)
    np.testing.assert_array_equal(changed.mean_ap, clean.mean_ap)
    np.testing.assert_array_equal(changed.moved, clean.moved)
    np.testing.assert_array_equal(changed.bounds, clean.bounds)
    # and what an image moves the mAP by equals scikit-learn's on the known cells of the others
    one = clean.predicted["one"]
    for image, moved in enumerate(clean.moved[:5, 0]):
        y, p = np.delete(one.targets, image, 0), np.delete(one.probabilities, image, 0)
        expected = [average_precision_score(y[y[:, i] >= 0, i], p[y[:, i] >= 0, i]) for i in range(3)]
        assert moved == pytest.approx(np.mean(expected) - clean.mean_ap[0])


def test_runs_that_cannot_be_compared_are_named_with_the_reason():
    best = make_run("best", validation=0.9)
    others = [
        make_run("elsewhere", images=[f"{i:03d}.jpg" for i in range(200, 240)]),
        make_run("hardly", images=IMAGES[70:]),
        make_run("fewer", names=["a", "b"]),
        make_run("old", drop=("judged_on",)),
    ]
    partly = make_run("partly", images=[*IMAGES[20:], "300.jpg"])
    compared = Comparison.of([best, *others, partly])
    assert list(compared.predicted) == ["best", "partly"]
    assert all(one.images == IMAGES[20:] for one in compared.predicted.values())
    assert set(compared.left_out) == {"elsewhere", "hardly", "fewer", "old"}
    text = str(compared)
    assert "left out: elsewhere: " in text
    assert "share none of the images that judge them" in text
    assert "hardly shares 10 of the 80 images" in text
    assert "differ in their attributes (c)" in text
    assert "lacks judged_on: the run is of an older mlkit; train it again" in text
    assert "differ in their validation images" in text
    with pytest.raises(RunError, match=r"no run can be judged: .* older mlkit"):
        Comparison.of(others[3:])


def test_no_fact_of_a_run_is_called_like_a_setting():
    assert not {"created", *FACTS} & set(known_settings())  # which has a column where runs differ in it


def test_runs_are_ordered_by_the_attributes_that_the_validation_images_of_all_can_judge():
    make_run("most", skill=2.0, validation=0.5)
    lucky = make_run("lucky", skill=0.5, validation=0.9)
    table = lucky.read_table("predictions.csv")
    table.loc[(table.split == "validation") & (table.attribute != "a"), "target"] = np.nan  # its 0.9 are of "a" alone
    lucky.write_table("predictions.csv", table)
    compared = Comparison.of([lucky, Run.open("most")])
    assert list(compared.predicted) == ["most", "lucky"]
    found = compared.table()
    assert (found.validation_over.unique(), found.over.unique(), found["of"].unique()) == ([1], [3], [3])
    for run in ("lucky", "most"):
        cells = Run.open(run).read_table("predictions.csv").query("split == 'validation' and attribute == 'a'").dropna()
        assert found.validation_mAP[run] == pytest.approx(average_precision_score(cells.target, cells.probability))
    assert "over 1 of 3 attributes): most" in answer(found, effects(compared))
    assert overview([lucky]).validation_mAP["lucky"] == 0.9, "its own figure stands where it is not compared"


def test_run_without_another_is_ranked_alone():
    compared = Comparison.of([make_run("alone")])
    assert "No other run can be compared" in answer(compared.table(), effects(compared))
    assert compared.ranking().difference.isna().all()
    assert effects(compared).empty


def test_runs_are_chosen_by_name_or_by_the_images_of_the_newest():
    make_run("old", drop=("judged_on",))
    make_run("elsewhere", images=[f"{i:03d}.jpg" for i in range(200, 240)])
    make_run("one"), make_run("few", names=["a"]), make_run("two", images=IMAGES[10:])
    Run.create("unfinished", SETTINGS, "data")
    assert [run.name for run in choose_runs()] == ["one", "two"]
    assert [run.name for run in choose_runs(["few", "o*"])] == ["few", "old", "one"]
    with pytest.raises(RunError, match=r"few finds .*few alone; name two runs or more"):
        choose_runs(["few"])


def test_no_run_at_all_is_chosen_from_an_empty_folder():
    assert choose_runs() == []


def test_folder_of_a_comparison_is_no_run_and_never_one():
    folder = results_folder("comparison")
    folder.write_table("comparison.csv", pd.DataFrame({"a": [1]}))
    assert list_runs() == []
    make_run("mine")
    with pytest.raises(RunError, match="mine holds a run; give the comparison a folder of another name"):
        results_folder("mine")


# --- which parameter moved what


def moved(compared):
    return effects(compared).set_index(["parameter", "from", "to"])


def test_clean_pairs_recover_what_a_parameter_does():
    runs = {}
    for rate, gain in ((0.001, 0.0), (0.01, 1.0)):
        for loss, more in (("asl", 0.5), ("masked_bce", 0.0)):
            for seed in (0, 1):
                name = f"{rate}-{loss}-{seed}"
                skill = 0.5 + gain + more
                runs[name] = make_run(name, skill, learning_rate=rate, loss=loss, seed=seed, validation=skill)
    compared = Comparison.of(list(runs.values()))
    table = moved(compared)
    ap = {name: mean_ap(run) for name, run in runs.items()}
    assert set(table.index) == {("learning_rate", "0.01", "0.001"), ("loss", "asl", "masked_bce")}
    rate = table.loc[("learning_rate", "0.01", "0.001")]
    others = [f"{loss}-{seed}" for loss in ("asl", "masked_bce") for seed in (0, 1)]
    assert rate.pairs == 4
    assert rate.difference == pytest.approx(np.mean([ap[f"0.001-{other}"] - ap[f"0.01-{other}"] for other in others]))
    assert rate.low < rate.difference < rate.high < 0
    assert rate.remark == ""
    weights = np.array([(1 if name.startswith("0.001") else -1) / 4 for name in compared.predicted])
    np.testing.assert_allclose([rate.low, rate.high], compared.contrast(weights, 2)[1:])  # two clean comparisons
    deviation, count = seed_deviation(compared)
    groups = pd.Series(ap).groupby([name[:-2] for name in ap])
    assert (deviation, count) == (pytest.approx(np.sqrt((groups.var(ddof=1)).mean())), 8)


def test_runs_of_another_seed_or_other_data_are_no_clean_pair():
    runs = [make_run("one", validation=0.9), make_run("two", learning_rate=0.01, seed=1)]
    row = effects(Comparison.of(runs)).iloc[0]
    assert (row.pairs, row.remark) == (0, "confounded with seed")
    assert np.isnan(row.low)
    runs = [make_run("three", validation=0.9), make_run("four", learning_rate=0.01, data="other")]
    assert effects(Comparison.of(runs)).iloc[0].remark == "confounded with data"
    assert np.isnan(seed_deviation(Comparison.of(runs))[0])


def test_parameters_that_change_together_are_flagged_and_their_means_compared():
    runs = [make_run("one", 2, validation=0.9), make_run("two", 1, loss="asl", backbone="other")]
    compared = Comparison.of(runs)
    table = effects(compared).set_index("parameter")
    assert table.remark.to_dict() == {"backbone": "confounded with loss", "loss": "confounded with backbone"}
    np.testing.assert_allclose(table.difference, mean_ap(runs[1]) - mean_ap(runs[0]))
    assert "not known: no two runs differ in one parameter alone" in answer(compared.table(), effects(compared))


def test_values_linked_to_the_reference_only_over_another_keep_their_pair():
    pairs = [("one", "b", 0), ("two", "u", 0), ("three", "b", 1), ("four", "u", 1), ("five", "u", 2), ("six", "w", 2)]
    runs = [
        make_run(name, loss=loss, epochs=epochs, validation=0.9 - i / 10) for i, (name, loss, epochs) in enumerate(pairs)
    ]
    losses = effects(Comparison.of(runs)).query("parameter == 'loss'")
    assert losses[["from", "to", "pairs"]].to_numpy().tolist() == [["u", "b", 2], ["u", "w", 1]]


def test_search_over_many_values_is_compared_by_halves():
    rng = np.random.default_rng(0)
    runs = [
        make_run(f"t{i}", skill, learning_rate=float(rate), weight_decay=float(rng.random()), validation=skill / 9)
        for i, (skill, rate) in enumerate(zip(np.linspace(0.2, 3, 8), np.geomspace(1e-4, 1e-2, 8), strict=True))
    ]
    table = effects(Comparison.of(runs)).set_index("parameter")
    row = table.loc["learning_rate"]
    assert (row["from"], row["to"], row.pairs) == ("> 0.000719686", "≤ 0.000719686", 0)
    assert row.remark == "confounded with weight_decay"
    ap = [mean_ap(run) for run in runs]
    assert row.difference == pytest.approx(np.mean(ap[:4]) - np.mean(ap[4:]))


def test_halves_of_many_values_are_clean_where_all_else_is_alike():
    rates = np.geomspace(1e-4, 1e-2, 8)
    runs = {
        (loss, i): make_run(f"{loss}-{i}", 1 + i / 5, learning_rate=float(rate), loss=loss, validation=0.5 - i / 100)
        for loss in ("asl", "masked_bce")
        for i, rate in enumerate(rates)
    }
    row = effects(Comparison.of(list(runs.values()))).set_index("parameter").loc["learning_rate"]
    ap = {key: mean_ap(run) for key, run in runs.items()}
    gain = [np.mean([ap[loss, i] for i in range(4, 8)]) - np.mean([ap[loss, i] for i in range(4)]) for loss in ("asl",)]
    assert (row["from"][0], row["to"][0], row.pairs, row.remark) == ("≤", ">", 2, "")
    assert row.difference == pytest.approx(gain[0]), "both losses have the same predictions"


def test_long_names_keep_what_tells_them_apart():
    assert shorten("mobilenet_v3_small") == "mobilenet_v3_small"
    assert shorten("tune-20261124-trial-0017") == "tune-2026…ial-0017"
    assert shorten("stopped early: no better epoch") == "stopped early: no…"
    assert shorten("data/some/where/weights.pth") == "…where/weights.pth"


def test_lists_and_missing_parameters_are_no_trouble():
    runs = [make_ensemble("all"), make_run("one", validation=0.9), make_run("old", loss=None), make_run("b", loss="asl")]
    compared = Comparison.of(runs)
    table = moved(compared)
    assert list(table.index) == [("loss", "masked_bce", "asl")]
    assert table.pairs.tolist() == [1]
    assert architectures(compared).backbone["all"] == "ensemble"
    assert list(compared.curves()[0]) == ["one", "old", "b"]


# --- the answer


def test_answer_names_best_second_cause_and_the_cheapest_that_will_do():
    runs = [
        make_run("best", 3, validation=0.9, facts={"seconds": 100.0}),
        make_run("same", 2.9, validation=0.8, learning_rate=0.01, facts={"seconds": 60.0, "parameters": 2_500_000}),
        make_run("poor", 0.2, validation=0.3, loss="asl", facts={"seconds": 10.0}),
        make_run("untimed", 3, validation=0.7, epochs=1, drop=("seconds",)),
    ]
    compared = Comparison.of(runs)
    text = answer(compared.table(), effects(compared))
    assert text.startswith(f"Best by validation mAP (0.900 over 3 of 3 attributes): best, with mAP {mean_ap(runs[0]):.3f} [")
    assert "Second: same, " in text
    assert "against the best: no clear difference" in text
    assert "of 2 clean comparisons: loss from masked_bce to asl, -0." in text
    assert "Cheapest run that is not clearly worse: same (60 s of training, 2.5 M parameters)" in text


def test_architectures_are_told_with_their_conditions_fastest_first():
    runs = [
        make_run("big", image_size=64, freeze="backbone"),
        make_run("small", backbone="tiny", image_size=32, facts={"img_per_s": 900.0}),
    ]
    table = architectures(Comparison.of(runs))
    assert list(table.index) == ["small", "big"]
    assert table.backbone.tolist() == ["tiny", "resnet18"]
    assert table.conditions.tolist() == ["cpu bf16, 32 px", "cpu bf16, 64 px, backbone frozen"]


def test_examples_have_the_settings_of_their_recipe_and_differ_in_their_network_alone(monkeypatch):
    seen = {}
    monkeypatch.setattr(Recipe, "open", lambda recipe: recipe.config.image_size)
    monkeypatch.setattr(trainings, "train_all", lambda dataset, recipes: seen.update(recipes, dataset=dataset))
    trainings.train_examples(Recipe.read("notebooks/parameters/sample.yaml", {"image_size": 32}), ["resnet18", "resnet34"])
    assert seen["dataset"] == 32
    one, two = seen["example-resnet18"], seen["example-resnet34"]
    assert one.source.labels == "data/sample/labels.csv"
    assert two.but(backbone="resnet18") == one
    assert (one.config.image_size, one.config.weights, one.config.schedule) == (32, "none", "cosine")


# --- figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def many_runs(count=40):
    rng = np.random.default_rng(0)
    return [
        make_run(
            f"a-rather-long-name-of-a-run-{i}",
            skill=0.5 + rng.random(),
            validation=0.9 - i / 100,
            learning_rate=float(10 ** rng.uniform(-4, -2)),
            loss=["asl", "masked_bce"][i % 2],
            backbone=["resnet18", "efficientnet_b0", "mobilenet_v3_small"][i % 3],
            facts={"img_per_s": float(50 + 10 * i), "ran_on": DEVICE if i % 4 else "cuda bf16"},
        )
        for i in range(count)
    ]


def test_figures_of_many_runs_draw_without_a_layout_warning():
    compared = Comparison.of(many_runs())
    ranking = compared.ranking()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = [
            plots.losses(*compared.curves()),
            plots.ranking(ranking),
            plots.parameters(compared.varying, ranking.mAP),
        ]
        figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
        plots.architectures(architectures(compared), ax)
        for one in [*figures, figure]:
            one.canvas.draw()
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()][-1] == "34 more"
    assert figures[1].get_suptitle() == "The first 25 of 40 runs"
    assert len(figures[1].axes[0].get_yticklabels()) == 25
    assert {text.get_text() for text in ax.get_legend().get_texts()} >= {"cpu bf16", "cuda bf16"}


def test_losses_draw_what_the_files_hold():
    compared = Comparison.of([make_run("one"), make_run("two", validation=0.6)])
    histories, epochs = compared.curves()
    left, right = plots.losses(histories, epochs, "note").axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), histories["two"].loss.ewm(alpha=0.1).mean())
    assert left.get_xlabel() == "iteration"
    assert left.get_title() == "Training loss\nnote"
    best = next(line for line in right.lines if line.get_label() == "one")
    np.testing.assert_allclose(np.ravel(best.get_data()), [2, 0.7])
    histories["two"] = histories["two"].iloc[::2]  # as with larger batches
    left, _ = plots.losses(histories, epochs).axes
    assert left.get_xlabel() == "epoch"
    np.testing.assert_allclose(left.lines[1].get_ydata(), histories["one"].groupby("epoch").loss.mean())


def test_ranking_figure_has_the_points_and_intervals_of_the_table():
    table = Comparison.of([make_run("one", 2), make_run("two", validation=0.6)]).ranking()
    left, right = plots.ranking(table).axes
    points, _, (bars,) = left.containers[0]
    np.testing.assert_allclose(points.get_xdata().astype(float), table.mAP)
    np.testing.assert_allclose([segment[:, 0] for segment in bars.get_segments()], table[["low", "high"]])
    np.testing.assert_allclose(left.lines[-1].get_xdata(), table.validation_mAP)
    assert [label.get_text() for label in left.get_yticklabels()] == ["one", "two"]
    row = table.loc["two"]
    assert [text.get_text() for text in right.texts] == [
        "the best",
        f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]",
    ]
    assert all(ax.get_title() and ax.get_xlabel() for ax in (left, right))


def test_parameter_panels_join_runs_that_are_equal_in_everything_else_along_numbers_alone():
    runs = [
        make_run("one", 1),
        make_run("two", 2, learning_rate=0.01),
        make_run("three", 3, learning_rate=0.01, loss="asl"),
        make_run("four", 3, loss=None),
    ]
    compared = Comparison.of(runs)
    ap = compared.ranking().mAP
    figure = plots.parameters(compared.varying, ap)
    rate, loss = figure.axes
    assert (rate.get_xlabel(), loss.get_xlabel()) == ("learning_rate", "loss")
    joined, points = rate.lines
    np.testing.assert_allclose(joined.get_ydata(), ap[["one", "two"]])
    np.testing.assert_allclose(sorted(points.get_ydata()), sorted(ap))
    assert [label.get_text() for label in rate.get_xticklabels()] == ["0.001", "0.01"]
    (points,) = loss.lines  # nothing lies between two losses
    assert len(points.get_ydata()) == 3, "a run that lacks the parameter has no place"
    with pytest.raises(ValueError, match="differ in no parameter"):
        plots.parameters(compared.varying[[]], ap)


def test_a_search_that_ended_says_what_its_best_trial_gained_on_the_first_one():
    make_run("first", 1)
    make_run("better", 3)
    table = pd.DataFrame({"state": "complete", "mAP": [0.7, 0.8], "run": ["first", "better"]})
    found, text = search.gain(table, 1)
    assert 0 < found.low < found.difference < found.high
    assert text.splitlines()[-1] == f"difference of the mAP {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    ranked = pd.DataFrame({"mAP": [0.8], "trial": [1]})
    shares = pd.Series({"learning_rate": 0.9, "loss": 0.1})
    said = search.answer(table, ranked, {"learning_rate": 0.00123456, "loss": "asl"}, found, shares)
    assert said.splitlines() == [
        "Of 2 trials, trial 1 is best: validation mAP 0.800, where the search began with 0.700.",
        "learning_rate = 0.00123, loss = asl",
        f"On the test images that is a gain: {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}].",
        "As far as 2 trials can tell, learning_rate mattered most.",
    ]
    none = pd.Series({"difference": 0.01, "low": -0.01, "high": 0.03})
    assert "no difference that they can show" in search.answer(table, ranked, {}, none, shares[:0])
    assert search.gain(table, 0)[0] is None
    assert search.gain(table.assign(state=["pruned", "complete"]), 1)[0] is None


def test_architectures_are_drawn_where_the_table_says():
    runs = [make_run("one"), make_run("two", backbone="tiny", facts={"img_per_s": 600.0, "parameters": 500_000})]
    runs += [make_run("untimed", validation=0.2, backbone="other", drop=("img_per_s",))]
    table = architectures(Comparison.of(runs))
    _, ax = plt.subplots()
    assert plots.architectures(table, ax) is ax
    points = [container[0].get_data() for container in ax.containers]
    drawn = sorted((float(x[0]), float(y[0])) for x, y in points)
    np.testing.assert_allclose(drawn, [[150, table.mAP["one"]], [600, table.mAP["two"]]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tiny, 0.5 M", "resnet18, 11.0 M"]
    assert ax.get_xscale() == "log"
    plots.architectures(table.iloc[2:], plt.subplots()[1])  # none timed: an empty figure, no error
