"""Images and labels elsewhere: the same data set as on the disk, by copies that are whole, current and few."""

import importlib.util
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import fsspec
import numpy as np
import pytest
from PIL import Image

from mlkit.cli import main
from mlkit.data import remote
from mlkit.data.images import load_image
from mlkit.data.labelfile import read_labels
from mlkit.data.source import DataSource
from mlkit.errors import FailureError, LabelError, MlkitError, ParameterError
from mlkit.files import address, locate, shown

NAMES = ["a.png", "deep/b c.png", "100%.png", "é.png"]
ROWS = "image,red,round\n" + "".join(f"{name},{i % 2},NA\n" for i, name in enumerate(NAMES))


def picture(seed, side=20):
    """Bytes of a PNG."""
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(remote, "_WAITS", (0.0,))
    monkeypatch.setattr(remote, "_listings", {})


@pytest.fixture
def local(tmp_path):
    """A data set on the disk: folder, in it images and labels.csv."""
    for seed, name in enumerate(NAMES):
        (tmp_path / "data/images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/images" / name).write_bytes(picture(seed))
    (tmp_path / "data/labels.csv").write_text(ROWS, encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def memory(local):
    """The same in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for file in local.rglob("*"):
        if file.is_file():
            system.pipe_file(f"/bucket/{file.relative_to(local).as_posix()}", file.read_bytes())
    return system


@pytest.fixture
def reads(memory, monkeypatch):
    """Names of the files that were read of it, in order."""
    names = []
    real = type(memory).get_file

    def get_file(self, source, target, **options):
        names.append(source.removeprefix("/bucket/"))
        return real(self, source, target, **options)

    monkeypatch.setattr(type(memory), "get_file", get_file)
    return names


@pytest.fixture
def server(local):
    """Address of the same on a web server, and what it was asked."""
    pytest.importorskip("aiohttp")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append((self.command, self.path))

        def do_GET(self):
            self.send_error(403) if "secret" in self.path else super().do_GET()

        def do_HEAD(self):
            self.send_error(403) if "secret" in self.path else super().do_HEAD()

    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(local)))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}", asked
    served.shutdown()
    served.server_close()


def source(place):
    return DataSource(f"{place}/images", f"{place}/labels.csv")


def assert_same(one, two):
    assert one.report.equals(two.report), one.report.to_string()
    assert one.fingerprint == two.fingerprint
    rows = np.arange(len(one))
    np.testing.assert_array_equal(one.batch(rows)[0], two.batch(rows)[0])


def test_a_data_set_in_object_storage_is_that_of_the_disk_and_is_read_once(local, memory, reads, monkeypatch):
    dataset = source("memory://bucket").open(16)
    assert_same(dataset, source(local).open(16))
    assert sorted(reads) == sorted(["labels.csv", *(f"images/{name}" for name in NAMES)])
    reads.clear()
    asked, info = [], type(memory).info
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "info", lambda self, path, **options: asked.append(path) or info(self, path, **options))
        again = source("memory://bucket").open(16)
    assert not any("images/" in path for path in asked), "one list of the folder says all"
    source("memory://bucket").open(20)  # decoded again, of the copies
    assert reads == []
    memory.store.clear()  # from here on nothing elsewhere is needed
    assert_same(again, dataset)


def test_what_changed_came_or_went_is_seen_at_the_next_opening(memory, reads):
    source("memory://bucket").open(16)
    reads.clear()
    memory.pipe_file("/bucket/images/a.png", picture(9))
    memory.pipe_file("/bucket/images/new.png", picture(10))
    memory.rm_file("/bucket/images/é.png")
    memory.pipe_file("/bucket/labels.csv", (ROWS + "new.png,1,1\n").encode())
    dataset = source("memory://bucket").open(16)
    assert sorted(reads) == ["images/a.png", "images/new.png", "labels.csv"]
    assert list(dataset.report.itertuples(index=False, name=None)) == [("é.png", 5, "no such file")]
    assert list(dataset.labels.index) == [*NAMES[:3], "new.png"]
    pixels = dataset.batch(np.array([0]))[0][0]
    np.testing.assert_array_equal(pixels, load_image(locate("memory://bucket/images/a.png"), 16))


def test_names_of_objects_that_lead_out_of_their_folder_are_passed_over(memory, monkeypatch):
    odd = ["../../x.png", "/etc/x.png", "deep/../../../x.png", ""]
    monkeypatch.setattr(
        type(memory), "find", lambda *_, **__: {f"/bucket/images/{n}": {"type": "file", "size": 1} for n in odd}
    )
    assert remote.names(locate("memory://bucket/images")) == []


def test_a_web_server_is_asked_for_each_image_and_lists_what_the_label_file_lacks(local, server):
    place, asked = server
    dataset = source(place).open(16)
    assert_same(dataset, source(local).open(16))
    asked.clear()
    assert_same(source(place).open(16), dataset)
    assert {command for command, _ in asked} == {"HEAD"}, "what is current is not read again"
    (local / "images/deep/d.png").write_bytes(picture(11))
    assert remote.names(locate(f"{place}/images")) == sorted([*NAMES, "deep/d.png"])
    (local / "images/a.png").unlink()
    assert list(source(place).open(16).report.problem) == ["no such file"]


@pytest.mark.parametrize(
    ("text", "kind", "match"),
    [
        ("memory://nothing", LabelError, r"memory://nothing/labels.csv: no such label file"),
        ("nosuch://bucket", MlkitError, r"nosuch:// is no kind of storage"),
        ("s3://user:pass@bucket", MlkitError, r"s3://...: an address with a password, a token or a query is not taken"),
        ("s3://KEY:SEC/RET@bucket", MlkitError, r"s3://...: an address"),
        ("https://token@host", MlkitError, r"https://...: an address"),
        ("https://host/a?X-Signature=pass", MlkitError, r"https://...: an address"),
        ("s3://bucket/../other", MlkitError, r"no address of a folder"),
        ("zip://a::s3://bucket", MlkitError, r"no address of a folder"),
    ],
)
def test_wrong_addresses_are_named_without_their_secrets(text, kind, match):
    with pytest.raises(kind, match=match) as caught:
        source(text).open(16)
    assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_driver_that_is_missing_is_named_with_the_command_that_installs_it(scheme, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(
        MlkitError, match=rf"{scheme}://b/labels.csv: {package} is not installed .*; run: pip install {package}"
    ):
        source(f"{scheme}://b").open(16)


def test_what_may_not_be_read_or_cannot_be_reached_is_no_broken_image(local, server, capsys):
    place, _ = server
    with pytest.raises(MlkitError, match=r"secret.csv may not be read \(403"):
        read_labels(f"{place}/secret.csv")
    with pytest.raises(
        FailureError, match=r"http://127.0.0.1:9/labels.csv cannot be read .*check the address and the network"
    ):
        read_labels("http://127.0.0.1:9/labels.csv")
    (local / "labels.csv").write_text(ROWS + "secret.png,1,0\n", encoding="utf-8")
    with pytest.raises(MlkitError, match=r"secret.png may not be read"):
        source(place).open(16)
    assert main(["labels", "check", "http://127.0.0.1:9/labels.csv"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_copies_that_were_not_used_for_longest_go_and_the_data_set_stays_whole(local, memory, reads, monkeypatch):
    size = max(len(picture(seed)) for seed in range(len(NAMES)))
    monkeypatch.setenv("MLKIT_REMOTE_CACHE_GB", str(2.5 * size / 1e9))
    assert_same(source("memory://bucket").open(16), source(local).open(16))
    kept = list(locate("memory://bucket/images").rglob("*.png"))
    assert 1 <= len(kept) <= 2
    assert locate("memory://bucket/labels.csv").is_file(), "tables stay"
    reads.clear()
    source("memory://bucket").open(20)
    assert len(reads) >= len(NAMES) - len(kept)
    monkeypatch.setenv("MLKIT_REMOTE_CACHE_GB", "many")
    monkeypatch.setattr(remote, "_left", {})
    memory.pipe_file("/bucket/images/a.png", picture(12))
    with pytest.raises(ParameterError, match=r"MLKIT_REMOTE_CACHE_GB is 'many'; it must be a number of gigabytes"):
        source("memory://bucket").open(16)


def test_a_download_that_was_cut_is_no_copy(memory, monkeypatch):
    def cut(self, path, target, **options):
        with open(target, "wb") as file:
            file.write(b"half")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get_file", cut)
        with pytest.raises(FailureError, match=r"labels.csv: 4 of \d+ bytes came"):
            source("memory://bucket").open(16)
    assert len(source("memory://bucket").open(16)) == len(NAMES)


def test_addresses_and_their_paths_are_two_forms_of_one():
    for text in ("http://h:80/my%20photos/100%25.png", "s3://b/x%20y"):
        assert shown(text) == shown(locate(text)) == address(locate(text)) == text
    assert locate("S3://b//x/") == locate("s3://b/x")
    assert locate("file:///a/b") == locate("/a/b")


def test_commands_take_addresses_and_what_they_write_stays_here(memory, tiny, outputs, tmp_path, capsys):
    assert main(["labels", "check", "memory://bucket/labels.csv", "--images", "memory://bucket/images"]) == 0
    assert "rows without an image: 0" in capsys.readouterr().out
    out = tmp_path / "answers.csv"
    assert main(["predict", "memory://bucket/images", "--model", "small", "--out", str(out)]) == 0
    assert "memory://bucket/images/deep/b c.png" in out.read_text(encoding="utf-8")
    assert main(["predict", "memory://bucket/images/a.png", "memory://bucket/gone.png", "--model", "small"]) == 1
    said = capsys.readouterr()
    assert "prediction for memory://bucket/images/a.png" in said.out
    assert "memory://bucket/gone.png: no such file" in said.err
    assert main(["predict", "memory://bucket/images/*.png", "--model", "small"]) == 2
    assert "patterns are of files on this machine" in capsys.readouterr().err
    assert main(["predict", "memory://bucket/images", "--model", "small", "--out", "memory://bucket/o.csv"]) == 2
    assert "only images and labels may lie elsewhere" in capsys.readouterr().err


def test_a_training_from_elsewhere_keeps_the_address_and_needs_nothing_elsewhere_afterwards(memory, outputs, capsys):
    for seed in range(12):
        memory.pipe_file(f"/bucket/images/{seed}.png", picture(seed))
    rows = "image,red\n" + "".join(f"{seed}.png,{seed % 2}\n" for seed in range(12))
    memory.pipe_file("/bucket/labels.csv", rows.encode())
    small = {"epochs": "1", "image_size": "32", "weights": "none", "backbone": "shufflenet_v2_x0_5", "batch_size": "4"}
    given = [word for pair in small.items() for word in ("-p", *pair)]
    place = ["--images", "memory://bucket/images", "--labels", "memory://bucket/labels.csv"]
    assert main(["train", *place, *given, "--name", "bucket"]) == 0, capsys.readouterr().err
    text = (outputs / "bucket/config.json").read_text(encoding="utf-8")
    assert '"images": "memory://bucket/images"' in text
    assert '"labels": "memory://bucket/labels.csv"' in text


def test_what_notebooks_are_made_from_tells_other_versions_elsewhere(memory, local, server):
    places = locate("memory://bucket/images"), locate("memory://bucket/labels.csv")
    before = remote.versions(*places)
    assert remote.versions(*places) == before
    memory.pipe_file("/bucket/images/a.png", picture(9))
    after = remote.versions(*places)
    assert len(set(before) ^ set(after)) == 2
    memory.pipe_file("/bucket/labels.csv", ROWS.replace("NA", "1").encode())
    assert len(set(after) ^ set(remote.versions(*places))) == 2
    assert remote.versions(local / "images", local / "labels.csv") == []
    assert len(remote.versions(*(locate(f"{server[0]}/{name}") for name in ("images", "labels.csv")))) == 1
