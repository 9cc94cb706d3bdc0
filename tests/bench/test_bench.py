"""The bench takes every measurement and prints it; how fast anything is, no test says."""

import contextlib
import io
import itertools
import json
import math
import re
from dataclasses import asdict
from importlib.metadata import version
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tinynet import TINYNET
from torch import nn

from mlkit.bench import footprint, inference, load, machine, measurements, plots, profile, reading, scale, turns
from mlkit.bench.config import BenchConfig
from mlkit.bench.machine import matrix_product
from mlkit.bench.photos import make_photos
from mlkit.bench.report import describe, table
from mlkit.bench.turns import measure
from mlkit.cli import main
from mlkit.data.labelfile import read_labels, write_labels
from mlkit.data.labels import from_codes
from mlkit.errors import MlkitError
from mlkit.files import environment
from mlkit.models.device import Device
from mlkit.models.networks import build_model
from mlkit.runs import outputs_root
from mlkit.training.config import TrainConfig

mpl.use("Agg")
import matplotlib.pyplot as plt

KEYS = {
    "plain_0_workers_img_per_s",
    "plain_n_workers_img_per_s",
    "plain_img_per_s",
    "mlkit_first_epoch_img_per_s",
    "mlkit_img_per_s",
    "step_img_per_s",
    "gemm_fp32_gflop_per_s",
    "gemm_bound_fp32_img_per_s",
    "gemm_bound_img_per_s",
    "gflop_per_img",
    "gbyte_per_img",
    "memory_gb_per_s",
    "memory_bound_img_per_s",
    "floor_img_per_s",
    "plain_decode_img_per_s",
    "cache_decode_img_per_s",
    "cache_build_img_per_s",
    "plain_predict_img_per_s",
    "mlkit_predict_img_per_s",
    "plain_predict_one_ms",
    "mlkit_predict_one_ms",
    "duplicates_s",
    "duplicates_of_a_scene_s",
    "plain_labels_s",
    "mlkit_labels_s",
    "import_s",
    "help_s",
    "predict_cold_s",
    "inference_pass_s",
    "inference_img_per_s",
    "inference_floor_img_per_s",
    "frozen_s",
    "plain_peak_rss_mb",
    "peak_rss_mb",
    "rss_2_mb",
    "rss_20_mb",
}
LEFT_OUT = {"gemm_bf16_gflop_per_s", "gemm_bound_bf16_img_per_s", "peak_gpu_mb"}  # by a CPU without bf16 instructions


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Figures of one small bench by the command line, on own images of which one is broken; and what it printed.

    On a CPU whose bf16 is hidden, so that all machines measure the same.
    """
    folder = tmp_path_factory.mktemp("own")
    names = make_photos(folder / "images", 24, side=64)
    (folder / "images" / names[3]).write_text("no image")
    (folder / "images" / "notes.txt").write_text("not looked at")
    small = [
        "--image-size",
        "32",
        "--batch-size",
        "4",
        "--repeats",
        "2",
        "--backbone",
        "shufflenet_v2_x0_5",
        "--cache-count",
        "20",
        "--count",
        "100",
        "--device",
        "cpu",
    ]
    start, answers = footprint.in_own_process, {}

    def call(arguments, outputs):
        """A process of its own for the plain loop, and once for both turns; the rest is measured in this one."""
        if arguments[1] == footprint._PROGRAM and arguments[2] != "train_plain":
            with pytest.MonkeyPatch.context() as inner:
                inner.setenv("MLKIT_OUTPUTS", str(outputs))
                getattr(footprint, arguments[2])(**json.loads(arguments[3]))
            return str(footprint.own_peak_mb())
        if (key := tuple(arguments)) not in answers:
            answers[key] = start(arguments, outputs)
        return answers[key]

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setenv("MLKIT_OUTPUTS", str(folder / "outputs"))
        patch.setattr(footprint, "in_own_process", call)
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        patch.setattr(machine, "_LONG", 0.0)
        patch.setattr(machine, "_ELEMENTS", 2**16)
        patch.setattr(measurements, "SEARCHED", 200)
        patch.setattr(measurements, "FRAMES", 50)
        patch.setattr(reading, "ROWS", 200)
        assert main(["bench", "--images", str(folder / "images"), *small, "--json", str(folder / "figures.json")]) == 0
        assert not list(outputs_root().iterdir()), "nothing is left behind"
    return json.loads((folder / "figures.json").read_text(encoding="utf-8")), printed.getvalue()


@pytest.fixture
def little(monkeypatch):
    """Photos and parts of memory are small."""
    monkeypatch.setattr(make_photos, "__defaults__", (64,))
    monkeypatch.setattr(machine, "_LONG", 0.0)
    monkeypatch.setattr(machine, "_ELEMENTS", 2**16)


def test_every_figure_is_there_finite_and_within_its_spread(measured):
    figures, _ = measured
    assert set(figures) >= KEYS
    for key in KEYS:
        assert math.isfinite(figures[key])
        assert figures[key] > 0
    for key, (low, high) in figures["spread"].items():
        assert low <= figures[key] <= high
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in figures["ratios"].values())
    assert {"mlkit_img_per_s/plain_img_per_s", "mlkit_img_per_s/step_img_per_s"} <= set(figures["ratios"])


def test_plain_is_the_better_of_its_two_ways_to_load(measured):
    figures, _ = measured
    both = figures["plain_0_workers_img_per_s"], figures["plain_n_workers_img_per_s"]
    assert figures["plain_img_per_s"] == max(both)


def test_table_has_a_line_for_every_figure_and_the_machine_is_named(measured):
    figures, printed = measured
    lines = table(figures)
    assert len(lines) == len(KEYS | LEFT_OUT) - 3  # the bound that was chosen is one of two; FLOPs and bytes stand above
    for text in (*lines.index, "machine:", "float32, channels_last", "x plain"):
        assert text in printed
    assert f"torch {version('torch')}" in printed
    assert "own, the first is 64x64" in printed
    assert "shufflenet_v2_x0_5, 32 px, batches of 4" in printed


def test_table_says_what_the_machine_does_not_have(measured):
    figures, printed = measured
    assert set(figures["left_out"]) == LEFT_OUT
    assert not LEFT_OUT & set(figures)
    for label in ("training: GEMM bound, bf16", "matrix product, bf16"):
        reason = "left out: ONEDNN_MAX_CPU_ISA is AVX2, which has no bf16 instructions"
        assert table(figures).loc[label].tolist() == ["-", "-", "-", "", reason]
        assert reason in printed


@pytest.mark.parametrize(
    ("asked", "rows", "label"), [({}, 80, "202,599 x 40"), ({"minutes": 0.5}, 20, "202,599 x 40, from 1/4 of it")]
)
def test_label_file_of_celebas_size_is_read_beside_pandas(asked, rows, label, measured, tmp_path, monkeypatch):
    """Of a short bench a quarter, and that is said; a clock of our own goes by one second a look."""
    clock = itertools.count()
    monkeypatch.setattr(reading, "ROWS", 80)
    monkeypatch.setattr(reading, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    config = BenchConfig(**asked)
    taken = reading.label_file(tmp_path, config)
    assert taken == {"plain_labels_s": 80 / rows, "mlkit_labels_s": 80 / rows}
    labels = read_labels(tmp_path / "many-labels.csv", values={"1": "yes", "-1": "no"})
    assert labels.shape == (rows, 40)
    assert 0.4 < labels.to_numpy(int).mean() < 0.6
    lines = table(measured[0] | {"config": asdict(config)})
    assert lines.loc[f"label file of {label}: mlkit", "ratio"].endswith(" x pandas")


@pytest.mark.parametrize(("native", "asked", "expected"), [(True, None, 2), (False, None, 1), (False, torch.bfloat16, 2)])
def test_bf16_product_is_taken_where_it_is_native_or_asked_for(native, asked, expected, little, tmp_path, monkeypatch):
    names = make_photos(tmp_path / "images", 8, side=32)
    write_labels(from_codes(np.arange(32).reshape(8, 4) % 2, names, "abcd"), tmp_path / "labels.csv")
    monkeypatch.setattr(measurements, "native_bf16", lambda device: (native, "reason"))
    monkeypatch.setattr(measurements, "matrix_product", lambda device, dtype: 7.0)
    config = TrainConfig(image_size=16, backbone="shufflenet_v2_x0_5", weights="none", batch_size=2, test_fraction=0)
    device = Device(torch.device("cpu"), asked, "as asked")
    taken = measurements.Measurements(tmp_path / "images", tmp_path / "labels.csv", config, device, tmp_path).limits()
    assert sum(name.endswith("gflop_per_s") for name in taken) == expected


def test_flops_are_those_of_the_network(measured):
    """A ResNet18 has 1.81 billion multiply-adds forward at 224 px; backward is twice that, less the first layer's input."""
    network = SimpleNamespace(_network=lambda: build_model("resnet18", 4, "none"), config=TrainConfig(image_size=32))
    expected = 3 * 2 * 1.81 * (32 / 224) ** 2
    assert measurements.Measurements._count_gflop(network) == pytest.approx(expected, rel=0.05)
    assert measurements.Measurements._count_gflop(network, training=False) == pytest.approx(expected / 3, rel=0.05)
    figures, _ = measured
    assert figures["gemm_bound_fp32_img_per_s"] > figures["plain_img_per_s"]


def test_bytes_are_those_of_the_layers_outputs_and_weights():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2))
    for dtype, element in ((None, 4), (torch.bfloat16, 2)):
        config = TrainConfig(image_size=8, batch_size=16)
        bench = SimpleNamespace(_network=lambda: network, config=config, dtype=dtype)
        weights = 4 * 3 * 9 + 4 + 8 + 4 * 64 * 2 + 2
        expected = 4 * element * (4 * 64 + 2) + weights * (element + 32) / 16
        assert measurements.Measurements._count_gbyte(bench) * 1e9 == pytest.approx(expected)
        asked = 2 * element * (4 * 64 + 2) + weights * element / 64
        assert measurements.Measurements._count_gbyte(bench, training=False) * 1e9 == pytest.approx(asked)


def test_the_floor_is_the_lower_of_both_bounds(measured):
    figures, _ = measured
    low, high = (f(figures["gemm_bound_img_per_s"], figures["memory_bound_img_per_s"]) for f in (min, max))
    assert low / 2 <= figures["floor_img_per_s"] <= high  # medians over the turns
    assert figures["memory_bound_img_per_s"] == pytest.approx(figures["memory_gb_per_s"] / figures["gbyte_per_img"])
    assert {"step_img_per_s/floor_img_per_s", "inference_img_per_s/inference_floor_img_per_s"} <= set(figures["ratios"])


@pytest.mark.parametrize(("pace", "count"), [(1.0, 96), (0.05, 106), (0.001, 128)])
def test_images_are_fitted_to_the_time_and_the_pace_of_the_machine(pace, count, monkeypatch):
    monkeypatch.setattr(turns, "seconds_per_image", lambda *arguments: pace)
    device = Device(torch.device("cpu"), None, "as asked")
    assert turns._fitting_count(BenchConfig(), device) == count
    assert turns._fitting_count(BenchConfig(minutes=1e6), device) == 128


def test_turns_are_taken_as_long_as_the_time_allows(measured, little, monkeypatch):
    """The measurements themselves are those of the other tests; here a turn takes ten seconds by a clock of our own."""
    figures, clock = measured[0], [0.0]

    class Played(SimpleNamespace):
        def __getattr__(self, name):
            def taken(*arguments):
                clock[0] += 10 if name == "mlkit" else 0
                return {key: figures[key] for key in figures["spread"]} if name == "mlkit" else {}

            taken.__name__ = name
            return taken

    played = Played(left_out={}, files=["x"] * 8, gflop=1.0)
    monkeypatch.setattr(turns, "Measurements", lambda *arguments: played)
    monkeypatch.setattr(turns, "memory", played.memory)
    monkeypatch.setattr(turns, "label_file", played.label_file)
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    small = {"count": 12, "image_size": 16, "batch_size": 4, "cache_count": 0}
    assert measure(BenchConfig(**small, minutes=1))["turns"] == 4, "48 of 60 seconds are for the turns"
    assert measure(BenchConfig(**small, minutes=0.01))["turns"] == 1
    assert measure(BenchConfig(**small, minutes=0.01, repeats=3))["turns"] == 3


@pytest.mark.parametrize(
    ("busy", "steal", "own", "ratios", "doubts"),
    [
        (5000, 0, 4900, [1.0, 1.2], []),
        (5000, 0, 2000, [1.0], ["other work took 30% of the cores"]),
        (5000, 800, 4900, [1.0], ["the hypervisor took 8%"]),
        (5000, 0, 4900, [0.5, 1.0], ["mlkit was 0.50 to 1.00 times as fast as the plain loop, turn by turn"]),
    ],
)
def test_ratios_are_doubted_where_others_take_the_cores(busy, steal, own, ratios, doubts, measured, monkeypatch):
    times = SimpleNamespace(user=busy, system=0, idle=10_000 - busy - steal, steal=steal)  # as on Linux, in part
    process = SimpleNamespace(cpu_times=lambda: (own, 0, 0, 0, 0), children=lambda recursive: [])
    played = {"cpu_times": lambda: times, "Process": lambda: process, "getloadavg": lambda: (3, 0, 0)}
    for name, function in played.items():
        monkeypatch.setattr(load.psutil, name, function)
    beside = load.summarise([load.Moment(0.0, 0.0, 0.0, 0.0, 1), load.moment()])
    assert beside["queue"] == 2
    assert load.doubts(beside, ratios) == doubts
    told = describe(measured[0] | {"load": beside, "doubts": doubts})
    assert ("The ratios cannot be trusted" in told) == bool(doubts)
    assert all(doubt in told for doubt in doubts)


def test_the_plain_loop_has_the_memory_of_a_process_without_mlkit(tmp_path, monkeypatch):
    """And prediction is asked for whole batches, of more than one batch."""
    kept, seen = [True], []
    monkeypatch.setattr(machine, "keep_freed_memory", lambda keep=True: kept.append(keep))
    monkeypatch.setattr(measurements, "plain_train", lambda *given: seen.append((kept[-1], "train")) or 8)
    monkeypatch.setattr(measurements, "plain_predict", lambda model, loader, device: seen.append((kept[-1], loader)))
    predictor = SimpleNamespace(predict=lambda files: seen.append((kept[-1], files)))
    monkeypatch.setattr(measurements.Predictor, "load", lambda *given, **options: predictor)
    bench = object.__new__(measurements.Measurements)
    bench.files, bench.images = [tmp_path / f"{i}.jpg" for i in range(40)], SimpleNamespace(targets=torch.zeros(40, 4))
    bench.loaders, bench.device, bench.config = {0: None}, Device(torch.device("cpu"), None, "as asked"), TrainConfig()
    bench.plain = bench.plain_optimizer = bench.weighting = bench.model_file = None
    figures = bench.plain_serial() | bench.predict()
    assert all(figures[f"{name}_predict_img_per_s"] > 0 for name in ("plain", "mlkit"))
    assert seen.pop(0) == (False, "train")
    assert [(keep, len(files)) for keep, files in seen if isinstance(files, list)] == [(True, 32), (True, 96)]
    loaders = [what for keep, what in seen if not keep]
    assert [len(loader.dataset) for loader in loaders] == [96, 96, *[1] * machine.LATENCIES]


def test_figure_shows_the_numbers(measured):
    figures, _ = measured
    figure, ax = plt.subplots()
    plots.throughput(figures, ax)
    keys = ["plain_img_per_s", "mlkit_first_epoch_img_per_s", "mlkit_img_per_s", "step_img_per_s"]
    assert [bar.get_width() for bar in ax.patches] == [figures[key] for key in keys]
    marks = next(line for line in ax.lines if line.get_label().startswith("GEMM bound")).get_xdata()
    assert list(marks) == [figures["gemm_bound_fp32_img_per_s"]] + 3 * [figures["gemm_bound_img_per_s"]]
    plt.close(figure)


def test_photos_are_jpeg_files_of_the_size_of_photos(tmp_path):
    names = make_photos(tmp_path / "photos", 2)
    for name in names:
        assert 130_000 < (tmp_path / "photos" / name).stat().st_size < 180_000
        with Image.open(tmp_path / "photos" / name) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (800, 800))
    assert (tmp_path / "photos" / names[0]).read_bytes() != (tmp_path / "photos" / names[1]).read_bytes()


def test_peak_memory_counts_what_the_process_held():
    before = footprint.own_peak_mb()
    ballast = np.ones(200 << 20, np.uint8)
    assert footprint.own_peak_mb() >= max(before, ballast.nbytes / (1 << 20))


def test_failure_in_a_process_of_its_own_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(footprint, "_PROGRAM", "raise SystemExit('traceback\\nno such device')")
    with pytest.raises(MlkitError, match=r"failed in its own process with exit code 1: no such device"):
        footprint.peak_rss_mb("train_plain", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0.0}, "minutes is 0.0"),
        ({"cache_count": 5}, "cache_count is 5; it must be 0 or at least 20"),
        ({"images": "gone", "backbone": TINYNET, "image_size": 32}, "gone: no such folder, or no images in it"),
        ({"count": 8, "batch_size": 8, "image_size": 32}, "8 images are too few for batches of 8; give at least 24"),
        ({"backbone": "resnet19", "count": 8, "batch_size": 2}, "did you mean 'resnet18'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message, little):
    with pytest.raises(MlkitError, match=message):
        measure(BenchConfig(**options))


def test_matrix_product_leaves_the_precision_setting_alone(monkeypatch):
    monkeypatch.setattr(machine, "_LONG", 0.0)
    before = torch.get_float32_matmul_precision()
    assert matrix_product(torch.device("cpu"), torch.float32) > 0
    assert torch.get_float32_matmul_precision() == before


def test_time_of_a_step_is_told_operator_by_operator(tmp_path, monkeypatch, capfd):
    make_photos(tmp_path / "images", 4, side=32)
    monkeypatch.setattr(profile, "STEPS", 2)
    config = BenchConfig(str(tmp_path / "images"), image_size=16, backbone=TINYNET, batch_size=4, device="cpu")
    table = profile.profile_step(config)
    assert {*profile._GROUPS, profile._REST, "step"} == set(table.index) | {"linear, attention"}
    parts = table.drop("step")
    assert (parts.ms > 0).all()
    assert parts.ms.is_monotonic_decreasing
    assert parts.share.sum() == pytest.approx(1)
    assert parts.ms.sum() == pytest.approx(table.ms["step"])
    assert table["images/s without"]["step"] == pytest.approx(1000 * 4 / table.ms["step"])
    assert (parts["images/s without"] > table["images/s without"]["step"]).all()
    asked = ["--images", config.images, "--image-size", "16", "--backbone", TINYNET, "--batch-size", "4", "--device", "cpu"]
    assert main(["bench", "--profile", *asked]) == 0
    out, err = capfd.readouterr()
    assert f"one training step: {TINYNET}, 16 px, batch of 4, cpu float32" in out
    assert all(group in out for group in table.index)
    assert not err
    assert not list(outputs_root().iterdir()), "nothing is left behind"


def test_prediction_is_measured_by_every_door_that_there_is(tiny, monkeypatch, capsys):
    monkeypatch.setattr(inference, "_TURNS", 1)
    monkeypatch.setattr(inference, "_MOST", 4)
    (tiny / "model.xml").touch()
    monkeypatch.setattr(inference, "open_exported", lambda file: lambda pixels: np.zeros((len(pixels), 4), np.float32))
    assert main(["bench", "--inference", "small", "--count", "8"]) == 2
    assert capsys.readouterr().err == "mlkit: --inference takes no other options; leave out count\n"
    assert main(["bench", "--inference", "small"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("images/s, ")
    assert "rest on" not in out, "who asks how fast it is decides nothing"
    for name in ("plain loop, 0 workers", "mlkit", "OpenVINO"):
        assert re.search(rf"^{name} +[\d.]+ +[\d.]+ +[\d.]+ +\d+\.\d\d x plain loop, \d workers$", out, re.M), name
    assert re.search(r"^ONNX Runtime +- +- +- +left out: mlkit export small --format onnx$", out, re.M)
    assert re.search(r"^OpenVINO, INT8 +- +- +- +left out: mlkit export small --int8$", out, re.M)


def in_this_process(arguments, outputs):
    with environment(MLKIT_OUTPUTS=str(outputs)):
        return scale.run_piece(*arguments[2:]) + "\n"


def test_scale_says_what_every_piece_takes_and_how_it_grows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scale, "in_own_process", in_this_process)
    quick = {name: piece for name, piece in scale.PIECES.items() if not name.startswith("notebook")}
    monkeypatch.setattr(scale, "PIECES", quick)
    assert main(["bench", "--scale", "20", "40", "80", "--json", str(tmp_path / "scale.json")]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in quick)
    figures = json.loads((tmp_path / "scale.json").read_text())
    assert all(
        figures[f"{what} {count}"][name] >= 0 for what in ("seconds", "MB") for count in (20, 40, 80) for name in quick
    )
    assert not list(outputs_root().glob(".scale-*"))


@pytest.mark.parametrize("power", [1, 2])
def test_growth_is_the_power_of_the_images_whatever_a_start_takes(power):
    rows = np.array([2_000, 20_000, 200_000])
    found = scale.growth(pd.DataFrame([0.5 + (rows / 1e5) ** power, [5, 5, 5.01]], columns=rows))
    assert found[0] == pytest.approx(power, abs=0.1)
    assert np.isnan(found[1]), "too little to tell"


def test_scale_leaves_out_what_there_is_no_time_for(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "PIECES", {"split in three": scale.PIECES["split in three"]})
    monkeypatch.setattr(scale, "in_own_process", in_this_process)
    assert scale.measure_scale(tmp_path, [20, 40], minutes=0).isna().all(axis=None)


def test_scale_takes_no_other_options(capsys):
    assert main(["bench", "--scale", "--backbone", "resnet18"]) == 2
    assert "--scale does not take backbone" in capsys.readouterr().err
    assert main(["bench", "--scale", "5"]) == 2
