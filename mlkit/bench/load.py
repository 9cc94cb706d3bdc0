"""What else the machine does while it is measured: the share of the cores that others take, and what a hypervisor takes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

_OTHERS, _STEAL = 0.1, 0.02  # of all cores; more, and contestants that take turns meet different machines
_DIFFER = 1.3  # turns that agree worse than so tell no ratio


@dataclass(frozen=True)
class Moment:
    """CPU seconds since the machine started, and how many tasks run or wait on average."""

    total: float  # of all cores, idle ones too
    busy: float
    steal: float  # that the hypervisor gave to other machines
    own: float  # of this process and all that it started
    queue: float  # over the last minute


def moment() -> Moment:
    """The machine now."""
    times = psutil.cpu_times()
    # some of them Linux alone has
    busy, steal, idle = (
        sum(getattr(times, name, 0.0) for name in names)
        for names in (("user", "nice", "system", "irq", "softirq"), ("steal",), ("idle", "iowait"))
    )
    own, process = 0.0, psutil.Process()
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended; its parent counts it
            own += sum(one.cpu_times()[:4])  # its own, and of those of its children that have ended
    return Moment(busy + steal + idle, busy, steal, own, psutil.getloadavg()[0])


def summarise(moments: Sequence[Moment]) -> dict[str, float]:
    """Shares of all cores that others and the hypervisor took between the first and the last moment, and the mean queue."""
    first, last = moments[0], moments[-1]
    total = max(last.total - first.total, 1e-9)
    others = max(0.0, (last.busy - first.busy) - (last.own - first.own)) / total
    queue = sum(one.queue for one in moments) / len(moments)
    return {"others": others, "steal": (last.steal - first.steal) / total, "queue": queue}


def doubts(load: Mapping[str, float], ratios: Sequence[float]) -> list[str]:
    """Why the ratios of a run cannot be trusted; empty where they can, as far as is known.

    Args:
        load: see `summarise`.
        ratios: the same ratio in every turn.
    """
    reasons = []
    if load["others"] > _OTHERS:
        reasons.append(f"other work took {load['others']:.0%} of the cores")
    if load["steal"] > _STEAL:
        reasons.append(f"the hypervisor took {load['steal']:.0%}")
    if max(ratios) > _DIFFER * min(ratios):
        reasons.append(f"mlkit was {min(ratios):.2f} to {max(ratios):.2f} times as fast as the plain loop, turn by turn")
    return reasons
