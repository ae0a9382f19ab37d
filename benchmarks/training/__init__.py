"""Benchmarks that train models: ablations, unseen cell types, further studies."""
