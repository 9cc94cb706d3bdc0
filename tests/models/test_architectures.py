"""Networks of other families than ResNet are trained, frozen, resumed and asked, all at small size."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torchvision.models import convnext, efficientnet, mobilenetv3, resnet, vision_transformer

from mlkit.data.source import DataSource
from mlkit.errors import ParameterError
from mlkit.inference.predictor import Predictor
from mlkit.losses.bce import masked_bce
from mlkit.models.device import choose_device
from mlkit.models.modelfile import load_model
from mlkit.models.networks import build_model, compute_logits, head_name, normalise, place
from mlkit.models.torchfile import load_torch
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.loop import train
from mlkit.training.optim import build_optimizer

SIZE = 32
CONFIG = TrainConfig(
    image_size=SIZE, weights="none", batch_size=18, precision="fp32", validation_fraction=0.2, test_fraction=0.2
)
# learning rates that suit the network from scratch, and as many epochs as a clear fall of the loss takes
SETTINGS = {
    "resnet18": {"learning_rate": 1e-3, "epochs": 4},
    "efficientnet_b0": {"learning_rate": 1e-3, "epochs": 12},
    "mobilenet_v3_small": {"learning_rate": 1e-3, "epochs": 6},
    "convnext_tiny": {"learning_rate": 3e-3, "epochs": 6},
    "vit_b_16": {"learning_rate": 1e-3, "epochs": 6},
}


@pytest.fixture(scope="module", autouse=True)
def small():
    """Fewer and narrower layers than the smallest published networks have."""
    blocks = [convnext.CNBlockConfig(16, 32, 1), convnext.CNBlockConfig(32, 64, 1), convnext.CNBlockConfig(64, None, 1)]
    layers = {"num_layers": 2, "num_heads": 2, "hidden_dim": 64, "mlp_dim": 128}
    half, make_conf = {"width_mult": 0.5, "depth_mult": 0.5}, efficientnet._efficientnet_conf
    make_resnet, make_mobile_conf = resnet._resnet, mobilenetv3._mobilenet_v3_conf
    make_convnext, make_transformer = convnext._convnext, vision_transformer._vision_transformer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "_efficientnet_conf", lambda name, **published: make_conf(name, **published | half))
        patch.setattr(convnext, "_convnext", lambda published, *rest, **named: make_convnext(blocks, *rest, **named))
        patch.setattr(vision_transformer, "_vision_transformer", lambda **named: make_transformer(**named | layers))
        patch.setattr(resnet, "_resnet", lambda block, layers, *rest, **named: make_resnet(block, [1] * 4, *rest, **named))
        patch.setattr(
            mobilenetv3, "_mobilenet_v3_conf", lambda name, **named: make_mobile_conf(name, width_mult=0.5, **named)
        )
        yield


class Trained:
    """A trained network and what it takes to train it again in another way."""

    def __init__(self, backbone, sample, folder):
        self.backbone, self.sample, self.folder = backbone, sample, folder
        self.dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(SIZE)
        self.config = replace(CONFIG, backbone=backbone, **SETTINGS[backbone])
        self.run = self.again("first")
        self.weights = str(self.run / "model.pth")

    def again(self, name, **changes):
        config = replace(self.config, **changes)
        run = Run.create(self.folder / name, asdict(config), self.dataset.fingerprint)
        train(self.dataset, config, run)
        return run


@pytest.fixture(scope="module", params=SETTINGS)
def trained(request, sample, small, tmp_path_factory):
    return Trained(request.param, sample, tmp_path_factory.mktemp(request.param))


def losses(run):
    """Mean training loss of each epoch."""
    return run.read_table("history.csv").groupby("epoch").loss.mean()


def test_loss_falls_and_the_predictor_says_of_each_file_what_the_training_said(trained):
    loss = losses(trained.run)
    assert loss.iloc[-1] < 0.6 * loss.iloc[0]
    predictions = trained.run.read_table("predictions.csv")
    assert set(predictions.split) == {"validation", "test"}
    images = [trained.sample / "images" / name for name in predictions.image.unique()]
    asked = Predictor.load(trained.run.path, precision="fp32").predict(images)
    assert asked.attribute.tolist() == predictions.attribute.tolist()
    np.testing.assert_allclose(asked.probability, predictions.probability, atol=1e-4)
    fast = Predictor.load(trained.run.path, precision="bf16").predict(images[:4])
    np.testing.assert_allclose(fast.probability, predictions.probability[: len(fast)], atol=0.05)


def test_channels_last_and_bf16_change_only_the_rounding(trained):
    pixels = torch.from_numpy(trained.dataset.batch(np.arange(8))[0])
    model, _ = load_model(trained.weights)
    with torch.inference_mode():
        plain = model(normalise(pixels).contiguous())
        exact, fast = (
            compute_logits(place(model, d), pixels, d) for d in (choose_device("cpu", p) for p in ("fp32", "bf16"))
        )
    torch.testing.assert_close(exact, plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast, exact, atol=0.05, rtol=0.05)


def test_only_the_head_learns_above_a_frozen_backbone(trained):
    options = {"weights": trained.weights, "freeze": "backbone", "learning_rate": 0.01, "ema_decay": 0.5, "epochs": 2}
    run = trained.again("frozen", **options)
    assert losses(run).iloc[-1] < losses(run).iloc[0]
    before, after = (load_torch(path)["state_dict"] for path in (trained.weights, run / "model.pth"))
    head = head_name(build_model(trained.backbone, 4, "none", SIZE), trained.backbone)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {f"{head}.weight", f"{head}.bias"}


def test_augmented_training_in_the_precision_of_this_machine_goes_on_after_an_interruption(trained, goes_on):
    options = {"flip": 0.5, "rotation": 10.0, "brightness": 0.2, "ema_decay": 0.9, "precision": "auto", "epochs": 2}
    whole = trained.again("whole", **options)
    goes_on(whole, lambda: trained.again("cut", **options))


def test_network_knows_in_inference_what_it_learned_in_eighty_steps(sample):
    """Its batch normalisation comes with a momentum of 0.01, whose statistics are then still half those of the start."""
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(SIZE)
    pixels, targets = map(torch.from_numpy, dataset.batch(np.arange(8)))
    torch.manual_seed(0)
    model = build_model("mobilenet_v3_small", 4, "none", SIZE)
    optimizer = build_optimizer(list(model.parameters()), CONFIG)
    for _ in range(80):
        loss = masked_bce(model.train()(normalise(pixels)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        assert masked_bce(model.eval()(normalise(pixels)), targets) < 0.25


def test_size_that_a_transformer_cannot_cut_into_squares_is_refused_by_name():
    with pytest.raises(ParameterError, match="image_size is 40; vit_b_16 needs a multiple of 16, 32 say"):
        build_model("vit_b_16", 3, "none", 40)
