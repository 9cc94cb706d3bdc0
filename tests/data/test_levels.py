"""Files deeper than 8 bits: the values that numpy has, one range for a data set, and a stop where it would be a bad one."""

import itertools
import re

import numpy as np
import pytest
from imagefiles import png, tiff

from mlkit.data.images import load_image
from mlkit.data.levels import full_range
from mlkit.data.reading import Reading
from mlkit.data.source import DataSource
from mlkit.errors import ImageError, ParameterError

RNG = np.random.default_rng(0)
KINDS = ("uint16", "int16", "uint32", "int32", "float32", "float64", "int8")


def expected(values, low, high):
    """The rule: low is 0, high is 255, what lies outside is cut off."""
    return np.clip(np.round((values.astype(np.float64) - low) * 255 / (high - low)), 0, 255)


def draw(kind, shape=(6, 5)):
    if kind.startswith("float"):
        return RNG.normal(size=shape).astype(kind)
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, shape, kind, endpoint=True)


@pytest.fixture
def read(tmp_path):
    def read(content, **settings):
        (tmp_path / "image.tif").write_bytes(content)
        return load_image(tmp_path / "image.tif", reading=Reading(**settings))

    return read


@pytest.mark.parametrize("kind", KINDS)
def test_grey_values_are_those_of_numpy(read, kind):
    values = draw(kind)
    low, high = (-1.5, 1.25) if kind.startswith("float") else full_range(kind)
    for order, deflate, white_is_zero in itertools.product("<>", (False, True), (False, True)):
        content = tiff((values, {262: 0} if white_is_zero else {}), order=order, deflate=deflate)
        levels = expected(values, low, high)
        levels = 255 - levels if white_is_zero else levels
        found = read(content, value_range=[low, high])
        assert (found == levels[..., None]).all(), (order, deflate, white_is_zero)
        if not kind.startswith("float"):
            assert (read(content) == found).all(), "the whole range of the type"


@pytest.mark.parametrize("extra", [{}, {338: [2]}, {338: [0]}])
def test_colours_of_16_bits_are_those_of_numpy(read, extra):
    values = draw("uint16", (6, 5, 4 if extra else 3))
    if extra == {338: [2]}:
        values[..., 3] = 65535  # opaque
    for order, planar in itertools.product("<>", (1, 2)):
        if planar == 2 and extra:
            continue  # nothing reads it; an error
        for low, high in ((0, 65535), (1000, 5095)):
            found = read(
                tiff((values, extra | {284: planar}), order=order), value_range=[low, high], extra_channels="ignore"
            )
            assert (found == expected(values[..., :3], low, high)).all(), (order, planar)
    content = tiff(values, order="<", deflate=True) if not extra else tiff((values, extra), deflate=True)
    assert (read(content, extra_channels="ignore") == expected(values[..., :3], 0, 65535)).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_is_that_of_numpy(read, channels):
    values = draw("uint16", (6, 5, channels))
    if channels in (2, 4):
        values[..., -1] = [[0], [65535]] * 3
    colours = values[..., :1] if channels < 3 else values[..., :3]
    for low, high in ((0, 65535), (0, 4095)):
        found = read(png(values), value_range=[low, high])
        wanted = np.broadcast_to(expected(colours, low, high), found.shape).copy()
        if channels in (2, 4):
            wanted[::2] = 255  # nothing to be seen on white
        assert (found == wanted).all()


def test_one_colour_of_16_bits_that_is_transparent_becomes_white(read):
    from imagefiles import chunk

    values = np.array([[[1, 2, 3], [257, 2, 3]]], np.uint16)
    assert read(png(values, chunk(b"tRNS", b"\0\1\0\2\0\3")))[0].tolist() == [[255] * 3, [1, 0, 0]]
    assert read(png(values[..., 0], chunk(b"tRNS", b"\1\1")))[0].tolist() == [[0] * 3, [255] * 3]


def test_colours_that_stand_apart_and_compressed_are_refused_with_the_mend(read):
    with pytest.raises(ImageError, match="write it with PlanarConfiguration 1"):
        read(tiff((draw("uint16", (6, 5, 3)), {284: 2}), deflate=True))


@pytest.mark.parametrize(("bits", "kind"), [(16, "int16"), (32, "int32"), (-32, "float32")])
def test_other_formats_have_their_own_types(read, bits, kind):
    values = (np.arange(16) * 5000 - 30000).astype(kind).reshape(4, 4)
    cards = {"SIMPLE": "T", "BITPIX": bits, "NAXIS": 2, "NAXIS1": 4, "NAXIS2": 4}
    header = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in cards.items()) + "END"
    fits = header.ljust(2880).encode() + values[::-1].astype(values.dtype.newbyteorder(">")).tobytes().ljust(2880, b"\0")
    assert (read(fits, value_range=[-30000, 45000])[..., 0] == expected(values, -30000, 45000)).all()
    grey = b"P5 4 1 65535\n" + np.array([0, 257, 25700, 65535], ">u2").tobytes()
    assert read(grey)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_what_is_no_number_is_black(read):
    values = np.array([[np.nan, np.inf, -np.inf, 0.5, 1]], np.float32)
    assert read(tiff(values))[0, :, 0].tolist() == [0, 0, 0, 128, 255]


@pytest.mark.parametrize("value", [1.001, -0.001])
def test_floats_beyond_their_range_stop_a_single_file_too(read, value):
    with pytest.raises(ImageError, match=r"image\.tif: float32 values from .* beyond 0 to 1; .*value_range"):
        read(tiff(np.array([[0.5, value]], np.float32)))
    assert read(tiff(np.array([[0, value]], np.float32)), value_range=[0, 1]).max() in (0, 255)


@pytest.mark.parametrize("kind", ["float16", "uint64"])
def test_tiff_that_is_not_read_is_named(read, kind):
    with pytest.raises(ImageError, match=r"a TIFF of 1 channels of \d\d bits \(.*\), which is not read; write it as"):
        read(tiff(np.zeros((2, 2), kind)))
    with pytest.raises(ImageError, match=r"a TIFF of 3 channels of 32 bits \(floating point\)"):
        read(tiff(np.zeros((2, 2, 3), np.float32)))


@pytest.mark.parametrize("value", [[1], [4095, 0], [1, 1], [0, "x"], [0, float("nan")], "full", [0, float("inf")], 5])
def test_range_that_cannot_be_is_refused(value):
    with pytest.raises(ParameterError, match="value_range is"):
        Reading(value_range=value)


# ---- a data set


@pytest.fixture
def dataset(tmp_path):
    """Open a data set of these arrays: a TIFF of each that is deep, a PNG of those of 8 bits."""

    def dataset(*arrays, size=4, **settings):
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        names = [f"{i}.tif" for i in range(len(arrays))]
        for name, values in zip(names, arrays, strict=True):
            (folder / name).write_bytes(png(values) if values.dtype == np.uint8 else tiff(values))
        labels = tmp_path / "labels.csv"
        labels.write_text("image,a\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(names)), encoding="utf-8")
        return DataSource(images=str(folder), labels=str(labels), **settings).open(size)

    return dataset


def grid(low, high, kind, side=64):
    """All levels from low to high."""
    return np.linspace(low, high, side * side).astype(kind).reshape(side, side)


def test_12_bits_in_files_of_16_stop_with_the_range_ready_to_paste(dataset):
    files = [grid(0, 4000 + i, np.uint16) for i in range(3)]
    with pytest.raises(ImageError) as error:
        dataset(*files, grid(0, 255, np.uint8))
    said = "images: values of 3 uint16 images lie from 0 to 4002; 3 would keep fewer than half of their grey levels; "
    assert said in str(error.value)
    (mend,) = re.findall(r"(value_range): (\[.*\])$", str(error.value))
    assert mend == ("value_range", "[0, 4095]")
    pixels, _ = dataset(*files, grid(0, 255, np.uint8), size=64, value_range=[0, 4095]).batch(np.arange(4))
    for i, values in enumerate(files):
        assert (pixels[i, ..., 0] == expected(values, 0, 4095)).all()
    assert (pixels[3, ..., 0] == grid(0, 255, np.uint8)).all(), "8 bits stay as they are"


@pytest.mark.parametrize(
    ("values", "found", "mend"),
    [
        (grid(-1024, 3071, np.int16), "1 int16 image lie from -1024 to 3071", "[-1024, 3071]"),
        (grid(0, 255, np.int32), "1 int32 image lie from 0 to 255", "[0, 255]"),
        (grid(0, 255, np.uint32), "1 uint32 image lie from 0 to 255", "[0, 255]"),
        (grid(0, 1, np.uint16), "1 uint16 image lie from 0 to 1;", "[0, 1]"),
        (grid(0, 0.01, np.float32), "1 float32 image lie from 0 to 0.01; 1 would keep", "[0, 0.01]"),
        (grid(0, 1.001, np.float32), "1 float32 image lie from 0 to 1.001; 1 reach beyond 0 to 1", "[0, 1.001]"),
        (grid(-0.5, 1, np.float64), "1 float64 image lie from -0.5 to 1; 1 reach beyond 0 to 1", "[-0.5, 1]"),
    ],
)
def test_every_kind_stops_where_its_own_range_would_be_a_bad_one(dataset, values, found, mend):
    with pytest.raises(ImageError, match=re.escape(found)) as error:
        dataset(values)
    assert str(error.value).endswith(f"value_range: {mend}")


def test_one_pixel_beyond_stops_all_instead_of_turning_one_file_black(dataset):
    files = [RNG.random((8, 8)).astype(np.float32) for _ in range(4)]
    files[2][3, 3] = 1.001
    with pytest.raises(ImageError, match=r"4 float32 images lie from .* to 1\.001; 1 reach beyond 0 to 1"):
        dataset(*files)
    with pytest.raises(ImageError, match="reach beyond"):  # out of the cache too
        dataset(*files)
    opened = dataset(*files, size=8, value_range=[0, 1])
    pixels, _ = opened.batch(np.arange(4))
    assert (pixels[..., 0] == np.stack([expected(file, 0, 1) for file in files])).all()
    assert "value_range 0 to 1: of 4 float32 images, 1 hold values outside, which are cut off" in str(opened)


def test_16_bits_that_are_used_stay_and_a_dark_picture_among_them_is_said(dataset):
    opened = dataset(grid(0, 65535, np.uint16), grid(100, 60000, np.uint16), grid(0, 300, np.uint16), size=64)
    pixels, _ = opened.batch(np.arange(3))
    assert (pixels[1, ..., 0] == expected(grid(100, 60000, np.uint16), 0, 65535)).all()
    assert "value_range 0 to 65535: of 3 uint16 images, 1 keep less than a quarter of their grey levels" in str(opened)
    assert "value_range" not in str(dataset(grid(0, 65535, np.uint16)))
    few = RNG.integers(10_000, 50_000, (15, 20), np.uint16)  # many values, and few of the same grey level
    assert "value_range" not in str(dataset(few, few))


def test_blank_pictures_decide_nothing(dataset):
    blank = np.full((8, 8), 7, np.uint16)
    dataset(blank, blank)
    with pytest.raises(ImageError, match=r"value_range: \[0, 4095\]"):
        dataset(blank, blank, blank, grid(0, 4095, np.uint16))


def test_another_range_is_another_cache_and_another_data_set(dataset):
    values = grid(0, 4095, np.uint16)
    one, two = dataset(values, size=64, value_range=[0, 4095]), dataset(values, size=64, value_range=[0, 8191])
    assert one.fingerprint != two.fingerprint
    assert (one.batch(np.array([0]))[0][0, ..., 0] == expected(values, 0, 4095)).all()
    assert (two.batch(np.array([0]))[0][0, ..., 0] == expected(values, 0, 8191)).all()


def test_settings_are_typed_in_a_shell_and_in_yaml(tmp_path):
    from mlkit.training.recipe import Recipe

    recipe = tmp_path / "r.yaml"
    recipe.write_text("value_range: [0, 4095]\nmax_pixels: 1000\n", encoding="utf-8")
    assert Recipe.read(str(recipe)).source.reading == Reading(value_range=[0.0, 4095.0], max_pixels=1000)
    assert Recipe.read("", {"value_range": "[-1e3, 3.5]"}).source.value_range == [-1000.0, 3.5]
    assert Recipe.read("", {"value_range": "auto"}).source.reading == Reading()
    with pytest.raises(ParameterError, match="value_range is"):
        Recipe.read("", {"value_range": "[0, high]"})
