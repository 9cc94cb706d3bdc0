"""The campaigns of a simulation, computed: each once, by any number of processes."""

import functools
import hashlib
import shutil
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from mlkit.curation import probe
from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.duplicates import duplicate_groups
from mlkit.data.labels import to_codes
from mlkit.data.split import split_images
from mlkit.experiments.grid import compute_grid, digest, open_grid
from mlkit.experiments.simulation.campaign import mean_ap, run_campaign
from mlkit.experiments.simulation.config import Campaign, Simulation
from mlkit.experiments.simulation.learners import FOLDS, Heads, Learner, Network, principal
from mlkit.files import atomic
from mlkit.runs import contents


def simulate(
    simulation: Simulation, truth: MultiLabelDataset, name: str, features: np.ndarray | None = None, dask: str = ""
) -> pd.DataFrame:
    """Run the campaigns of a simulation that are not finished yet, and return the curves of all.

    Several processes may work on one simulation: each takes a campaign that nobody works on, and returns when all are
    finished.

    Args:
        simulation: what to compare.
        truth: images with their full labels.
        name: of the simulation's folder below `outputs`.
        features: (images, features), in place of those of the frozen network.
        dask: who runs the campaigns, see `open_cluster`.

    Returns:
        One row per campaign and round: the fields of `Campaign`; answers so far, and the seconds they took; mAP on the full
        truth of the test images; full, the mAP of a model that all labels taught.

    Raises:
        RunError: if the folder holds something else.
    """
    folder = open_grid(name, "simulation", {"simulation": asdict(simulation), "data": truth.fingerprint})
    campaigns = _Campaigns(simulation, truth, folder, features)

    def table(contents: list[dict[str, Any]]) -> pd.DataFrame:
        seconds = {"cell": simulation.seconds_cell, "image": simulation.seconds_image}
        parts = []
        for content in contents:
            settings, result = content["settings"], content["result"]
            campaign = {field.name: settings[field.name] for field in fields(Campaign)}
            curve = {name: result[name] for name in ("answers", "mAP")}
            parts.append(pd.DataFrame({**campaign, **curve, "full": result["full"]}))
        joined = pd.concat(parts, ignore_index=True)
        return joined.assign(seconds=joined.answers * joined.by.map(seconds))

    own = (
        contents(asdict(simulation.config)),
        truth.fingerprint,
        list(campaigns.groups),
        hashlib.blake2b(campaigns.seen.tobytes(), digest_size=8).hexdigest(),
    )
    names = {campaign: digest(simulation.identity(campaign), *own) for campaign in simulation.campaigns}
    return compute_grid(folder, names, campaigns, table, _said, "campaign", dask)


class _Campaigns:
    """Called with a campaign and a folder for its own files, it runs it; what campaigns share is computed when it is wanted.

    Pickled, it is what it was made of.
    """

    def __init__(
        self, simulation: Simulation, truth: MultiLabelDataset, folder: Path, features: np.ndarray | None = None
    ) -> None:
        self._simulation, self._truth, self._folder, self._features = simulation, truth, folder, features
        self._start = functools.cache(self._of_seed)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Campaigns, (self._simulation, self._truth, self._folder, self._features)

    @functools.cached_property
    def groups(self) -> pd.Series:
        """Image -> group of those that are to stay in one part of a split."""
        return duplicate_groups(self._truth) if self._simulation.config.near_duplicates else self._truth.digests

    @functools.cached_property
    def seen(self) -> np.ndarray:
        """Features (images, features) by which the heads learn."""
        return _features(self._simulation, self._truth, self._folder) if self._features is None else self._features

    def _of_seed(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which images judge, the fold of each, what the heads see of it."""
        config, images = self._simulation.config, self._truth.labels
        split = split_images(images, config.validation_fraction, seed, self.groups, test=config.test_fraction)
        test = (split == "test").to_numpy()
        numbers, names = pd.factorize(images.index.to_series().map(self.groups))
        folds = np.random.default_rng([seed, *b"folds"]).permutation(len(names))[numbers] % FOLDS
        return test, folds, principal(self.seen, ~test, self._simulation.components)

    def __call__(self, campaign: Campaign, own: Path) -> dict[str, Any]:
        began = time.process_time()
        simulation, truth, codes = self._simulation, self._truth, to_codes(self._truth.labels)
        test, folds, inputs = self._start(campaign.seed)
        learner: Learner = Heads(inputs, simulation.strength, folds)
        if simulation.learner == "network":
            learner = Network(truth, simulation.training(campaign), test, folds, own)
        try:
            given, curve = run_campaign(simulation, campaign, truth.labels, test, self.seen, learner)
            full = mean_ap(learner.learn(np.where(test[:, None], -1, codes))[test], codes[test])
        finally:
            shutil.rmtree(own, ignore_errors=True)
        result = {"answers": given, "mAP": curve, "full": full, "cpu_seconds": round(time.process_time() - began, 1)}
        return {"settings": simulation.identity(campaign), "data": truth.fingerprint, "result": result}


def _features(simulation: Simulation, truth: MultiLabelDataset, folder: Path) -> np.ndarray:
    """Those of the frozen network, kept in the folder of the simulation; processes that want them at once wait for one."""
    config = simulation.config
    network = {name: getattr(config, name) for name in ("backbone", "weights", "device", "seed")}
    parts = [network, contents(asdict(config)), truth.image_size, list(truth.digests), str(truth.reading)]
    file = folder / f"features-{digest(*parts)}.npy"
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            with atomic(file) as temporary:
                np.save(temporary, probe.features(truth, **network))
    return np.asarray(np.load(file))


def _said(content: dict[str, Any]) -> str:
    result = content["result"]
    return f"mAP {result['mAP'][0]:.3f}, {result['mAP'][-1]:.3f} after {result['answers'][-1]} answers"
