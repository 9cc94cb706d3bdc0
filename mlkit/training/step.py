"""The training step: one batch through augmentation, network, loss and optimizer."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mlkit.data.dataset import MultiLabelDataset
from mlkit.losses import get_loss
from mlkit.models.device import Device, largest_batch
from mlkit.models.freezing import Activations, PartlyFrozen
from mlkit.models.networks import build_model, check_first_size, compute_logits, folded, forward, place
from mlkit.runs import Run
from mlkit.training.augment import Augmentation, shrink
from mlkit.training.config import TrainConfig
from mlkit.training.feed import Feed
from mlkit.training.gradients import fast_gradients
from mlkit.training.objective import Objective, Targets, image_weights
from mlkit.training.optim import WeightAverage, build_optimizer, penalty
from mlkit.training.prior import EVALUATION_BATCH, estimate_prior
from mlkit.training.processes import Processes, cut, joined


class TrainingStep:
    """All that a training carries from batch to batch, on one device.

    Args:
        dataset: images and labels.
        training: indices of the images to train on.
        config: the settings.
        device: where to compute.
        run: its folder takes the activations of frozen layers while the training lasts.
        processes: that share each batch.
    """

    def __init__(
        self,
        dataset: MultiLabelDataset,
        training: np.ndarray,
        config: TrainConfig,
        device: Device,
        run: Run,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self.processes = processes or Processes()
        self.device = device
        labels = dataset.labels.iloc[training]
        self.image_weights = image_weights(labels, config.sampler_cap) if config.sampler == "balanced" else None
        torch.manual_seed(config.seed)
        network = build_model(config.backbone, len(dataset.attributes), config.weights, config.image_size)
        if (side := config.side(1)) < config.image_size:
            check_first_size(network, config.backbone, side)
        if self.processes.count > 1 and device.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = place(network, device)
        self._partly_frozen = PartlyFrozen(self.network, config.backbone, config.frozen, device)
        self._augmentation = Augmentation.of(config)
        # Where nothing random happens before them, what the frozen layers say of each image is computed once.
        self._once = self._partly_frozen.lower is not None and not self._augmentation
        # Mixed images need those of other parts, and so does a penalty that depends on all.
        self._reads_all = self.processes.count == 1 or bool(config.mixup) or config.optimizer == "lbfgs"
        with self.processes.one_by_machine() if config.freeze == "backbone" else nullcontext():  # whose features are kept
            source = Activations(dataset, self._partly_frozen, run.path) if self._once else dataset
        self.feed = Feed(source, device.device)
        self._images = len(dataset)
        self._suggested = None if dataset.suggested is None else torch.from_numpy(dataset.suggested).to(device.device)
        self.optimizer = build_optimizer(self._partly_frozen.parameters(), config)
        self.average = WeightAverage(self.network, config.ema_decay) if config.ema_decay else None
        asked = get_loss(config.loss).takes_prior and config.prior_run
        prior = estimate_prior(config.prior_run, dataset, training, device) if asked else None
        self.objective = Objective(config, labels, self.image_weights, prior, device.device)
        self._trained = self.processes.wrapped(self._partly_frozen.upper)
        self._prepare: Callable[..., Tensor] = torch.compile(self._prepared) if config.compile else self._prepared
        self._logits: Callable[[Tensor], Tensor] = torch.compile(self._forward) if config.compile else self._forward
        if config.optimizer == "lbfgs":
            self.batch_size = len(training)
        elif isinstance(config.batch_size, int):
            self.batch_size = config.batch_size
        else:
            largest = self._largest_batch(dataset, most=max(8, len(training) // 8))
            self.batch_size = self.processes.count * min(self.processes.everyones(largest))

    def start_epoch(self, epoch: int) -> None:
        """Training mode, and the augmentation of the epoch's images, derived from the seed and its number."""
        self._epoch = epoch
        self._side = self.config.side(epoch)
        self._draws = self._augmentation.draw(self._images, self.config.seed, epoch).to(self.device.device)
        self._partly_frozen.train()

    def wanted(self, batch: np.ndarray) -> np.ndarray:
        """Of the images of a batch, those whose inputs this process reads, to feed to it."""
        return batch if self._reads_all else batch[self._positions(len(batch))]

    def __call__(self, where: Tensor, inputs: Tensor, targets: Tensor, step: int, lr: float) -> Tensor:
        """Learn from one batch that was fed; returns its loss, on the device and not yet waited for.

        Args:
            where: (batch,) indices of the images.
            inputs: (batch, ...), as fed: of the images that are `wanted`.
            targets: (batch, attributes) of 1, 0 and -1.
            step: number of the iteration, from which randomness is derived.
            lr: learning rate.
        """
        seeds = [self.config.seed, step, *([self.processes.rank] if self.processes.rank else [])]
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))  # dropout
        share, partners = 1.0, where
        if self._augmentation.mixup:
            share, partners = self._augmentation.mixture(len(where), self.config.seed, step)
            partners = partners.to(self.device.device)
        if not self._once:
            inputs = shrink(inputs, self._side)
            fed = where if self._reads_all else where[self._positions(len(where))]
            inputs = self._prepare(inputs, self._draws[fed], share, partners)
        if self.config.optimizer == "lbfgs":
            return self._solve(where, inputs, targets)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self._gradients(where, inputs, targets, share, partners)
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._partly_frozen.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # now, so that evaluation has their memory
        self.processes.average_statistics(self._partly_frozen.upper)
        if self.average is not None:
            self.average.update()
        return loss

    def _solve(self, where: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Minimise the loss of all images with the epoch's penalty, from where the epoch before ended."""
        strength = penalty(self.config, self._epoch, inputs)
        weights = [parameter for parameter in self._partly_frozen.parameters() if parameter.ndim > 1]

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self._gradients(where, inputs, targets, 1.0, where)
            for weight in weights:
                assert weight.grad is not None
                weight.grad += strength * weight.detach()
                loss = loss + strength / 2 * weight.detach().square().sum()
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]  # any of torch takes a tensor
        self.optimizer.state.clear()  # the next epoch's penalty is another one
        loss = self._gradients(where, inputs, targets, 1.0, where)
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _gradients(self, where: Tensor, inputs: Tensor, targets: Tensor, share: float, partners: Tensor) -> Tensor:
        """Gradients of a batch's mean loss over its known cells, added to the parameters'; returns that loss."""
        # Sum and count stay apart: known cells differ from part to part, and a mean of means would be wrong.
        total = torch.zeros(2, device=self.device.device)
        parts = self._parts(len(where))
        for (part, _), mine in zip(parts, self._own(inputs, [own for _, own in parts]), strict=True):
            terms: list[tuple[float, slice | Tensor]] = [(share, part)]
            if share < 1:
                terms.append((1 - share, partners[part]))
            mixed = [(weight, targets[images]) for weight, images in terms]
            suggested: Targets = ()
            if self._suggested is not None:
                suggested = [(weight, self._suggested[where[images]]) for weight, images in terms]
            with self.processes.apart(self._trained, wanted=part is not parts[-1][0]):
                logits = self.processes.whole(self._logits(mine), part.stop - part.start)
                sum_and_count = self.objective(logits, mixed, self._epoch, suggested)
                sum_and_count[0].backward()  # type: ignore[no-untyped-call]
            total += sum_and_count.detach()
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        count = total[1].clamp(min=torch.finfo(total.dtype).tiny)
        torch._foreach_div_(gradients, count / self.processes.count)  # they are a mean over the processes
        return total[0] / count

    def _parts(self, images: int) -> list[tuple[slice, slice]]:
        """Parts that a batch is accumulated from, and which of its images are this process's in each."""
        parts = cut(images, self.config.accumulate)
        own = [self.processes.part(part.stop - part.start) for part in parts]
        return [(p, slice(p.start + o.start, p.start + o.stop)) for p, o in zip(parts, own, strict=True)]

    def _positions(self, images: int) -> np.ndarray:
        """Which of the images of a batch are this process's, part by part."""
        return joined(own for _, own in self._parts(images))

    def _own(self, inputs: Tensor, own: list[slice]) -> Sequence[Tensor]:
        """This process's inputs of each part of a batch."""
        if self._reads_all:
            return [inputs[images] for images in own]
        return torch.split(inputs, [images.stop - images.start for images in own])

    @torch.inference_mode()
    def evaluate(self, indices: np.ndarray) -> Tensor:
        """Float32 logits (len(indices), attributes) of images, on the CPU."""
        self.network.eval()
        ask = self._partly_frozen.logits
        if not self._once:
            network = place(folded(self.network), self.device)  # of the weights as they are now
            ask = partial(compute_logits, network, device=self.device)
        own = np.array_split(indices, self.processes.count)[self.processes.rank]
        order = np.split(own, range(EVALUATION_BATCH, len(own), EVALUATION_BATCH)) if len(own) else []
        logits = [torch.empty(0, self.feed.targets.shape[1])]
        logits += [ask(inputs).cpu() for _, inputs, _ in self.feed.batches(order)]
        return torch.cat(self.processes.everyones(torch.cat(logits)))

    def _prepared(self, pixels: Tensor, draws: Tensor, share: float, partners: Tensor) -> Tensor:
        pixels = self._augmentation(pixels, draws) if self._augmentation else pixels
        return share * pixels + (1 - share) * pixels[partners] if share < 1 else pixels

    def _forward(self, inputs: Tensor) -> Tensor:
        activations = inputs if self._once else self._partly_frozen.activations(inputs)
        with nullcontext() if self.config.compile else fast_gradients(self._partly_frozen.upper, self.device):
            return forward(self._trained, activations, self.device).float()

    def _largest_batch(self, dataset: MultiLabelDataset, most: int) -> int:
        if self.device.device.type != "cuda":
            return 32  # memory does not decide on a CPU

        def fits(size: int) -> None:
            pixels = torch.zeros((size, dataset.image_size, dataset.image_size, 3), device=self.device.device)
            self._partly_frozen.logits(self._partly_frozen.activations(pixels)).sum().backward()  # type: ignore[no-untyped-call]
            self.network.zero_grad(set_to_none=True)

        self.network.eval()  # so that batch normalisation does not count the zeros
        return largest_batch(fits, most)
