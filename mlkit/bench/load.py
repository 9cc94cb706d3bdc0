"""What else the machine does while it is measured: the share of the cores that others take, and what a hypervisor takes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_OTHERS, _STEAL = 0.1, 0.02  # of all cores; more, and contestants that take turns meet different machines
_DIFFER = 1.3  # turns that agree worse than so tell no ratio


@dataclass(frozen=True)
class Moment:
    """CPU seconds since the machine started, and how many wait or run now."""

    total: float  # of all cores, idle ones too
    busy: float
    steal: float  # that the hypervisor gave to other machines
    own: float  # of this process and all that it started
    queue: int  # tasks that run or wait for a core


def moment() -> Moment | None:
    """The machine now; None where there is no /proc/stat to read it from."""
    try:
        lines = (_PROC / "stat").read_text(encoding="utf-8").splitlines()
        user, nice, system, idle, wait, hard, soft, steal = (float(word) for word in lines[0].split()[1:9])
        (queue,) = (int(line.split()[1]) for line in lines if line.startswith("procs_running"))
        tick = os.sysconf("SC_CLK_TCK")
        busy = user + nice + system + hard + soft
        return Moment((busy + idle + wait + steal) / tick, busy / tick, steal / tick, _own(os.getpid()) / tick, queue)
    except (OSError, ValueError, AttributeError):
        return None


def _own(process: int) -> float:
    """Clock ticks of a process, of those that it started, and of those that have ended."""
    try:
        # the name, in brackets, may hold anything
        words = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        tasks = (_PROC / str(process) / "task").glob("*/children")
        children = [child for task in tasks for child in task.read_text(encoding="utf-8").split()]
    except OSError:  # it has just ended; its parent counts it
        return 0.0
    return sum(map(float, words[11:15])) + sum(_own(int(child)) for child in children)


def summarise(moments: Sequence[Moment | None]) -> dict[str, float]:
    """Shares of all cores that others and the hypervisor took between the first and the last moment, and the mean queue."""
    known = [one for one in moments if one is not None]
    if len(known) < 2 or known[-1].total <= known[0].total:
        return {}
    first, last = known[0], known[-1]
    total = last.total - first.total
    others = max(0.0, (last.busy - first.busy) - (last.own - first.own)) / total
    queue = sum(one.queue for one in known) / len(known)
    return {"others": others, "steal": (last.steal - first.steal) / total, "queue": queue}


def doubts(load: Mapping[str, float], ratios: Sequence[float]) -> list[str]:
    """Why the ratios of a run cannot be trusted; empty where they can, as far as is known.

    Args:
        load: see `summarise`.
        ratios: the same ratio in every turn.
    """
    reasons = []
    if load.get("others", 0) > _OTHERS:
        reasons.append(f"other work took {load['others']:.0%} of the cores")
    if load.get("steal", 0) > _STEAL:
        reasons.append(f"the hypervisor took {load['steal']:.0%}")
    if max(ratios) > _DIFFER * min(ratios):
        reasons.append(f"mlkit was {min(ratios):.2f} to {max(ratios):.2f} times as fast as the plain loop, turn by turn")
    return reasons
