"""PyTorch modules, losses and metrics on tensors and arrays; no file access."""
