"""Small recipes of pretraining for tests, and what their runs logged."""

import csv
from pathlib import Path
from typing import Any

import yaml


def write_recipe(path: Path, **values: Any) -> Path:
    """Write the recipe of a tiny transformer; `values` replace or add sections.

    A file `held_out.h5ad` below the corpus root is its validation study.
    """
    recipe: dict[str, Any] = {
        "model": {
            "n_layers": 1,
            "hidden_size": 32,
            "n_heads": 2,
            "intermediate_size": 32,
            "max_genes": 48,
            "embedding_dim": 16,
            "matching_layers": 1,
            "matching_hidden_size": 16,
        },
        "text": {"candidates": "corpus", "max_tokens": 32},
        "augmentation": {"subset_genes": [150, 400], "keep_tokens": 0.5},
        "validation": {
            "every": 3,
            "min_cells": 5,
            "files": [{"path": "held_out.h5ad", "study": "held out"}],
        },
        "checkpoint_every": 100,
        "log_every": 1,
        "half": False,
        **values,
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


def logged_losses(output: Path, name: str = "train/loss") -> dict[int, str]:
    """Loss of each step, or what else was logged, as written, over all starts of a run."""
    losses: dict[int, str] = {}
    for path in sorted((output / "logs" / "csv").glob("*/metrics.csv")):
        with path.open() as file:
            losses |= {int(row["step"]): row[name] for row in csv.DictReader(file) if row[name]}
    return losses
