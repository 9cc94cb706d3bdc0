"""Many independent pieces of work: one after the other in this process, or on the workers of a Dask cluster."""

from mlkit.fanout.cluster import DASK, open_cluster
from mlkit.fanout.pieces import Piece, ask, run_pieces

__all__ = ["DASK", "Piece", "ask", "open_cluster", "run_pieces"]
