"""Networks of torchvision with a fresh head, their devices, frozen layers and model files."""
