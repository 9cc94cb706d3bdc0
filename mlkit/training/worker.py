"""One process of a training, or, with torchrun's options, torchrun, which starts all of them: see `launch.py`."""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlkit.errors import FailureError, MlkitError, ParameterError
from mlkit.files import read_json
from mlkit.progress import SWITCH
from mlkit.training.launch import FAILURE, PLAN


def work(plan: Mapping[str, Any]) -> None:
    """Train as a plan says, as one of its processes.

    Raises:
        FailureError: if there are others than planned, or they have other data or settings.
        MlkitError: as of `train`.
    """
    import torch
    from accelerate import Accelerator

    from mlkit.models.device import choose_device
    from mlkit.runs import Run
    from mlkit.training.loop import train_here
    from mlkit.training.processes import Processes
    from mlkit.training.recipe import Recipe

    recipe = Recipe.of(plan["parameters"])
    config = recipe.config
    device = choose_device(config.device, config.precision, config.side(1))
    if (cuda := device.device.type == "cuda") and int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
        raise ParameterError(
            f"processes is {os.environ['LOCAL_WORLD_SIZE']}, and this machine has {torch.cuda.device_count()} GPUs; each "
            "process needs one (or -p device cpu)"
        )
    accelerator = Accelerator(cpu=not cuda)
    processes = Processes(accelerator, main=_is_main(plan))
    if processes.count != plan["size"]:
        raise FailureError(f"{processes.count} processes were brought together, {plan['size']} were asked for")
    if cuda:
        device = choose_device(str(accelerator.device), config.precision, config.side(1))
    settings = {name: value for name, value in vars(config).items() if name not in ("weights", "prior_run")}
    for rank, other in enumerate(processes.everyones((plan["data"], settings, device.short))):
        if other != (plan["data"], settings, device.short):
            raise FailureError(f"processes {processes.rank} and {rank} have other data, settings or precision")
    dataset = recipe.open()
    if dataset.fingerprint != plan["data"]:
        raise FailureError("labels or images have changed since the training was begun; begin again")
    if processes.main:
        whole = Run(Path(plan["run"]))
        with whole.claimed():
            train_here(dataset, config, whole, device, processes=processes)
    else:  # what it writes on the way is of no use to anyone
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
            train_here(dataset, config, Run(Path(own)), device, processes=processes)
    accelerator.end_training()


def main(folder: Path, options: list[str]) -> int:
    """Exit status: 0 well, 1 failed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if options:
        return _torchrun([*options, "--module", "mlkit.training.worker", str(folder)])
    plan = read_json(folder / PLAN)
    if not _is_main(plan):
        os.environ[SWITCH] = "off"
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as there is this process
    try:
        work(plan)
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        _leave(folder, error)
        return 1
    return 0


def _is_main(plan: Mapping[str, Any]) -> bool:
    """Whether this is the process that writes: the first on the machine that has the run folder, torchrun numbers freely."""
    return bool(plan["run"]) and os.environ["LOCAL_RANK"] == "0"


def _torchrun(options: list[str]) -> int:
    """What the command does, but that it says nothing: what went wrong is said once, by who waits."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    logging.disable(logging.ERROR)
    try:
        run(get_args_parser().parse_args(options))  # type: ignore[no-untyped-call]
    except (ChildFailedError, SignalException):
        return 1
    return 0


def _leave(folder: Path, error: Exception) -> None:
    """Leave an error for who has started this, unless another process has: when one has failed, others lose it."""
    kind = type(error).__name__ if isinstance(error, MlkitError) else ""
    with suppress(FileExistsError), open(folder / FAILURE, "x", encoding="utf-8") as file:
        json.dump({"kind": kind, "text": str(error), "trace": traceback.format_exc()}, file)


def _end_with_parent() -> None:
    """Wait until nobody is there any more who waits for this process, and end it as on a signal of the system."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(status)  # a process that has failed must not wait for others that wait for it
