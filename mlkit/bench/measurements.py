"""What the bench measures: each method takes one measurement, once, and returns its figures by name."""

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mlkit.bench.footprint import wall_seconds
from mlkit.bench.machine import latency_ms, matrix_product, memory_traffic, synchronise, usual_memory
from mlkit.bench.plainloop import PlainImages, plain_loader, plain_predict, plain_train
from mlkit.data.cache import cores
from mlkit.data.dataset import batches
from mlkit.data.fingerprints import FINGERPRINT, near_duplicates
from mlkit.data.images import load_image
from mlkit.data.source import DataSource
from mlkit.errors import ParameterError
from mlkit.files import environment
from mlkit.inference.predictor import Predictor
from mlkit.losses.bce import masked_bce
from mlkit.models.device import Device, native_bf16
from mlkit.models.modelfile import load_model
from mlkit.models.networks import build_model, compute_logits, folded, normalise, place
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.gradients import fast_gradients
from mlkit.training.loop import split_dataset, train

_ASKED_AT_ONCE = 64  # images of a batch of inference
EPOCHS = 3  # of mlkit's training in each turn: the first includes the decode, the others are the later epochs
ASKED, PREDICTED = 32, 96  # images that prediction takes at once, those of a folder at least
SEARCHED, FRAMES = 50_000, 8_000  # images among which near duplicates are searched: unrelated ones, and of one scene


class Measurements:
    """The contestants, warmed up, on the same images: those that mlkit's split gives to the training.

    Args:
        folder: of the images.
        labels: label file.
        config: of mlkit's training; the plain loop and the pure step take network, batch and image size from it.
        device: what `config` comes to on this machine.
        work: folder for all that is written on the way.
    """

    def __init__(self, folder: Path, labels: Path, config: TrainConfig, device: Device, work: Path) -> None:
        self.folder, self.labels, self.config, self.device, self.work = folder, labels, config, device, work
        self.dtype = device.dtype
        self.left_out: dict[str, str] = {}  # figure -> why this machine does not give it
        native, reason = native_bf16(device.device)
        if not native and not self.dtype:  # emulated, it can be a hundred times slower than float32
            self.left_out |= {"gemm_bf16_gflop_per_s": reason, "gemm_bound_bf16_img_per_s": reason}
        if device.device.type != "cuda":
            self.left_out["peak_gpu_mb"] = "no CUDA GPU is used"
        self.batch_size = batch_size = int(config.batch_size)
        with redirected(work / "first"):
            dataset = DataSource(str(folder), str(labels)).open(config.image_size)
        self.dataset = dataset
        split = split_dataset(dataset, config)
        self.training = np.flatnonzero(split == "train")
        if len(self.training) < 2 * batch_size:
            raise ParameterError(
                f"{len(dataset)} images are too few for batches of {batch_size}; give at least "
                f"{3 * batch_size}, or lower batch_size"
            )
        self.files = [folder / name for name in dataset.labels.index[self.training]]
        self.model_file = work / "model.pth"

        targets = torch.from_numpy(dataset.targets[self.training])
        self.images = PlainImages(self.files, targets, config.image_size)
        self.loaders = {n: plain_loader(self.images, batch_size, n, device.device) for n in (0, cores())}
        self.plain = self._network().to(device.device)
        self.plain_optimizer = torch.optim.Adam(self.plain.parameters(), lr=config.learning_rate)
        self.weighting = torch.ones(targets.shape[1], device=device.device)

        self.sizes = [len(chosen) for chosen in batches(self.training, batch_size, config.seed, 1)]
        pixels, targets = map(torch.from_numpy, dataset.batch(self.training[: max(self.sizes)]))
        self.inputs, self.targets = normalise(pixels.to(device.device)), targets.to(device.device)
        self.bare = place(self._network(), device).train()
        fused = device.device.type in ("cpu", "cuda")
        self.bare_optimizer = torch.optim.Adam(self.bare.parameters(), lr=config.learning_rate, fused=fused)
        self.gflop, self.gbyte = self._count_gflop(), self._count_gbyte()
        self.inference_gflop, self.inference_gbyte = self._count_gflop(training=False), self._count_gbyte(training=False)
        self._warm_up()

    def limits(self) -> dict[str, float]:
        """Speed of the matrix product, in bf16 too if native or asked for, and of the memory; the images/s that they allow.

        The floor of a step's time is the larger of both (the roofline, Williams, Waterman & Patterson 2009).
        """
        figures: dict[str, float] = {}
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            if f"gemm_{name}_gflop_per_s" in self.left_out:
                continue
            speed = matrix_product(self.device.device, dtype)
            figures |= {f"gemm_{name}_gflop_per_s": speed, f"gemm_bound_{name}_img_per_s": speed / self.gflop}
        chosen = "bf16" if self.dtype else "fp32"
        figures["gemm_bound_img_per_s"] = figures[f"gemm_bound_{chosen}_img_per_s"]
        figures["memory_gb_per_s"] = memory_traffic(self.device.device)
        figures["memory_bound_img_per_s"] = figures["memory_gb_per_s"] / self.gbyte
        bounds = figures["gemm_bound_img_per_s"], figures["memory_bound_img_per_s"]
        product, memory = figures[f"gemm_{chosen}_gflop_per_s"], figures["memory_gb_per_s"]
        inference = min(product / self.inference_gflop, memory / self.inference_gbyte)
        return figures | {"floor_img_per_s": min(bounds), "inference_floor_img_per_s": inference}

    def plain_serial(self) -> dict[str, float]:
        """One epoch of the plain loop that decodes in its own process."""
        return {"plain_0_workers_img_per_s": self._plain_epoch(0)}

    def plain_workers(self) -> dict[str, float]:
        """One epoch of the plain loop with a worker process for every core."""
        return {"plain_n_workers_img_per_s": self._plain_epoch(cores())}

    def mlkit(self) -> dict[str, float]:
        """Decode into a fresh pixel cache and train, end to end by mlkit's own training."""
        cuda = self.device.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        with redirected(self.work / "turn"):
            started = time.perf_counter()
            dataset = DataSource(str(self.folder), str(self.labels)).open(self.config.image_size)
            decoding = time.perf_counter() - started
            run = Run.create("bench", {}, dataset.fingerprint)
            train(dataset, self.config, run)
            history = run.read_table("history.csv")
            shutil.copyfile(run / "model.pth", self.model_file)
        shutil.rmtree(self.work / "turn", ignore_errors=True)  # Windows keeps what is mapped
        # The held-out images are decoded too; the plain loop never opens them, so their share is taken out.
        decoding *= len(self.training) / len(dataset)
        first = self._seconds_per_image(history[history.epoch == 1]) * len(self.training)
        figures = {
            "cache_build_img_per_s": len(self.training) / decoding,
            "mlkit_first_epoch_img_per_s": len(self.training) / (decoding + first),
            "mlkit_img_per_s": 1 / self._seconds_per_image(history[history.epoch > 1]),
        }
        return figures | ({"peak_gpu_mb": (torch.cuda.max_memory_allocated() - before) / (1 << 20)} if cuda else {})

    def step(self) -> dict[str, float]:
        """Forward, loss, backward and optimizer alone, as often and in batches as large as in mlkit's later epochs."""
        sizes = self.sizes * (EPOCHS - 1)
        with self._timed() as seconds:
            for size in sizes:
                self._bare_step(size)
        return {"step_img_per_s": sum(sizes) / seconds()}

    def decode(self) -> dict[str, float]:
        """Decode and resize on one core: as the plain loop does it, and as the pixel cache does it."""
        indices = range(min(len(self.files), 96))
        with self._timed() as plain_seconds:
            for i in indices:
                self.images.decode(i)
        with self._timed() as cache_seconds:
            for i in indices:
                load_image(self.files[i], self.config.image_size)
        return {
            "plain_decode_img_per_s": len(indices) / plain_seconds(),
            "cache_decode_img_per_s": len(indices) / cache_seconds(),
        }

    def predict(self) -> dict[str, float]:
        """Inference on a folder and on a single image, from files to probabilities."""
        predictor = Predictor.load(self.model_file, self.config.device, self.config.precision, quiet=True)
        # whole batches, so that all meet kernels that were chosen before; several, for of the first nothing is decoded ahead
        files = self.files * -(-PREDICTED // len(self.files))
        files = files[: len(files) // ASKED * ASKED]
        predictor.predict(files[:ASKED])
        plain = [self._plain_predict(files, ASKED, workers) for workers in (0, cores())]
        with self._timed() as seconds:
            predictor.predict(files)
        one = plain_loader(self._images(files[:1]), 1, 0, self.device.device, shuffle=False)
        with usual_memory():
            plain_one = latency_ms(lambda: plain_predict(self.plain, one, self.device.device))
        return {
            "plain_predict_img_per_s": max(plain),
            "mlkit_predict_img_per_s": len(files) / seconds(),
            "plain_predict_one_ms": plain_one,
            "mlkit_predict_one_ms": latency_ms(lambda: predictor.predict(self.files[0])),
        }

    def frozen(self) -> dict[str, float]:
        """Ten epochs of the head alone on features computed once, and one pass of inference over the same images."""
        network = place(folded(load_model(self.model_file)[0]), self.device)
        everything = np.arange(len(self.dataset))
        chunks = np.array_split(everything, -(-len(everything) // _ASKED_AT_ONCE))

        @torch.inference_mode()
        def ask(chosen: np.ndarray) -> None:
            compute_logits(network, torch.from_numpy(self.dataset.batch(chosen)[0]), self.device).cpu()

        ask(chunks[0])  # the first one also chooses kernels and gets memory
        with self._timed() as pass_seconds:
            for chosen in chunks:
                ask(chosen)
        for kept in self.work.rglob("features-*"):  # of the turn before
            kept.unlink()
        config = replace(self.config, freeze="backbone", weights=str(self.model_file), epochs=10)
        with redirected(self.work / "first"), self._timed() as seconds:
            train(self.dataset, config, Run.create("frozen", {}, self.dataset.fingerprint, overwrite=True))
        speed = len(everything) / pass_seconds()
        return {"inference_img_per_s": speed, "inference_pass_s": pass_seconds(), "frozen_s": seconds()}

    def duplicates(self) -> dict[str, float]:
        """The search for near duplicates among fingerprints that are drawn: of unrelated pictures, and of a film."""
        rng = np.random.default_rng(0)
        unrelated = rng.integers(0, 256, (SEARCHED, FINGERPRINT), np.uint8)
        film = np.tile(unrelated[0].astype(np.int64), (FRAMES, 1))
        film[:, 8:] += rng.integers(-6, 7, (FRAMES, FINGERPRINT - 8))
        film = film.clip(0, 255).astype(np.uint8)
        for _ in range(3):  # bits of the hash
            film[np.arange(FRAMES), rng.integers(0, 8, FRAMES)] ^= np.uint8(1) << rng.integers(0, 8, FRAMES, np.uint8)
        seconds = []
        for prints in (unrelated, film):
            started = time.perf_counter()
            near_duplicates(prints)
            seconds.append(time.perf_counter() - started)
        return {"duplicates_s": seconds[0], "duplicates_of_a_scene_s": seconds[1]}

    def start(self) -> dict[str, float]:
        """Seconds from the shell and back."""
        cold = ["-m", "mlkit", "predict", str(self.files[0].absolute()), "--model", str(self.model_file)]
        return {
            "import_s": wall_seconds(["-c", "import mlkit"], self.work),
            "help_s": wall_seconds(["-m", "mlkit", "--help"], self.work),
            "predict_cold_s": wall_seconds(cold, self.work),
        }

    def _network(self) -> nn.Module:
        return build_model(self.config.backbone, self.images.targets.shape[1], "none", self.config.image_size)

    def _warm_up(self) -> None:
        """What happens once only (worker processes, memory, choice of kernels) belongs to no measurement."""
        for loader in self.loaders.values():
            plain_train(self.plain, loader, self.plain_optimizer, self.weighting, self.device.device, steps=1)
        for size in set(self.sizes):
            self._bare_step(size)

    def _plain_epoch(self, workers: int) -> float:
        """Images per second over a whole epoch, the wait for its first batch included."""
        loader = self.loaders[workers]
        with usual_memory(), self._timed() as seconds:
            seen = plain_train(self.plain, loader, self.plain_optimizer, self.weighting, self.device.device)
        return seen / seconds()

    def _plain_predict(self, files: list[Path], batch_size: int, workers: int) -> float:
        """Images per second of the plain loop over a folder."""
        loader = plain_loader(self._images(files), batch_size, workers, self.device.device, shuffle=False)
        with usual_memory(), self._timed() as seconds:
            plain_predict(self.plain, loader, self.device.device)
        return len(files) / seconds()

    def _images(self, files: list[Path]) -> PlainImages:
        return PlainImages(files, torch.zeros(len(files), self.images.targets.shape[1]), self.config.image_size)

    def _bare_step(self, size: int) -> None:
        with self.device.autocast(), fast_gradients(self.bare, self.device):
            logits = self.bare(self.inputs[:size])
        loss = masked_bce(logits.float(), self.targets[:size], self.weighting)
        self.bare_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.bare_optimizer.step()

    def _count_gflop(self, training: bool = True) -> float:
        """Floating point operations of one image in 10^9, backward too in training; multiply-add counts as two."""
        images = 2  # batch normalisation cannot train on one
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            logits = self._network()(torch.randn(images, 3, self.config.image_size, self.config.image_size))
            if training:
                logits.sum().backward()
        return float(counter.get_total_flops()) / images / 1e9

    def _count_gbyte(self, training: bool = True) -> float:
        """The fewest bytes that must be moved for an image, in 10^9, were no cache to hold anything.

        The outputs of convolutions and linear layers, with which all else can be fused, are written and read once, in the
        precision used; the weights are read once for a batch. In training so are the outputs' gradients, and the weights
        are updated in float32 with their gradients and the two moments of Adam.
        """
        outputs: list[int] = []
        network = self._network().eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.numel()))
        with torch.no_grad():
            network(torch.zeros(1, 3, self.config.image_size, self.config.image_size))
        element = 2 if self.dtype == torch.bfloat16 else 4
        weights = sum(parameter.numel() for parameter in network.parameters())
        if not training:
            return float(2 * element * sum(outputs) + weights * element / _ASKED_AT_ONCE) / 1e9
        update = 2 * 4 * 4  # weight, gradient, two moments: each read and written in float32
        return float(4 * element * sum(outputs) + weights * (element + update) / int(self.config.batch_size)) / 1e9

    def _seconds_per_image(self, history: pd.DataFrame) -> float:
        """From the clock of the training's own history: validation and the writing of files are not in it."""
        sizes = np.tile(self.sizes, history.epoch.nunique())
        return float((sizes / history.img_per_s.to_numpy()).sum() / sizes.sum())

    @contextmanager
    def _timed(self) -> Iterator[Callable[[], float]]:
        """Gives a function that tells, after the block, how many seconds it took, the device's work included."""
        synchronise(self.device.device)
        started = time.perf_counter()
        seconds = 0.0
        yield lambda: seconds
        synchronise(self.device.device)
        seconds = time.perf_counter() - started


@contextmanager
def redirected(outputs: Path) -> Iterator[None]:
    """Let mlkit write its runs and caches below `outputs`, and print nothing."""
    with environment(MLKIT_OUTPUTS=str(outputs)), redirect_stdout(io.StringIO()):
        yield
