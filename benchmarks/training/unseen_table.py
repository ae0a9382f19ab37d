"""Tables of removed and kept types for `benchmarks.training.unseen`."""

import pandas as pd

from benchmarks.scoring.type_scores import FIGURES

_RUNS = {
    "without them": "trained without the removed types",
    "full recipe": "for comparison: trained with them",
}
_SPACES = {
    "own": "the study's own types",
    "choice": "the removed and as many kept types",
    "all": "all CL",
}


def print_groups(figures: pd.DataFrame) -> None:
    """Print a line per seed and a line of means, for each run, cells and label space."""
    print(
        "means over types (validation: study and type); chance in brackets; mean of the seeds that"
    )
    print("have removed types; types: removed + kept")
    for (name, cells, space), rows in figures.groupby(["run", "cells", "space"], sort=False):
        print(f"\n{_RUNS[name]}; cells of {cells}; candidates: {_SPACES[space]}")
        heads = [f"{figure + ' removed':>21}{'kept':>16}{'harmonic':>9}" for figure in FIGURES]
        print(f"{'seed':<6}{'types':>9}{''.join(heads)}")
        # A seed may remove no type of the validation studies, so it has nothing to average.
        mean = rows.dropna().drop(columns=["run", "cells", "space", "seed"]).mean()
        for title, row in [*((str(row.seed), row) for _, row in rows.iterrows()), ("mean", mean)]:
            print(f"{title:<6}{row.removed_types:4.0f}+{row.kept_types:4.0f}", end="")
            for figure in FIGURES:
                removed = f"{row[f'removed_{figure}']:.3f} ({row[f'removed_chance_{figure}']:.4f})"
                kept = f"{row[f'kept_{figure}']:.3f} ({row[f'kept_chance_{figure}']:.4f})"
                print(f"{removed:>21}{kept:>16}{row[f'h_{figure}']:9.3f}", end="")
            print()
