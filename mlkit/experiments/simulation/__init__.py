"""What to label next, simulated: cells of complete labels are hidden, a simulated person answers, the full truth judges.

A cell of the grid (`mlkit.experiments.grid`) is one campaign: an order to ask in, by cell or by image, a way to hide, a
share of wrong answers and a seed.
"""

from mlkit.experiments.simulation.cells import simulate
from mlkit.experiments.simulation.config import Simulation

__all__ = ["Simulation", "simulate"]
