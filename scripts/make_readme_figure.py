"""Draw the picture of README from the output of `make demo`: python scripts/make_readme_figure.py.

Left the labels that the authors published, right what the bundled model annotates when it may
choose among the same ten cell types.
"""

import argparse
from pathlib import Path

import anndata
import pandas as pd

import langcell as lc
from benchmarks.demo import names_of_published

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "figures" / "demo.png"


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, default=ROOT / "demo", help="output of make demo")
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    adata = anndata.read_h5ad(options.demo / "pbmc68k_reduced.langcell.h5ad")
    found = pd.read_csv(options.demo / "own_labels.csv", index_col=0)["langcell_leaf_label"]
    panels = {"published labels": names_of_published(adata), "langcell": found.to_numpy()}
    for title, labels in panels.items():
        adata.obs[title] = pd.Categorical(labels)
    figure = lc.pl.umap(adata, list(panels))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=90, bbox_inches="tight")
    print(f"wrote\t{options.out}")


if __name__ == "__main__":
    main()
