"""Confidence of calls: ontology back-off, calibration, reliability, out-of-distribution scores."""
