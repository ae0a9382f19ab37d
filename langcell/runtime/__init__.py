"""Threads, devices, processes, progress bars, atomic file writes and options that commands share."""
