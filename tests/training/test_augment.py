"""Augmentation is off by default, different for each image, reproducible, and does what its strengths say."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from mlkit.errors import ParameterError
from mlkit.training.augment import Augmentation, shrink
from mlkit.training.config import TrainConfig

ALL = Augmentation(0.5, 20.0, 0.2, 0.1, 0.3, 0.3, 0.3)


@pytest.fixture
def pixels():
    noise = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (smooth.permute(0, 2, 3, 1) * 255).to(torch.uint8)


def draws(**values):
    """Draws for six images, zero (nothing happens) but for the columns given."""
    columns = ["flip", "rotation", "scale", "x", "y", "brightness", "contrast", "saturation"]
    result = torch.zeros(6, len(columns))
    for name, value in values.items():
        result[:, columns.index(name)] = value
    return result


def test_nothing_is_asked_for_by_default():
    assert not Augmentation()
    assert ALL


def test_zero_strengths_give_the_pixels_back(pixels):
    assert torch.equal(Augmentation()(pixels, ALL.draw(6, 0, 1)), pixels.float())


def test_same_seed_epoch_and_image_give_the_same_whatever_the_batch(pixels):
    drawn = ALL.draw(6, seed=1, epoch=2)
    whole = ALL(pixels, drawn)
    torch.testing.assert_close(ALL(pixels[3:5], drawn[3:5]), whole[3:5])
    assert torch.equal(drawn, ALL.draw(6, seed=1, epoch=2))
    assert not torch.equal(drawn, ALL.draw(6, seed=1, epoch=3))
    assert not torch.equal(drawn, ALL.draw(6, seed=2, epoch=2))
    assert torch.equal(drawn, ALL.draw(9, seed=1, epoch=2)[:6])


def test_each_image_gets_its_own(pixels):
    same = pixels[:1].expand(6, -1, -1, -1)
    result = ALL(same, ALL.draw(6, 0, 1))
    assert all(not torch.allclose(result[0], other) for other in result[1:])


@pytest.mark.parametrize(("flip", "share"), [(1.0, 1.0), (0.5, 0.5), (0.1, 0.1)])
def test_flip_is_the_probability_of_a_mirror_image(flip, share):
    pixels = torch.zeros(2000, 2, 2, 3, dtype=torch.uint8)
    pixels[:, :, 0] = 255
    augmentation = Augmentation(flip=flip)
    mirrored = augmentation(pixels, augmentation.draw(2000, 0, 1))[:, 0, 1, 0] > 127
    assert mirrored.float().mean().item() == pytest.approx(share, abs=0.03)


def test_mirror_image_is_torchvisions(pixels):
    expected = tv.hflip(pixels.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).float()
    torch.testing.assert_close(Augmentation(flip=1.0)(pixels, draws()), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("rotation", 1.0, {"angle": -30.0}), ("scale", 1.0, {"scale": 1.25})]
)
def test_geometry_agrees_with_torchvision_away_from_the_border(pixels, name, value, expected):
    augmentation = Augmentation(rotation=30.0, scale=0.25)
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | expected
    images = pixels.permute(0, 3, 1, 2).float()
    reference = tv.affine(images, **settings, interpolation=tv.InterpolationMode.BILINEAR).permute(0, 2, 3, 1)
    inner = slice(10, 22)
    result = augmentation(pixels, draws(**{name: 1.0}))
    torch.testing.assert_close(result[:, inner, inner], reference[:, inner, inner], atol=0.5, rtol=0)


def test_translation_is_a_share_of_the_side(pixels):
    result = Augmentation(translation=0.25)(pixels, draws(x=1.0))
    torch.testing.assert_close(result[:, :, :-8], pixels[:, :, 8:].float(), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("brightness", tv.adjust_brightness), ("contrast", tv.adjust_contrast), ("saturation", tv.adjust_saturation)],
)
@pytest.mark.parametrize("drawn", [-1.0, 0.5])
def test_colour_is_torchvisions_before_clamping(pixels, name, reference, drawn):
    dimmed = (pixels.float() * 0.4 + 60).to(torch.uint8)  # nothing is clamped
    images = dimmed.permute(0, 3, 1, 2).float() / 255
    expected = reference(images, 1 + 0.3 * drawn).permute(0, 2, 3, 1) * 255
    result = Augmentation(**{name: 0.3})(dimmed, draws(**{name: drawn}))
    torch.testing.assert_close(result, expected, atol=0.2, rtol=0)


@pytest.mark.parametrize("setting", [{"flip": 1.5}, {"rotation": -1.0}, {"contrast": float("nan")}])
def test_impossible_strengths_are_refused(setting):
    with pytest.raises(ParameterError, match=r"it must be (a number|at least 0 and at most)"):
        Augmentation(**setting)


@pytest.mark.parametrize(
    ("first", "epochs", "size", "sides"),
    [
        (1.0, 2, 100, [100, 100]),
        (0.5, 5, 128, [64, 64, 96, 96, 96]),
        (0.4, 4, 200, [80, 80, 144, 144]),
        (0.4, 4, 100, [64, 64, 72, 72]),
        (0.5, 1, 224, [112]),
        (0.1, 2, 20, [20, 20]),
    ],
)
def test_images_grow_by_the_epoch_alone(first, epochs, size, sides):
    config = TrainConfig(image_size=size, epochs=epochs, first_size=first, weights="none")
    assert [config.side(epoch) for epoch in range(1, epochs + 1)] == sides


def test_pretrained_weights_see_images_at_their_size():
    assert TrainConfig(first_size=0.5, weights="file.pth").side(1) == 224


def test_images_shrink_as_pillow_shrinks_them(pixels):
    for side in (16, 24):
        expected = [
            np.asarray(Image.fromarray(one.numpy()).resize((side, side), Image.Resampling.BILINEAR)) for one in pixels
        ]
        np.testing.assert_allclose(shrink(pixels, side).float(), np.stack(expected).astype(float), atol=1)
    assert shrink(pixels, 32) is pixels
