"""Fit to labelled cells: few-shot heads, fine-tuning, donor heads and calibration."""
