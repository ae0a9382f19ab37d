"""Batch integration scores of embeddings: `python -m benchmarks.accuracy.integration` (extra `scib`).

Scores of scib-metrics (Luecken et al. 2022, Nature Methods 19:41, as computed by release 0.5, which
differs from older packages) for two embeddings: 50 principal components of log counts per 10,000 of the
3,000 most variable genes, without integration, and cell embeddings of a model, which is not given the
batches. Neither is corrected. Batches are the donors of a study (Baron, Darmanis), the conditions of
Kang, and two studies of one tissue (pancreas: Baron, and Enge, whose cells the model was trained on).
Left out are cells without a Cell Ontology id, donors of fewer than 10 cells and, for two studies, types
that only one of them has. For the pancreas the components use genes that both studies measured.
"""

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy import sparse

from benchmarks.data.arguments import add_model, make_parser, parse
from benchmarks.data.studies import (
    LabelledFile,
    read_labelled_file,
    read_validation_files,
)
from langcell.counts.obs_columns import read_obs_column
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.embedder import Embedder, load_embedder
from langcell.runtime.threads import thread_count

BEFORE, AFTER = "PCA", "langcell"
_BATCH_OF = {  # file: column of the batches
    "baron2016_pancreas_neuca": "donor",
    "darmanis2015_brain": "donor",
    "kang2018_pbmc_ifnb": "condition",
}
_PANCREAS = ("baron2016_pancreas_neuca", "northstar_cells_Enge_2017_manual_reannotation")
_GENES, _COMPONENTS, _LEAST_CELLS = 3000, 50, 10


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchedCells:
    """Labelled cells of one file.

    Attributes
    ----------
    counts: linear values, shape (n_cells, n_genes)
    genes: Ensembl id of each column, unique
    features: embeddings of the model, shape (n_cells, embedding_dim)
    term_ids: Cell Ontology id of each cell
    batches: batch of each cell
    """

    counts: sparse.csr_matrix
    genes: np.ndarray
    features: np.ndarray
    term_ids: np.ndarray
    batches: np.ndarray


def read_batched(file: LabelledFile, column: str, model: Embedder) -> BatchedCells:
    """Embed the labelled cells of a file."""
    with open_counts(file.path, scale=file.scale) as matrix:
        features = np.concatenate([block.features for block in embed_cells(model, matrix)])
        counts = sparse.vstack([block.counts for block in matrix.blocks()], format="csr")
        ids = matrix.resolution.ensembl_ids
    genes, first = np.unique(ids, return_index=True)
    rows = np.flatnonzero(file.is_labelled)
    return BatchedCells(
        counts=counts[rows][:, first[genes != ""]].astype(np.float32),
        genes=genes[genes != ""],
        features=features[rows],
        term_ids=file.truth_ids,
        batches=read_obs_column(file.path, column)[rows],
    )


def joined(parts: Sequence[BatchedCells]) -> anndata.AnnData:
    """Concatenate cells over the genes measured in all parts, with both embeddings.

    Small batches are left out, and for several parts types that only one of them has.
    """
    genes = sorted(set.intersection(*(set(part.genes) for part in parts)))
    counts = [part.counts[:, np.searchsorted(part.genes, genes)] for part in parts]
    term_ids = np.concatenate([part.term_ids for part in parts]).astype(str)
    batches = np.concatenate([part.batches for part in parts]).astype(str)
    adata = anndata.AnnData(
        X=sparse.vstack(counts, format="csr"),
        obs=pd.DataFrame(
            {"type": term_ids, "batch": batches}, index=[str(row) for row in range(len(batches))]
        ),
    )
    adata.obsm[AFTER] = np.concatenate([part.features for part in parts])
    shared = set.intersection(*(set(part.term_ids) for part in parts))
    sizes = adata.obs["batch"].map(adata.obs["batch"].value_counts())
    adata = adata[adata.obs["type"].isin(shared) & (sizes >= _LEAST_CELLS)].copy()
    for column in ("type", "batch"):
        adata.obs[column] = adata.obs[column].astype("category")
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    scanpy.pp.highly_variable_genes(adata, n_top_genes=min(_GENES, adata.n_vars))
    values = adata.X[:, adata.var["highly_variable"].to_numpy()].toarray()
    n_components = min(_COMPONENTS, min(values.shape) - 1)
    adata.obsm[BEFORE] = scanpy.pp.pca(values, n_comps=n_components, random_state=0)
    return adata


def datasets(corpus: Path, model: Embedder) -> Iterator[tuple[str, anndata.AnnData]]:
    """Yield the datasets by name."""
    files = {file.name: file for file in read_validation_files(corpus)}
    for name, column in _BATCH_OF.items():
        study = files[name].study
        yield f"{study}, {column}s", joined([read_batched(files[name], column, model)])
    enge = read_labelled_file(
        corpus / "train" / "cells" / f"{_PANCREAS[1]}.h5ad",
        study="Enge 2017",
        scale="linear",
    )
    parts = [read_batched(file, "study", model) for file in (files[_PANCREAS[0]], enge)]
    yield "pancreas, 2 studies", joined(parts)


def scib_scores(adata: anndata.AnnData) -> pd.DataFrame:
    """Score both embeddings; return one row per embedding, one column per score (higher is better).

    Raises
    ------
    ImportError
        If scib-metrics is not installed.
    """
    try:
        from scib_metrics.benchmark import Benchmarker
    except ImportError as error:
        raise ImportError("scib-metrics is missing: pip install 'langcell[scib]'") from error
    found = Benchmarker(
        adata,
        batch_key="batch",
        label_key="type",
        embedding_obsm_keys=[BEFORE, AFTER],
        pre_integrated_embedding_obsm_key=BEFORE,
        n_jobs=thread_count(),
        progress_bar=False,
    )
    found.benchmark()
    scores = found.get_results(min_max_scale=False).loc[[BEFORE, AFTER]]
    return scores.astype(float)


def main() -> None:
    """Print a table per dataset, and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    given = parse(parser)
    figures, means = {}, []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of jax, and warnings of scanpy about tiny files
            for name, adata in datasets(given.shared / "corpus", load_embedder(given.model)):
                scores = scib_scores(adata)
                n_batches, n_types = (adata.obs[key].nunique() for key in ("batch", "type"))
                print(f"\n{name}: {adata.n_obs:,} cells, {n_batches} batches, {n_types} types")
                print(scores.T.to_string(float_format="{:.3f}".format), flush=True)
                figures[name] = scores.round(4).to_dict("index")
                means.append(scores)
    except (FileNotFoundError, ImportError) as error:
        sys.exit(str(error))
    print("\nmeans")
    mean = sum(means[1:], means[0]) / len(means)
    print(mean.T.to_string(float_format="{:.3f}".format))
    print(json.dumps({"benchmark": "integration", "model": given.model, "figures": figures}))


if __name__ == "__main__":
    main()
