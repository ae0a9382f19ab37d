"""Explain the call of a cell or a cluster: genes that raise or lower it, and markers."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.counts.modality import modality_of
from langcell.counts.reader import open_counts
from langcell.genes.gene_table import GeneTable
from langcell.model.langcell import LangCell
from langcell.runtime.keywords import as_list, options_from, public
from langcell.runtime.parameter_names import option
from langcell.tokens.tokenizer import RankTokenizer
from ontology.graph import Ontology
from zeroshot.annotation.options import DEFAULT_KEY
from zeroshot.evidence.attribution import gene_effects
from zeroshot.evidence.head_evidence import head_of_calls, rank_effects
from zeroshot.evidence.markers import Marker, term_markers
from zeroshot.evidence.target_scores import TargetCall, TargetScorer
from zeroshot.evidence.targets import (
    Target,
    TargetCells,
    cell_targets,
    cluster_targets,
    read_target_cells,
)
from zeroshot.heads.few_shot_head import FewShotHead
from zeroshot.heads.head_hub import HasHead, as_head
from zeroshot.labels.candidates import label_list
from zeroshot.results.read_calls import read_notes

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
    device: str = "auto"  # of a model that is given by name

    def __post_init__(self) -> None:
        if self.n_genes < 1:
            raise ValueError(
                f"{option('n_genes', flag='--genes')} must be at least 1, got {self.n_genes}"
            )
        if self.cells_per_cluster < 1:
            raise ValueError(
                f"{option('cells_per_cluster')} must be at least 1, got {self.cells_per_cluster}"
            )


@public
def explain(
    adata: "AnnData | MuData | str | Path",
    *,
    cluster: str | Sequence[str] | None = None,
    cluster_key: str | None = None,
    cells: str | Sequence[str] | None = None,
    label: str | Mapping[str, str] | None = None,
    against: str | None = None,
    labels: str | Sequence[str] | None = None,
    head: FewShotHead | HasHead | str | Path | None = None,
    model: LangCell | str | Path = "mini-fast",
    n_genes: int = 10,
    cells_per_cluster: int = 100,
    key_added: str | None = None,
    layer: str | None = None,
    allow_normalized: bool = False,
    modality: str | None = None,
    device: str = "auto",
    options: ExplainOptions | None = None,
) -> "pd.DataFrame":
    """Find the genes that raise and lower the predicted label of cells or clusters.

    Parameters
    ----------
    adata
        AnnData or MuData with raw counts, or path of an .h5ad, .zarr, 10x .h5 or 10x folder.
    cluster
        Cluster to explain, or several, such as "3"; all clusters of `cluster_key` by default.
    cluster_key
        obs column with clusters, each explained by the mean over its cells.
    cells
        Names of single cells to explain, in place of clusters.
    label
        Label to explain in place of the predicted one; a mapping gives one for each cell or cluster.
    against
        Label to compare it with; by default the best other candidate that is neither an ancestor
        nor a descendant of it.
    labels
        Candidates, as in `annotate`; all cell types by default.
    head
        Few-shot head whose labels are the candidates and whose log-odds are explained; without one
        the model alone is asked, whatever annotated the cells.
    model
        A model, or the name, folder or hub id of one.
    n_genes
        Genes that raise, and that lower, each label.
    cells_per_cluster
        Cells of a cluster that are read, evenly spaced over the file.
    key_added
        Of an AnnData: entry of uns that gets the table too.
    layer
        Layer of the raw counts; found in X, raw.X or layers["counts"] by default.
    allow_normalized
        Accept log1p, CPM or TPM values in place of counts.
    device
        "cpu", "cuda", "cuda:1" or "mps"; "auto" takes a CUDA GPU if there is one.
    modality
        Modality of a MuData with the counts of RNA.
    options
        An `ExplainOptions` in place of its single keywords.

    Returns
    -------
    pandas.DataFrame
        A row for each gene. `evidence` is "label" (similarity with the label), "against" (its lead
        over the other label) or "marker" (named in the definition of the cell type). `effect` is the
        log-odds that the label, or its lead, loses without the gene, mean over cells; negative for
        genes that speak against it. `share_expressed` is the share of the target's cells with a
        count, `share_elsewhere` the median of that over the other clusters. A marker `agrees`
        ("yes", "no") if a cell expresses it as expected, or a cluster more or less than the others;
        "unknown" if it was not measured or no gene tells.

    Raises
    ------
    ValueError, OSError
        If the input, a name or the model is not usable.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.explain(adata, cluster="3", cluster_key="leiden")  # doctest: +SKIP
    """
    options = options_from(ExplainOptions, options, locals())
    source, head = modality_of(adata, modality), as_head(head)
    cells, wanted = as_list(cells), as_list(cluster)
    if wanted and cluster_key is None:
        raise ValueError(
            f"{option('cluster', wanted[0])} needs {option('cluster_key')}, the obs column of clusters"
        )
    if bool(cells) == (cluster_key is not None):
        raise ValueError(
            f"pass either {option('cells')} (cell names) or {option('cluster_key')} (obs column of "
            f"clusters), got {'both' if cells else 'neither'}"
        )
    if key_added is not None and isinstance(source, str | Path):
        raise ValueError("key_added needs an AnnData; for a file use the returned table")
    if head is None:
        _warn_if_called_by_head(source)
    ontology = Ontology.bundled()
    with open_counts(
        source, layer=options.layer, allow_normalized=options.allow_normalized
    ) as matrix:
        targets = _targets(source, matrix.obs_names, cells, cluster_key, options)
        if not isinstance(model, LangCell):
            model = LangCell.from_pretrained(model, device=options.device)
        # One gene more than the model reads: it moves up when a gene is left out.
        tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes + 1)
        tokenizer.coverage(matrix)
        target_cells = read_target_cells(matrix, tokenizer, targets)
    target_scorer = TargetScorer(
        model,
        ontology,
        labels=None if labels is None else label_list(labels),
        head=head,
        against=against,
    )
    evidence = Evidence(
        target_scorer.model,
        ontology,
        target_cells,
        is_compared=cluster_key is not None,
        n_genes=options.n_genes,
    )
    rows: list[dict[str, Any]] = []
    for target in _chosen(targets, wanted, cluster_key) if wanted else targets:
        tokens = [target_cells.tokens.cell(row) for row in target_cells.positions(target)]
        asked = label.get(target.name) if isinstance(label, Mapping) else label
        rows += evidence.rows(target, tokens, target_scorer.call(tokens, asked))
    return _table(rows, source, key_added)


def _chosen(
    targets: Sequence[Target], wanted: Sequence[str], cluster_key: str | None
) -> list[Target]:
    """Return the clusters that were named, in that order."""
    by_name = {target.name: target for target in targets}
    if unknown := [name for name in wanted if name not in by_name]:
        raise ValueError(
            f"obs[{cluster_key!r}] has no cluster {unknown[0]!r}; it has {', '.join(by_name)}"
        )
    return [by_name[name] for name in wanted]


def _warn_if_called_by_head(source: "AnnData | str | Path") -> None:
    """Warn if a few-shot head made the calls, because only the model is explained."""
    if made_by := head_of_calls(read_notes(source, DEFAULT_KEY)):
        warnings.warn(
            f"the calls in the file were made with a head (id {made_by}), but the model is explained "
            f"without it; pass {option('head')} to explain them",
            stacklevel=4,
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
        raise ValueError(f"obs[{cluster_key!r}] has no clusters: all its values are empty")
    return targets


class Evidence:
    """Computes the rows of the table that `explain` returns.

    Parameters
    ----------
    model: model to explain
    ontology: ontology with definitions that name markers
    target_cells: cells of all targets
    is_compared: True if targets are clusters, each compared with the others
    n_genes: number of top genes that raise a call, and of those that lower it
    """

    def __init__(
        self,
        model: LangCell,
        ontology: Ontology,
        target_cells: TargetCells,
        *,
        is_compared: bool,
        n_genes: int,
    ) -> None:
        self._model, self._ontology, self._target_cells = model, ontology, target_cells
        self._n_genes, self._is_compared = n_genes, is_compared
        vocabulary = model.genes
        self._id_of_token = dict(
            zip(vocabulary.gene_tokens.tolist(), vocabulary.ensembl_ids, strict=True)
        )

    def rows(
        self, target: Target, tokens: Sequence[np.ndarray], target_call: TargetCall
    ) -> Iterator[dict[str, Any]]:
        """Yield the evidence for and against the call of a target, strongest first.

        Parameters
        ----------
        target: one of the targets in `target_cells`
        tokens: ranked genes of each of its cells
        target_call: label of the target and label that it is compared with
        """
        named = {
            "target": target.name,
            "n_cells": len(target.rows),
            "label": target_call.label.name,
            "ontology_term_id": target_call.label.term_id,
            "against": target_call.against.name if target_call.against else "",
            "against_ontology_term_id": target_call.against.term_id if target_call.against else "",
        }
        effects = self._mean_effects(tokens, target_call)
        for column, kind in enumerate(("label", "against")[: effects.shape[1]]):
            for token in _strongest(effects[:, column], self._n_genes):
                gene = self._id_of_token[int(token)]
                yield {
                    **named,
                    "evidence": kind,
                    "effect": effects[token, column],
                    **self._gene(target, (gene,)),
                }
        if target_call.label.term_id:
            for marker in term_markers(self._ontology.terms[target_call.label.term_id]):
                yield {**named, "evidence": "marker", **self._marker(target, marker, effects[:, 0])}

    def _mean_effects(self, tokens: Sequence[np.ndarray], target_call: TargetCall) -> np.ndarray:
        """Return the mean effect of each token over cells, shape (vocabulary size, 1 or 2)."""
        label, *others = target_call.features  # (embedding_dim,) each
        directions = np.stack([label, *(label - each for each in others)])
        directions *= self._model.scale.item()
        total = np.zeros((self._model.genes.size, len(directions)))
        found = gene_effects(self._model, tokens, [directions] * len(tokens))
        for genes, effects in zip(tokens, found, strict=True):
            total[genes[: len(effects)]] += effects
        if target_call.ranks:
            label, *others = target_call.ranks  # (vocabulary size,) each
            by_rank = np.stack([label, *(label - each for each in others)])
            for genes in tokens:
                effects = rank_effects(genes, by_rank, n_read=self._model.config.max_genes)
                total[genes[: len(effects)]] += effects
        return total / len(tokens)

    def _gene(self, target: Target, ensembl_ids: Sequence[str]) -> dict[str, Any]:
        """Return the columns of a row on genes: names, and fraction of cells expressing any."""
        table = GeneTable.bundled()
        here, elsewhere = np.nan, np.nan
        if self._target_cells.is_measured(ensembl_ids):
            shares = self._target_cells.shares(ensembl_ids)
            is_here = np.array([each is target for each in self._target_cells.targets])
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
        is_measured = self._target_cells.is_measured(ids)
        known = self._model.genes.token_ids(ids)
        row["effect"] = effects[known[known >= 0]].sum() if is_measured else np.nan
        # A cluster is compared with the other clusters, a single cell with zero.
        threshold = row["share_elsewhere"] if len(target.rows) > 1 or self._is_compared else 0.0
        agrees = "unknown"
        if not np.isnan(row["share_expressed"]) and not np.isnan(threshold):
            is_expressed = row["share_expressed"] > threshold
            agrees = "yes" if is_expressed == marker.is_present else "no"
        return {**row, "marker": marker.name, "expected": marker.expected, "agrees": agrees}


def _strongest(effects: np.ndarray, n: int) -> np.ndarray:
    """Return indices of the n highest positive effects, then of the n lowest negative effects."""
    order = np.argsort(-effects, kind="stable")
    high, low = order[:n], order[::-1][:n]
    return np.concatenate([high[effects[high] > 0], low[effects[low] < 0]])


def _table(
    rows: list[dict[str, Any]], source: "AnnData | str | Path", key_added: str | None
) -> "pd.DataFrame":
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for words in ("marker", "expected", "agrees"):
        table[words] = table[words].astype(object).where(table[words].notna(), "")
    table.index = table.index.astype(str)  # AnnData needs a string index in uns
    if key_added is not None and not isinstance(source, str | Path):
        source.uns[key_added] = table
    return table
