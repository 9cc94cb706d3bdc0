"""The training: its configuration, and the one loop."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import mlkit
from mlkit.dataset import MultiLabelDataset, batches, split_images
from mlkit.device import Device, choose_device
from mlkit.errors import ParameterError
from mlkit.labels import label_counts, pos_weight
from mlkit.losses import masked_bce
from mlkit.metrics import DEFAULT_THRESHOLD, evaluate, macro
from mlkit.model import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    build_model,
    compute_logits,
    load_model,
    load_torch,
    place,
    save_model,
    save_torch,
)
from mlkit.progress import bar, say
from mlkit.runs import Run

_CHECKPOINT_SECONDS = 20.0  # an interruption loses at most this much and one epoch


@dataclass(frozen=True)
class TrainConfig:
    """All that decides the result of a training, data aside.

    Raises:
        ParameterError: if a value is outside of what is possible.
    """

    image_size: int = 224  # side in pixels
    backbone: str = "resnet18"  # any classification network of torchvision
    weights: str = "imagenet"  # "imagenet", "none" or a file
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "constant"  # of the learning rate: "constant" or "cosine"
    pos_weight: str = "balanced"  # "balanced": negatives / positives of the known training cells; or "none"
    pos_weight_cap: float = 100.0
    validation_fraction: float = 0.2
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # "auto", "fp32" or "bf16"

    def __post_init__(self) -> None:
        for name, low in (("image_size", 1), ("epochs", 1), ("batch_size", 2), ("seed", 0)):
            if getattr(self, name) < low:
                raise ParameterError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        for name in ("learning_rate", "pos_weight_cap"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name, known in (("schedule", ("constant", "cosine")), ("pos_weight", ("balanced", "none"))):
            if getattr(self, name) not in known:
                raise ParameterError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")


def train(dataset: MultiLabelDataset, config: TrainConfig, run: Run) -> pd.DataFrame:
    """Train on all known cells, keep the epoch with the best validation mAP, and fill the run folder.

    An unfinished run goes on from its last checkpoint, and gives what an uninterrupted one would have given: all
    randomness is derived from (seed, epoch), none is carried along.

    Returns:
        What the kept model is worth on the validation images, see `metrics.evaluate`.

    Raises:
        MlkitError: if the device, the weights or the data cannot be used as asked.
    """
    device = choose_device(config.device, config.precision)
    split = split_images(dataset.labels, config.validation_fraction, config.seed, dataset.digests)
    training, validation = (np.flatnonzero(split == side) for side in ("train", "validation"))
    counts = label_counts(dataset.labels.iloc[training])
    weight = pos_weight(dataset.labels.iloc[training], config.pos_weight_cap)
    weighting = torch.tensor(weight.to_numpy(), dtype=torch.float32, device=device.device)
    if config.pos_weight == "none":
        weighting = torch.ones_like(weighting)
    majority = (counts.positives >= counts.negatives).to_numpy().astype(int)

    torch.manual_seed(config.seed)
    model = build_model(config.backbone, len(dataset.attributes), config.weights, config.image_size)
    model = place(model, device)
    fused = device.device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=fused)
    steps = len(list(batches(training, config.batch_size, config.seed, 0)))

    say(f"device: {device}")
    say(f"network: {config.backbone}, weights: {config.weights}")
    say(f"images: {len(training)} to train on, {len(validation)} to validate on")
    run.write_table("split.csv", split.reset_index())

    state = _State()
    if (run / "last.pt").exists():
        state = _restore(run, model, optimizer)
        say(f"going on after epoch {state.epoch} of {config.epochs}")
    saved = time.monotonic()
    total = config.epochs * len(training)
    with bar(total=total, initial=state.epoch * len(training), desc="training", unit="image") as progress:
        for epoch in range(state.epoch + 1, config.epochs + 1):
            torch.manual_seed(_derived(config.seed, epoch))
            model.train()
            losses, marks = [], []
            for step, chosen in enumerate(batches(training, config.batch_size, config.seed, epoch)):
                lr = _learning_rate(config, (epoch - 1) * steps + step, config.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                pixels, targets = dataset.batch(chosen)
                targets = targets.to(device.device, non_blocking=True)
                logits = compute_logits(model, pixels, device)
                # Sum and count stay apart, so that parts of a batch can be added up before the division.
                known = (targets >= 0).sum().clamp(min=1)
                loss = masked_bce(logits, targets, weighting, reduction="sum") / known
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())  # fetched once an epoch: asking now would make a GPU wait
                marks.append((len(chosen), lr, time.monotonic()))
                if progress.update(len(chosen)):  # true only when the bar is drawn
                    progress.set_postfix(loss=f"{losses[-1].item():.4f}", refresh=False)
            state.history.append(_epoch_history(epoch, steps, losses, marks))

            logits = predict_logits(model, dataset, validation, device)
            targets = dataset.targets[validation]
            table = evaluate(torch.sigmoid(logits).numpy(), targets.numpy(), dataset.attributes, majority)
            worth = {
                "epoch": epoch,
                "iteration": epoch * steps,
                "training_loss": float(np.mean([loss.item() for loss in losses])),
                "validation_loss": masked_bce(logits, targets, weighting.cpu()).item(),
                "mAP": macro(table).AP,
                **{f"AP {name}": value for name, value in table.AP.items()},
            }
            state.epochs.append(worth)
            state.epoch = epoch
            best = state.best_epoch == 0 or _better(worth, state.epochs[state.best_epoch - 1])
            if best:
                state.best_epoch = epoch
                save_model(run / "model.pth", model, _meta(dataset, config, table, worth))
            say(
                f"epoch {epoch}/{config.epochs}: training loss {worth['training_loss']:.4f}, validation loss "
                f"{worth['validation_loss']:.4f}, mAP {worth['mAP']:.3f}{' (best so far)' if best else ''}"
            )
            run.write_table("history.csv", pd.concat(state.history))
            run.write_table("epochs.csv", pd.DataFrame(state.epochs))
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                _checkpoint(run, state, model, optimizer)
                saved = time.monotonic()
    return _finish(run, dataset, validation, majority, device, state)


@torch.inference_mode()
def predict_logits(
    model: nn.Module, dataset: MultiLabelDataset, indices: np.ndarray, device: Device, batch_size: int = 64
) -> Tensor:
    """Float32 logits (len(indices), attributes) of images of the dataset, on the CPU."""
    model.eval()
    cuts = range(batch_size, len(indices), batch_size)
    parts = [compute_logits(model, dataset.batch(chosen)[0], device) for chosen in np.split(indices, cuts)]
    return torch.cat(parts).cpu()


@dataclass
class _State:
    """What a training has done so far."""

    epoch: int = 0
    best_epoch: int = 0
    history: list[pd.DataFrame] = field(default_factory=list)  # one table an epoch
    epochs: list[dict[str, Any]] = field(default_factory=list)


def _better(worth: dict[str, Any], best: dict[str, Any]) -> bool:
    """By mAP; where it is undefined or equal, by validation loss."""
    if np.isfinite(worth["mAP"]) and worth["mAP"] != best["mAP"]:
        return bool(not worth["mAP"] < best["mAP"])
    return bool(worth["validation_loss"] < best["validation_loss"])


def _learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Learning rate of one iteration; cosine falls to zero over the whole training (Loshchilov & Hutter 2017)."""
    if config.schedule == "constant":
        return config.learning_rate
    return float(config.learning_rate * 0.5 * (1 + np.cos(np.pi * step / steps)))


def _derived(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _epoch_history(epoch: int, steps: int, losses: list[Tensor], marks: list[tuple[int, float, float]]) -> pd.DataFrame:
    sizes, rates, times = (np.array(column) for column in zip(*marks, strict=True))
    seconds = np.diff(times, prepend=times[0])
    seconds[0] = seconds[1:].mean() if len(seconds) > 1 else np.nan  # the first step has no beginning on the clock
    return pd.DataFrame(
        {
            "iteration": (epoch - 1) * steps + np.arange(1, len(losses) + 1),
            "epoch": epoch,
            "loss": torch.stack(losses).cpu().numpy(),
            "lr": rates,
            "img_per_s": np.round(sizes / np.maximum(seconds, 1e-9), 1),
        }
    )


def _meta(dataset: MultiLabelDataset, config: TrainConfig, table: pd.DataFrame, worth: dict[str, Any]) -> dict[str, Any]:
    return {
        "attributes": dataset.attributes,
        "image_size": config.image_size,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "backbone": config.backbone,
        "weights": config.weights,
        "thresholds": dict.fromkeys(dataset.attributes, DEFAULT_THRESHOLD),
        "epoch": worth["epoch"],
        "metrics": {"mAP": float(worth["mAP"]), "AP": {name: float(ap) for name, ap in table.AP.items()}},
        "mlkit_version": mlkit.__version__,
    }


def _checkpoint(run: Run, state: _State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
    }
    save_torch(run / "last.pt", content)


def _restore(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer) -> _State:
    content = load_torch(run / "last.pt")
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    state = _State()
    state.epoch, state.best_epoch = content["epoch"], content["best_epoch"]
    # The tables may be some epochs ahead of the checkpoint; those epochs are computed again.
    history, epochs = run.read_table("history.csv"), run.read_table("epochs.csv")
    state.history = [history[history.epoch <= state.epoch]]
    kept = epochs[epochs.epoch <= state.epoch].to_dict("records")
    state.epochs = [{str(name): value for name, value in row.items()} for row in kept]
    return state


def _finish(
    run: Run, dataset: MultiLabelDataset, validation: np.ndarray, majority: np.ndarray, device: Device, state: _State
) -> pd.DataFrame:
    """Judge the kept model once more, from its file, and write what ends a run."""
    model, _ = load_model(run / "model.pth")
    model = place(model, device)
    probabilities = torch.sigmoid(predict_logits(model, dataset, validation, device)).numpy()
    targets = dataset.targets[validation].numpy()
    table = evaluate(probabilities, targets, dataset.attributes, majority)
    images, attributes = dataset.labels.index[validation], dataset.attributes
    predictions = pd.DataFrame(
        {
            "image": np.repeat(images, len(attributes)),
            "attribute": np.tile(attributes, len(images)),
            "target": pd.array(targets.ravel(), dtype="Int8"),
            "probability": probabilities.ravel(),
        }
    )
    predictions.loc[predictions.target < 0, "target"] = pd.NA
    run.write_table("predictions.csv", predictions)
    plain = table.astype(object).where(table.notna(), None)  # JSON has no NaN
    run.write_json(
        "metrics.json",
        {
            "best_epoch": state.best_epoch,
            "epochs": state.epoch,
            "device": str(device),
            "mean": {k: None if np.isnan(v) else float(v) for k, v in macro(table).items()},
            "attributes": plain.to_dict("index"),
        },
    )
    (run / "last.pt").unlink(missing_ok=True)
    return table


def run_parameters(config: TrainConfig, **data: Any) -> dict[str, Any]:
    """Every parameter of a training as plain values, for the run folder: the configuration and where the data is."""
    return {**data, **asdict(config)}
