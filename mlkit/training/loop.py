"""The one training loop."""

import gc
import itertools
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mlkit.data.dataset import MultiLabelDataset, batches
from mlkit.data.duplicates import duplicate_groups
from mlkit.data.labels import label_counts
from mlkit.data.split import split_images
from mlkit.errors import FailureError, ParameterError
from mlkit.evaluation.metrics import evaluate, macro
from mlkit.losses import get_loss
from mlkit.losses.bce import masked_bce
from mlkit.models.device import Device, Stopwatch, choose_device, determinism, keep_freed_memory, memory_errors
from mlkit.models.modelfile import load_model, save_model
from mlkit.progress import bar, say
from mlkit.runs import Run, Stopped
from mlkit.training.checkpoint import last_checkpoint, remove_checkpoints, write_checkpoint
from mlkit.training.config import TrainConfig
from mlkit.training.finish import Outputs, TrainedModel, finish_run, model_meta
from mlkit.training.interruption import Interruption
from mlkit.training.launch import ALONE, World, launch
from mlkit.training.objective import check_suggestions, choice_gap, contradictions, label_gaps
from mlkit.training.optim import learning_rate
from mlkit.training.processes import Processes
from mlkit.training.step import TrainingStep

_DIVERGED = (
    "the training has diverged: lower learning_rate, set clip_norm to 1, or take precision fp32; the last good "
    "checkpoint is kept"
)
Watcher = Callable[[list[dict[str, Any]]], bool]  # sees the rows of epochs.csv after every epoch; true ends the training


def train(
    dataset: MultiLabelDataset,
    config: TrainConfig,
    run: Run,
    watcher: Watcher | None = None,
    world: World = ALONE,
) -> pd.DataFrame:
    """Train on all known cells, keep the epoch with the best validation mAP, and fill the run folder.

    An unfinished run goes on from its last checkpoint, and gives what an uninterrupted one would have given: all
    randomness is derived from (seed, epoch), none is carried along. Of a finished one the result is read.

    Args:
        dataset: the data set.
        config: the settings.
        run: its folder.
        watcher: may stop the training, which then ends as a whole one does.
        world: processes that share each batch; where there are several, they are started, and waited for.

    Returns:
        What the kept model is worth on the test images (where there are none, on the validation images), see
        `metrics.evaluate`.

    Raises:
        MlkitError: if the device, the weights or the data cannot be used as asked, its memory does not suffice, or another
            process trains into the run.
    """
    if run.finished:
        from mlkit.evaluation.predictions import Predictions  # half a second, and rarely wanted

        say("trained before, read from the run")
        return Predictions.read(run).evaluate()
    if world != ALONE:
        from mlkit.evaluation.predictions import Predictions

        if watcher is not None:
            raise ParameterError(
                f"processes is {world.size}: a trial of a search may be stopped early, which only a training of one process "
                "can; let the search run trials side by side (mlkit tune --workers)"
            )
        launch(world, run.config()["parameters"], dataset.fingerprint, run)
        return Predictions.read(run).evaluate()
    with run.claimed():
        return train_here(dataset, config, run, choose_device(config.device, config.precision, config.side(1)), watcher)


def train_here(
    dataset: MultiLabelDataset,
    config: TrainConfig,
    run: Run,
    device: Device,
    watcher: Watcher | None = None,
    processes: Processes | None = None,
) -> pd.DataFrame:
    """What `train` does, in this process, which may be one of several; the table is that of the main one."""
    keep_freed_memory()
    with determinism(device.device, config.deterministic), memory_errors("batch_size (or say auto) or image_size"):
        table = Training(dataset, config, run, device, processes).fit(watcher)
    gc.collect()  # a training refers to itself; its weights and their optimizer's must not wait for the next one to be freed
    return table


def split_dataset(dataset: MultiLabelDataset, config: TrainConfig) -> pd.Series:
    """The split of a configuration: image -> "train", "validation" or "test"; duplicates stay together.

    Answers of people do not move it: an image that judged before they came judges after.
    """
    return split_images(
        dataset.given,
        config.validation_fraction,
        config.split_seed,
        duplicate_groups(dataset) if config.near_duplicates else dataset.digests,
        test=config.test_fraction,
        folds=config.folds,
        fold=config.fold,
    )


class Training:
    """One training, from the split of the images to the finished run.

    Args:
        dataset: the data set.
        config: the settings.
        run: its folder; takes `split.csv` at once.
        device: where to compute.
        processes: that share the work, of which the main one writes.

    Attributes:
        split: image -> "train", "validation" or "test".
        prevalence: (attributes,), share of positives among the known training cells, NaN where none is known.
        step: network, optimizer and what else goes from batch to batch.
        state: what is done so far.
    """

    checkpoint_seconds = 60.0  # a process that is killed loses at most this much

    def __init__(
        self,
        dataset: MultiLabelDataset,
        config: TrainConfig,
        run: Run,
        device: Device,
        processes: Processes | None = None,
    ) -> None:
        self.dataset, self.config, self.run = dataset, config, run
        self.processes = processes or Processes()
        self.split = split_dataset(dataset, config)
        self._training, self._validation = self._indices("train"), self._indices("validation")
        check_suggestions(config, dataset, self._training)
        self.prevalence = label_counts(dataset.labels.iloc[self._training]).prevalence.to_numpy()
        self._introduce(device)
        run.write_table("split.csv", self.split.reset_index())
        self.step = TrainingStep(dataset, self._training, config, device, run, self.processes)
        size = self.step.batch_size
        self._iterations = len(list(batches(self._training, size, config.seed, epoch=0)))  # an epoch
        say(f"data: {self.step.feed}; {self._iterations} iterations of {size} images an epoch")
        self.state = _State()
        self._interruption = Interruption()

    def fit(self, watcher: Watcher | None = None) -> pd.DataFrame:
        """All epochs that are left, and what ends a training; arguments and result as of `train`."""
        self.resume()
        stopped, images = None, len(self._training)
        total = self.config.epochs * images
        done = self.state.epoch * images + self._within * self.step.batch_size
        self._saved = time.monotonic()
        with bar(total=total, initial=done, desc="training", unit="image") as progress, self._interruption:
            for epoch in range(self.state.epoch + 1, self.config.epochs + 1):
                if self.config.patience and epoch - 1 - self.state.best_epoch >= self.config.patience:
                    stopped = Stopped("patience", epoch - 1)
                    break
                started = time.monotonic()
                self.epoch(epoch, progress)
                with self.step.average.applied() if self.step.average else nullcontext():
                    figures = self.validate()
                    self._keep(figures | {"seconds": round(time.monotonic() - started, 2)})
                if watcher and watcher(self.state.epochs) and epoch < self.config.epochs:
                    stopped = Stopped("pruned", epoch)
                    break
                self._save_in_time()
        return self.finish(stopped)

    def epoch(self, epoch: int, progress: Any) -> None:
        """Learn once from every training image, or from those that are left of an epoch that was interrupted."""
        self.step.start_epoch(epoch)
        start = (epoch - 1) * self._iterations
        order = batches(self._training, self.step.batch_size, self.config.seed, epoch, self.step.image_weights)
        rest = itertools.islice(order, self.state.iteration - start, None)
        fed = self.step.feed.batches(rest, self.step.wanted)
        stretch = _Stretch(self, epoch)
        for iteration, (where, inputs, targets) in enumerate(fed, self.state.iteration):
            rate = learning_rate(self.config, iteration, self._iterations)
            loss = self.step(where, inputs, targets, iteration, rate)  # on a GPU, fetched at the end: no waiting
            stretch.add(where, loss, rate)
            if progress.update(len(where)):  # true only when the bar is drawn
                progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
            if self._is_due and iteration + 1 < start + self._iterations:
                stretch.end()
                self._save_in_time()
                stretch = _Stretch(self, epoch)
        stretch.end()
        self.state.epoch = epoch

    def validate(self) -> dict[str, Any]:
        """The row of epochs.csv for the network as it is, all but its seconds.

        Raises:
            FailureError: if the training has diverged.
        """
        epoch, history = self.state.epoch, pd.concat(self.state.history)
        losses = history.loss[history.epoch == epoch]
        logits, targets = self.step.evaluate(self._validation), self.dataset.targets[self._validation]
        if not torch.isfinite(logits).all():
            raise FailureError(f"after epoch {epoch} the network's outputs are not finite; {_DIVERGED}")
        table = evaluate(torch.sigmoid(logits).numpy(), targets, self.dataset.attributes, self.prevalence)
        mean = macro(table)
        figures = {
            "epoch": epoch,
            "iteration": int(history.iteration.iloc[-1]),
            "training_loss": float(losses.mean()),
            # plain, whatever the loss and its weights, so that it is the same for all runs
            "validation_loss": masked_bce(logits, torch.from_numpy(targets)).item(),
            "mAP": mean.AP,
            **{f"AP {name}": value for name, value in table.AP.items()},
        }
        over = f" over {mean.attrs['over']}" if mean.attrs["left_out"] else ""
        say(
            f"epoch {epoch}/{self.config.epochs}: training loss {figures['training_loss']:.4f}, validation loss "
            f"{figures['validation_loss']:.4f}, mAP {figures['mAP']:.3f}{over}"
            f"{' (best so far)' if self.state.is_best(figures) else ''}"
        )
        return figures

    def checkpoint(self) -> None:
        """Write what `resume` needs: the tables, then the weights and what the optimizer knows; the one before stays.

        All processes have the same; the main one decides when, and writes.

        Raises:
            FailureError: if the weights are not finite; the last good checkpoint stays.
        """
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.step.network.state_dict().values()):
            raise FailureError(f"after iteration {self.state.iteration} the network's weights are not finite; {_DIVERGED}")
        average = self.step.average
        content = {
            "model": self.step.network.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "average": None if average is None else {"values": average.values, "updates": average.updates},
            "epoch": self.state.epoch,
            "iteration": self.state.iteration,
            "best_epoch": self.state.best_epoch,
        }
        self.run.write_table("history.csv", pd.concat(self.state.history))
        write_checkpoint(self.run, content)
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Go back to the run's last checkpoint, if there is one.

        Raises:
            RunError: if no checkpoint can be read.
        """
        saved = self.processes.shared(self._saved_state)
        if saved is None:
            return
        content, history, epochs = saved
        self.step.network.load_state_dict(content["model"])
        self.step.optimizer.load_state_dict(content["optimizer"])
        if self.step.average is not None:
            torch._foreach_copy_(self.step.average.values, content["average"]["values"])
            self.step.average.updates = content["average"]["updates"]
        # The tables may be ahead of the checkpoint; what they are ahead is computed again.
        epoch = content["epoch"]
        iteration = content.get("iteration", epoch * self._iterations)  # mlkit 0.1 saved at the end of an epoch only
        kept = epochs[epochs.epoch <= epoch].to_dict("records")
        self.state = _State(
            epoch,
            iteration,
            content["best_epoch"],
            # in float32, as they were: the same bytes are written again
            [history[history.iteration <= iteration].astype({"loss": np.float32})],
            [{str(name): value for name, value in row.items()} for row in kept],
        )
        more = f" and {self._within} iterations" if self._within else ""
        say(f"going on after epoch {epoch} of {self.config.epochs}{more}")

    def _saved_state(self) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame] | None:
        """The last checkpoint, history.csv and epochs.csv of the run; None at its beginning."""
        content = last_checkpoint(self.run)
        if content is None:
            return None
        epochs = self.run.read_table("epochs.csv") if content["epoch"] else pd.DataFrame({"epoch": []})
        return content, self.run.read_table("history.csv"), epochs

    @property
    def _within(self) -> int:
        """Iterations done of an epoch that is not finished."""
        return self.state.iteration - self.state.epoch * self._iterations

    @property
    def _is_due(self) -> bool:
        """Whether a checkpoint should be written now."""
        late = time.monotonic() - self._saved > self.checkpoint_seconds
        return self.processes.main and (late or bool(self._interruption.signal))

    def _save_in_time(self) -> None:
        """Write a checkpoint where one is due; raise what was asked for in the meantime."""
        if self._is_due:
            self.checkpoint()
            self._interruption.check(f"saved after iteration {self.state.iteration}")

    def finish(self, stopped: Stopped | None = None) -> pd.DataFrame:
        """Calibrate, evaluate and finish the kept model, see `finish_run`."""
        if stopped:
            say(f"stopped early: {stopped}")
        network, meta = self.processes.shared(lambda: load_model(self.run / "model.pth"))
        self.step.network.load_state_dict(network.state_dict())
        outputs = {side: self._outputs(side) for side in ("validation", "test")}
        if not self.processes.main:
            return pd.DataFrame()
        pos_weight = self.step.objective.pos_weight.cpu().numpy().astype(float) if self.config.calibrate else None
        cells = label_counts(self.dataset.labels.iloc[self._training])[["positives", "negatives", "unknown"]]
        facts = {
            "training_cells": {name: [int(count) for count in cells] for name, cells in cells.iterrows()},
            "best_epoch": self.state.best_epoch,
            "epochs": self.state.epoch,
            "stopped": asdict(stopped) if stopped else None,
            "seconds": round(sum(row["seconds"] for row in self.state.epochs), 1),
            "img_per_s": float(pd.concat(self.state.history).img_per_s.median()),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "device": str(self.step.device),
            "ran_on": self.step.device.short,
            "processor": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        }
        model = TrainedModel(network, meta, self.prevalence, pos_weight)
        table = finish_run(self.run, model, outputs, self.config.threshold, facts, lambda: self.dataset)
        remove_checkpoints(self.run)
        return table

    def _indices(self, side: str) -> np.ndarray:
        return np.flatnonzero(self.split == side)

    def _outputs(self, side: str) -> Outputs:
        chosen = self._indices(side)
        logits, targets = self.step.evaluate(chosen).numpy(), self.dataset.targets[chosen]
        return Outputs(self.dataset.labels.index[chosen], logits, targets)

    def _introduce(self, device: Device) -> None:
        """Say what is about to be trained, how, and what speaks against it."""
        config, labels = self.config, self.dataset.labels
        warnings = [
            *label_gaps(labels.iloc[self._training], get_loss(config.loss)),
            *choice_gap(labels.iloc[self._validation]),
            *contradictions(config),
        ]
        say(f"device: {device}")
        say(f"network: {config.backbone}, weights: {config.weights}, freeze: {config.freeze}; loss: {config.loss}")
        for text in warnings:
            say(f"warning: {text}")
        training, validation, test = (len(self._indices(side)) for side in ("train", "validation", "test"))
        say(f"images: {training} to train on, {validation} to validate on, {test} to test on")

    def _keep(self, row: dict[str, Any]) -> None:
        """Write what is known after an epoch, and the model if it is the best so far."""
        best = self.state.is_best(row)
        self.state.epochs.append(row)
        if best:
            self.state.best_epoch = row["epoch"]
        if not self.processes.main:
            return
        if best:
            meta = model_meta(self.step.network, self.dataset, self.config, self.prevalence, row["epoch"])
            save_model(self.run.new("model.pth"), self.step.network, meta)
        self.run.write_table("history.csv", pd.concat(self.state.history))
        self.run.write_table("epochs.csv", pd.DataFrame(self.state.epochs))


class _Stretch:
    """Iterations of an epoch whose losses were not fetched yet, which waits for a GPU."""

    def __init__(self, training: Training, epoch: int) -> None:
        self._training, self._epoch = training, epoch
        self._watch = Stopwatch(training.step.device.device)
        self._watch.mark()
        self._losses: list[Tensor] = []
        self._batches: list[Tensor] = []
        self._rates: list[float] = []

    def add(self, where: Tensor, loss: Tensor, rate: float) -> None:
        """Another iteration: indices of its images, its loss and learning rate."""
        self._losses.append(loss)
        self._batches.append(where)
        self._rates.append(rate)
        self._watch.mark()
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            self.end()

    def end(self) -> None:
        """Add them to the history. Raises FailureError, naming the first, if a loss is not finite."""
        state, losses = self._training.state, torch.stack(self._losses).cpu().numpy()
        first, sizes = state.iteration + 1, np.array([len(where) for where in self._batches])
        if len(bad := np.flatnonzero(~np.isfinite(losses))):
            images = self._training.dataset.labels.index[self._batches[bad[0]].cpu().numpy()]
            raise FailureError(
                f"iteration {first + bad[0]}: the loss is {losses[bad[0]]} at learning rate {self._rates[bad[0]]:.2g}; "
                f"{_DIVERGED}. Images of the batch: {', '.join(images[:8])}{' ...' if len(images) > 8 else ''}"
            )
        table = {
            "iteration": np.arange(len(losses)) + first,
            "epoch": self._epoch,
            "loss": losses,
            "lr": self._rates,
            "img_per_s": np.round(sizes / np.maximum(self._watch.seconds(), 1e-9), 1),
        }
        state.history.append(pd.DataFrame(table))
        state.iteration += len(losses)


@dataclass
class _State:
    """What a training has done so far."""

    epoch: int = 0  # finished
    iteration: int = 0  # done, those of an unfinished epoch too
    best_epoch: int = 0
    history: list[pd.DataFrame] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def is_best(self, figures: dict[str, Any]) -> bool:
        """By mAP; where it is undefined or equal, by validation loss."""
        if not self.best_epoch:
            return True
        best = self.epochs[self.best_epoch - 1]
        if np.isfinite(figures["mAP"]) and figures["mAP"] != best["mAP"]:
            return bool(not figures["mAP"] < best["mAP"])
        return bool(figures["validation_loss"] < best["validation_loss"])
