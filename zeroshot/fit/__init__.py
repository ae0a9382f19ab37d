"""Fitting on labelled cells: few-shot heads, fine-tuning, donors, calibration."""
