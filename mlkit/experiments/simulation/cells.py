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
    simulation: Simulation, truth: MultiLabelDataset, name: str, features: np.ndarray | None = None
) -> pd.DataFrame:
    """Run the campaigns of a simulation that are not finished yet, and return the curves of all.

    Several processes may work on one simulation: each takes a campaign that nobody works on, and returns when all are
    finished.

    Args:
        simulation: what to compare.
        truth: images with their full labels.
        name: of the simulation's folder below `outputs`.
        features: (images, features), in place of those of the frozen network.

    Returns:
        One row per campaign and round: the fields of `Campaign`; answers so far, and the seconds they took; mAP on the full
        truth of the test images; full, the mAP of a model that all labels taught.

    Raises:
        RunError: if the folder holds something else.
    """
    folder = open_grid(name, "simulation", {"simulation": asdict(simulation), "data": truth.fingerprint})
    groups = duplicate_groups(truth) if simulation.config.near_duplicates else truth.digests
    seen = _features(simulation, truth, folder) if features is None else features

    @functools.cache
    def start(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a seed: which images judge, the fold of each, what the heads see of it."""
        config = simulation.config
        split = split_images(truth.labels, config.validation_fraction, seed, groups, test=config.test_fraction)
        test = (split == "test").to_numpy()
        numbers, names = pd.factorize(truth.labels.index.to_series().map(groups))
        folds = np.random.default_rng([seed, *b"folds"]).permutation(len(names))[numbers] % FOLDS
        return test, folds, principal(seen, ~test, simulation.components)

    def compute(campaign: Campaign, own: Path) -> dict[str, Any]:
        began = time.process_time()
        test, folds, inputs = start(campaign.seed)
        learner: Learner = Heads(inputs, simulation.strength, folds)
        if simulation.learner == "network":
            learner = Network(truth, simulation.training(campaign), test, folds, own)
        try:
            given, curve = run_campaign(simulation, campaign, truth.labels, test, seen, learner)
            full = mean_ap(learner.learn(np.where(test[:, None], -1, codes))[test], codes[test])
        finally:
            shutil.rmtree(own, ignore_errors=True)
        result = {"answers": given, "mAP": curve, "full": full, "cpu_seconds": round(time.process_time() - began, 1)}
        return {"settings": simulation.identity(campaign), "data": truth.fingerprint, "result": result}

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

    codes = to_codes(truth.labels)
    own = (
        contents(asdict(simulation.config)),
        truth.fingerprint,
        list(groups),
        hashlib.blake2b(seen.tobytes(), digest_size=8).hexdigest(),
    )
    names = {campaign: digest(simulation.identity(campaign), *own) for campaign in simulation.campaigns}
    return compute_grid(folder, names, compute, table, _said, "campaign")


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
