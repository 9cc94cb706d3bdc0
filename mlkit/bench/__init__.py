"""How fast mlkit is on this machine, beside the plain loop and beside what the machine can do at all, in one run."""

from mlkit.bench.config import BenchConfig
from mlkit.bench.report import describe, table
from mlkit.bench.turns import measure

__all__ = ["BenchConfig", "describe", "measure", "table"]
