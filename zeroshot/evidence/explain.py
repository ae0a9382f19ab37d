"""Why a cell or a cluster is called what it is: genes that speak for it, and its markers."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.counts.modality import modality_of
from langcell.counts.reader import open_counts
from langcell.genes.table import GeneTable
from langcell.model.langcell import LangCell
from langcell.tokens.tokenizer import RankTokenizer
from ontology.graph import Ontology
from zeroshot.annotate.options import DEFAULT_KEY
from zeroshot.evidence.attribution import gene_effects
from zeroshot.evidence.head_evidence import head_of_calls, rank_effects
from zeroshot.evidence.markers import Marker, term_markers
from zeroshot.evidence.target_scores import Opinion, Opinions
from zeroshot.evidence.targets import (
    Target,
    TargetCells,
    cell_targets,
    cluster_targets,
    read_target_cells,
)
from zeroshot.heads.few_shot_head import ShotHead
from zeroshot.results.written_calls import read_notes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

COLUMNS = (
    *("target", "n_cells", "label", "ontology_term_id", "against", "against_ontology_term_id"),
    *("evidence", "gene", "ensembl_id", "effect", "share_expressed", "share_elsewhere"),
    *("marker", "expected", "agrees"),
)


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How to explain."""

    n_genes: int = 10  # that raise a call the most, and as many that lower it
    cells_per_cluster: int = 100  # that speak for a cluster
    layer: str | None = None  # of the counts; found without
    allow_normalized: bool = False  # accept values that look like log1p or CPM
    device: str = "cpu"  # of a model that is given by name

    def __post_init__(self) -> None:
        if self.n_genes < 1:
            raise ValueError(f"--genes must be at least 1, got {self.n_genes}")
        if self.cells_per_cluster < 1:
            raise ValueError(
                f"--cells-per-cluster must be at least 1, got {self.cells_per_cluster}"
            )


def explain(
    source: "AnnData | MuData | str | Path",
    *,
    cells: Sequence[str] = (),
    cluster_key: str | None = None,
    label: str | Mapping[str, str] | None = None,
    against: str | None = None,
    labels: Sequence[str] | None = None,
    head: ShotHead | None = None,
    model: LangCell | str | Path = "mini-fast",
    key_added: str | None = None,
    modality: str | None = None,
    options: ExplainOptions | None = None,
) -> "pd.DataFrame":
    """Say which genes raise and lower the calls of cells or clusters.

    Parameters
    ----------
    source: .h5ad, .zarr, 10x .h5, 10x folder, AnnData or MuData
    cells: names of cells; or
    cluster_key: column of obs with clusters, each explained by the mean over its cells
    label: what to explain instead of the call; of each target where it is a mapping
    against: what to compare the label with; by default the best other candidate that is neither an
        ancestor nor a descendant of it
    labels: candidates as in `zeroshot.annotate`; all cell types by default
    head: of labelled cells, whose labels are the candidates and whose log-odds are explained;
        without it the model alone is asked, whatever made the calls of the source
    model: a model, or the name, folder or hub id of one
    key_added: entry of uns that gets the table too, of an AnnData
    modality: of a MuData, the one with counts of RNA
    options: how to explain

    Returns
    -------
    A row for each piece of evidence of a target. `evidence` is "label" (genes of the similarity
    with the label), "against" (of its lead over the other label: why this and not that) or "marker"
    (named in the ontology's definition). `effect` is in units of log-odds: what the label, or its
    lead, loses without the gene, mean over the cells of the target; negative for genes that speak
    against it. `share_expressed` is the share of the target's cells with a count; `share_elsewhere`
    the median of that of the other clusters. A marker `agrees` ("yes", "no") where a cell expresses it as
    expected, or a cluster does more or less than the others; "unknown" where the file did not
    measure it or no gene tells.

    Raises
    ------
    ValueError, OSError
        With one line that says what is wrong with the input, the names or the model.
    """
    options, source = options or ExplainOptions(), modality_of(source, modality)
    if bool(cells) == (cluster_key is not None):
        raise ValueError("say what to explain: names of cells, or a column of clusters")
    if key_added is not None and isinstance(source, str | Path):
        raise ValueError("key_added= needs an AnnData; of a file take the table that is returned")
    if head is None:
        _warn_of_head(source)
    ontology = Ontology.bundled()
    with open_counts(
        source, layer=options.layer, allow_normalized=options.allow_normalized
    ) as matrix:
        targets = _targets(source, matrix.obs_names, cells, cluster_key, options)
        if not isinstance(model, LangCell):
            model = LangCell.from_pretrained(model, device=options.device)
        # One gene more than the model reads: the next one, for where a gene is left out.
        tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes + 1)
        tokenizer.coverage(matrix)
        read = read_target_cells(matrix, tokenizer, targets)
    opinions = Opinions(model, ontology, labels=labels, head=head, against=against)
    evidence = Evidence(
        opinions.model, ontology, read, is_compared=cluster_key is not None, n_genes=options.n_genes
    )
    rows: list[dict[str, Any]] = []
    for target in targets:
        tokens = [read.tokens.cell(place) for place in read.places(target)]
        wanted = label.get(target.name) if isinstance(label, Mapping) else label
        rows += evidence.rows(target, tokens, opinions.of(tokens, wanted))
    return _table(rows, source, key_added)


def _warn_of_head(source: "AnnData | str | Path") -> None:
    """Say that the calls of a source are a head's, which is not asked."""
    if made_by := head_of_calls(read_notes(source, DEFAULT_KEY)):
        warnings.warn(
            f"the calls in the file were made with a head (id {made_by}), and what is explained is "
            "the model without it; name it with --head",
            stacklevel=3,
        )


def _targets(
    source: "AnnData | str | Path",
    obs_names: np.ndarray,
    cells: Sequence[str],
    cluster_key: str | None,
    options: ExplainOptions,
) -> list[Target]:
    if cluster_key is None:
        return cell_targets(cells, obs_names)
    from langcell.counts.obs_columns import read_obs_column

    clusters = read_obs_column(source, cluster_key)
    targets = cluster_targets(clusters, max_cells=options.cells_per_cluster)
    if not targets:
        raise ValueError(f"obs[{cluster_key!r}] is empty: it names no cluster")
    return targets


class Evidence:
    """Makes the rows of a target, see `explain`.

    Parameters
    ----------
    model: that attributes
    ontology: whose definitions name markers
    read: the cells of all targets
    is_compared: targets are clusters, and each is held against the others
    n_genes: that raise a call the most, and as many that lower it
    """

    def __init__(
        self,
        model: LangCell,
        ontology: Ontology,
        read: TargetCells,
        *,
        is_compared: bool,
        n_genes: int,
    ) -> None:
        self._model, self._ontology, self._read, self._n_genes = model, ontology, read, n_genes
        self._is_compared = is_compared
        vocabulary = model.genes
        self._id_of_token = dict(
            zip(vocabulary.gene_tokens.tolist(), vocabulary.ensembl_ids, strict=True)
        )

    def rows(
        self, target: Target, tokens: Sequence[np.ndarray], opinion: Opinion
    ) -> Iterator[dict[str, Any]]:
        """Yield the evidence on one opinion, the strongest first.

        Parameters
        ----------
        target: one of those read
        tokens: ranked genes of each of its cells
        opinion: what it is called
        """
        named = {
            "target": target.name,
            "n_cells": len(target.rows),
            "label": opinion.label.name,
            "ontology_term_id": opinion.label.term_id,
            "against": opinion.against.name if opinion.against else "",
            "against_ontology_term_id": opinion.against.term_id if opinion.against else "",
        }
        effects = self._mean_effects(tokens, opinion)
        for column, kind in enumerate(("label", "against")[: effects.shape[1]]):
            for token in _strongest(effects[:, column], self._n_genes):
                gene = self._id_of_token[int(token)]
                yield {
                    **named,
                    "evidence": kind,
                    "effect": effects[token, column],
                    **self._gene(target, (gene,)),
                }
        if opinion.label.term_id:
            for marker in term_markers(self._ontology.terms[opinion.label.term_id]):
                yield {**named, "evidence": "marker", **self._marker(target, marker, effects[:, 0])}

    def _mean_effects(self, tokens: Sequence[np.ndarray], opinion: Opinion) -> np.ndarray:
        """Return effects by token, mean over cells, shape (vocabulary size, 1 or 2)."""
        label, *others = opinion.features  # (embedding_dim,) each
        directions = np.stack([label, *(label - each for each in others)])
        directions *= self._model.scale.item()
        total = np.zeros((self._model.genes.size, len(directions)))
        found = gene_effects(self._model, tokens, [directions] * len(tokens))
        for genes, effects in zip(tokens, found, strict=True):
            total[genes[: len(effects)]] += effects
        if opinion.ranks:
            label, *others = opinion.ranks  # (vocabulary size,) each
            by_rank = np.stack([label, *(label - each for each in others)])
            for genes in tokens:
                effects = rank_effects(genes, by_rank, n_read=self._model.config.max_genes)
                total[genes[: len(effects)]] += effects
        return total / len(tokens)

    def _gene(self, target: Target, ensembl_ids: Sequence[str]) -> dict[str, Any]:
        """Name genes, and say how many cells express one of them."""
        table = GeneTable.bundled()
        here, elsewhere = np.nan, np.nan
        if self._read.is_measured(ensembl_ids):
            shares = self._read.shares(ensembl_ids)
            is_here = np.array([each is target for each in self._read.targets])
            here = shares[is_here].item()
            if self._is_compared and not is_here.all():
                elsewhere = np.median(shares[~is_here])
        return {
            "gene": ", ".join(table.symbol(each) for each in ensembl_ids),
            "ensembl_id": ", ".join(ensembl_ids),
            "share_expressed": here,
            "share_elsewhere": elsewhere,
        }

    def _marker(self, target: Target, marker: Marker, effects: np.ndarray) -> dict[str, Any]:
        ids = tuple(GeneTable.bundled().resolve(marker.symbols).ensembl_ids)
        row = self._gene(target, ids)
        is_measured = self._read.is_measured(ids)
        known = self._model.genes.token_ids(ids)
        row["effect"] = effects[known[known >= 0]].sum() if is_measured else np.nan
        # A cluster is held against the others, a cell against none.
        threshold = row["share_elsewhere"] if len(target.rows) > 1 or self._is_compared else 0.0
        agrees = "unknown"
        if not np.isnan(row["share_expressed"]) and not np.isnan(threshold):
            is_there = row["share_expressed"] > threshold
            agrees = "yes" if is_there == marker.is_present else "no"
        return {**row, "marker": marker.name, "expected": marker.expected, "agrees": agrees}


def _strongest(effects: np.ndarray, n: int) -> np.ndarray:
    """Return the n highest positive ones, descending, then the n lowest negative, ascending."""
    order = np.argsort(-effects, kind="stable")
    high, low = order[:n], order[::-1][:n]
    return np.concatenate([high[effects[high] > 0], low[effects[low] < 0]])


def _table(
    rows: list[dict[str, Any]], source: "AnnData | str | Path", key_added: str | None
) -> "pd.DataFrame":
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(COLUMNS))
    words = ["marker", "expected", "agrees"]
    table[words] = table[words].astype(object).fillna("")
    table.index = table.index.astype(str)  # as AnnData writes tables
    if key_added is not None and not isinstance(source, str | Path):
        source.uns[key_added] = table
    return table
