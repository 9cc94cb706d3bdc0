"""One training from its configuration to a finished run."""
