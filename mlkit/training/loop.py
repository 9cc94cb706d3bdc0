"""The one training loop."""

import gc
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mlkit.data.dataset import MultiLabelDataset, batches, split_images
from mlkit.data.duplicates import duplicate_groups
from mlkit.data.labels import label_counts
from mlkit.errors import MlkitError
from mlkit.evaluation.metrics import evaluate, macro
from mlkit.losses import get_loss, masked_bce
from mlkit.models.device import Device, Stopwatch, choose_device, determinism, memory_errors
from mlkit.models.networks import load_torch, save_model, save_torch
from mlkit.progress import bar, say
from mlkit.runs import Run, Stopped
from mlkit.training.config import TrainConfig
from mlkit.training.finish import model_meta, pass_verdict
from mlkit.training.objective import choice_gap, contradictions, label_gaps
from mlkit.training.optim import learning_rate
from mlkit.training.step import TrainingStep, learning_rate_range

_CHECKPOINT_SECONDS = 20.0  # an interruption loses at most this much and one epoch


Watcher = Callable[[list[dict[str, Any]]], bool]  # sees the rows of epochs.csv after every epoch; true ends the training


def train(dataset: MultiLabelDataset, config: TrainConfig, run: Run, watcher: Watcher | None = None) -> pd.DataFrame:
    """Train on all known cells, keep the epoch with the best validation mAP, and fill the run folder.

    An unfinished run goes on from its last checkpoint, and gives what an uninterrupted one would have given: all
    randomness is derived from (seed, epoch), none is carried along.

    Args:
        dataset: the data set.
        config: the settings.
        run: its folder.
        watcher: may stop the training, which then ends as a whole one does.

    Returns:
        What the kept model is worth on the test images (where there are none, on the validation images), see
        `metrics.evaluate`.

    Raises:
        MlkitError: if the device, the weights or the data cannot be used as asked, its memory does not suffice, or another
            process trains into the run.
    """
    device = choose_device(config.device, config.precision, config.image_size)
    with (
        run.claimed(),
        determinism(device.device, config.deterministic),
        memory_errors("batch_size (or say auto) or image_size"),
    ):
        table = _train(dataset, config, run, device, watcher)
    gc.collect()  # a training refers to itself; its weights and their optimizer's must not wait for the next one to be freed
    return table


def split_dataset(dataset: MultiLabelDataset, config: TrainConfig) -> pd.Series:
    """The split of a configuration: image -> "train", "validation" or "test"; duplicates stay together."""
    return split_images(
        dataset.labels,
        config.validation_fraction,
        config.split_seed,
        duplicate_groups(dataset) if config.near_duplicates else dataset.digests,
        test=config.test_fraction,
        folds=config.folds,
        fold=config.fold,
    )


def preview_learning_rates(dataset: MultiLabelDataset, config: TrainConfig) -> pd.DataFrame:
    """The learning-rate range test of a configuration, see `step.learning_rate_range`; leaves nothing behind."""
    device = choose_device(config.device, config.precision, config.image_size)
    training = np.flatnonzero(split_dataset(dataset, config) == "train")
    with tempfile.TemporaryDirectory() as folder:
        return learning_rate_range(dataset, training, config, device, Run(Path(folder)))


def _train(
    dataset: MultiLabelDataset, config: TrainConfig, run: Run, device: Device, watcher: Watcher | None
) -> pd.DataFrame:
    split = split_dataset(dataset, config)
    training, validation, test = (np.flatnonzero(split == side) for side in ("train", "validation", "test"))
    prevalence = label_counts(dataset.labels.iloc[training]).prevalence.to_numpy()
    warnings = [
        *label_gaps(dataset.labels.iloc[training], get_loss(config.loss)),
        *choice_gap(dataset.labels.iloc[validation]),
        *contradictions(config),
    ]
    run.write_table("split.csv", split.reset_index())
    say(f"device: {device}")
    say(f"network: {config.backbone}, weights: {config.weights}, freeze: {config.freeze}; loss: {config.loss}")
    for text in warnings:
        say(f"warning: {text}")
    say(f"images: {len(training)} to train on, {len(validation)} to validate on, {len(test)} to test on")
    step = TrainingStep(dataset, training, config, device, run)
    steps = len(list(batches(training, step.batch_size, config.seed, epoch=0)))
    say(f"data: {step.feed}; {steps} iterations of {step.batch_size} images an epoch")

    state = _State()
    if (run / "last.pt").exists():
        state = _restore(run, step)
        say(f"going on after epoch {state.epoch} of {config.epochs}")
    saved, stopped = time.monotonic(), None
    total = config.epochs * len(training)
    with bar(total=total, initial=state.epoch * len(training), desc="training", unit="image") as progress:
        for epoch in range(state.epoch + 1, config.epochs + 1):
            if config.patience and epoch - 1 - state.best_epoch >= config.patience:
                stopped = Stopped("patience", epoch - 1)
                break
            started = time.monotonic()
            step.start_epoch(epoch)
            losses, sizes, rates, watch = [], [], [], Stopwatch(device.device)
            watch.mark()
            order = batches(training, step.batch_size, config.seed, epoch, step.image_weights)
            for iteration, (where, inputs, targets) in enumerate(step.feed.batches(order), (epoch - 1) * steps):
                rates.append(learning_rate(config, iteration, steps))
                losses.append(step(where, inputs, targets, iteration, rates[-1]))  # fetched once an epoch: no waiting
                sizes.append(len(where))
                watch.mark()
                if progress.update(len(where)):  # true only when the bar is drawn
                    progress.set_postfix(loss=f"{losses[-1].item():.4f}", refresh=False)
            history = {
                "iteration": np.arange(1, len(losses) + 1) + (epoch - 1) * steps,
                "epoch": epoch,
                "loss": torch.stack(losses).cpu().numpy(),
                "lr": rates,
                "img_per_s": np.round(sizes / np.maximum(watch.seconds(), 1e-9), 1),
            }
            state.history.append(pd.DataFrame(history))

            with step.average.applied() if step.average else nullcontext():
                _judge_epoch(epoch, dataset, config, run, step, state, validation, prevalence, started)
            if watcher and watcher(state.epochs) and epoch < config.epochs:
                stopped = Stopped("pruned", epoch)
                break
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                _checkpoint(run, state, step)
                saved = time.monotonic()
    if stopped:
        say(f"stopped early: {stopped}")
    facts = {
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "stopped": asdict(stopped) if stopped else None,
        "seconds": round(sum(row["seconds"] for row in state.epochs), 1),
        "img_per_s": float(pd.concat(state.history).img_per_s.median()),
    }
    return pass_verdict(run, dataset, config, step, split, prevalence, facts)


@dataclass
class _State:
    """What a training has done so far."""

    epoch: int = 0
    best_epoch: int = 0
    history: list[pd.DataFrame] = field(default_factory=list)  # one table an epoch
    epochs: list[dict[str, Any]] = field(default_factory=list)


def _judge_epoch(
    epoch: int,
    dataset: MultiLabelDataset,
    config: TrainConfig,
    run: Run,
    step: TrainingStep,
    state: _State,
    validation: np.ndarray,
    prevalence: np.ndarray,
    started: float,
) -> None:
    """Validate the network as it is, write what is known of the epoch, and keep the model if it is the best so far."""
    logits, targets = step.evaluate(validation), dataset.targets[validation]
    if not torch.isfinite(logits).all():
        raise MlkitError(
            f"after epoch {epoch} the network's outputs are not finite: the training has diverged; lower learning_rate, set "
            'clip_norm to 1, or take precision "fp32"'
        )
    table = evaluate(torch.sigmoid(logits).numpy(), targets.numpy(), dataset.attributes, prevalence)
    mean = macro(table)
    worth = {
        "epoch": epoch,
        "iteration": int(state.history[-1].iteration.iloc[-1]),
        "training_loss": float(state.history[-1].loss.mean()),
        # plain, whatever the loss and its weights, so that it is the same for all runs
        "validation_loss": masked_bce(logits, targets).item(),
        "mAP": mean.AP,
        **{f"AP {name}": value for name, value in table.AP.items()},
        "seconds": round(time.monotonic() - started, 2),
    }
    state.epochs.append(worth)
    state.epoch = epoch
    best = state.best_epoch == 0 or _better(worth, state.epochs[state.best_epoch - 1])
    if best:
        state.best_epoch = epoch
        save_model(run.new("model.pth"), step.network, model_meta(step.network, dataset, config, prevalence, epoch))
    over = f" over {mean.attrs['over']}" if mean.attrs["left_out"] else ""
    say(
        f"epoch {epoch}/{config.epochs}: training loss {worth['training_loss']:.4f}, validation loss "
        f"{worth['validation_loss']:.4f}, mAP {worth['mAP']:.3f}{over}{' (best so far)' if best else ''}"
    )
    run.write_table("history.csv", pd.concat(state.history))
    run.write_table("epochs.csv", pd.DataFrame(state.epochs))


def _better(worth: dict[str, Any], best: dict[str, Any]) -> bool:
    """By mAP; where it is undefined or equal, by validation loss."""
    if np.isfinite(worth["mAP"]) and worth["mAP"] != best["mAP"]:
        return bool(not worth["mAP"] < best["mAP"])
    return bool(worth["validation_loss"] < best["validation_loss"])


def _checkpoint(run: Run, state: _State, step: TrainingStep) -> None:
    average = step.average
    content = {
        "model": step.network.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "average": None if average is None else {"values": average.values, "updates": average.updates},
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
    }
    save_torch(run.new("last.pt"), content)


def _restore(run: Run, step: TrainingStep) -> _State:
    content = load_torch(run / "last.pt")
    step.network.load_state_dict(content["model"])
    step.optimizer.load_state_dict(content["optimizer"])
    if step.average is not None:
        torch._foreach_copy_(step.average.values, content["average"]["values"])
        step.average.updates = content["average"]["updates"]
    state = _State()
    state.epoch, state.best_epoch = content["epoch"], content["best_epoch"]
    # The tables may be some epochs ahead of the checkpoint; those epochs are computed again.
    history, epochs = run.read_table("history.csv"), run.read_table("epochs.csv")
    # in float32, as they were: the same bytes are written again
    state.history = [history[history.epoch <= state.epoch].astype({"loss": np.float32})]
    kept = epochs[epochs.epoch <= state.epoch].to_dict("records")
    state.epochs = [{str(name): value for name, value in row.items()} for row in kept]
    return state
