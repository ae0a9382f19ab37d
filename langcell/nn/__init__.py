"""PyTorch modules, losses and metrics: arrays and tensors in and out, no files."""
