"""Any image file gives the RGB pixels that a person sees, or an error that names the file and the reason."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from conftest import SHARED
from PIL import ExifTags, Image, ImageFile

from mlkit.data.images import MAX_PIXELS, decode_image, load_image
from mlkit.errors import ImageError

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


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 100, 255], np.int32, [0, 100, 255]),
        ([0, 25700, 65535], np.int32, [0, 100, 255]),
        ([-5, 0, 2**31 - 1], np.int32, [0, 0, 255]),
        ([0, 0.4, 1], np.float32, [0, 102, 255]),
        ([0, 100, 255], np.float32, [0, 100, 255]),
        ([0, 25700, 65535], np.float32, [0, 100, 255]),
        ([np.nan, np.inf, 1], np.float32, [0, 0, 255]),
        ([0, 0, 0], np.float32, [0, 0, 0]),
    ],
)
def test_32_bit_and_float_grey_are_scaled_by_the_range_that_holds_them(save, values, dtype, expected):
    assert load_image(save(pixels([values], dtype), "image.tiff"))[0, :, 0].tolist() == expected


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
        png_header(MAX_PIXELS + 1, 1),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0),
    ],
)
def test_decompression_bomb_is_refused_from_its_header(write, monkeypatch, limit, content):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("the bomb was decoded"))
    content += b",\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;" if content.startswith(b"GIF") else b""
    with pytest.raises(ImageError, match=r"image\.png: more than 178,956,970 pixels, a decompression bomb perhaps"):
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
            decoded = decode_image(bytes(damaged), "image", 8)
        except ImageError:
            outcomes.add("error")
        else:
            outcomes.add((decoded.shape, decoded.dtype.name))
    assert outcomes <= {"error", ((8, 8, 3), "uint8")}


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
