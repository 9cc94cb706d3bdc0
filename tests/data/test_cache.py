"""The cache never shows other pixels than `load_image`, whatever happens while it is built, and decodes nothing twice."""

import itertools
import os
import pickle
import subprocess
import sys
import textwrap
from collections import namedtuple

import numpy as np
import pytest
from conftest import HANG
from PIL import Image

import mlkit.data.cache as cache_module
from mlkit.data import memmap
from mlkit.data.cache import build_cache
from mlkit.data.images import decode_image, load_image, read_bytes
from mlkit.errors import ImageError, MlkitError

SIZE = 16
ROW = SIZE * SIZE * 3  # bytes
NAMES = ["a.png", "deep/b.png", "c, d.png", "NA", 'q"é.png', "007"]
Usage = namedtuple("Usage", "total used free")


def draw(path, seed, side=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(NAMES):
        draw(tmp_path / "images" / name, seed)
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded, in order."""
    calls = []

    def count(data, path, *how):
        calls.append(path.name)
        return decode_image(data, path, *how)

    monkeypatch.setattr(cache_module, "decode_image", count)
    return calls


def read(cache, names):
    return cache.read(np.array([cache.entries[name].row for name in names]))


def assert_right(cache, folder, names=NAMES):
    np.testing.assert_array_equal(read(cache, names), [load_image(folder / name, cache.size) for name in names])


def in_other_process(code, folder, names=NAMES, wait=True):
    """Run `code` in a process where `folder`, `names` and `size` are known, and decoding can be replaced."""
    start = f"""
        import os, time
        from pathlib import Path
        import mlkit.data.cache as module
        import mlkit.data.memmap as memmap
        decode, calls = module.decode_image, []
        folder, names, size = Path({str(folder)!r}), {names!r}, {SIZE}
    """
    command = [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if wait:
        process.wait(HANG)
    return process


def test_content_decides_not_the_times_of_a_file(folder, decoded):
    def paint(colour):
        Image.new("RGB", (20, 20), colour).save(folder / NAMES[0], format="BMP")  # as many bytes, whatever it shows
        os.utime(folder / NAMES[0], ns=(0, 0))  # as an archive without times leaves it

    paint("red")
    build_cache(folder, NAMES, SIZE)
    paint("blue")
    cache = build_cache(folder, NAMES, SIZE)
    assert_right(cache, folder)
    before = len(decoded)
    for name in NAMES:
        os.utime(folder / name)
    again = build_cache(folder, NAMES, SIZE)
    assert_right(again, folder)
    assert len(decoded) == before, "what was only touched is not decoded again"
    assert read_index(again) == read_index(build_cache(folder, NAMES, SIZE))


def read_index(cache):
    return (cache.path / "index.csv").read_text(encoding="utf-8")


def test_pixels_are_those_of_load_image_and_the_second_build_decodes_nothing(folder, decoded):
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert len(decoded) == len(NAMES)
    cache = build_cache(folder, NAMES, SIZE)
    assert_right(cache, folder)
    assert len(decoded) == len(NAMES)
    assert cache.problems == {}
    assert read(cache, NAMES[:2]).shape == (2, SIZE, SIZE, 3)
    assert read(cache, NAMES).dtype == np.uint8


def test_digest_tells_equal_files(folder):
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    entries = build_cache(folder, [*NAMES, "copy.png"], SIZE).entries
    assert entries["copy.png"].digest == entries["a.png"].digest
    assert len({entry.digest for entry in entries.values()}) == len(NAMES)


def test_changed_or_added_image_is_the_only_one_decoded_again(folder, decoded):
    build_cache(folder, NAMES, SIZE)
    decoded.clear()
    draw(folder / "a.png", seed=50, side=30)
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert decoded == ["a.png"]
    draw(folder / "new.png", seed=51)
    assert_right(build_cache(folder, [*NAMES, "new.png"], SIZE), folder, [*NAMES, "new.png"])
    assert decoded == ["a.png", "new.png"]


def test_removed_image_is_reported_and_the_others_stay(folder, decoded):
    build_cache(folder, NAMES, SIZE)
    decoded.clear()
    (folder / "a.png").unlink()
    cache = build_cache(folder, NAMES, SIZE)
    assert cache.problems == {"a.png": "no such file"}
    assert_right(cache, folder, NAMES[1:])
    assert decoded == []


def test_broken_image_is_reported_and_not_decoded_again_until_it_changes(folder, decoded):
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.jpg").touch()
    os.mkfifo(folder / "pipe")  # nobody writes into it: to read it would never end
    names = [*NAMES, "text.jpg", "empty.jpg", "gone.jpg", "pipe"]
    problems = {
        "text.jpg": "not an image in any known format",
        "empty.jpg": "the file is empty (0 bytes)",
        "gone.jpg": "no such file",
        "pipe": "not a file",
    }
    assert build_cache(folder, names, SIZE).problems == problems
    decoded.clear()
    cache = build_cache(folder, names, SIZE)
    assert cache.problems == problems
    assert_right(cache, folder)
    assert decoded == []
    draw(folder / "text.jpg", seed=60)
    cache = build_cache(folder, names, SIZE)
    assert_right(cache, folder, [*NAMES, "text.jpg"])
    assert "text.jpg" not in cache.problems
    assert decoded == ["text.jpg"]


def test_folder_without_a_single_good_image_gives_problems_only(folder):
    assert build_cache(folder, ["x.jpg", "y.jpg"], SIZE).problems == dict.fromkeys(["x.jpg", "y.jpg"], "no such file")


def test_file_that_could_not_be_read_is_tried_again(folder, monkeypatch):
    """A permission or a network disk can be mended without a change of the file's size or date."""

    def refuse(path):
        if path.name == "a.png":
            raise ImageError(f"{path}: cannot be read (Permission denied)")
        return read_bytes(path)

    monkeypatch.setattr(cache_module, "read_bytes", refuse)
    assert build_cache(folder, NAMES, SIZE).problems == {"a.png": "cannot be read (Permission denied)"}
    monkeypatch.setattr(cache_module, "read_bytes", read_bytes)
    cache = build_cache(folder, NAMES, SIZE)
    assert cache.problems == {}
    assert_right(cache, folder)


def test_interrupted_build_goes_on_where_it_stopped(folder, decoded, monkeypatch):
    def interrupt(futures, **options):
        yield from itertools.islice(futures, 4)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "bar", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_cache(folder, NAMES, SIZE)
    decoded.clear()
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert len(decoded) == 2


def test_interruption_inside_a_decoding_thread_leaves_no_wrong_pixels(folder, decoded, monkeypatch):
    def interrupt(data, path, *how):
        if path.name == NAMES[3]:
            raise KeyboardInterrupt
        return decode_image(data, path, *how)

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "decode_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_cache(folder, NAMES, SIZE)
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert NAMES[3] in decoded


def kill_build(folder, died_at, part_bytes=memmap.PART_BYTES):
    """Build in a process of its own, which dies once so many images are committed."""
    code = f"""
        memmap.PART_BYTES, module._COMMIT_SECONDS = {part_bytes}, -1
        def committed():
            return sum(len(p.read_bytes().splitlines()) - 1 for p in Path(os.environ["MLKIT_OUTPUTS"]).rglob("index.csv"))
        def dies(data, path, *how):
            calls.append(path)
            if len(calls) > {died_at}:
                while committed() < {died_at}:
                    time.sleep(0.01)
                os._exit(9)
            return decode(data, path, *how)
        module.decode_image = dies
        module.build_cache(folder, names, size)
    """
    assert in_other_process(code, folder).returncode == 9


def test_killed_build_goes_on_where_it_stopped(folder, decoded):
    kill_build(folder, 4)
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert len(decoded) == 2


def test_build_killed_before_anything_was_committed_begins_anew(folder, outputs):
    code = """
        def dies(data, path, *how):
            calls.append(path)
            if len(calls) > 4:
                os._exit(9)
            return decode(data, path, *how)
        module.decode_image = dies
        module.build_cache(folder, names, size)
    """
    assert in_other_process(code, folder).returncode == 9
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    (pixels,) = outputs.rglob("pixels.u8")
    assert pixels.stat().st_size == len(NAMES) * SIZE * SIZE * 3


def test_two_processes_building_at_once_share_the_work(folder):
    code = """
        def slow(data, path, *how):
            calls.append(path)
            time.sleep(0.05)
            return decode(data, path, *how)
        module.decode_image = slow
        module.build_cache(folder, names, size)
        print(len(calls))
    """
    processes = [in_other_process(code, folder, wait=False) for _ in range(2)]
    outputs = [process.communicate(timeout=HANG) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(int(out) for out, _ in outputs) == [0, len(NAMES)]
    assert_right(build_cache(folder, NAMES, SIZE), folder)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of two rows, so that the six images need three."""
    monkeypatch.setattr(memmap, "PART_BYTES", int(2.5 * ROW))


def files_of(outputs):
    return sorted(outputs.rglob("pixels*.u8"), key=lambda file: (len(file.name), file.name))


def test_three_parts_hold_the_same_bytes_as_one_file_and_are_read_in_any_order(folder, outputs, tmp_path, monkeypatch):
    build_cache(folder, NAMES, SIZE)
    (whole,) = files_of(outputs)
    monkeypatch.setattr(memmap, "PART_BYTES", int(2.5 * ROW))
    monkeypatch.setenv("MLKIT_OUTPUTS", str(tmp_path / "parted"))
    cache = build_cache(folder, NAMES, SIZE)
    parts = files_of(tmp_path / "parted")
    assert [part.name for part in parts] == ["pixels.u8", "pixels-1.u8", "pixels-2.u8"]
    assert b"".join(part.read_bytes() for part in parts) == whole.read_bytes()
    rng = np.random.default_rng(0)
    for count in (0, 1, 5, 40):
        names = list(rng.choice(NAMES, count))
        pixels = [load_image(folder / name, SIZE) for name in names]
        np.testing.assert_array_equal(read(cache, names), np.reshape(pixels, (-1, SIZE, SIZE, 3)))
    assert_right(pickle.loads(pickle.dumps(cache)), folder)


@pytest.mark.usefixtures("small_parts")
def test_part_that_is_gone_costs_the_decoding_of_its_images_and_disturbs_nobody_who_reads_it(folder, outputs, decoded):
    old = build_cache(folder, NAMES, SIZE)
    before = read(old, NAMES)
    decoded.clear()
    files_of(outputs)[1].unlink()
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert sorted(decoded) == sorted(os.path.basename(name) for name in NAMES[2:4])
    np.testing.assert_array_equal(read(old, NAMES), before)
    for seed in range(8):  # most rows are of no file, and all parts are begun anew
        draw(folder / "a.png", 400 + seed, side=21 + seed % 2)
        assert_right(build_cache(folder, NAMES, SIZE), folder)
    np.testing.assert_array_equal(read(old, NAMES), before)
    assert sum(part.stat().st_size for part in files_of(outputs)) <= (2 * len(NAMES) + 1) * ROW


def test_file_of_before_there_were_parts_is_taken_as_the_first_and_what_lies_beyond_is_decoded_once(
    folder, outputs, decoded, monkeypatch
):
    build_cache(folder, NAMES, SIZE)
    decoded.clear()
    monkeypatch.setattr(memmap, "PART_BYTES", 4 * ROW)
    for _ in range(2):
        assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert sorted(decoded) == sorted(NAMES[4:])
    assert [part.stat().st_size // ROW for part in files_of(outputs)] == [6, 2]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("died_at", [3, 5])
def test_build_killed_in_the_middle_of_its_parts_goes_on(folder, decoded, died_at):
    kill_build(folder, died_at, int(2.5 * ROW))
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert len(decoded) == len(NAMES) - died_at


def test_too_little_disk_space_is_refused_before_decoding(folder, decoded, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9 - 4000, 4000))
        with pytest.raises(MlkitError, match=r"needs .* GB in .*cache, .* GB are free; .* MLKIT_OUTPUTS .* image_size"):
            build_cache(folder, NAMES, SIZE)
    assert decoded == []
    assert_right(build_cache(folder, NAMES, SIZE), folder)


def test_disk_that_fills_up_while_decoding_is_an_error_and_leaves_no_wrong_pixels(folder):
    """The limit cuts the write of a row in two, as a full disk does."""
    pytest.importorskip("resource")  # POSIX
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(2.5 * size * size * 3),) * 2)
        try:
            module.build_cache(folder, names, size)
        except module.MlkitError as error:
            print(error)
    """
    out, err = in_other_process(code, folder).communicate()
    assert "the pixel cache cannot be written (" in out, err
    assert "MLKIT_OUTPUTS" in out
    assert_right(build_cache(folder, NAMES, SIZE), folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: b"\0" * len(text),
        lambda text: b"\xff\xfe rubbish, \n with, lines\n",
        lambda text: text[: len(text) // 2],
        lambda text: text[:-1],
        lambda text: text[: text.rindex(b"\n", 0, -1) + 1],
        lambda text: text.replace(b",digest", b""),
    ],
    ids=["empty", "zeros", "rubbish", "half", "last byte lost", "last line lost", "column lost"],
)
def test_damaged_index_costs_decoding_but_gives_no_wrong_pixels(folder, outputs, damage):
    build_cache(folder, NAMES, SIZE)
    (index,) = outputs.rglob("index.csv")
    index.write_bytes(damage(index.read_bytes()))
    draw(folder / "new.png", seed=70)
    for _ in range(2):
        assert_right(build_cache(folder, [*NAMES, "new.png"], SIZE), folder, [*NAMES, "new.png"])


@pytest.mark.parametrize("rows", [0, 0.5, 2, 3.5])
def test_rows_that_the_pixel_file_has_lost_are_decoded_again(folder, outputs, decoded, rows):
    build_cache(folder, NAMES, SIZE)
    decoded.clear()
    (pixels,) = outputs.rglob("pixels.u8")
    os.truncate(pixels, int(rows * SIZE * SIZE * 3))
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert len(decoded) == len(NAMES) - int(rows)


def test_lost_pixel_file_is_made_again(folder, outputs):
    build_cache(folder, NAMES, SIZE)
    next(outputs.rglob("pixels.u8")).unlink()
    assert_right(build_cache(folder, NAMES, SIZE), folder)


def test_another_size_or_folder_is_another_cache(folder, tmp_path, decoded):
    other = tmp_path / "other" / "images"
    for seed, name in enumerate(NAMES):
        draw(other / name, 100 + seed)
    for where, size in ((folder, SIZE), (folder, 2 * SIZE), (other, SIZE)):
        decoded.clear()
        assert_right(build_cache(where, NAMES, size), where)
        assert len(decoded) == len(NAMES)
    decoded.clear()
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert decoded == []


def test_lists_of_images_of_one_folder_share_a_cache(folder, decoded):
    build_cache(folder, NAMES[:4], SIZE)
    cache = build_cache(folder, NAMES[2:], SIZE)
    assert len(decoded) == len(NAMES)
    assert set(cache.entries) == set(NAMES[2:])
    assert_right(cache, folder, NAMES[2:])
    assert_right(build_cache(folder, NAMES, SIZE), folder)
    assert len(decoded) == len(NAMES)


def test_many_changes_do_not_grow_the_pixel_file_and_open_caches_keep_their_pixels(folder, outputs, decoded):
    old = build_cache(folder, NAMES, SIZE)
    before = read(old, NAMES)
    changes = 50
    for seed in range(changes):
        draw(folder / "a.png", 200 + seed, side=21 + seed % 2)
        assert_right(build_cache(folder, NAMES, SIZE), folder)
    (pixels,) = outputs.rglob("pixels.u8")
    assert pixels.stat().st_size <= (2 * len(NAMES) + 1) * SIZE * SIZE * 3
    assert len(decoded) <= len(NAMES) + 2 * changes
    np.testing.assert_array_equal(read(old, NAMES), before)


def test_row_of_a_removed_image_is_not_given_away_while_others_read_it(folder):
    old = build_cache(folder, NAMES, SIZE)
    before = read(old, NAMES)
    for name in NAMES[3:]:
        (folder / name).unlink()
    new = [f"new{i}.png" for i in range(3)]
    for seed, name in enumerate(new):
        draw(folder / name, 300 + seed)
    assert_right(build_cache(folder, [*NAMES, *new], SIZE), folder, [*NAMES[:3], *new])
    np.testing.assert_array_equal(read(old, NAMES), before)
