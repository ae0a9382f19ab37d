"""Fixtures shared by all tests."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from langcell.checkpoints.label_embeddings import LabelEmbeddings
from langcell.genes.gene_table import GeneTable
from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell
from langcell.nn.config import (
    CellEncoderConfig,
    CellEncoderKind,
    LangCellConfig,
    MatchingConfig,
    TextEncoderConfig,
)
from ontology.candidates import all_cell_types
from ontology.descriptions import describe
from ontology.graph import Ontology

REASON = "shared data not found (set LANGCELL_SHARED to its folder)"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the shared corpus, ontology and parity vectors; skips where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("LANGCELL_SHARED", root.parent / "shared"))
    if not (folder / "corpus").is_dir():
        # A worktree or clone elsewhere may not have the folder beside it.
        pytest.skip(REASON)
    return folder


@pytest.fixture(scope="session")
def coding_genes() -> list[str]:
    """Symbols of 400 protein-coding genes."""
    table = GeneTable.bundled()
    symbols = sorted({symbol for symbol in table.symbols[table.is_protein_coding] if symbol})
    return symbols[:: len(symbols) // 400][:400]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, coding_genes: list[str]) -> Path:
    """Folder of a checkpoint with random weights: one narrow layer a tower, all CL labels."""
    return _write_tiny(tmp_path_factory.mktemp("models") / "tiny", coding_genes, "transformer")


@pytest.fixture(scope="session")
def tiny_bag(tmp_path_factory: pytest.TempPathFactory, coding_genes: list[str]) -> Path:
    """Folder of the same with a bag of genes as cell encoder."""
    return _write_tiny(tmp_path_factory.mktemp("models") / "tiny-bag", coding_genes, "bag")


def _write_tiny(folder: Path, coding_genes: list[str], kind: CellEncoderKind) -> Path:
    ids = GeneTable.bundled().resolve(coding_genes).ensembl_ids
    rng = np.random.default_rng(3)
    vocabulary = GeneVocabulary(
        ensembl_ids=tuple(ids),
        symbols=tuple(coding_genes),
        medians=rng.uniform(0.5, 4, len(ids)),
    )
    sizes: Any = {"hidden_size": 32, "n_layers": 1, "n_heads": 2, "intermediate_size": 32}
    config = LangCellConfig(
        cell=CellEncoderConfig(
            kind=kind,
            vocab_size=vocabulary.size,
            max_positions=33,
            pooling="mean",
            bag_size=32 if kind == "bag" else 0,
            **sizes,
        ),
        text=TextEncoderConfig(frozen=False, sha256="", **sizes),
        matching=MatchingConfig(**sizes),
        embedding_dim=16,
        max_genes=32,
    )
    torch.manual_seed(0)
    model = LangCell(config, vocabulary)
    with torch.no_grad():  # as initialised, position and not gene tells cells apart
        model.cell_encoder.gene_embeddings.mul_(20)
    ontology = Ontology.bundled()
    term_ids = all_cell_types(ontology)
    model.label_embeddings = LabelEmbeddings(
        term_ids=term_ids,
        texts=tuple(describe(ontology, term_id) for term_id in term_ids),
        pooled=rng.normal(size=(len(term_ids), 32)).astype(np.float16),
        release=ontology.release,
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_cells(coding_genes: list[str]) -> Callable[..., anndata.AnnData]:
    """Return a function that makes random counts with gene symbols and a cell_type column."""

    def make(n_cells: int = 30, *, seed: int = 0) -> anndata.AnnData:
        rng = np.random.default_rng(seed)
        counts = rng.poisson(rng.gamma(0.8, 2.0, (n_cells, len(coding_genes)))).astype(np.float32)
        obs = pd.DataFrame(
            {"cell_type": pd.Categorical(["B cell", "T cell", "monocyte"] * n_cells)[:n_cells]},
            index=[f"cell{i}" for i in range(n_cells)],
        )
        var = pd.DataFrame(index=coding_genes)
        return anndata.AnnData(X=sparse.csr_matrix(counts), obs=obs, var=var)

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests did not run for want of the shared data."""
    skipped = terminalreporter.stats.get("skipped", [])
    n_skipped = sum(REASON in str(report.longrepr) for report in skipped)
    terminalreporter.write_line(f"{n_skipped} tests skipped for want of the shared data")
