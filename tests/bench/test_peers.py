"""What people would pick instead is measured beside mlkit, as far as it is installed; how fast anything is, no test says."""

import importlib.util
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mlkit.bench import turns
from mlkit.bench.config import BenchConfig
from mlkit.bench.measurements import EPOCHS
from mlkit.bench.peers import race
from mlkit.bench.photos import labelled_images, make_photos
from mlkit.bench.report import medians, peers_table
from mlkit.cli import main
from mlkit.data.dataset import batches
from mlkit.data.source import DataSource
from mlkit.errors import ParameterError
from mlkit.training.config import TrainConfig
from mlkit.training.loop import split_dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What a bench knows when it lets a peer train: seven photos of 64 px, five or six of them to train on."""
    work = tmp_path_factory.mktemp("peers")
    make_photos(work / "photos", 7, side=64)
    folder, labels, _ = labelled_images(str(work / "photos"), 7, work)
    config = TrainConfig(
        image_size=32, backbone="shufflenet_v2_x0_5", weights="none", batch_size=2, validation_fraction=0.25, test_fraction=0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_OUTPUTS", str(work / "outputs"))
        dataset = DataSource(str(folder), str(labels)).open(32)
    training = np.flatnonzero(split_dataset(dataset, config) == "train")
    return SimpleNamespace(
        folder=folder,
        labels=labels,
        config=config,
        dataset=dataset,
        training=training,
        files=[folder / name for name in dataset.labels.index[training]],
        sizes=[len(chosen) for chosen in batches(training, 2, 0, 1)],
        batch_size=2,
        device=SimpleNamespace(device=torch.device("cpu")),
        dtype=None,
        work=work,
        left_out={},
    )


@pytest.mark.parametrize("name", race.PEERS)
def test_a_peer_trains_on_the_same_photos_in_a_process_of_its_own(name, trained, monkeypatch):
    if importlib.util.find_spec(race.PEERS[name][1]) is None:
        pytest.skip(f"{race.PEERS[name][0]} is not installed")
    monkeypatch.setattr(race, "_SAMPLE", 0.5)
    watched, watch = [], race._watch
    monkeypatch.setattr(race, "_watch", lambda *given: watched.append(watch(*given)) or watched[0])
    figures = race.peer(trained, name)
    assert not trained.left_out
    assert figures.keys() == {f"peer_{name}_{figure}" for figure in race.FIGURES}
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    ready, steps, memory = watched[0]
    assert len(steps) == EPOCHS * (len(trained.sizes) if name == "mlkit" else len(trained.training) // 2)
    assert 0 < ready < steps[0] == figures[f"peer_{name}_first_step_s"]
    assert steps == sorted(steps)
    assert memory > 100, "torch alone takes more"
    assert not list(trained.work.glob("tmp*")), "nothing is left behind"


@pytest.mark.parametrize(
    ("program", "reason"),
    [(None, 'pip install -e ".[peers]"'), ("import sys; sys.exit('no such memory')", "with exit code 1: no such memory")],
)
def test_a_peer_that_is_not_installed_or_fails_is_left_out(program, reason, trained, monkeypatch):
    bench = SimpleNamespace(**{**vars(trained), "left_out": {}})
    monkeypatch.setattr(race.importlib.util, "find_spec", lambda name: program)
    monkeypatch.setattr(race, "_program", lambda name: ["-c", program])
    assert race.peer(bench, "timm") == {}
    assert set(bench.left_out) == {f"peer_timm_{figure}" for figure in race.FIGURES}
    assert all(text.endswith(reason) for text in bench.left_out.values())
    monkeypatch.setattr(race, "_watch", lambda *given: pytest.fail("it is asked once"))
    assert race.peer(bench, "timm") == {}


def test_floor_step_mlkit_and_peers_stand_in_one_table():
    speeds = {
        "floor": 16.0,
        "step": 8.0,
        "plain": 4.0,
        "gemm_bound": 9.0,
        "peer_plain": 4.0,
        "peer_mlkit": 6.0,
        "peer_timm": 5.0,
        "peer_lightning": 3.0,
    }
    samples = {f"{name}_img_per_s": [speed, 3 * speed] for name, speed in speeds.items()}
    samples |= {f"{name}_{figure}": [1.0, 2468.0] for name in list(speeds)[4:] for figure in race.FIGURES[1:]}
    figures = medians(samples, BenchConfig(peers=True)) | {"left_out": {"peer_fastai_img_per_s": "not there"}}
    table = peers_table(figures)
    assert table.loc["mlkit"].tolist() == ["12", "6", "18", "1,234", "1,234", "1,234", "1.50 x plain loop"]
    assert table.loc["floor"].tolist() == ["32", "16", "48", "", "", "", "4.00 x plain loop"]
    assert table.loc["fastai"].tolist() == [*[""] * 6, "left out: not there"]
    assert list(table.index) == ["floor", "pure step", "plain loop", "mlkit", "timm", "fastai", "Lightning"]


def test_figures_of_a_peer_that_fails_in_a_later_turn_are_dropped(monkeypatch):
    def played(name):
        def measurement(*given):
            return {"plain_0_workers_img_per_s": 1.0, "plain_n_workers_img_per_s": 2.0} if name == "mlkit" else {}

        measurement.__name__ = name
        return measurement

    bench = SimpleNamespace(left_out={}, work="")
    for name in ("limits", "plain_serial", "mlkit", "plain_workers", "step", "decode", "predict", "frozen", "start"):
        setattr(bench, name, played(name))
    bench.duplicates = played("duplicates")

    def peer(bench, name):
        if name == "timm" and taken.count("timm"):
            bench.left_out["peer_timm_img_per_s"] = "failed"
            return {}
        taken.append(name)
        return {f"peer_{name}_img_per_s": 1.0}

    taken = []
    monkeypatch.setattr(turns, "peer", peer)
    monkeypatch.setattr(turns, "label_file", played("label_file"))
    monkeypatch.setattr(turns, "memory", played("memory"))
    result, _ = turns._take_turns(BenchConfig(peers=True, repeats=2, cache_count=0), bench, 0.0)
    assert "peer_timm_img_per_s" not in result.samples
    assert result.samples["peer_fastai_img_per_s"] == [1.0, 1.0]


@pytest.mark.parametrize(("options", "minutes"), [([], 15), (["--minutes", "1"], 1)])
def test_peers_have_more_time_unless_one_says_how_much(options, minutes, monkeypatch):
    asked = []

    def measure(config):
        asked.append(config)
        raise ParameterError("enough")

    monkeypatch.setattr(turns, "measure", measure)
    assert main(["bench", "--peers", *options]) == 2
    assert (asked[0].peers, asked[0].minutes) == (True, minutes)
