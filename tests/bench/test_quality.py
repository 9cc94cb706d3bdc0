"""Time to the quality of the seed's recipe: what is counted, what is said, and that a small one runs."""

import json

import numpy as np
import pytest
from tinynet import TINYNET

from mlkit.bench.quality import conclude, describe, table
from mlkit.cli import main
from mlkit.data.labelfile import read_labels
from mlkit.runs import outputs_root


def training(recipe, seed, curve, test, pace=1.0):
    seconds = [pace * (epoch + 1) for epoch in range(len(curve))]
    return {
        "recipe": recipe,
        "seed": seed,
        "seconds": seconds,
        "cpu_seconds": [2 * s for s in seconds],
        "mAP": curve,
        "test_mAP": test,
    }


FIGURES = {
    "trainings": [
        training("fast", 0, [0.7, 0.82, 0.9], 0.8),
        training("seed", 0, [0.5, 0.6, 0.8, 0.75], 0.7),
        training("seed", 1, [0.5, 0.8, 0.8], 0.7, 4.0),
        training("fast", 1, [0.79, 0.8], 0.9),
    ],
    "load": {"others": 0.5, "steal": 0.0},
    "processor": "a processor",
    "count": 12,
}


def test_seconds_are_those_to_the_best_epoch_of_the_seeds_recipe_with_the_same_seed():
    rows = table(FIGURES)
    assert rows.target.tolist() == [0.8] * 4
    assert rows.seconds.tolist() == [2, 3, 8, 2]
    assert rows.cpu_seconds.tolist() == [4, 6, 16, 4]
    assert rows.total.tolist() == [6, 8, 24, 4]
    (line,) = conclude(rows)
    ratio = np.sqrt(2 / 3 * 2 / 8)  # the geometric mean
    assert line.startswith(f"fast: {ratio:.2f} [0.00, ")
    assert "of the CPU seconds to the target; 0.35 [0.00, " in line
    assert line.endswith("of the CPU seconds of all epochs; test mAP +0.150 [-0.485, +0.785]")
    told = describe(FIGURES)
    assert "other work took 50% of the cores" in told
    assert "over 2 seeds, one split of 12 images; a processor" in told


@pytest.mark.parametrize(
    ("curve", "said"),
    [([0.7, 0.79], "0.25 [nan, nan] of the seconds to the target; "), ([0.7, 0.9], "")],
)
def test_a_target_that_was_not_reached_is_told_plainly(curve, said):
    trainings = [training("fast", 0, [0.1], 0.8), *FIGURES["trainings"][1:]]
    if not said:
        trainings[-1] = training("fast", 1, [0.1], 0.8)
    (line,) = conclude(table({"trainings": trainings}))
    assert said in line
    assert "the target was not reached with seed 0 (0.100 of 0.800)" in line
    assert ("1 (0.100 of 0.800)" in line) == (not said)


def test_a_recipe_is_measured_on_some_of_a_persons_images(sample, tmp_path, capsys):
    recipe = tmp_path / "quick.yaml"
    recipe.write_text("epochs: 2\nfirst_size: 0.5\n", encoding="utf-8")
    given = ["--images", str(sample / "images"), "--labels", str(sample / "labels.csv"), "--count", "24", "--seeds", "2"]
    given += ["--backbone", TINYNET, "--image-size", "16", "-p", "weights", "none", "-p", "epochs", "1"]
    out = tmp_path / "figures.json"
    assert main(["bench", "--to-quality", str(recipe), "plain", *given, "--json", str(out)]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["recipes"]["quick"]["image_size"] == 16
    named = read_labels(sample / "labels.csv").index
    assert figures["count"] in (23, 24), f"of {len(named)}, of which one has no image"
    assert [(one["recipe"], one["seed"]) for one in figures["trainings"]] == [
        ("plain", 0),
        ("quick", 0),
        ("seed", 0),
        ("seed", 1),
        ("quick", 1),
        ("plain", 1),
    ]
    assert all(one["seconds"][0] > 0 for one in figures["trainings"])
    assert "95 % intervals over 2 seeds" in capsys.readouterr().out
    assert not list(outputs_root().iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "test_fraction", "0"], "test_fraction is 0; the test images judge here"),
        (["-p", "epoch", "3"], "did you mean 'epochs'"),
        (["--labels", "labels.csv"], "--images and --labels belong together"),
        (["--seeds", "0"], "seeds is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, message, capsys):
    assert main(["bench", "--to-quality", *options]) == 2
    assert message in capsys.readouterr().err
