"""Confidence of calls: ontology back-off, calibration, reliability and out-of-distribution scores."""
