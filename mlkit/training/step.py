"""The training step: one batch through augmentation, network, loss and optimizer."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mlkit.data.dataset import MultiLabelDataset
from mlkit.losses import get_loss
from mlkit.models.device import Device, largest_batch
from mlkit.models.freezing import Activations, PartlyFrozen
from mlkit.models.networks import build_model, check_first_size, compute_logits, folded, head_name, place
from mlkit.runs import Run
from mlkit.training.augment import shrink
from mlkit.training.config import TrainConfig
from mlkit.training.feed import Feed
from mlkit.training.gradients import fast_gradients
from mlkit.training.objective import Objective, Targets, image_weights
from mlkit.training.optim import WeightAverage, build_optimizer, penalty
from mlkit.training.prior import EVALUATION_BATCH, estimate_prior


class TrainingStep:
    """All that a training carries from batch to batch, on one device.

    Args:
        dataset: images and labels.
        training: indices of the images to train on.
        config: the settings.
        device: where to compute.
        run: its folder takes the activations of frozen layers while the training lasts.
    """

    def __init__(
        self, dataset: MultiLabelDataset, training: np.ndarray, config: TrainConfig, device: Device, run: Run
    ) -> None:
        self.config = config
        self.device = device
        labels = dataset.labels.iloc[training]
        self.image_weights = image_weights(labels, config.sampler_cap) if config.sampler == "balanced" else None
        torch.manual_seed(config.seed)
        network = build_model(config.backbone, len(dataset.attributes), config.weights, config.image_size)
        if config.first_size < 1:
            check_first_size(network, config.backbone, config.side(1))
        self.network = place(network, device)
        self._partly_frozen = PartlyFrozen(self.network, config.backbone, config.freeze, device)
        self._augmentation = config.augmentation
        # Where nothing random happens before them, what the frozen layers say of each image is computed once.
        self._once = self._partly_frozen.lower is not None and not self._augmentation
        self.feed = Feed(Activations(dataset, self._partly_frozen, run.path) if self._once else dataset, device.device)
        self._images = len(dataset)
        self._suggested = None if dataset.suggested is None else dataset.suggested.to(device.device)
        self.optimizer = build_optimizer(self._partly_frozen.parameters(), config)
        self.average = WeightAverage(self.network, config.ema_decay) if config.ema_decay else None
        asked = get_loss(config.loss).takes_prior and config.prior_run
        prior = estimate_prior(config.prior_run, dataset, training, device) if asked else None
        self.objective = Objective(config, labels, self.image_weights, prior, device.device)
        self._prepare: Callable[..., Tensor] = torch.compile(self._prepared) if config.compile else self._prepared
        self._logits: Callable[[Tensor], Tensor] = torch.compile(self._forward) if config.compile else self._forward
        if config.optimizer == "lbfgs":
            self.batch_size = len(training)
        elif isinstance(config.batch_size, int):
            self.batch_size = config.batch_size
        else:
            self.batch_size = self._largest_batch(dataset, most=max(8, len(training) // 8))

    def load_head(self, head: dict[str, Tensor]) -> None:
        """Go on with another head, from which its average starts, too."""
        self.network.get_submodule(head_name(self.network, self.config.backbone)).load_state_dict(head)
        if self.average is not None:
            self.average = WeightAverage(self.network, self.config.ema_decay)

    def start_epoch(self, epoch: int) -> None:
        """Training mode, and the augmentation of the epoch's images, derived from the seed and its number."""
        self._epoch = epoch
        self._side = self.config.side(epoch)
        self._draws = self._augmentation.draw(self._images, self.config.seed, epoch).to(self.device.device)
        self._partly_frozen.train()

    def __call__(self, where: Tensor, inputs: Tensor, targets: Tensor, step: int, lr: float) -> Tensor:
        """Learn from one batch that was fed; returns its loss, on the device and not yet waited for.

        Args:
            where: (batch,) indices of the images.
            inputs: (batch, ...), as fed.
            targets: (batch, attributes) of 1, 0 and -1.
            step: number of the iteration, from which randomness is derived.
            lr: learning rate.
        """
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, step]).generate_state(1)[0]))  # dropout
        share, partners = 1.0, where
        if self._augmentation.mixup:
            share, partners = self._augmentation.mixture(len(where), self.config.seed, step)
            partners = partners.to(self.device.device)
        if not self._once:
            inputs = shrink(inputs, self._side)
            inputs = self._prepare(inputs, self._draws[where], share, partners)
        if self.config.optimizer == "lbfgs":
            return self._solve(where, inputs, targets)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self._gradients(where, inputs, targets, share, partners)
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._partly_frozen.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # now, so that evaluation has their memory
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
        for part in _parts(len(where), self.config.accumulate):
            terms: list[tuple[float, slice | Tensor]] = [(share, part)]
            if share < 1:
                terms.append((1 - share, partners[part]))
            mixed = [(weight, targets[images]) for weight, images in terms]
            suggested: Targets = ()
            if self._suggested is not None:
                suggested = [(weight, self._suggested[where[images]]) for weight, images in terms]
            with nullcontext() if self.config.compile else fast_gradients(self._partly_frozen.upper, self.device):
                logits = self._logits(inputs[part])
            sum_and_count = self.objective(logits, mixed, self._epoch, suggested)
            sum_and_count[0].backward()  # type: ignore[no-untyped-call]
            total += sum_and_count.detach()
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        count = total[1].clamp(min=torch.finfo(total.dtype).tiny)
        torch._foreach_div_(gradients, count)
        return total[0] / count

    @torch.inference_mode()
    def evaluate(self, indices: np.ndarray) -> Tensor:
        """Float32 logits (len(indices), attributes) of images, on the CPU."""
        self.network.eval()
        ask = self._forward
        if not self._once:
            network = place(folded(self.network), self.device)  # of the weights as they are now
            ask = partial(compute_logits, network, device=self.device)
        order = np.split(indices, range(EVALUATION_BATCH, len(indices), EVALUATION_BATCH)) if len(indices) else []
        parts = [ask(inputs).cpu() for _, inputs, _ in self.feed.batches(order)]
        return torch.cat(parts) if parts else torch.empty(0, self.feed.targets.shape[1])

    def _prepared(self, pixels: Tensor, draws: Tensor, share: float, partners: Tensor) -> Tensor:
        pixels = self._augmentation(pixels, draws) if self._augmentation else pixels
        return share * pixels + (1 - share) * pixels[partners] if share < 1 else pixels

    def _forward(self, inputs: Tensor) -> Tensor:
        return self._partly_frozen.logits(inputs if self._once else self._partly_frozen.activations(inputs))

    def _largest_batch(self, dataset: MultiLabelDataset, most: int) -> int:
        if self.device.device.type != "cuda":
            return 32  # memory does not decide on a CPU

        def fits(size: int) -> None:
            pixels = torch.zeros((size, dataset.image_size, dataset.image_size, 3), device=self.device.device)
            self._partly_frozen.logits(self._partly_frozen.activations(pixels)).sum().backward()  # type: ignore[no-untyped-call]
            self.network.zero_grad(set_to_none=True)

        self.network.eval()  # so that batch normalisation does not count the zeros
        return largest_batch(fits, most)


def _parts(images: int, count: int) -> list[slice]:
    """A batch in `count` equal parts, or fewer: batch normalisation cannot work on a single image."""
    cuts = np.linspace(0, images, 1 + max(1, min(count, images // 2))).astype(int).tolist()
    return [slice(start, end) for start, end in itertools.pairwise(cuts)]
