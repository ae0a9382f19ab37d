"""Annotate a small dataset and compare with its published labels: `python -m benchmarks.demo`.

The data are 700 blood cells that ship inside scanpy (`scanpy.datasets.pbmc68k_reduced`; Zheng et
al. 2017). They hold log1p values of 765 genes, not counts, so the command runs with
--allow-normalized. Sorted blood cells of the same laboratory are in the training data of the bundled
model: this is a demonstration, not a held-out test.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy

from ontology.graph import Ontology
from zeroshot import plots

# Cell Ontology terms of the published labels. "CD34+" cells were enriched by antigen: progenitors.
PUBLISHED = {
    "CD14+ Monocyte": "CL:0001054",
    "CD19+ B": "CL:0000236",
    "CD34+": "CL:0008001",
    "CD4+/CD25 T Reg": "CL:0000792",
    "CD4+/CD45RA+/CD25- Naive T": "CL:0000895",
    "CD4+/CD45RO+ Memory": "CL:0000897",
    "CD56+ NK": "CL:0000623",
    "CD8+ Cytotoxic T": "CL:0000794",
    "CD8+/CD45RA+ Naive Cytotoxic": "CL:0000900",
    "Dendritic": "CL:0000451",
}
TRUTH = "published_ontology_term_id"
NOTE = (
    "These cells are from the same laboratory as part of the training data (Zheng et al. 2017): "
    "this is a demonstration, not a held-out test."
)


def write_input(folder: Path) -> Path:
    """Write the scanpy dataset with the ids of its published labels; return the path."""
    adata = scanpy.datasets.pbmc68k_reduced()
    adata.obs[TRUTH] = pd.Categorical(adata.obs["bulk_labels"].map(PUBLISHED).astype(str))
    path = folder / "pbmc68k_reduced.h5ad"
    adata.write_h5ad(path)
    return path


def run_langcell(*words: str) -> str:
    """Run langcell as a user would, print the command, and return its output.

    Raises
    ------
    SystemExit
        With the exit status, if the command fails.
    """
    print(f"\n$ langcell {shlex.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "langcell", *words], stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results")
    parser.add_argument("--model", default="mini-fast", help="bundled name, folder or hub id")
    options = parser.parse_args()
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    source, named = write_input(folder), folder / "pbmc68k_reduced.langcell.h5ad"
    own = folder / "own_labels.txt"
    own.write_text("".join(f"{term_id}\n" for term_id in PUBLISHED.values()), encoding="utf-8")
    shared = ["annotate", str(source), "--model", options.model, "--allow-normalized"]
    shared += ["--truth", TRUTH, "--overwrite"]

    print("1. Every cell type of the Cell Ontology is a candidate")
    report = folder / "report.html"
    free = scores(run_langcell(*shared, "--out", str(named), "--report", str(report)))
    print("\n2. Only the ten published types are candidates")
    restricted = scores(
        run_langcell(*shared, "--labels", str(own), "--out", str(folder / "own_labels.csv"))
    )

    adata = anndata.read_h5ad(named)
    own_calls = pd.read_csv(folder / "own_labels.csv", index_col=0)["langcell_leaf_label"]
    figure = folder / "umap.png"
    panels = {
        "Published labels": names_of_published(adata),
        "Calls among the published types": own_calls.to_numpy(),
        "Calls among all cell types": adata.obs["langcell_leaf_label"].to_numpy(),
    }
    for title, labels in panels.items():
        adata.obs[title] = pd.Categorical(labels)
    plots.umap(adata, list(panels), save=figure)
    print("\nagreement with the published labels   all cell types   published types")
    for name in ("accuracy", "descendant_accuracy", "hierarchical_f1", "majority_accuracy"):
        print(f"{name:<37} {free[name]:>14.3f} {restricted[name]:>17.3f}")
    print(
        f"\n{NOTE}\n\nannotated cells  {named}\nfigure           {figure}\nreport           {report}"
    )


def scores(printed: str) -> dict[str, float]:
    """Parse the scores that `langcell annotate --truth` printed."""
    pairs = [line.split("\t") for line in printed.splitlines() if line.count("\t") == 1]
    return {name: float(value) for name, value in pairs if value.replace(".", "").isdigit()}


def names_of_published(adata: anndata.AnnData) -> np.ndarray:
    """Return the ontology name of each cell's published label, shape (n_cells,)."""
    terms = Ontology.bundled().terms
    return np.array([terms[term_id].name for term_id in adata.obs[TRUTH].astype(str)], dtype=object)


if __name__ == "__main__":
    main()
