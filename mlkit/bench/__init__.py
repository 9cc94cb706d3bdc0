"""How fast mlkit is on this machine, beside the plain loop and beside what the machine can do at all, in one run."""
