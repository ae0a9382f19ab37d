"""How a command runs: threads, devices, processes, progress, files written whole, shared options."""
