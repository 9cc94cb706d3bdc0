"""Any image file gives the RGB pixels that a person sees, or an error that names the file and the reason."""

import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from imagefiles import ADOBE, SRGB, chunk, cmyk_profile, grey_profile, png, rgb_profile, tiff, to_srgb
from imagefiles import WHITE as WHITE_POINT
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError, features
from tinynet import TINYNET

from mlkit.cli import main
from mlkit.data.folder import walk_images
from mlkit.data.images import decode_image, load_image, read_image
from mlkit.data.reading import Reading
from mlkit.data.source import DataSource
from mlkit.errors import ImageError
from mlkit.evaluation.predictions import read_images
from mlkit.inference import views
from mlkit.inference.predictor import Predictor
from mlkit.models.modelfile import save_model
from mlkit.models.networks import build_model
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.finish import model_meta
from mlkit.training.recipe import Recipe

# pytest replaces the filter that mlkit.data.images sets; a test below starts a process of its own to see that it is there
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RED, GREEN, BLUE, WHITE, BLACK = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]


@pytest.fixture
def save(tmp_path):
    """Save a Pillow image under a name, and return its path."""

    def save(image, name="image.png", **options):
        path = tmp_path / name
        image.save(path, **options)
        return path

    return save


@pytest.fixture
def write(tmp_path):
    """Write bytes under a name, and return the path."""

    def write(content, name="image.png"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def pixels(rows, dtype=np.uint8):
    return Image.fromarray(np.array(rows, dtype))


def photo(width, height):
    """A smooth picture with some detail, as a camera gives."""
    y, x = np.mgrid[0:height, 0:width] / 100
    waves = np.stack([np.sin(3 * x + y), np.cos(2 * x - 3 * y), np.sin(5 * x * y / (1 + x))], 2)
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))


def png_header(width, height):
    """A whole PNG file of a few bytes that claims a size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


# ---- every kind of pixel


def test_colour_comes_back_as_it_was(save):
    rows = [[RED, GREEN], [BLUE, WHITE], [BLACK, [1, 2, 3]]]
    decoded = load_image(save(pixels(rows)))
    assert decoded.tolist() == rows
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_alpha_is_composed_on_white(save, suffix):
    rows = [[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]]
    decoded = load_image(save(pixels(rows), f"image.{suffix}", **({"lossless": True} if suffix == "webp" else {})))
    assert decoded.tolist() == [[RED, WHITE, [127, 127, 127]]]


def test_grey_with_alpha_is_composed_on_white(save):
    grey = Image.merge("LA", [pixels([[0, 0, 100]]), pixels([[255, 0, 255]])])
    assert load_image(save(grey)).tolist() == [[BLACK, WHITE, [100] * 3]]


@pytest.fixture
def palette():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    return image


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_becomes_colour(save, palette, suffix):
    assert load_image(save(palette, f"image.{suffix}")).tolist() == [[RED, GREEN, BLUE]]


def test_transparent_palette_entry_becomes_white(save, palette):
    assert load_image(save(palette, transparency=1)).tolist() == [[RED, WHITE, BLUE]]
    assert load_image(save(palette, "image.gif", transparency=1)).tolist() == [[RED, WHITE, BLUE]]


def test_palette_with_an_alpha_per_entry_is_composed_on_white(save, palette):
    decoded = load_image(save(palette, transparency=bytes([255, 0, 128])))
    assert decoded.tolist() == [[RED, WHITE, [127, 127, 255]]]


def test_transparent_colour_of_an_rgb_file_becomes_white(save):
    assert load_image(save(pixels([[RED, GREEN]]), transparency=(0, 255, 0))).tolist() == [[RED, WHITE]]


def test_grey_becomes_three_equal_channels(save):
    assert load_image(save(pixels([[0, 100, 255]]))).tolist() == [[BLACK, [100] * 3, WHITE]]
    decoded = load_image(save(Image.new("L", (32, 32), 77), "image.jpg"), size=8)
    assert decoded.shape == (8, 8, 3)
    assert (decoded == 77).all()


def test_one_bit_becomes_black_and_white(save):
    assert load_image(save(pixels([[0, 255]]).convert("1"))).tolist() == [[BLACK, WHITE]]


def test_16_bit_grey_is_scaled_and_not_clipped(save):
    decoded = load_image(save(pixels([[0, 257, 25700, 65535]], np.uint16)))
    assert decoded.tolist() == [[BLACK, [1] * 3, [100] * 3, WHITE]]


def test_dark_16_bit_grey_stays_dark(save):
    assert load_image(save(pixels([[0, 255]], np.uint16))).tolist() == [[BLACK, [1] * 3]]


def test_cmyk_jpeg_becomes_colour(save):
    decoded = load_image(save(Image.new("RGB", (16, 16), "red").convert("CMYK"), "image.jpg", quality=95))
    assert np.abs(decoded.astype(int) - RED).max() <= 3
    assert load_image(save(photo(256, 256).convert("CMYK"), "image.jpg"), size=32).shape == (32, 32, 3)


def test_first_frame_of_an_animation_is_taken(save):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for name in ("image.gif", "image.webp", "image.png"):
        options = {"lossless": True} if name.endswith("webp") else {}
        path = save(frames[0], name, save_all=True, append_images=frames[1:], **options)
        assert (load_image(path) == RED).all()


@pytest.mark.parametrize(("suffix", "options"), [("webp", {"lossless": True}), ("bmp", {}), ("tiff", {}), ("ppm", {})])
def test_other_formats_are_read(save, suffix, options):
    image = photo(20, 10)
    assert (load_image(save(image, f"image.{suffix}", **options)) == np.asarray(image)).all()


def test_content_decides_and_not_the_suffix(save):
    image = pixels([[[255, 0, 0, 255], [255, 0, 0, 0]]])
    png = save(image)
    named_jpg = png.rename(png.with_name("image.jpg"))
    assert load_image(named_jpg).tolist() == [[RED, WHITE]]
    assert load_image(str(named_jpg), size=2).shape == (2, 2, 3)


# ---- orientation

STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,  # the camera lay on its side: turn clockwise to see it upright
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_exif_orientation_is_applied(save, orientation, suffix):
    upright = np.asarray(photo(12, 7))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    path = save(stored, f"image.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    decoded = load_image(path)
    assert (decoded == upright).all()
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("side", [480, 48])
def test_exif_orientation_is_applied_where_the_jpeg_decoder_reduces(save, orientation, side):
    upright = photo(640, 320)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
    decoded = load_image(save(stored, "image.jpg", quality=95, exif=exif), size=side)
    expected = np.asarray(upright.resize((side, side), Image.Resampling.BILINEAR))
    assert decoded.shape == (side, side, 3)
    assert np.abs(decoded.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_that_does_not_exist_changes_nothing(save, orientation):
    image = photo(12, 7)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert (load_image(save(image, exif=exif)) == np.asarray(image)).all()


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_damaged_exif_does_not_spoil_the_pixels(save, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "camera"
    whole = exif.tobytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(6, len(whole))] = rng.choice([0, 255, rng.integers(256)])
        decoded = load_image(save(Image.new("RGB", (8, 4), "white"), f"image.{suffix}", exif=bytes(damaged)))
        assert sorted(decoded.shape) == [3, 4, 8]
        assert (decoded == 255).all()


# ---- size


@pytest.mark.parametrize("size", [1, 7, 224])
@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3), (1, 4000), (64, 64), (7, 7)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_any_shape_becomes_the_square_that_was_asked_for(save, size, shape, suffix):
    decoded = load_image(save(Image.new("RGB", shape, (40, 80, 120)), f"image.{suffix}"), size=size)
    assert decoded.shape == (size, size, 3)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert np.abs(decoded.astype(int) - [40, 80, 120]).max() <= 2


def test_one_pixel_stays_one_pixel(save):
    assert load_image(save(pixels([[RED]]))).tolist() == [[RED]]


def test_image_of_the_right_size_is_not_resampled(save):
    image = photo(32, 32)
    assert (load_image(save(image), size=32) == np.asarray(image)).all()


@pytest.mark.parametrize("size", [64, 100, 224])
def test_reduced_jpeg_decoding_is_close_to_decoding_everything(save, size):
    """Tolerance: 1 of 255 grey levels on average, 12 at the worst pixel; measured are about 0.4 and 8."""
    path = save(photo(1600, 1200), "image.jpg", quality=90)
    with Image.open(path) as image:
        whole = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    difference = np.abs(load_image(path, size=size).astype(int) - whole)
    assert difference.mean() < 1
    assert difference.max() < 12


# ---- what is refused


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("name", ["image.jpg", "image.png", "image.gif", "image.webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_file_is_refused(save, write, name, size, share):
    content = save(photo(200, 100), name).read_bytes()
    path = write(content[: int(len(content) * share)], name)
    with pytest.raises(ImageError, match=rf"{name}: (cannot be decoded \(.+\)|not an image in any known format)"):
        load_image(path, size)


def test_truncated_photo_says_so(save, write):
    for name in ("image.jpg", "image.png"):
        path = write(save(photo(200, 100), name).read_bytes()[:-2000], name)
        with pytest.raises(ImageError, match=rf"{name}: cannot be decoded \(.*[Tt]runcated"):
            load_image(path)


def test_empty_file_is_refused(write):
    with pytest.raises(ImageError, match=r"image\.jpg: the file is empty \(0 bytes\)"):
        load_image(write(b"", "image.jpg"))


@pytest.mark.parametrize("content", [b"a,b\n1,0\n", b"\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"<svg/>", b"%PDF-1.4"])
def test_file_that_is_no_image_is_refused(write, content):
    with pytest.raises(ImageError, match=r"image\.jpg: (not an image in any known format|cannot be decoded \(.+\))"):
        load_image(write(content, "image.jpg"))


def test_postscript_is_not_executed(save):
    with pytest.raises(ImageError, match=r"image\.eps: not an image in any known format"):
        load_image(save(photo(8, 8), "image.eps"))


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"absent\.jpg: no such file"):
        load_image(tmp_path / "absent.jpg")


def test_folder_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"cannot be read \(.*directory\)"):
        load_image(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"cannot be read \(Not a directory\)"):
        load_image(tmp_path / "file" / "image.jpg")


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
@pytest.mark.parametrize(
    "content",
    [
        png_header(2**31 - 1, 2**31 - 1),
        png_header(Reading.max_pixels + 1, 1),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0),
    ],
)
def test_decompression_bomb_is_refused_from_its_header(write, monkeypatch, limit, content):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("the bomb was decoded"))
    content += b",\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;" if content.startswith(b"GIF") else b""
    with pytest.raises(
        ImageError,
        match=r"image\.png: more than 178,956,970 pixels, a decompression bomb perhaps; if it is none, raise max_pixels",
    ):
        load_image(write(content), size=8)


def test_pillow_warnings_are_not_printed(save):
    path = save(photo(4, 4), "image.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12")
    script = (
        "import sys; from PIL import Image; from mlkit.data.images import load_image; "
        "Image.MAX_IMAGE_PIXELS = 10; load_image(sys.argv[1])"
    )
    command = [sys.executable, "-W", "default", "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tiff"])
def test_damaged_bytes_give_pixels_or_an_image_error(save, suffix):
    whole = save(photo(24, 16), f"image.{suffix}").read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            damaged[int(rng.random() ** 2 * len(whole))] = rng.choice([0, 255, rng.integers(256)])
        try:
            decoded = decode_image(bytes(damaged), "image", 8).pixels
        except ImageError:
            outcomes.add("error")
        else:
            outcomes.add((decoded.shape, decoded.dtype.name))
    assert outcomes <= {"error", ((8, 8, 3), "uint8")}


# ---- pages, channels, profiles, containers


def test_largest_page_of_a_tiff_is_read(write):
    thumbnail, mask, picture = (np.full((side, side), side, np.uint8) for side in (3, 9, 7))
    path = write(tiff((thumbnail, {254: 1}), (mask, {254: 4}), picture, picture + 1))
    assert (load_image(path) == 7).all()
    assert read_image(path).several
    assert not read_image(write(tiff(picture))).several


def test_a_small_file_that_would_take_hours_is_refused(write, save, monkeypatch):
    good = save(photo(64, 64), "photo.jpg", progressive=True).read_bytes()
    last = good.rindex(b"\xff\xda")
    film = b"\xff\xda" * 200  # as phones put behind a photo
    assert load_image(write(good + film)).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="a JPEG of more than 100 scans, which no program writes to be seen; save it again"):
        load_image(write(good[:-2] + good[last:-2] * 100 + good[-2:]))
    monkeypatch.setattr("mlkit.data.opening._MOST_PAGES", 3)
    assert load_image(write(tiff(*[np.zeros((3, 3), np.uint8)] * 3))).shape == (3, 3, 3)
    with pytest.raises(ImageError, match="a TIFF of more than 3 pages; write the one that is meant alone"):
        load_image(write(tiff(*[np.zeros((3, 3), np.uint8)] * 4)))


def test_small_preview_alone_is_refused(write):
    with pytest.raises(ImageError, match=r"a small preview of a picture that is not read \(a camera's raw file\?\)"):
        load_image(write(tiff((np.zeros((3, 3), np.uint8), {254: 1}))))


def test_page_that_cannot_be_read_is_not_replaced_by_its_thumbnail(write):
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(write(tiff(np.zeros((3, 3), np.uint8), np.zeros((9, 9), np.float16))))
    assert (load_image(write(tiff(np.zeros((9, 9), np.uint8), np.zeros((3, 3), np.float16)))) == 0).all()


@pytest.mark.parametrize("meaning", [{338: [0]}, {}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_fourth_channel_without_a_meaning_is_refused_or_left_out_and_never_composed(write, meaning, dtype):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 4), np.uint8)
    path = write(tiff((values if dtype == np.uint8 else values.astype(dtype) * 257, meaning)), "image.tif")
    with pytest.raises(ImageError, match=r"image\.tif: 1 channel beside the colours, .*; extra_channels: ignore reads"):
        load_image(path)
    assert (load_image(path, reading=Reading(extra_channels="ignore")) == values[..., :3]).all()


def test_fourth_channel_of_jpeg_2000_is_alpha_only_where_the_file_says_so(write):
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    said = BytesIO()
    Image.fromarray(values).save(said, "JPEG2000", irreversible=False)
    alpha = values[..., 3:] / 255
    assert np.abs(load_image(write(said.getvalue())) - (values[..., :3] * alpha + 255 * (1 - alpha))).max() < 1.01
    path = write(said.getvalue().replace(b"cdef", b"free"), "image.jp2")  # a box that says nothing
    with pytest.raises(ImageError, match="1 channel beside the colours"):
        load_image(path)
    assert (load_image(path, reading=Reading(extra_channels="ignore")) == values[..., :3]).all()


def test_alpha_of_a_tiff_stays_where_another_channel_is_left_out(write):
    values = np.array([[[9, 9, 9, 0, 77], [9, 9, 9, 255, 77]]], np.uint8)
    path = write(tiff((values, {338: [2, 0]})))
    assert load_image(path, reading=Reading(extra_channels="ignore")).tolist() == [[WHITE, [9, 9, 9]]]


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp"])
def test_colours_of_another_profile_become_those_of_srgb(save, kind):
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    adobe = rgb_profile(ADOBE, 563 / 256)
    options = {"lossless": True} if kind == "webp" else {"quality": 100, "subsampling": 0} if kind == "jpg" else {}
    path = save(Image.fromarray(values), f"image.{kind}", icc_profile=adobe, **options)
    with Image.open(path) as image:
        wanted = to_srgb(np.asarray(image.convert("RGB")), ADOBE, 563 / 256)
    assert np.abs(wanted - values).max() > 20, "the profile makes a difference"
    assert np.abs(load_image(path) - wanted).max() <= 2
    assert np.abs(load_image(path, size=64) - wanted).max() <= 2


def test_profile_of_srgb_changes_nothing_and_one_that_does_not_fit_neither(save):
    image = photo(32, 32)
    for icc in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        grey_profile(1.0),
        b"broken",
        b"x" * 500,
    ):
        assert (load_image(save(image, icc_profile=icc)) == np.asarray(image)).all()


def test_grey_profile_counts(save):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wanted = to_srgb(values[..., None].repeat(3, 2), SRGB, 1.8)
    assert np.abs(load_image(save(Image.fromarray(values), icc_profile=grey_profile(1.8))) - wanted).max() <= 2


@pytest.mark.parametrize("kind", ["jpg", "tiff"])
def test_cmyk_is_read_by_its_profile(save, kind):
    lab = np.zeros((2, 2, 2, 2, 3))
    lab[0, 0, 0, 0] = [100, 0, 0]  # paper
    lab[1, 0, 0, 0] = [60, 90, 60]  # a cyan ink that is orange
    cyan = save(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), f"image.{kind}", icc_profile=cmyk_profile(lab))
    assert np.abs(load_image(cyan).astype(int) - lab_to_srgb(60, 90, 60)).max() <= 4
    paper = save(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), f"image.{kind}", icc_profile=cmyk_profile(lab))
    assert load_image(paper).min() >= 252
    without = load_image(save(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), f"image.{kind}"))
    assert np.abs(without.astype(int) - [0, 255, 255]).max() <= 3


def lab_to_srgb(lightness, a, b):
    """CIE 1976, by hand, under D50."""
    y = (lightness + 16) / 116
    xyz = [
        white * (f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29))
        for f, white in zip((y + a / 500, y, y - b / 200), WHITE_POINT, strict=True)
    ]
    light = np.clip(np.array(xyz) @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def test_lab_becomes_colour(save):
    path = save(Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (153, 138, 148)]), "image.tiff")
    assert np.abs(load_image(path).astype(int) - lab_to_srgb(60, 10, 20)).max() <= 3


def test_png_is_read_whatever_its_text_and_profiles(write):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    long = zlib.compress(bytes(3 << 20))
    text, icc = chunk(b"zTXt", b"Comment\0\0" + long), chunk(b"iCCP", b"x\0\0" + long)
    wrong = chunk(b"tEXt", b"Title\0x", checksum=1)
    for chunks in ([text], [icc], [wrong], [text, icc, wrong, chunk(b"tIME", b"x")], [chunk(b"eXIf", b"x", checksum=1)]):
        assert (load_image(write(png(values, *chunks))) == values).all()
    adobe = chunk(b"iCCP", b"x\0\0" + zlib.compress(rgb_profile(ADOBE, 563 / 256)))
    for chunks in ([adobe], [text, adobe]):
        assert np.abs(load_image(write(png(values, *chunks))) - to_srgb(values, ADOBE, 563 / 256)).max() <= 2
    end = png(values)
    assert (load_image(write(end[:-12] + text + end[-12:])) == values).all()


def test_png_stays_an_error_where_pixels_depend_on_what_is_damaged(write):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    whole = png(noise, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))))
    damaged = bytearray(whole)
    damaged[whole.index(b"IDAT") + 600] ^= 1
    for content in (whole[:-200], bytes(damaged), png(noise, chunk(b"tRNS", bytes(6), checksum=1))):
        with pytest.raises(ImageError):
            load_image(write(content))


def test_limit_of_the_size_is_a_setting_and_is_named(save, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)  # as if Pillow's own limit were as low
    path = save(photo(5, 4))
    with pytest.raises(ImageError, match=r"more than 178,956,970 pixels, .* raise max_pixels"):
        load_image(path)
    assert load_image(path, reading=Reading(max_pixels=Reading.max_pixels + 1)).shape == (4, 5, 3)
    with pytest.raises(ImageError, match=r"image\.png: more than 19 pixels, .* raise max_pixels"):
        load_image(path, reading=Reading(max_pixels=19))


@pytest.fixture
def heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # which in HEIC is a remark: the file itself says how its pixels are turned
    image = Image.new("RGB", (64, 32), (200, 30, 60))
    image.paste((20, 120, 220), (0, 0, 32, 32))
    image.save(tmp_path / "phone.heic", quality=95, exif=exif)
    return tmp_path / "phone.heic"


def test_heic_is_read(heic):
    decoded = load_image(heic)
    assert decoded.shape == (32, 64, 3)
    assert np.abs(decoded[:, 4:28].astype(int) - [20, 120, 220]).max() <= 4
    assert np.abs(decoded[:, 36:60].astype(int) - [200, 30, 60]).max() <= 4


def test_heic_is_named_where_its_package_is_not_there(heic, monkeypatch):
    monkeypatch.setattr("mlkit.data.opening.HEIF", "")
    monkeypatch.setattr(Image, "open", lambda *_: (_ for _ in ()).throw(UnidentifiedImageError))
    with pytest.raises(
        ImageError, match=r"phone\.heic: a HEIC picture, which needs a package more: pip install pillow-heif"
    ):
        load_image(heic)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_read(save):
    assert (
        np.abs(
            load_image(save(Image.new("RGB", (16, 16), (200, 30, 60)), "image.avif", quality=95)).astype(int) - [200, 30, 60]
        ).max()
        <= 4
    )


# ---- the same through every door

KINDS = {  # file -> its content and its pixels, 8 x 8, with value_range [0, 4095] and extra_channels ignore
    "grey.png": lambda v: (png(v[..., 0]), v[..., :1]),
    "colour.png": lambda v: (png(v[..., :3]), v[..., :3]),
    "opaque.png": lambda v: (png(np.dstack([v[..., :3], v[..., 0] * 0 + 255])), v[..., :3]),
    "12 bits.png": lambda v: (png(v[..., 0] * np.uint16(16)), on_12_bits(v[..., :1])),
    "12 bits of colour.png": lambda v: (png(v[..., :3] * np.uint16(16)), on_12_bits(v[..., :3])),
    "12 bits.tif": lambda v: (tiff(v[..., 0] * np.uint16(16), order=">"), on_12_bits(v[..., :1])),
    "signed.tif": lambda v: (tiff(v[..., 0] * np.int16(16)), on_12_bits(v[..., :1])),
    "float.tif": lambda v: (tiff(v[..., 0] * np.float32(16), deflate=True), on_12_bits(v[..., :1])),
    "double, big-endian.tif": lambda v: (tiff(v[..., 0] * np.float64(16), order=">", deflate=True), on_12_bits(v[..., :1])),
    "white is zero.tif": lambda v: (tiff((v[..., 0] * np.uint16(16), {262: 0})), 255 - on_12_bits(v[..., :1])),
    "infrared.tif": lambda v: (tiff((v, {338: [0]})), v[..., :3]),
    "pages.tif": lambda v: (tiff(v[:2, :2, 0], v[..., 0]), v[..., :1]),
    "long text.png": lambda v: (png(v[..., :3], chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20)))), v[..., :3]),
    "adobe.png": lambda v: (
        png(v[..., :3], chunk(b"iCCP", b"x\0\0" + zlib.compress(rgb_profile(ADOBE, 563 / 256)))),
        to_srgb(v[..., :3], ADOBE, 563 / 256),
    ),
    "bitmap.bmp": lambda v: (saved(v[..., :3], "BMP"), v[..., :3]),
    "first frame.gif": lambda v: (
        saved(v[..., 0], "GIF", save_all=True, append_images=[Image.new("L", (8, 8))]),
        v[..., :1],
    ),
    "frames.webp": lambda v: (
        saved(v[..., :3], "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (8, 8))]),
        v[..., :3],
    ),
    "jpeg2000.jp2": lambda v: (saved(v[..., :3], "JPEG2000"), v[..., :3]),
    # what these show is tested above; their codecs lose too much of noise
    "photo.jpg": lambda v: (saved(v[..., :3], "JPEG"), None),
    "inks.jpg": lambda v: (saved(v, "JPEG", mode="CMYK"), None),
    "photo.avif": lambda v: (saved(v[..., :3], "AVIF") if features.check("avif") else png(v), None),
    "phone.heic": lambda v: (saved(v[..., :3], "HEIF") if find_spec("pillow_heif") else png(v), None),
}


def on_12_bits(values):
    return np.round(values.astype(float) * 16 * 255 / 4095)


def saved(values, kind, mode=None, **options):
    file = BytesIO()
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    image = Image.fromarray(values)
    (Image.merge(mode, image.split()) if mode else image).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def every_kind(tmp_path):
    """A data set of every kind of file: its settings, the names of the files, and what numpy says that they hold."""
    rng, wanted = np.random.default_rng(0), {}
    (tmp_path / "images").mkdir()
    for name, make in KINDS.items():
        content, pixels = make(rng.integers(0, 256, (8, 8, 4), np.uint8))
        (tmp_path / "images" / name).write_bytes(content)
        wanted[name] = None if pixels is None else np.broadcast_to(pixels, (8, 8, 3))
    rows = "".join(f'"{name}",{i % 2}\n' for i, name in enumerate(wanted))
    (tmp_path / "labels.csv").write_text(f"image,a\n{rows}", encoding="utf-8")
    data = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels.csv")}
    return data | {"value_range": [0, 4095], "extra_channels": "ignore", "strict": True}, wanted


def test_every_door_gives_the_same_pixels_for_every_kind_of_file(every_kind, monkeypatch, tmp_path):
    data, wanted = every_kind
    source = DataSource(**data)
    dataset = source.open(8)
    trained = dataset.batch(np.arange(len(wanted)))[0]
    for pixels, (name, expected) in zip(trained, wanted.items(), strict=True):
        assert expected is None or np.abs(pixels - expected).max() <= (2 if name == "adobe.png" else 0), name
    assert "of several pages, the largest is read, of several frames the first: pages.tif and 2 more" in str(dataset)

    folder = tmp_path / "images"
    alone = [load_image(folder / name, 8, source.reading) for name in wanted]  # notebook 04
    np.testing.assert_array_equal(alone, trained)
    config = TrainConfig(backbone=TINYNET, weights="none", image_size=8)
    run = Run.create("r", Recipe(source, config).parameters(), dataset.fingerprint)
    np.testing.assert_array_equal(read_images(run, list(wanted)), trained)  # notebook 05 and TensorBoard

    network = build_model(TINYNET, 1, "none")
    meta = model_meta(network, dataset, config, np.array([0.5]), 1)
    save_model(run / "model.pth", network, meta)
    seen = []
    monkeypatch.setattr(views, "compute_logits", lambda _, pixels, *rest: seen.append(pixels) or torch.zeros(len(pixels), 1))
    (folder / "notes.csv").write_text("no picture", encoding="utf-8")
    assert main(["predict", str(folder), "--model", str(run / "model.pth")]) == 0
    np.testing.assert_array_equal(torch.cat(seen).numpy(), trained[[list(wanted).index(name) for name in sorted(wanted)]])


def test_model_of_before_reads_as_it_did(every_kind, tmp_path, capsys):
    data, _ = every_kind
    network = build_model(TINYNET, 1, "none")
    dataset = DataSource(**data).open(8)
    meta = model_meta(network, dataset, TrainConfig(backbone=TINYNET, image_size=8), np.array([0.5]), 1)
    del meta["reading"]
    save_model(tmp_path / "model.pth", network, meta)
    predictor = Predictor.load(tmp_path / "model.pth")
    assert predictor.reading == Reading()
    capsys.readouterr()
    (tmp_path / "dark.png").write_bytes(png(np.arange(64, dtype=np.uint16).reshape(8, 8)))
    predictor.predict([tmp_path / "dark.png", tmp_path / "images" / "pages.tif"])
    said = capsys.readouterr().out
    assert "value_range 0 to 65535: of 1 uint16 image, 1 keep less than a quarter of their grey levels" in said
    assert said.count("of several pages, the largest is read") == 1


# ---- what of a folder is a picture


def test_what_is_no_picture_in_a_folder_is_passed_over(tmp_path):
    whole = png(np.zeros((2, 2, 3), np.uint8))
    pictures = ["a.png", "broken.jpg", "deep/B.TIF", "no suffix", "photo.dat"]
    others = [".DS_Store", "._a.png", "Thumbs.db", "a.xmp", "table.csv", "deep/.hidden.png", "notes.txt", "empty", "d.eps"]
    hidden = [".ipynb_checkpoints/a.png", "deep/.git/a.png", ".git/b.png"]
    for name in [*pictures, *others, *hidden]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = path.suffix == ".png" or (name in pictures and name != "broken.jpg")
        path.write_bytes(whole if picture else name.encode() * 20)
    (tmp_path / "empty").write_bytes(b"")
    below = list(walk_images(tmp_path))
    found, passed_over = ([path for path, is_picture in below if is_picture is kind] for kind in (True, False))
    assert found == sorted(tmp_path / name for name in pictures)
    folders = [".ipynb_checkpoints", "deep/.git", ".git"]
    assert passed_over == sorted(tmp_path / name for name in [*others, *folders])


# ---- the table in data/README.md

ROWS = {  # first column -> tests of it
    "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PPM ...": [
        test_content_decides_and_not_the_suffix,
        test_avif_is_read,
    ],
    "HEIC": [test_heic_is_read, test_heic_is_named_where_its_package_is_not_there],
    "turned by EXIF": [test_exif_orientation_is_applied],
    "grey, palette, 1 bit, CMYK, LAB": [test_palette_becomes_colour, test_cmyk_jpeg_becomes_colour, test_lab_becomes_colour],
    "transparent": [test_alpha_is_composed_on_white],
    "with a colour profile": [test_colours_of_another_profile_become_those_of_srgb, test_cmyk_is_read_by_its_profile],
    "deeper than 8 bits": [test_every_door_gives_the_same_pixels_for_every_kind_of_file],  # and test_levels.py
    "more channels": [test_fourth_channel_without_a_meaning_is_refused_or_left_out_and_never_composed],
    "several pages or frames": [test_largest_page_of_a_tiff_is_read, test_first_frame_of_an_animation_is_taken],
    "damaged": [test_truncated_file_is_refused, test_png_is_read_whatever_its_text_and_profiles],
    "very large": [test_limit_of_the_size_is_a_setting_and_is_named],
    "no picture": [test_file_that_is_no_image_is_refused, test_what_is_no_picture_in_a_folder_is_passed_over],
}


def test_table_of_image_files_has_a_test_for_each_row():
    page = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    table = page.partition("| image files | are read |\n|---|---|\n")[2].partition("\n\n")[0]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()] == list(ROWS)


# ---- real photos


@pytest.mark.skipif(not SHARED.exists(), reason="the real data sets are not here")
@pytest.mark.parametrize("name", ["aimonk", "scenes"])
def test_real_photos_decode(name):
    files = sorted((SHARED / name / "images").iterdir())
    alpha = [file for file in files if name == "aimonk" and file.name in ("image_43.jpg", "image_111.jpg")]
    for file in files[:: len(files) // 28] + alpha:
        decoded = load_image(file, size=64)
        assert decoded.shape == (64, 64, 3)
        assert decoded.std() > 1, file.name
    for file in alpha:
        with Image.open(file) as image:
            assert image.format == "PNG"
            seen_through = np.asarray(image.convert("RGBA"))[..., 3] == 0
        assert (load_image(file)[seen_through] == 255).all()
