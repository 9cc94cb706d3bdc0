"""A trained model asked about images."""
