"""Recipes: the YAML configuration of a training run, and the files and cells that it names."""
