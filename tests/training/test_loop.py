import itertools
import json
import shutil
import signal
import weakref
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from tinynet import TINYNET

from mlkit.data.labelfile import read_labels, write_labels
from mlkit.data.labels import from_codes, pos_weight, to_codes
from mlkit.data.source import DataSource
from mlkit.errors import FailureError, FormatError, LabelError, ParameterError, RunError, Terminated
from mlkit.evaluation import calibration
from mlkit.evaluation.metrics import evaluate
from mlkit.evaluation.thresholds import choose_thresholds
from mlkit.inference.predictor import Predictor
from mlkit.losses import LOSSES
from mlkit.losses.bce import masked_bce
from mlkit.models.device import choose_device
from mlkit.models.freezing import PartlyFrozen, features
from mlkit.models.modelfile import load_model, save_model
from mlkit.models.networks import build_model, compute_logits
from mlkit.models.torchfile import load_torch, save_torch
from mlkit.runs import Run, outputs_root
from mlkit.training import config as config_module
from mlkit.training import gradients
from mlkit.training import loop as train_module
from mlkit.training import step as step_module
from mlkit.training.config import TrainConfig
from mlkit.training.finish import model_meta
from mlkit.training.loop import split_dataset, train
from mlkit.training.optim import penalty
from mlkit.training.prior import estimate_prior

CONFIG = TrainConfig(
    image_size=32,
    backbone=TINYNET,
    weights="none",
    epochs=3,
    batch_size=16,
    precision="fp32",
    validation_fraction=0.2,
    test_fraction=0.0,
    threshold="fixed",
    calibrate=False,
)


@pytest.fixture
def dataset(sample):
    return DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)


def parameters_of(config, sample):
    return asdict(config) | {"images": str(sample / "images"), "labels": str(sample / "labels.csv")}


def start(name, config, dataset, sample, **options):
    run = Run.create(name, parameters_of(config, sample), dataset.fingerprint, **options)
    return run, train(dataset, config, run)


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Run and table of a training by CONFIG, for all that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        return start("a", CONFIG, DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32), sample)


def test_run_folder_holds_what_the_contract_names(trained):
    run, table = trained
    history, epochs = run.read_table("history.csv"), run.read_table("epochs.csv")
    assert list(history.columns) == ["iteration", "epoch", "loss", "lr", "img_per_s"]
    assert history.iteration.tolist() == list(range(1, len(history) + 1))
    assert epochs.epoch.tolist() == [1, 2, 3]
    assert epochs.iteration.tolist() == [len(history) // 3 * e for e in (1, 2, 3)]
    assert np.isfinite(history.loss).all()
    metrics = run.read_json("metrics.json")
    assert metrics["attributes"].keys() == set(table.index)
    assert (metrics["epochs"], metrics["stopped"]) == (3, None)
    assert metrics["seconds"] == pytest.approx(epochs.seconds.sum(), abs=0.1)
    assert metrics["img_per_s"] == history.img_per_s.median() > 0
    assert metrics["parameters"] == 1416 + 17 * len(table)  # tinynet without its head, and the head
    assert run.config()["parameters"]["epochs"] == 3
    assert not (run / "last.pt").exists()
    assert run.finished


def test_kept_model_is_that_of_the_best_epoch_and_predictions_are_its_own(trained, dataset, sample):
    run, table = trained
    epochs = run.read_table("epochs.csv").set_index("epoch")
    _, meta = load_model(run / "model.pth")
    assert epochs.mAP[meta["epoch"]] == epochs.mAP.max()
    assert meta["attributes"] == dataset.attributes
    # its validation loss is plain, although the training weighted its positives
    validation = run.read_table("predictions.csv").query("split == 'validation'")
    targets = validation.target.fillna(-1)
    plain = masked_bce(*(torch.tensor(column.to_numpy(float))[:, None] for column in (validation.logit, targets)))
    assert epochs.validation_loss[meta["epoch"]] == pytest.approx(plain.item(), rel=1e-5)
    # from the files alone: predictions.csv judged by hand gives the same table
    predictions = run.read_table("predictions.csv")
    wide = predictions.pivot(index="image", columns="attribute", values="probability")[dataset.attributes]
    targets = to_codes(read_labels(sample / "labels.csv").loc[wide.index])
    again = evaluate(wide.to_numpy(), targets, dataset.attributes, np.ones(4))
    np.testing.assert_allclose(again.AP, table.AP)
    # and the predictor, which reads the image file, agrees with the training, which read the cache
    first = predictions[predictions.image == predictions.image[0]].set_index("attribute").probability
    asked = Predictor.load(run.path, precision="fp32").predict(sample / "images" / predictions.image[0])
    np.testing.assert_allclose(asked.set_index("attribute").probability[first.index], first, atol=1e-5)


def test_first_loss_is_the_masked_loss_with_weights_of_the_training_cells(trained, dataset):
    from mlkit.data.dataset import batches
    from mlkit.models.networks import build_model, normalise

    split = split_dataset(dataset, CONFIG)
    training = np.flatnonzero(split == "train")
    pixels, targets = map(torch.from_numpy, dataset.batch(next(batches(training, 16, CONFIG.seed, epoch=1))))
    torch.manual_seed(CONFIG.seed)
    logits = build_model(CONFIG.backbone, 4, "none", 32).train()(normalise(pixels))
    weight = torch.tensor(pos_weight(dataset.labels.iloc[training]).to_numpy(), dtype=torch.float32)
    assert trained[0].read_table("history.csv").loss[0] == pytest.approx(
        masked_bce(logits, targets, weight).item(), rel=1e-4
    )


def test_same_seed_gives_the_same_history_and_another_seed_another(dataset, sample):
    losses = [
        start(name, replace(CONFIG, epochs=1, seed=seed), dataset, sample)[0].read_table("history.csv").loss
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert losses[0].equals(losses[1])
    assert not losses[0].equals(losses[2])


def test_interrupted_training_goes_on_and_ends_as_if_uninterrupted(dataset, sample, monkeypatch):
    config = replace(CONFIG, schedule="cosine")
    whole, _ = start("whole", config, dataset, sample)
    monkeypatch.setattr(train_module.Training, "checkpoint_seconds", 0.0)
    evaluations = []

    def interrupt(*arguments, **options):
        evaluations.append(1)
        if len(evaluations) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(train_module, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start("cut", config, dataset, sample)
    monkeypatch.setattr(train_module, "evaluate", evaluate)
    cut = Run.open("cut")
    assert not cut.finished
    assert cut.read_table("epochs.csv").epoch.tolist() == [1, 2]
    start("cut", config, dataset, sample)
    columns = ["iteration", "epoch", "loss", "lr"]
    pd.testing.assert_frame_equal(cut.read_table("history.csv")[columns], whole.read_table("history.csv")[columns])
    cut_epochs, whole_epochs = (run.read_table("epochs.csv").drop(columns="seconds") for run in (cut, whole))
    pd.testing.assert_frame_equal(cut_epochs, whole_epochs)


def test_nothing_of_a_training_stays_in_memory_after_it(dataset, sample, monkeypatch):
    made, real = [], train_module.TrainingStep

    def remembered(*arguments):
        step = real(*arguments)
        made.append(weakref.ref(step))
        return step

    monkeypatch.setattr(train_module, "TrainingStep", remembered)
    start("a", replace(CONFIG, epochs=1), dataset, sample)
    assert [step() for step in made] == [None]


def test_unknown_labels_have_no_influence_on_training(dataset, sample):
    """Cells hidden as NA and cells that never existed give the same training."""
    run, _ = start("a", replace(CONFIG, epochs=1), dataset, sample)
    dataset.targets[dataset.targets < 0] = -7  # any negative value is unknown
    other, _ = start("b", replace(CONFIG, epochs=1), dataset, sample)
    assert run.read_table("history.csv").loss.equals(other.read_table("history.csv").loss)


def test_cosine_schedule_falls_from_the_learning_rate_towards_zero(dataset, sample):
    run, _ = start("a", replace(CONFIG, schedule="cosine"), dataset, sample)
    lr = run.read_table("history.csv").lr
    assert lr[0] == CONFIG.learning_rate
    assert lr.is_monotonic_decreasing
    assert 0 < lr.iloc[-1] < 0.1 * CONFIG.learning_rate


def plain_training(dataset, training, validation, config):
    """The loop that everyone writes, in float32: losses of every iteration, and AP on the validation images."""
    from mlkit.data.dataset import batches
    from mlkit.models.networks import build_model, normalise

    weight = torch.tensor(pos_weight(dataset.labels.iloc[training]).to_numpy(), dtype=torch.float32)
    torch.manual_seed(config.seed)
    model = build_model(CONFIG.backbone, 4, "none", 32).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    losses = []
    for epoch in range(1, config.epochs + 1):
        for chosen in batches(training, config.batch_size, seed=config.seed, epoch=epoch):
            pixels, targets = map(torch.from_numpy, dataset.batch(chosen))
            loss = masked_bce(model(normalise(pixels)), targets, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    pixels, targets = map(torch.from_numpy, dataset.batch(validation))
    with torch.no_grad():
        probabilities = torch.sigmoid(model.eval()(normalise(pixels))).numpy()
    return losses, evaluate(probabilities, targets.numpy(), dataset.attributes, np.ones(4)).AP


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.05), ("bf16", 0.1)])
def test_fast_path_agrees_with_a_plain_loop_in_float32(dataset, sample, precision, tolerance):
    """Losses within 5 % (float32: another order of sums, as many threads bring along) and 10 % (bf16), the first far closer.

    AP within 0.02 (float32), its mean within 0.1. At a low learning rate, since Adam's first steps at a high one, and batch
    normalisation over the few pixels of small images, make a large difference of a small one.
    """
    config = replace(CONFIG, epochs=2, learning_rate=1e-4, precision=precision)
    run, _ = start("a", config, dataset, sample)
    split = split_dataset(dataset, CONFIG)
    losses, ap = plain_training(dataset, np.flatnonzero(split == "train"), np.flatnonzero(split == "validation"), config)
    history = run.read_table("history.csv")
    np.testing.assert_allclose(history.loss, losses, rtol=tolerance)
    np.testing.assert_allclose(history.loss[0], losses[0], rtol=tolerance / 3)
    last = run.read_table("epochs.csv").iloc[-1]
    reached = np.array([last[f"AP {name}"] for name in ap.index])
    if precision == "fp32":
        np.testing.assert_allclose(reached, ap, atol=0.02)
    assert reached.mean() == pytest.approx(ap.mean(), abs=0.1)


@pytest.fixture
def backbone_weights(tmp_path):
    from mlkit.models.networks import build_model

    torch.manual_seed(7)
    torch.save(build_model(TINYNET, 1, "none", 32).state_dict(), tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


@pytest.mark.parametrize("freeze", ["backbone", "until:relu1"])
def test_frozen_layers_stay_and_activations_computed_once_give_the_same_training(dataset, sample, backbone_weights, freeze):
    config = replace(CONFIG, weights=backbone_weights, freeze=freeze, learning_rate=0.01)
    run, _ = start("once", config, dataset, sample)
    # a brightness too small to see takes the path that computes the frozen layers in every step
    other, _ = start("always", replace(config, brightness=1e-6), dataset, sample)
    losses = [r.read_table("history.csv").loss for r in (run, other)]
    np.testing.assert_allclose(*losses, rtol=0.05)
    trained, _ = load_model(run / "model.pth")
    donor = torch.load(backbone_weights, weights_only=True)
    same = {name.split(".")[0] for name, value in trained.state_dict().items() if torch.equal(value, donor[name])}
    assert {"conv1", "bn1"} <= same
    assert ("conv2" in same) == (freeze == "backbone")
    assert losses[0].iloc[-3:].mean() < losses[0].iloc[:3].mean()


def test_lbfgs_solves_the_head_as_a_logistic_regression_on_the_known_cells(dataset, sample, backbone_weights):
    config = replace(
        CONFIG, weights=backbone_weights, freeze="backbone", optimizer="lbfgs", epochs=1, pos_weight="none", accumulate=2
    )
    run, _ = start("solved", config, dataset, sample)
    network, _ = load_model(run / "model.pth")
    train_rows = (run.read_table("split.csv").set_index("image").split[dataset.labels.index] == "train").to_numpy()
    partly_frozen = PartlyFrozen(network, TINYNET, "backbone", choose_device("cpu", "fp32"))
    inputs, targets = features(partly_frozen, dataset)[train_rows], dataset.targets[train_rows]
    strength = penalty(config, 1, torch.from_numpy(inputs))
    for column, (weight, bias) in enumerate(zip(*partly_frozen.parameters(), strict=True)):
        known = targets[:, column] >= 0
        model = LogisticRegression(C=1 / (strength * (targets >= 0).sum()), tol=1e-8, max_iter=10_000)
        model.fit(inputs[known], targets[known, column])
        np.testing.assert_allclose(weight.detach().numpy(), model.coef_[0], rtol=0.02, atol=5e-3)
        assert bias.item() == pytest.approx(model.intercept_[0], abs=5e-3)


def test_lbfgs_goes_from_strong_penalties_to_weak_ones_and_keeps_the_best(dataset, sample, backbone_weights, goes_on):
    config = replace(CONFIG, weights=backbone_weights, freeze="backbone", optimizer="lbfgs", epochs=5)
    run, _ = start("solved", config, dataset, sample)
    epochs, history = run.read_table("epochs.csv"), run.read_table("history.csv")
    assert epochs.training_loss.is_monotonic_decreasing
    assert len(history) == 5
    assert run.read_json("metrics.json")["best_epoch"] == epochs.mAP.idxmax() + 1
    goes_on(run, lambda: start("again", config, dataset, sample)[0])


def test_images_grow_to_their_size_and_are_validated_at_it(dataset, sample, monkeypatch):
    seen = []
    forward = PartlyFrozen.activations

    def activations(partly_frozen, pixels):
        seen.append((partly_frozen.network.training, pixels.shape[1]))
        return forward(partly_frozen, pixels)

    monkeypatch.setattr(PartlyFrozen, "activations", activations)
    monkeypatch.setattr(
        step_module,
        "compute_logits",
        lambda network, pixels, device: seen.append((False, pixels.shape[1])) or (compute_logits(network, pixels, device)),
    )
    monkeypatch.setattr(config_module, "_SMALLEST", 8)
    config = replace(CONFIG, epochs=5, first_size=0.5)
    start("a", config, dataset, sample)
    assert [side for side, _ in itertools.groupby(side for training, side in seen if training)] == [16, 24]
    assert {side for training, side in seen if not training} == {32}


def test_augmented_training_differs_and_is_reproducible(dataset, sample):
    config = replace(CONFIG, epochs=1, flip=0.5, rotation=10.0, contrast=0.2)
    first, again, plain = (
        start(name, c, dataset, sample)[0].read_table("history.csv").loss
        for name, c in (("a", config), ("b", config), ("c", replace(CONFIG, epochs=1)))
    )
    assert first.equals(again)
    assert not first.equals(plain)


def test_training_without_avx512_takes_products_for_weight_gradients_and_learns_the_same(dataset, sample, monkeypatch):
    calls, product = [], gradients.weight_gradient
    monkeypatch.setattr(gradients, "_FEW", 8)  # as many as a tinynet has
    monkeypatch.setattr(gradients, "weight_gradient", lambda *given: calls.append(given) or product(*given))
    losses = []
    for capability in ("AVX512", "AVX2"):
        assert not calls
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        losses.append(start(capability, replace(CONFIG, epochs=1), dataset, sample)[0].read_table("history.csv").loss)
    assert len(calls) == len(losses[0]), "of two convolutions, one is of the images"
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_compiled_training_goes_through_torch_compile(dataset, sample, monkeypatch):
    compiled = []

    def compile_eagerly(function):
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    start("a", replace(CONFIG, epochs=1, compile=True), dataset, sample)
    assert [function.__name__ for function in compiled] == ["_prepared", "_forward"]


def test_batch_size_is_left_to_mlkit_and_determinism_asked_for(dataset, sample):
    run, _ = start("a", replace(CONFIG, epochs=1, batch_size="auto", deterministic=True), dataset, sample)
    assert len(run.read_table("history.csv")) == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_near_duplicates_are_never_on_two_sides_of_the_split(sample, tmp_path):
    """A copy that was resized and compressed again has other bytes; it stays with its original all the same."""
    shutil.copytree(sample / "images", tmp_path / "images")
    labels = read_labels(sample / "labels.csv").iloc[:-1]
    copies = {f"copy-{name}": name for name in labels.index[3:30]}  # the first are grey or transparent
    for copy, name in copies.items():
        with Image.open(tmp_path / "images" / name) as image:
            image.convert("RGB").resize((140, 140)).save(tmp_path / "images" / copy, format="JPEG", quality=70)
    more = labels.loc[list(copies.values())].set_axis(pd.Index(copies, name="image"))
    write_labels(pd.concat([labels, more]), tmp_path / "labels.csv")
    both = DataSource(str(tmp_path / "images"), str(tmp_path / "labels.csv")).open(32)
    for seed in range(3):
        split = split_dataset(both, replace(CONFIG, test_fraction=0.2, split_seed=seed))
        assert all(split[copy] == split[name] for copy, name in copies.items())


def test_a_run_is_evaluated_on_images_that_chose_nothing(dataset, sample):
    config = replace(CONFIG, validation_fraction=0.25, test_fraction=0.25, threshold="f1", calibrate=True)
    run, table = start("a", config, dataset, sample)
    split = run.read_table("split.csv").set_index("image").split
    predictions, metrics = run.read_table("predictions.csv"), run.read_json("metrics.json")
    assert metrics["judged_on"] == "test"
    assert {side: set(rows.image) for side, rows in predictions.groupby("split")} == {
        side: set(split.index[split == side]) for side in ("validation", "test")
    }
    codes = to_codes(dataset.labels.loc[split.index[split == "test"]])
    assert table.positives.tolist() == (codes == 1).sum(axis=0).tolist()
    # thresholds and calibration come from the validation images alone
    valid = predictions[predictions.split == "validation"]
    shape = (-1, 4)
    logits, targets = valid.logit.to_numpy().reshape(shape), valid.target.fillna(-1).to_numpy(int).reshape(shape)
    training = dataset.labels.loc[split.index[split == "train"]]
    calibrator = calibration.fit(logits, targets, dataset.attributes, pos_weight(training).to_numpy())
    chosen = choose_thresholds(calibrator.probabilities(logits), targets, dataset.attributes, "f1").threshold
    _, meta = load_model(run / "model.pth")
    assert meta["thresholds"] == pytest.approx(chosen.to_dict(), abs=1e-4)
    assert meta["metrics"]["judged_on"] == "test"
    # what the predictor says of a test image is what the run says
    image = predictions[predictions.split == "test"].iloc[0].image
    asked = Predictor.load("a", precision="fp32").predict(sample / "images" / image)
    expected = predictions[predictions.image == image].probability
    np.testing.assert_allclose(asked.probability, expected, atol=1e-4)
    assert (asked.decision.eq("yes") == (asked.probability >= list(meta["thresholds"].values()))).all()


def test_a_batch_is_never_cut_into_single_images(dataset, sample):
    config = replace(CONFIG, epochs=1, batch_size=3, accumulate=3)
    table = start("one", config, dataset, sample)[0].read_table("history.csv")
    assert np.isfinite(table.loss).all()


def test_accumulated_parts_equal_the_whole_batch(dataset, sample, backbone_weights):
    # frozen features, so that batch normalisation, which sees the parts alone, has no say
    config = replace(CONFIG, epochs=1, weights=backbone_weights, freeze="backbone")
    whole, parts = (
        start(f"a{n}", replace(config, accumulate=n), dataset, sample)[0].read_table("history.csv").loss for n in (1, 5)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "weight_decay": 0.05, "warmup_epochs": 0.5, "schedule": "cosine", "clip_norm": 1.0},
        {"ema_decay": 0.9, "label_smoothing": 0.1, "mixup": 0.4},
        {"sampler": "balanced", "pos_weight": "sqrt"},
    ],
)
def test_options_train_and_go_on_after_an_interruption(dataset, sample, goes_on, options):
    config = replace(CONFIG, epochs=2, **options)
    whole, _ = start("whole", config, dataset, sample)
    goes_on(whole, lambda: start("cut", config, dataset, sample)[0])


def test_patience_stops_early(dataset, sample):
    config = replace(CONFIG, epochs=30, learning_rate=1e-9, patience=2)
    run, _ = start("a", config, dataset, sample)
    epochs = run.read_table("epochs.csv")
    assert len(epochs) < 30
    metrics = run.read_json("metrics.json")
    assert len(epochs) == metrics["best_epoch"] + 2
    assert metrics["stopped"]["reason"] == "patience"


def test_diverged_training_names_where_and_keeps_the_last_good_checkpoint(dataset, sample, monkeypatch):
    monkeypatch.setattr(train_module.Training, "checkpoint_seconds", -1.0)
    real = train_module.learning_rate

    def rate(config, iteration, iterations):
        return real(config, iteration, iterations) if iteration != 1 else 1e30

    monkeypatch.setattr(train_module, "learning_rate", rate)
    where = r"iteration 3: the loss is .* at learning rate .*Images of the batch: |after iteration 2 the network.s weights"
    with pytest.raises(FailureError, match=where) as error:  # exit 1: the input is not wrong
        start("a", CONFIG, dataset, sample)
    assert "lower learning_rate" in str(error.value)
    assert load_torch(Run.open("a") / "last.pt")["iteration"] in (1, 2)


def test_damaged_checkpoint_gives_way_to_the_one_before(dataset, sample, interrupted_at, capsys):
    config = replace(CONFIG, epochs=1)
    whole, _ = start("whole", config, dataset, sample)
    interrupted_at(2, lambda: start("cut", config, dataset, sample))
    cut = Run.open("cut")
    (cut / "last.pt").write_bytes((cut / "last.pt").read_bytes()[:1000])
    (cut / "next.pt").write_bytes(b"what a process that was killed left")
    content = load_torch(cut / "previous.pt")
    save_torch(cut / "previous.pt", content | {"format": 2})
    with pytest.raises(FormatError, match=r"previous.pt has format 2, this mlkit reads 1"):
        start("cut", config, dataset, sample)
    save_torch(cut / "previous.pt", content)
    start("cut", config, dataset, sample)
    assert "going on from the checkpoint before it" in capsys.readouterr().out
    columns = ["iteration", "epoch", "loss", "lr"]
    pd.testing.assert_frame_equal(cut.read_table("history.csv")[columns], whole.read_table("history.csv")[columns])
    assert not [file for file in ("last.pt", "previous.pt", "next.pt") if (cut / file).exists()]


@pytest.mark.parametrize(("number", "stop"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_signal_saves_before_it_ends_the_training(dataset, sample, monkeypatch, capsys, number, stop):
    real, calls = train_module.TrainingStep.__call__, []

    def signalled(*arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(train_module.TrainingStep, "__call__", signalled)
    before = signal.getsignal(number)
    with pytest.raises(stop) as raised:
        start("a", CONFIG, dataset, sample)
    assert type(raised.value) is stop
    assert "interrupted; saved after iteration 2" in capsys.readouterr().out
    assert load_torch(Run.open("a") / "last.pt")["iteration"] == 2
    assert signal.getsignal(number) == before


def test_watcher_sees_every_epoch_and_stops_a_training_that_still_ends_whole(dataset, sample):
    seen = []

    def watcher(epochs):
        seen.append([row["epoch"] for row in epochs])
        return len(epochs) == 2

    run = Run.create("a", parameters_of(CONFIG, sample), dataset.fingerprint)
    train(dataset, CONFIG, run, watcher)
    assert seen == [[1], [1, 2]]
    assert run.finished
    assert run.read_json("metrics.json")["stopped"] == {"reason": "pruned", "epoch": 2}
    assert Predictor.load(run.path).predict(sample / "images" / "0000.jpg").probability.between(0, 1).all()


def test_runs_of_other_seeds_share_the_split_unless_it_has_a_seed_of_its_own(dataset):
    split = split_dataset(dataset, CONFIG)
    assert split.equals(split_dataset(dataset, replace(CONFIG, seed=1)))
    assert not split.equals(split_dataset(dataset, replace(CONFIG, split_seed=1)))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(dataset, sample, loss):
    run, _ = start("a", replace(CONFIG, loss=loss, learning_rate=0.01), dataset, sample)
    history = run.read_table("history.csv").loss
    assert np.isfinite(history).all()
    assert history.iloc[-3:].mean() < history.iloc[0]


def constant_model(name, dataset, logit, loss="masked_bce", **parameters):
    """A finished run whose network says the same logit of every image, and whose calibration takes 2 off."""
    network = build_model(CONFIG.backbone, len(dataset.attributes), "none")
    torch.nn.init.zeros_(network.fc.weight)
    torch.nn.init.constant_(network.fc.bias, logit)
    run = Run.create(name, parameters, dataset.fingerprint)
    config = replace(CONFIG, loss=loss)
    weight = calibration.from_pos_weight(dataset.attributes, np.exp(2.0)).to_dict()
    meta = model_meta(network, dataset, config, np.full(len(dataset.attributes), 0.5), 1)
    save_model(run / "model.pth", network, meta | {"calibration": weight})
    run.write_json("metrics.json", {})
    return run


def test_prior_of_csl_is_the_mean_of_calibrated_probabilities(dataset, capsys):
    device, images = choose_device("cpu", "fp32"), np.arange(8)
    constant_model("weighted", dataset, 0.0)
    prior = estimate_prior("weighted", dataset, images, device)
    torch.testing.assert_close(prior, torch.full((4,), -2.0).sigmoid())
    assert not capsys.readouterr().out
    constant_model("negative", dataset, 0.0, loss="assume_negative")
    estimate_prior("negative", dataset, images, device)
    assert "warning: prior_run 'negative' was trained with assume_negative" in capsys.readouterr().out
    constant_model("raw", dataset, 0.0, calibrate=False)
    with pytest.raises(ParameterError, match="prior_run 'raw' has calibrate false"):
        estimate_prior("raw", dataset, images, device)
    (constant_model("cut", dataset, 0.0) / "metrics.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        estimate_prior("cut", dataset, images, device)


def test_csl_takes_its_prior_from_an_earlier_run(dataset, sample):
    constant_model("common", dataset, 2.0)
    config = replace(CONFIG, epochs=1, loss="csl")
    with_prior, _ = start("with", replace(config, prior_run="common"), dataset, sample)
    without, _ = start("without", config, dataset, sample)
    assert not with_prior.read_table("history.csv").loss.equals(without.read_table("history.csv").loss)
    with pytest.raises(RunError, match="not a run folder"):
        start("b", replace(CONFIG, loss="csl", prior_run="nowhere"), dataset, sample)


def test_labels_without_a_known_cell_stop_before_anything_is_trained(dataset, sample):
    unknown = dataset.with_labels(from_codes(np.full((60, 4), -1), dataset.labels.index, dataset.attributes))
    with pytest.raises(LabelError, match="training images is known, nothing can be learnt"):
        start("a", CONFIG, unknown, sample)
    assert [file.name for file in (outputs_root() / "a").glob("*.csv")] == []


def test_attribute_without_positives_trains_and_is_reported_as_undefined(dataset, sample, capsys):
    dataset.labels["bag"] = dataset.labels["bag"].where(dataset.labels["bag"] != 1, 0)
    dataset.targets[:, 3] = dataset.targets[:, 3].clip(max=0)
    run, table = start("a", replace(CONFIG, epochs=1), dataset, sample)
    printed = capsys.readouterr().out
    assert "warning: the known training cells are all no, so that nothing but no is learnt: bag" in printed
    assert np.isnan(table.AP["bag"])
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["attributes"]["bag"]["AP"] is None
    assert " over 3 of 4 attributes" in next(line for line in printed.splitlines() if "epoch 1/1" in line)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"batch_size": "many"}, "batch_size is 'many'; it must be a whole number or \"auto\""),
        ({"fold": 3, "folds": 3}, "fold is 3, folds 3"),
        ({"loss": "masked"}, "did you mean 'masked_bce'"),
        ({"loss": "asl", "loss_settings": "gamma: 2"}, "asl has no setting 'gamma'; did you mean 'gamma_"),
        ({"loss_settings": "gamma"}, "it must look like"),
        ({"threshold": "f2"}, "did you mean 'f1'"),
        ({"label_smoothing": 0.9}, "at most 0.5"),
        ({"flip": 2.0}, "flip is 2.0; it must be at least 0 and at most 1"),
        ({"freeze": "backbone", "weights": "none"}, "frozen layers must have learned something"),
        ({"optimizer": "lbfgs", "weights": "a.pth"}, "'lbfgs', which solves the head on features that stand still"),
        ({"optimizer": "lbfgs", "weights": "a.pth", "freeze": "backbone", "flip": 0.5}, "leave augmentation"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"epochs": 1.5}, "epochs is 1.5; it must be a whole number"),
        ({"epochs": True}, "epochs is True; it must be a whole number"),
        ({"image_size": "64"}, "image_size is '64'; it must be a whole number"),
        ({"deterministic": "no"}, "deterministic is 'no'; it must be true or false"),
        ({"validation_fraction": 2.0}, "validation_fraction is 2.0; it must be above 0 and below 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be a number"),
        ({"backbone": None}, "backbone is None; it must be text"),
        ({"flip": "0.5"}, "flip is '0.5'; it must be a number"),
        ({"loss": "asl", "loss_settings": "clip: little"}, "loss_settings: parameter clip is 'little'; it must be a number"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ParameterError, match=message):
        TrainConfig(**setting)


def test_the_result_of_a_finished_training_is_read(finished):
    table = train(None, CONFIG, finished)
    judged = pd.DataFrame(finished.read_json("metrics.json")["attributes"], dtype=float).T
    pd.testing.assert_frame_equal(table[judged.columns].astype(float), judged, check_names=False)
