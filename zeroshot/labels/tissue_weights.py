"""Tissue priors: weigh or restrict candidates by the tissue of each cell."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.runtime.parameter_names import option
from ontology.candidates import groupings
from ontology.graph import Ontology
from ontology.tissue_prior import TissuePrior, rules_out
from ontology.tissues import TissueMap

if TYPE_CHECKING:
    from anndata import AnnData

MODES = ("weigh", "restrict")
STRENGTH = (
    2.0  # weight of the log-prior; chosen on the validation studies by `benchmarks.accuracy.tissue`
)
AUTO = "auto"
COLUMN = "tissue_ontology_term_id"
_RULED_OUT = -1e4  # log-prior of an excluded candidate: outweighs any similarity
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueWeights:
    """Log-priors of candidates in each tissue, and the tissue of each cell.

    Attributes
    ----------
    mode: "weigh" adds the log-prior to a candidate's log-probability; "restrict" excludes
        candidates
    tissues: UBERON id of each row; '' for cells of unknown tissue, whose log-prior is 0
    names: names of the tissues
    keys: identifiers of the candidates (columns)
    log_prior: natural logarithm, shape (n_tissues, n_candidates)
    listed: for each tissue, columns of the candidates that it demotes or excludes, the most
        informative first
    rows: row of each cell's tissue, shape (n_cells,); None if all cells have the first tissue
    unknown: values of obs that name no tissue, with their numbers of cells
    """

    mode: str
    tissues: tuple[str, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    log_prior: np.ndarray
    listed: tuple[np.ndarray, ...]
    rows: np.ndarray | None = None
    unknown: dict[str, int] = field(default_factory=dict)

    def rows_of(self, start: int, n_cells: int) -> np.ndarray:
        """Return the tissue rows of `n_cells` cells from `start` on, shape (n_cells,)."""
        if self.rows is None:
            return np.zeros(n_cells, dtype=np.int32)
        return self.rows[start : start + n_cells]

    def weigh(self, log_probabilities: np.ndarray, start: int) -> np.ndarray:
        """Add the log-prior of each cell's tissue and normalise.

        Parameters
        ----------
        log_probabilities: of consecutive cells, float32, shape (n_cells, n_candidates)
        start: row of the first cell
        """
        rows = self.rows_of(start, len(log_probabilities))
        weighed = log_probabilities + self.log_prior[rows].astype(np.float32)
        best = weighed.max(axis=1, keepdims=True)
        total = np.exp(weighed - best).sum(axis=1, dtype=np.float64, keepdims=True)
        return (weighed - (best + np.log(total))).astype(np.float32)

    def details(self) -> dict[str, Any]:
        """Return the record for uns: each tissue with the candidates that it demotes or excludes."""
        word = "excluded" if self.mode == "restrict" else "demoted"
        keys = np.array(self.keys, dtype=object)
        tissues = {}
        for row, tissue in enumerate(self.tissues):
            if tissue:
                columns = self.listed[row]
                tissues[tissue] = {"name": self.names[row], f"n_{word}": len(columns)}
                if len(columns):  # an h5ad holds no empty list of words
                    tissues[tissue][word] = keys[columns]
                    tissues[tissue]["log_prior"] = self.log_prior[row, columns].astype(np.float32)
        details: dict[str, Any] = {"mode": self.mode, "tissues": tissues}
        if self.unknown:
            details["unknown"] = {
                "values": np.array(list(self.unknown), dtype=object),
                "n_cells": np.array(list(self.unknown.values())),
            }
        return details

    def summary(self, candidate_names: Sequence[str]) -> list[str]:
        """Return a summary line for each tissue, and one for cells of unknown tissue."""
        lines = []
        for row, tissue in enumerate(self.tissues):
            if tissue:
                columns = self.listed[row]
                some = "; ".join(candidate_names[each] for each in columns[:_SHOWN])
                done = "excludes" if self.mode == "restrict" else "demotes"
                lines.append(
                    f"{self.names[row]} ({tissue}) {done} {len(columns):,} of {len(self.keys):,} "
                    f"labels{': ' if some else ''}{some}{' ...' if len(columns) > _SHOWN else ''}"
                )
        if self.unknown:
            some = ", ".join(f"{each!r}" for each in list(self.unknown)[:_SHOWN])
            n_cells = sum(self.unknown.values())
            lines.append(
                f"unknown for {n_cells:,} cells ({some}); these are called without a tissue prior"
            )
        return lines


def weigh_by_tissue(
    source: "AnnData | str | Path",
    tissue: str,
    *,
    mode: str,
    term_ids: Sequence[str],
    keys: Sequence[str],
    ontology: Ontology,
    obo: str | Path | None = None,
) -> TissueWeights:
    """Return the log-priors of candidates in the tissues of a source.

    Parameters
    ----------
    source: data to annotate; "auto" reads its obs["tissue_ontology_term_id"]
    tissue: an UBERON id, a name or a synonym; or "auto"
    mode: one of `MODES`
    term_ids: Cell Ontology id of each candidate, '' for free text, which has no tissue prior
    keys: identifier of each candidate
    ontology: Cell Ontology release of the ids
    obo: Cell Ontology release with the relations of cell types to UBERON

    Raises
    ------
    ValueError
        If the tissue is unknown (the message has suggestions), no cell has a known tissue, the obs
        column is missing, or fewer than two candidates remain.
    """
    if mode not in MODES:
        raise ValueError(f"{option('tissue_mode')} must be {' or '.join(MODES)}, got {mode!r}")
    prior = TissuePrior(ontology, TissueMap(Ontology.from_obo(obo)) if obo else None)
    rows: np.ndarray | None = None
    unknown: dict[str, int] = {}
    if tissue.strip().lower() == AUTO:
        tissues, rows, unknown = _tissues_of_cells(source, prior.tissue_map)
    else:
        tissues = [prior.tissue_map.check(tissue)]
    known = [
        prior.log_prior(each, term_ids) if each else np.zeros(len(term_ids)) for each in tissues
    ]
    weights = TissueWeights(
        mode=mode,
        tissues=tuple(tissues),
        names=tuple(prior.tissue_map.name(each) if each else "" for each in tissues),
        keys=tuple(keys),
        log_prior=np.stack([added_log_prior(each, mode=mode) for each in known]),
        listed=tuple(_listed(each, prior.prevalence(term_ids), mode, term_ids) for each in known),
        rows=rows,
        unknown=unknown,
    )
    for row, name in enumerate(weights.names):
        if mode == "restrict" and len(keys) - len(weights.listed[row]) < 2:
            raise ValueError(
                f"{name} leaves {len(keys) - len(weights.listed[row])} of the {len(keys)} labels; "
                f"use {option('tissue_mode', 'weigh')}, or other labels"
            )
    return weights


def added_log_prior(known: np.ndarray, *, mode: str, strength: float = STRENGTH) -> np.ndarray:
    """Return the term that a mode adds to the log-probability of each candidate.

    "weigh" adds strength * `TissuePrior.log_prior`, which is between -2 and 1. "restrict" adds a
    very negative constant to candidates that are ruled out, and 0 to the others.

    Parameters
    ----------
    known: from `TissuePrior.log_prior`, shape (n_candidates,)
    mode: one of `MODES`
    strength: factor of the log-prior for "weigh"
    """
    return np.where(rules_out(known), _RULED_OUT, 0.0) if mode == "restrict" else strength * known


def _listed(
    known: np.ndarray, commonness: np.ndarray, mode: str, term_ids: Sequence[str]
) -> np.ndarray:
    """Return the demoted or excluded columns: types common elsewhere and rare here come first.

    Groupings that say little about cell identity, such as "motile cell", come last.
    """
    is_demoted = rules_out(known) if mode == "restrict" else known < 0
    is_grouping = np.array([each in groupings() for each in term_ids])
    order = np.lexsort((known, known * commonness, is_grouping))
    return order[is_demoted[order]]


def _tissues_of_cells(
    source: "AnnData | str | Path", places: TissueMap
) -> tuple[list[str], np.ndarray, dict[str, int]]:
    """Return tissues, the row of each cell, and values that name no tissue with their cells."""
    # Imported here: pandas and zarr take seconds to import, and only tissue="auto" needs them.
    from langcell.counts.obs_columns import read_obs_column

    values, inverse, counts = np.unique(
        read_obs_column(source, COLUMN).astype(str), return_inverse=True, return_counts=True
    )
    found = [places.resolve(value).term_id or "" for value in values]
    unknown = {
        str(value): int(n) for value, term_id, n in zip(values, found, counts, strict=True)
        if not term_id
    }  # fmt: skip
    if not any(found):
        some = ", ".join(map(repr, list(unknown)[:_SHOWN]))
        raise ValueError(
            f"no value of obs[{COLUMN!r}] is a tissue of UBERON (it has {some}); name the tissue "
            f"with {option('tissue')}"
        )
    tissues = sorted(set(found))
    rows = np.array([tissues.index(each) for each in found], dtype=np.int32)
    return tissues, rows[inverse], unknown
