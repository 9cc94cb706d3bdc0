"""The study of missing labels: what it hides, that the truth judges and never teaches, that nothing is computed twice."""

import multiprocessing
import os
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from conftest import HANG, POSIX
from PIL import Image
from tinynet import TINYNET

from mlkit import cli
from mlkit.data.labelfile import write_labels
from mlkit.data.labels import from_codes, to_codes
from mlkit.data.source import DataSource
from mlkit.errors import ParameterError, RunError
from mlkit.experiments import trainings
from mlkit.experiments.study import cells, plots, run_study
from mlkit.experiments.study.cells import split_and_hide
from mlkit.experiments.study.findings import BASELINE, FULL, advice, differences, overall, t_interval
from mlkit.experiments.study.grid import Cell, Study
from mlkit.experiments.study.hiding import MECHANISMS, hide
from mlkit.runs import outputs_root
from mlkit.training.config import TrainConfig

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = TrainConfig(
    backbone=TINYNET,
    image_size=16,
    weights="none",
    epochs=1,
    batch_size=16,
    precision="fp32",
    test_fraction=0.2,
)
STUDY = Study(["masked_bce", "asl"], [0.5], ["random"], [0], config=CONFIG)


@pytest.fixture
def truth(sample):
    return DataSource(str(sample / "images"), str(sample / "truth.csv")).open(16)


def table(images=2000, attributes=4, unknown=0.1):
    rng = np.random.default_rng(0)
    codes = (rng.random((images, attributes)) < 0.25).astype(np.int8)
    codes[rng.random(codes.shape) < unknown] = -1
    return from_codes(codes, [f"{i}.jpg" for i in range(images)], [f"a{i}" for i in range(attributes)])


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_hides_the_share_asked_for_and_nothing_else(mechanism):
    labels = table()
    before = to_codes(labels)
    earlier = np.zeros(before.shape, bool)
    for known in (0.1, 0.3, 0.7, 1.0):
        after = to_codes(hide(labels, known, mechanism, seed=1))
        there = after >= 0
        exact = 1e-3 if mechanism != "blocks" else 1 / 300  # half a block of 400
        assert there.sum() / (before >= 0).sum() == pytest.approx(known, abs=exact)
        assert (after[there] == before[there]).all()
        assert there[earlier].all(), "what is known at a low share is known at a higher one"
        earlier = there
    assert (after == before).all()
    same, other = (to_codes(hide(labels, 0.3, mechanism, seed)) for seed in (1, 2))
    assert (same == to_codes(hide(labels, 0.3, mechanism, 1))).all()
    assert (same != other).any()


@pytest.mark.parametrize("mechanism", ["random", "blocks"])
def test_prevalence_stays_even_where_the_labels_were_drawn_with_the_same_seed(mechanism):
    labels = table(unknown=0)
    left = to_codes(hide(labels, 0.3, mechanism, seed=0))
    assert (left == 1).sum() / (left >= 0).sum() == pytest.approx((to_codes(labels) == 1).mean(), abs=0.03)


@pytest.mark.parametrize("known", [0.2, 0.8])
def test_odds_of_being_hidden_are_in_the_stated_ratio(known):
    codes = to_codes(labels := table(20_000, unknown=0))
    after = to_codes(hide(labels, known, "positives", ratio=4.0))
    positive, negative = ((after[codes == value] < 0).mean() for value in (1, 0))
    assert positive / (1 - positive) / (negative / (1 - negative)) == pytest.approx(4.0, rel=0.05)
    even = to_codes(hide(labels, known, "positives", ratio=1.0))
    assert (even[codes == 1] >= 0).mean() == pytest.approx(known, abs=0.01)


def test_blocks_are_one_attribute_of_a_group_of_images():
    labels = table(400, unknown=0)
    hidden = to_codes(hide(labels, 0.5, "blocks", block_images=20)) < 0
    assert (hidden.sum(axis=0) % 20 == 0).all()
    patterns, sizes = np.unique(hidden, axis=0, return_counts=True)
    assert (sizes % 20 == 0).all(), "a group's images lack the same attributes"
    assert len(patterns) > 3


def test_hiding_never_takes_everything_and_refuses_nonsense():
    assert to_codes(hide(table(30), 0.001, "blocks", block_images=30)).max() >= 0
    assert hide(table(5, unknown=1.0), 0.5).isna().all(axis=None)
    for wrong, message in (
        ({"known": 0}, "share of known cells is 0"),
        ({"known": 0.5, "mechanism": "positive"}, "did you mean 'positives'"),
        ({"known": 0.5, "ratio": 0}, "ratio is 0"),
        ({"known": 0.5, "block_images": 0}, "block_images 0"),
    ):
        with pytest.raises(ParameterError, match=message):
            hide(table(30), **wrong)


def test_grid_has_seeds_outermost_and_one_reference_each():
    study = replace(STUDY, fractions=[0.1, 0.5], mechanisms=["random", "blocks"], seeds=[3, 4])
    cells = study.cells
    assert len(cells) == len(set(cells)) == 2 * (1 + 2 * 2 * 2)
    assert [cell.seed for cell in cells] == [3] * 9 + [4] * 9
    assert cells[0] == Cell(BASELINE, FULL, 1.0, 3)
    assert "ratio" not in study.identity(cells[1]), "settings of one mechanism do not make others run again"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["masked_bce", "als"]}, "did you mean 'asl'"),
        ({"methods": ["asl"]}, "add 'masked_bce'"),
        ({"mechanisms": ["block"]}, "did you mean 'blocks'"),
        ({"fractions": [0.5, 1.0]}, "fractions: 1.0 must lie between 0 and 1"),
        ({"seeds": []}, "seeds is \\[\\]; give at least one"),
        ({"seeds": [1, 1]}, "each once"),
        ({"ratio": -1.0}, "ratio is -1.0"),
        ({"config": replace(CONFIG, test_fraction=0.0)}, "test_fraction is 0.0"),
    ],
)
def test_refuses_a_study_that_cannot_be(changes, message):
    with pytest.raises(ParameterError, match=message):
        replace(STUDY, **changes)


def test_truth_of_test_images_and_of_hidden_cells_teaches_nothing(truth, monkeypatch, tmp_path):
    cell = STUDY.cells[1]
    labels, test = split_and_hide(STUDY, cell, truth, truth.digests)
    assert not set(labels.index) & set(truth.labels.index[test])
    split = pd.Series("train", truth.labels.index)
    split.iloc[test] = "test"
    # the split of the full table is held, since other truths are split otherwise
    monkeypatch.setattr(cells, "split_images", lambda *a, **k: split)
    codes = to_codes(truth.labels)
    judged, taught = codes.copy(), codes.copy()
    judged[test] = 1 - judged[test]
    rest = np.setdiff1d(np.arange(len(truth)), test)
    taught[rest] = np.where(labels.isna().to_numpy(), 1 - codes[rest], codes[rest])
    results = [
        cells._compute(
            STUDY,
            cell,
            truth.with_labels(from_codes(c, truth.labels.index, truth.attributes)),
            truth.digests,
            tmp_path / "cell",
        )
        for c in (codes, judged, taught)
    ]
    for result in results:
        result.pop("seconds")
    first, other_test, other_hidden = results
    assert first == other_hidden
    assert first["validation_mAP"] == other_test["validation_mAP"]
    assert first["mAP"] != other_test["mAP"]
    assert first["known"] == pytest.approx(0.5, abs=0.01)
    assert not (tmp_path / "cell").exists(), "no model of 45 MB per cell is left"


def test_no_test_image_has_a_resized_copy_among_those_that_teach(sample, tmp_path, monkeypatch):
    names = [f"{i:04d}.jpg" for i in range(12)]
    copies = [f"copy-{name}" for name in names]
    for name, copy in zip(names, copies, strict=True):
        picture = Image.open(sample / "images" / name).convert("RGB")
        picture.save(tmp_path / name)
        picture.resize((48, 48)).save(tmp_path / copy)
    codes = np.tile(np.arange(12)[:, None] % [2, 3] == 0, (2, 1)).astype(np.int8)
    write_labels(from_codes(codes, names + copies, ["a", "b"]), tmp_path / "labels.csv")
    truth = DataSource(str(tmp_path), str(tmp_path / "labels.csv")).open(32)
    learnt = []

    def look(study, cell, truth, groups, folder):
        labels, test = split_and_hide(study, cell, truth, groups)
        learnt.append((set(labels.index), set(truth.labels.index[test])))
        return fake(study, cell, truth, groups, folder)

    monkeypatch.setattr(cells, "_compute", look)
    run_study(replace(STUDY, seeds=[0, 1]), truth, "s")
    for taught, judging in learnt:
        assert judging
        assert not {name for name in judging if name.removeprefix("copy-") in taught or f"copy-{name}" in taught}


def test_finished_cells_are_kept_and_csl_gets_its_prior(truth, monkeypatch):
    study = replace(STUDY, methods=["masked_bce", "csl"])
    trained = []
    real = trainings.train

    def counted(dataset, config, run, watcher=None):
        trained.append(config)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(dataset, config, run, watcher)

    monkeypatch.setattr(trainings, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, truth, "s")
    results = run_study(study, truth, "s")
    assert [config.loss for config in trained] == ["masked_bce"] * 3 + ["masked_bce", "csl"], "the cell that was cut, again"
    assert (trained[3].pos_weight, trained[3].calibrate) == ("none", True)
    assert trained[4].prior_run
    assert list(results.method) == ["masked_bce", "masked_bce", "csl"]
    assert results.mAP.between(0, 1).all()
    again = run_study(study, truth, "s")
    run_study(replace(study, methods=["masked_bce"]), truth, "s")
    assert len(trained) == 5
    pd.testing.assert_frame_equal(again, results)
    folder = outputs_root() / "s"
    assert not [path for path in (folder / "cells").iterdir() if path.is_dir()]


def test_other_settings_data_groups_and_weights_are_other_cells(truth, tmp_path):
    cell = STUDY.cells[1]
    codes = to_codes(truth.labels)
    codes[0, 0] = 1 - codes[0, 0]
    other_data = truth.with_labels(from_codes(codes, truth.labels.index, truth.attributes))
    other = replace(STUDY, config=replace(CONFIG, epochs=2))
    settings = [(STUDY, cell, truth), (other, cell, truth), (STUDY, replace(cell, seed=1), truth), (STUDY, cell, other_data)]
    groups = truth.digests
    digests = {cells._digest(study.identity(c), data, groups) for study, c, data in settings}
    digests.add(cells._digest(STUDY.identity(cell), truth, groups.replace(groups.iloc[1], groups.iloc[0])))
    weights = tmp_path / "weights.pth"
    pretrained = replace(STUDY, config=replace(CONFIG, weights=str(weights)))
    for content in (b"a", b"b"):
        weights.write_bytes(content)
        digests.add(cells._digest(pretrained.identity(cell), truth, groups))
    assert len(digests) == 7


def fake(study, cell, truth, groups, folder):
    """In place of a training: writes down who worked."""
    with open(folder.parent.parent / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"{os.getpid()} {cell}\n")
    cells.time.sleep(0.02)
    mean = 0.5 + 0.1 * (cell.method == "asl") + 0.01 * cell.seed
    return {**vars(cell), "known": cell.fraction, "mAP": mean, "best_epoch": 1.0, "seconds": 0.0}


@POSIX
def test_two_processes_share_a_study_and_a_dead_one_leaves_no_claim(truth, monkeypatch):
    monkeypatch.setattr(cells, "_compute", fake)
    study = replace(STUDY, seeds=list(range(8)))

    def die(*arguments):
        os._exit(1)  # as if killed: in the middle of a cell, with its claim

    fork = multiprocessing.get_context("fork")
    with monkeypatch.context() as patch:
        patch.setattr(cells, "_compute", die)
        dead = fork.Process(target=run_study, args=(study, truth, "s"))
        dead.start()
        dead.join()
    workers = [fork.Process(target=run_study, args=(study, truth, "s")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(HANG)
    assert [worker.exitcode for worker in workers] == [0, 0]
    log = (outputs_root() / "s" / "log.txt").read_text(encoding="utf-8").splitlines()
    done = [line.split(" ", 1) for line in log]
    assert sorted(cell for _, cell in done) == sorted(map(str, study.cells))
    assert len({pid for pid, _ in done}) == 2
    assert len(pd.read_csv(outputs_root() / "s" / "results.csv")) == len(study.cells)


def test_settings_against_the_paper_of_a_method_are_named_once(truth, monkeypatch, capsys):
    monkeypatch.setattr(cells, "_compute", fake)
    study = replace(STUDY, methods=["masked_bce", "asl", "csl"])
    run_study(study, truth, "s")
    assert "warning" not in capsys.readouterr().out
    run_study(replace(study, config=replace(CONFIG, pos_weight="balanced")), truth, "s")
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert [line.split(":")[1:3] for line in warned] == [
        [" pos_weight 'balanced'", f" {name} balances by its gammas already, rare positives count twice; take 'none'"]
        for name in ("asl", "csl")
    ]


def test_a_folder_of_something_else_is_left_alone(truth, outputs):
    (outputs / "mine").mkdir(parents=True)
    (outputs / "mine" / "file").touch()
    for name, message in (("mine", "no study"), ("../x", "cannot be the name"), ("", "it is empty")):
        with pytest.raises(RunError, match=message):
            run_study(STUDY, truth, name)


def test_command_takes_lists_and_prints_the_advice(sample, monkeypatch, capsys):
    monkeypatch.setattr(cells, "_compute", fake)
    data = ["--images", str(sample / "images"), "--labels", str(sample / "truth.csv"), "--name", "s"]
    lists = ["-p", "methods", "[masked_bce, asl, hill]", "-p", "fractions", "[0.2, 5e-1]", "-p", "seeds", "[0, 1, 2]"]
    assert cli.main(["study", *data, *lists, "-p", "image_size", "16"]) == 0
    printed = capsys.readouterr().out
    assert "21 trainings, of which 0 are finished already" in printed
    assert "Take asl: +0.100 mAP against masked_bce" in printed
    assert cli.main(["study", *data, "-p", "fractions", "0.2"]) == 2
    assert "it must be a list, such as [0.1, 0.3, 0.7]" in capsys.readouterr().err


def results(effects, seeds=4, noise=0.01, fractions=(0.1, 0.5)):
    """A study's results with the given differences to the baseline."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        level = 0.6 + 0.1 * rng.standard_normal()  # how easy this seed's test images are
        rows.append((BASELINE, FULL, 1.0, seed, level + 0.2))
        for fraction in fractions:
            for method, effect in {BASELINE: 0.0, **effects}.items():
                rows.append((method, "random", fraction, seed, level + effect + noise * rng.standard_normal()))
    return pd.DataFrame(rows, columns=["method", "mechanism", "fraction", "seed", "mAP"])


def test_differences_are_paired_by_seed():
    found = differences(results({"asl": 0.05, "hill": -0.05}, noise=0.001))
    assert list(found.index[:2]) == [("random", 0.1, "asl"), ("random", 0.1, "hill")]
    np.testing.assert_allclose(found.difference, [0.05, -0.05] * 2, atol=0.002)
    assert (found.high - found.low < 0.01).all(), "what makes a seed easy cancels"
    assert list(found.won) == [1, 0, 1, 0]
    assert list(found.seeds) == [4] * 4


def test_t_interval_is_that_of_the_textbook():
    mean, low, high = t_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.30265 / np.sqrt(3)
    np.testing.assert_allclose([mean, low, high], [2, 2 - half, 2 + half], rtol=1e-5)
    assert np.isnan(t_interval(np.array([1.0]))[1:]).all()


def test_overall_widens_for_many_methods_and_counts_whole_seeds_only():
    few, many = results({"asl": 0.05}), results({"asl": 0.05, "hill": 0, "csl": 0, "ll_r": 0})
    one = overall(few).loc["asl"]
    several = overall(many)
    assert several.index[0] == "asl"
    width = several.high - several.low
    narrow = overall(many, level=0.8)
    assert (width > narrow.high - narrow.low).all()
    assert one.seeds == 4
    assert overall(few.iloc[:-1]).loc["asl"].seeds == 3


def test_advice_names_a_clear_winner_and_what_to_avoid():
    text = advice(results({"asl": 0.1, "hill": -0.1, "csl": 0.0}))
    assert text.startswith("Take asl: +0.10")
    assert "with 10% known" in text
    assert "avoid hill" in text
    assert text.count(".\n") == 0
    assert text.endswith(".")


def test_advice_says_when_nothing_was_found_or_asked():
    assert advice(results({"asl": 0.0, "hill": 0.0})).startswith("No method was found better than masked_bce")
    assert "avoid hill" in advice(results({"hill": -0.1}))
    for nothing in (results({"asl": 0.1}, seeds=1), results({}), results({}).iloc[:0]):
        assert advice(nothing).startswith("No advice")


def test_figure_has_a_line_per_method_the_reference_and_intervals():
    figure, ax = plt.subplots()
    table = results({name: 0.01 * i for i, name in enumerate(["asl", "csl", "hill", "ll_r", "ll_ct", "partial_bce"])})
    plots.methods(table, ax)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names[0] == "masked_bce, all known"
    assert set(names[1:]) == set(table.method)
    asl = next(line for line in ax.lines if line.get_label() == "asl")
    means = table[table.method == "asl"].groupby("fraction").mAP.mean()
    np.testing.assert_allclose(asl.get_ydata(), means)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10%", "50%"]
    assert len(ax.collections) >= 7
    ax.clear()
    plots.methods(results({"asl": 0.1}, seeds=1), ax)  # no interval, and no warning
    with pytest.raises(ValueError, match="one mechanism at a time"):
        plots.methods(pd.concat([table, table.assign(mechanism="blocks")]), ax)
    plt.close(figure)
