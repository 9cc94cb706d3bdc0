"""The door to Dask: workers of this machine, of a scheduler that runs, or of a batch system, and none at all.

Dask sends no data about its use to anybody. Who reaches a scheduler can have it run anything: that of this machine alone
asks for a key that nobody else has (TLS); others belong into a network that one trusts.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from mlkit.errors import MlkitError, ParameterError, check_installed, nearest
from mlkit.files import resolve, shown
from mlkit.parameters import read_parameters
from mlkit.progress import say

if TYPE_CHECKING:
    from distributed import Client

DASK = "MLKIT_DASK"  # where pieces run, for whoever says nothing else
_JOBS = {name: f"{name.upper()}Cluster" for name in ("slurm", "pbs", "sge", "lsf", "oar", "htcondor", "moab")}
_JOBS |= {"htcondor": "HTCondorCluster", "moab": "MoabCluster"}  # classes of dask-jobqueue
_LOCAL = {
    "host": "127.0.0.1",
    "dashboard_address": "127.0.0.1:0",
    "security": True,
    "memory_limit": 0,  # the mapped pixels of the cache count as memory, for which workers would be killed
    "silence_logs": logging.CRITICAL,
}


@contextmanager
def open_cluster(where: str = "") -> Iterator["Client | None"]:
    """Within: the client of a cluster, for `run_pieces`; None where pieces are to run in this process.

    Args:
        where: "local": processes of this machine, a GPU each where there are several; address of a scheduler,
            tcp://HOST:8786; a YAML file with `cluster: slurm` (pbs, sge, lsf ...: dask-jobqueue), `jobs: N` and the keywords
            of its class, or `cluster: local` and those of LocalCluster. Empty: what the environment variable `DASK` says,
            else none.

    Raises:
        ParameterError: if it is none of these.
        MlkitError: if Dask is not installed, or nothing answers there.
    """
    if not (where := where or os.environ.get(DASK, "")):
        yield None
        return
    settings = _settings(where)
    check_installed("dask", "distributed")
    import dask.config
    from distributed import Client

    from mlkit.fanout.worker import Setup

    logger = logging.getLogger("distributed")
    with ExitStack() as stack:
        # what a person is to know of lost workers and schedulers, `run_pieces` says
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        # a piece whose worker dies three times is not tried again
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 2}))
        try:
            cluster = stack.enter_context(_started(settings)) if settings else where
            client = stack.enter_context(Client(cluster, set_as_default=False))
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            start = "" if settings else "; start one with `dask scheduler`, and workers with `dask worker ADDRESS`"
            raise MlkitError(f"{where} cannot be used as a cluster ({' '.join(str(error).split())[:300]}){start}") from None
        client.register_plugin(Setup(_gpus() if settings.get("cluster") == "local" else 0), name="mlkit")
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        dashboard = f"; dashboard: {client.dashboard_link}" if importlib.util.find_spec("bokeh") else ""
        say(f"{workers or 'no'} workers{'' if workers else ' yet'} at {where}{dashboard}")
        yield client


def _settings(where: str) -> dict[str, Any]:
    """Keywords of a cluster to be started, with its kind; none for an address."""
    if where == "local":
        return {"cluster": "local"}
    if "://" in where:
        return {}
    if not where.endswith((".yaml", ".yml")):
        raise ParameterError(f"dask is {where!r}; it must be local, an address such as tcp://HOST:8786, or a .yaml file")
    file = resolve(where)
    settings = read_parameters(file)
    if (kind := settings.get("cluster")) not in {"local", *_JOBS}:
        raise ParameterError(f"{shown(file)}: cluster is {kind!r}{nearest(str(kind), ['local', *_JOBS])}")
    return settings


@contextmanager
def _started(settings: Mapping[str, Any]) -> Iterator[Any]:
    """A cluster of one's own, which ends with the block."""
    kind, jobs = settings["cluster"], settings.get("jobs")
    keywords = {name: value for name, value in settings.items() if name not in ("cluster", "jobs")}
    if kind == "local":
        from distributed import LocalCluster

        with LocalCluster(**_LOCAL | {"n_workers": _gpus() or None} | keywords) as cluster:
            yield cluster
        return
    check_installed("jobqueue", "dask_jobqueue")
    import dask_jobqueue

    with getattr(dask_jobqueue, _JOBS[kind])(**keywords) as cluster:
        cluster.scale(jobs=jobs or 1)
        yield cluster


def _gpus() -> int:
    """Number of this machine's GPUs."""
    import torch

    return torch.cuda.device_count()
