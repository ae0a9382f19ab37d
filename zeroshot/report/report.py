"""Write a self-contained HTML report of the calls and how far to trust them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from langcell.counts.modality import modality_of
from langcell.runtime.keywords import options_from, public_as
from langcell.runtime.output_file import check_output, replaced_file
from ontology.graph import Ontology
from zeroshot.confidence.reliability import Reliability
from zeroshot.evidence.group_evidence import explain_groups
from zeroshot.heads.few_shot_head import FewShotHead
from zeroshot.heads.head_hub import HasHead, as_head
from zeroshot.labels.comparison import label_spellings
from zeroshot.report.agreement import (
    LabelAgreement,
    compare_labels,
    contradictions,
    find_labels,
)
from zeroshot.report.data_uri import Picture
from zeroshot.report.evidence import add_evidence, check_head
from zeroshot.report.figures import histogram, reliability_picture, risk_picture
from zeroshot.report.groups import (
    Group,
    mean_scores,
    n_called_types,
    summarise_groups,
    with_consensus,
    with_contradictions,
    with_runners_up,
)
from zeroshot.report.run_facts import command, facts, names_study, provenance, tissues
from zeroshot.report.second_calls import SecondCalls, second_calls
from zeroshot.report.type_tree import CallTree, call_trees
from zeroshot.report.umap_section import map_cells, map_pictures
from zeroshot.report.verdicts import Trust, Verdict, make_verdict, rate_all
from zeroshot.report.warnings import Note, notes
from zeroshot.results.annotated_file import AnnotatedSource, open_annotated
from zeroshot.results.annotations import Slots
from zeroshot.results.called_cells import (
    CalledCells,
    Grouping,
    find_groups,
    read_cells,
    text_column,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from langcell.model.langcell import LangCell

OOD_THRESHOLD = 1.0  # exceeded by 1 % of the training cells
_ROWS_OPEN = 30  # rows of the table of groups that are shown; the rest are collapsed


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """How to report."""

    key_added: str = "langcell"  # what the names of the results begin with
    cluster_key: str | None = None  # column of obs to group by; one of a usual name by default
    truth: str | None = None  # column of obs with labels; one of a usual name by default
    seed: int = 0  # of the sample of cells on the map, and of a map that is made
    overwrite: bool = False  # replace a report that is there


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """The data of the template."""

    title: str
    key: str
    n_cells: int
    n_types: int
    cells: CalledCells
    verdict: Verdict
    notes: list[Note]
    facts: list[tuple[str, str]]
    map_described: str
    maps: list[Picture]
    cluster_key: str | None
    rows: list[tuple[Group, Trust]]
    evidence_missing: str
    agreement: LabelAgreement | None
    was_calibrated_on: bool
    tissues: list[tuple[str, list[str]]]
    second: tuple[SecondCalls, ...]
    trees: tuple[CallTree, ...]
    reliability: list[Picture]
    certainties: list[Picture]
    ood: Picture | None
    share_unusual: float
    provenance: list[tuple[str, str]]
    command: str


@public_as("report")
def write_report(
    adata: "AnnData | MuData | str | Path",
    out: str | Path,
    *,
    cluster_key: str | None = None,
    truth: str | None = None,
    model: "LangCell | str | Path | None" = None,
    head: FewShotHead | HasHead | str | Path | None = None,
    key_added: str = "langcell",
    seed: int = 0,
    overwrite: bool = False,
    modality: str | None = None,
    options: ReportOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write an HTML report on annotated cells: what was predicted, and what to trust.

    Counts, embeddings and scores of a file are streamed; the labels of all cells are held in memory.

    Parameters
    ----------
    adata
        Annotated AnnData or MuData, or path of an annotated h5ad.
    out
        HTML file to write.
    cluster_key
        obs column with clusters; leiden or louvain by default, if there is one.
    truth
        obs column with known labels; by default one that holds cell types.
    model
        Model that annotated, or its name, folder or hub id, if it is not where the file says.
    head
        Few-shot head that annotated, if one did; without it there is no evidence for its labels.
    key_added
        Prefix of the results in obs, obsm and uns.
    seed
        Of the sample of cells on the map, and of a map that is computed.
    overwrite
        Replace a report that exists.
    modality
        Modality of a MuData that was annotated.
    options
        A `ReportOptions` in place of its single keywords.
    progress
        Called with the number of cells explained and of all that will be.

    Raises
    ------
    ValueError, OSError
        If the input, a name or the model is not usable.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.report(adata, "report.html")  # doctest: +SKIP
    """
    options, head = options_from(ReportOptions, options, locals()), as_head(head)
    source, target = modality_of(adata, modality), Path(out)
    check_report_output(target, overwrite=options.overwrite)
    page = render(make_report(source, model=model, head=head, options=options, progress=progress))
    with replaced_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")


def check_report_output(target: Path, *, overwrite: bool) -> None:
    """Raise an error if the report cannot be written; call it before any work."""
    check_output(target, suffixes=(".html",), overwrite=overwrite)


def make_report(
    source: "AnnData | str | Path",
    *,
    model: "LangCell | str | Path | None" = None,
    head: FewShotHead | None = None,
    options: ReportOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read an annotated file and collect the data of its report."""
    ontology, slots = Ontology.bundled(), Slots(key=options.key_added)
    with open_annotated(source) as opened:
        cells = read_cells(opened, slots)
        check_head(cells.details, head)
        own = cells.details["candidate_ids"] if "head" in cells.details else ()
        spellings = label_spellings(own, ontology) if len(own) else None
        found = find_labels(opened, options.truth, slots.key, ontology, spellings)
        grouping = find_groups(opened, cells, options.cluster_key, slots.key)
        means = mean_scores(opened, slots.scores, grouping)
        groups = _read_groups(opened, cells, grouping, means, slots)
        drawn = map_cells(opened, slots, seed=options.seed)
        label, studies = opened.label, _studies(opened)
    explain = partial(
        explain_groups, source, ontology=ontology, model=model, head=head, progress=progress
    )
    if found is not None:
        groups = with_contradictions(groups, contradictions(found[1], cells, grouping, ontology))
    groups, evidence_missing = add_evidence(groups, grouping, means, cells, explain)
    unusual = _unusual(cells)
    agreement = (
        compare_labels(*found, cells, ontology, was_found=options.truth is None) if found else None
    )
    ratings = rate_all(groups, has_confidence=cells.has_confidence, threshold=cells.threshold)
    path = Path(source) if isinstance(source, str | Path) else None
    was_calibrated_on = names_study(cells.calibration.get("fitted_on", ""), [label, *studies])
    name = path.name if path else "the AnnData"
    return Report(
        title=name,
        key=slots.key,
        n_cells=len(cells),
        n_types=n_called_types(cells),
        cells=cells,
        verdict=make_verdict(cells, groups, ratings),
        notes=notes(cells, groups, ratings, unusual, agreement),
        facts=facts(cells.details, n_cells=len(cells), label=name),
        map_described=drawn.described if drawn else "",
        maps=map_pictures(cells, drawn) if drawn else [],
        cluster_key=grouping.key,
        rows=list(zip(groups, ratings, strict=True)),
        evidence_missing=evidence_missing,
        agreement=agreement,
        was_calibrated_on=was_calibrated_on,
        tissues=tissues(cells.details, ontology),
        second=second_calls(cells.details),
        trees=call_trees(_n_cells_by_term(cells), ontology),
        reliability=_reliability(cells),
        certainties=_certainties(cells),
        ood=_outliers(cells),
        share_unusual=float(np.mean(unusual)),
        provenance=provenance(cells.details, source=path),
        command=command(cells.details, label=name if path else "annotated.h5ad"),
    )


def render(report: Report) -> str:
    """Return the report as an HTML page; all text from the file is escaped."""
    environment = Environment(
        loader=PackageLoader("zeroshot"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["term_link"] = term_link
    style = (files("zeroshot") / "templates" / "report.css").read_text(encoding="utf-8")
    template = environment.get_template("report.html.j2")
    return template.render(
        report=report,
        style=style,
        rows_open=_ROWS_OPEN,
        top=_top(report),
        zip=zip,
    )


def term_link(term_id: str) -> str:
    """Return the URL of a term.

    >>> term_link("CL:0000236")
    'http://purl.obolibrary.org/obo/CL_0000236'
    """
    return f"http://purl.obolibrary.org/obo/{term_id.replace(':', '_')}"


def _read_groups(
    source: AnnotatedSource,
    cells: CalledCells,
    grouping: Grouping,
    means: np.ndarray | None,
    slots: Slots,
) -> list[Group]:
    """Summarise groups, with consensus calls and runners-up."""
    ontology = Ontology.bundled()
    groups = summarise_groups(cells, grouping, _unusual(cells), ontology)
    consensus, _, confidence, *_ = slots.decoded_columns("cluster")
    if grouping.key == slots.cluster and {consensus, confidence} <= set(source.columns):
        values = source.column(confidence).to_numpy(dtype=np.float64)
        groups = with_consensus(groups, grouping, text_column(source, consensus), values)
    return groups if means is None else with_runners_up(groups, means, cells, ontology)


def _studies(source: AnnotatedSource) -> list[str]:
    """Return the values of obs["study"]."""
    return sorted(set(text_column(source, "study"))) if "study" in source.columns else []


def _top(report: Report) -> float:
    """Return the maximum of the bars: 1 for confidence, the largest upper quartile for margins."""
    if report.cells.has_confidence:
        return 1.0
    return max(group.quartiles[2] for group, _ in report.rows) or 1.0


def _unusual(cells: CalledCells) -> np.ndarray:
    if cells.ood is None:
        return np.zeros(len(cells), dtype=bool)
    return cells.ood > OOD_THRESHOLD


def _outliers(cells: CalledCells) -> Picture | None:
    if cells.ood is None:
        return None
    name = "out-of-distribution score"
    return histogram(cells.ood, title=name.capitalize(), name=name, mark=OOD_THRESHOLD)


def _certainties(cells: CalledCells) -> list[Picture]:
    if not cells.has_confidence:
        return [histogram(cells.margin, title="Margin of all cells", name="margin", mark=None)]
    shown = {"Confidence of the calls": cells.confidence}
    if not np.isnan(cells.leaf_confidence).all():
        shown["Confidence of the best candidate, before back-off"] = cells.leaf_confidence
    return [
        histogram(values, title=title, name="confidence", mark=cells.threshold)
        for title, values in shown.items()
    ]


def _reliability(cells: CalledCells) -> list[Picture]:
    """Draw the reliability that the calibration recorded, if it did."""
    if "reliability" not in cells.calibration:
        return []
    measured = Reliability.of(cells.calibration["reliability"])
    return [reliability_picture(measured), risk_picture(measured, threshold=cells.threshold)]


def _n_cells_by_term(cells: CalledCells) -> dict[str, int]:
    ids, n_cells = np.unique(cells.term_ids.astype(str), return_counts=True)
    return {str(term_id): int(n) for term_id, n in zip(ids, n_cells, strict=True)}
