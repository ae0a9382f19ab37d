"""Report of a corpus build as text and JSON: cells kept of each input, and reasons for the rest."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from langcell.runtime.output_file import replaced_file
from langcell.runtime.parameter_names import option
from langcell.tokens.token_corpus import TokenCorpus
from ontology.graph import Ontology
from pretrain.corpus.catalog import Catalog
from pretrain.corpus.merge import Layout
from pretrain.corpus.plan import Plan
from pretrain.corpus.survey import RowStatus, Survey
from pretrain.corpus.tokenised_pieces import Run

# Wording of each status.
_WORDS = {
    RowStatus.SECONDARY: "not primary data",
    RowStatus.UNLABELLED: "no label",
    RowStatus.UNKNOWN_LABEL: "label that the ontology does not know",
    RowStatus.FEW_GENES: "too few genes",
    RowStatus.DUPLICATE: "seen before",
}
# How to keep such cells, printed if they are more than half of all.
_REMEDIES = {
    RowStatus.SECONDARY: "{keep_secondary} keeps them",
    RowStatus.UNLABELLED: "{columns} label=NAME names the column of labels, {keep_unlabelled} keeps them",
    RowStatus.UNKNOWN_LABEL: "labels are ids or names of the Cell Ontology; {keep_unlabelled} keeps them",
    RowStatus.FEW_GENES: "{min_genes} takes fewer",
    RowStatus.DUPLICATE: "{keep_duplicates} keeps them",
}
_MOST_LABELS = 20


@dataclass(frozen=True, kw_only=True)
class InputReport:
    """Numbers of cells of one input by status.

    Attributes
    ----------
    fates
        Number of cells by `RowStatus`, with sum `n_cells`.
    unresolved
        Number of cells by label that the ontology does not know.
    error
        Why the input was skipped, '' if it was not.
    """

    name: str
    path: str
    n_cells: int
    n_genes: int
    fates: dict[RowStatus, int]
    unresolved: dict[str, int]
    error: str


def report_inputs(plan: Plan, catalog: Catalog, layout: Layout) -> list[InputReport]:
    """Combine surveys, pieces and duplicates into a report for each input."""
    n_few: Counter[int] = Counter()
    for source, piece in layout.runs:
        n_few[source] += Run.open(plan.run(source, piece)).n_few
    reports = []
    for source, each in enumerate(plan.inputs):
        survey = Survey.read(plan.survey(source))
        counts = np.bincount(survey.fate, minlength=len(RowStatus))
        fates = {fate: int(counts[fate]) for fate in RowStatus}
        fates[RowStatus.FEW_GENES] = n_few[source]
        fates[RowStatus.DUPLICATE] = layout.duplicates[source]
        fates[RowStatus.KEPT] -= fates[RowStatus.FEW_GENES] + fates[RowStatus.DUPLICATE]
        error = catalog.inputs[source].error
        if plan.error(source).is_file():
            error = plan.error(source).read_text(encoding="utf-8")
            fates = dict.fromkeys(RowStatus, 0)
        reports.append(
            InputReport(
                name=each.name,
                path=each.path,
                n_cells=survey.n_cells,
                n_genes=len(survey.measured),
                fates=fates,
                unresolved=survey.unresolved,
                error=error,
            )
        )
    return reports


def write_report(folder: Path, reports: list[InputReport], summary: dict[str, Any]) -> None:
    """Write report.json and report.txt."""
    values = {
        **summary,
        "inputs": [
            {**vars(each), "fates": {fate.name.lower(): n for fate, n in each.fates.items()}}
            for each in reports
        ],
    }
    with replaced_file(folder / "report.json") as part:
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    with replaced_file(folder / "report.txt") as part:
        part.write_text("\n".join(report_lines(reports, summary)) + "\n", encoding="utf-8")


def report_lines(reports: list[InputReport], summary: dict[str, Any]) -> list[str]:
    """Return the lines of the text report."""
    totals: Counter[RowStatus] = Counter()
    unresolved: Counter[str] = Counter()
    for each in reports:
        totals.update(each.fates)
        unresolved.update(each.unresolved)
    n_cells = sum(each.n_cells for each in reports)
    lines = [f"{totals[RowStatus.KEPT]:,} of {n_cells:,} cells from {len(reports)} inputs are kept"]
    lines += [f"  {name}: {value}" for name, value in summary.items()]
    for fate, words in _WORDS.items():
        if totals[fate]:
            remedy = f" ({_remedy(fate)})" if 2 * totals[fate] > n_cells else ""
            lines.append(f"left out: {totals[fate]:,} {words}{remedy}")
    if n_bad := sum(bool(each.error) for each in reports):
        lines.append(f"left out: {n_bad} of {len(reports)} inputs that cannot be read, see below")
    if unresolved:
        lines.append("labels that the ontology does not know:")
        lines += [f"  {n:,} cells\t{label}" for label, n in unresolved.most_common(_MOST_LABELS)]
        if len(unresolved) > _MOST_LABELS:
            lines.append(f"  and {len(unresolved) - _MOST_LABELS} more, in report.json")
    lines.append("inputs (kept of all cells, genes):")
    for each in reports:
        why = "; ".join(
            f"{each.fates[fate]:,} {words}" for fate, words in _WORDS.items() if each.fates[fate]
        )
        lines.append(
            f"  {each.name}\t{each.fates[RowStatus.KEPT]:,} of {each.n_cells:,}\t{each.n_genes:,}"
            + (f"\t{why}" if why else "")
            + (f"\tleft out: {each.error}" if each.error else "")
        )
    return lines


def corpus_lines(corpus: TokenCorpus, *, n_types: int = 10) -> list[str]:
    """Describe a corpus, with a name and a value per line."""
    manifest = corpus.manifest
    sizes: Counter[str] = Counter()
    for term, _, n in manifest.pairs:
        sizes[manifest.categories["term"][term] if term >= 0 else "no type"] += n
    lines = [
        f"cells\t{manifest.n_cells:,}",
        f"tokens\t{manifest.n_tokens:,}",
        f"genes a cell\t{manifest.n_tokens / max(1, manifest.n_cells):.0f} of {manifest.max_genes}",
        f"genes\t{corpus.vocabulary.n_genes:,}",
        f"shards\t{len(manifest.shards):,}",
        *(f"{name}\t{len(manifest.categories[name]):,}" for name in ("file", "study", "donor")),
        f"cell types\t{len(sizes):,}",
        f"texts\t{len(corpus.descriptions):,}",
        f"seed\t{manifest.seed}",
        f"ontology\t{manifest.built['ontology']}",
        f"built by\tlangcell {manifest.built['version']}",
    ]
    known = Ontology.bundled().terms
    names = {term: known[term].name for term in sizes if term in known}
    return lines + [
        f"type\t{term}\t{n:,}\t{names.get(term, '')}" for term, n in sizes.most_common(n_types)
    ]


def _remedy(fate: RowStatus) -> str:
    return _REMEDIES[fate].format(
        keep_secondary=option("keep_secondary", True),
        keep_unlabelled=option("keep_unlabelled", True),
        keep_duplicates=option("keep_duplicates", True),
        min_genes=option("min_genes"),
        columns=option("columns", flag="--column"),
    )
