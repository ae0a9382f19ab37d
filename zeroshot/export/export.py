"""Export calls in the formats of repositories: `langcell export`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from langcell.counts.obs_columns import obs_columns, read_obs_column
from langcell.output.h5ad_writer import H5adWriter
from langcell.runtime.keywords import options_from, public_as
from langcell.runtime.output_file import check_output, replaced_file
from langcell.runtime.parameter_names import option
from ontology.graph import Ontology
from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.export import cellxgene
from zeroshot.export.cap import cap_columns, cap_notes, column_names
from zeroshot.export.cas import Publication, annotation_set
from zeroshot.heads.few_shot_head import FewShotHead
from zeroshot.heads.head_hub import HasHead, as_head
from zeroshot.labels.candidates import candidate_key
from zeroshot.results.annotated_file import open_annotated
from zeroshot.results.annotations import Slots
from zeroshot.results.called_cells import group_by_call
from zeroshot.results.read_calls import WrittenCalls, read_calls

SUFFIXES = {"cellxgene": ".h5ad", "cap": ".h5ad", "cas": ".json"}
BEFORE = "_before"  # suffix of a column that was replaced


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to export."""

    key_added: str = "langcell"  # what the names of the results begin with
    calls: str | None = None  # which calls: what their columns begin with
    labelset: str | None = None  # name of the set of labels; that of the calls by default
    write_cell_type: bool = False  # let existing columns of cell types give way
    names: bool = False  # write obs["cell_type"] too, which CELLxGENE adds itself
    title: str | None = None  # of the data set; by default what uns says, or the file's name
    author: str | None = None  # by default what uns says
    evidence: bool = False  # name the genes that raise each call, for which the model is asked
    head: FewShotHead | None = None  # that made the calls, where one did; for the evidence
    url: str = "NA"  # of the published annotations
    overwrite: bool = False  # replace an output


@public_as("export")
def write_export(
    source: str | Path,
    out: str | Path,
    *,
    format: str,
    calls: str | None = None,
    labelset: str | None = None,
    write_cell_type: bool = False,
    names: bool = False,
    title: str | None = None,
    author: str | None = None,
    evidence: bool = False,
    head: FewShotHead | HasHead | str | Path | None = None,
    url: str = "NA",
    key_added: str = "langcell",
    overwrite: bool = False,
    options: ExportOptions | None = None,
) -> list[str]:
    """Write the labels of an annotated h5ad in the form that a repository takes.

    The input is not changed; memory does not depend on the size of its matrices.

    Parameters
    ----------
    source
        Annotated h5ad.
    out
        File to write: .h5ad, or .json for "cas".
    format
        "cellxgene" (obs["cell_type_ontology_term_id"]), "cap" (columns and uns of the Cell Annotation
        Platform) or "cas" (JSON of the Cell Annotation Schema).
    calls
        Prefix of the columns to export, such as "langcell_cluster"; the labels after back-off by
        default.
    labelset
        Name of the set of labels; by default that of the columns.
    write_cell_type
        Replace existing columns of cell types; they are kept with "_before" added to their names.
    names
        Write obs["cell_type"] too, which CELLxGENE adds itself.
    title, author
        Of the data set; by default what uns says, or the file's name.
    evidence
        Name the genes that raise each label, for "cap" and "cas".
    head
        Few-shot head that annotated, if one did; for the evidence.
    url
        Where the annotations are published.
    key_added
        Prefix of the results in obs, obsm and uns.
    overwrite
        Replace an output that exists.
    options
        An `ExportOptions` in place of its single keywords.

    Returns
    -------
    list of str
        Lines that say what was written and what a reader should know.

    Raises
    ------
    ValueError, OSError
        If the input, a name or the model is not usable.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.export("annotated.h5ad", "submission.h5ad", format="cellxgene")  # doctest: +SKIP
    """
    head = as_head(head)
    options = options_from(ExportOptions, options, locals())
    if not isinstance(source, str | Path):
        raise TypeError(
            f"export reads a file, got {type(source).__name__}; save it with write_h5ad first"
        )
    source, out = Path(source), Path(out)
    if format not in SUFFIXES:
        raise ValueError(f"{option('format')} must be one of {', '.join(SUFFIXES)}, got {format!r}")
    if options.head is not None and not options.evidence:
        raise ValueError(
            f"{option('head')} is only used for evidence genes: pass {option('evidence', True)} too"
        )
    if options.evidence and format == "cellxgene":
        raise ValueError(
            f"{option('evidence')} works with cap and cas only; CELLxGENE has no column for genes"
        )
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file")
    check_output(out, suffixes=(SUFFIXES[format],), overwrite=True)
    if out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the input itself; choose another output file")
    check_output(out, suffixes=(SUFFIXES[format],), overwrite=options.overwrite)
    ontology = Ontology.bundled()
    made = read_calls(source, ontology, key=options.key_added, name=options.calls)
    write = {"cellxgene": _write_cellxgene, "cap": _write_cap, "cas": _write_cas}[format]
    unknown = int(np.sum(made.labels == UNKNOWN))
    lines = [f"calls\t{made.name}: {len(made):,} cells, {unknown:,} of them {UNKNOWN}"]
    return lines + write(source, out, made, ontology, options)


def _write_cellxgene(
    source: Path, out: Path, calls: WrittenCalls, ontology: Ontology, options: ExportOptions
) -> list[str]:
    columns = obs_columns(source)
    own = (cellxgene.COLUMN, cellxgene.RESERVED)
    there = [each for each in own if each in columns]
    if cellxgene.COLUMN in there and not options.write_cell_type:
        raise ValueError(
            f"{source} already has obs[{cellxgene.COLUMN!r}]; pass {option('write_cell_type', True)} "
            f"to replace it and keep the old column as {cellxgene.COLUMN}{BEFORE}"
        )
    moved = there if options.write_cell_type else []
    _check_free(source, [f"{each}{BEFORE}" for each in moved], columns)
    if options.names and cellxgene.RESERVED in there and not moved:
        raise ValueError(
            f"{source} already has obs['cell_type']; {option('names')} needs "
            f"{option('write_cell_type', True)}, which keeps the old column as cell_type{BEFORE}"
        )
    in_tissue = None
    if "in_tissue" in columns:
        in_tissue = ~np.isin(read_obs_column(source, "in_tissue"), ["0", "0.0", "False"])
    ids = cellxgene.cell_type_ids(calls.term_ids, ontology, in_tissue)
    lines = [f"{each}\tkept as {each}{BEFORE}" for each in moved]
    with replaced_file(out) as temporary:
        left_out = _copy(source, temporary, _not_dense(source), moved)
        with h5py.File(temporary, "r+") as file:
            writer = H5adWriter(file)
            writer.set_obs(cellxgene.COLUMN, pd.Categorical(ids))
            if options.names:
                names = [ontology.terms[each].name if each != UNKNOWN else each for each in ids]
                writer.set_obs(cellxgene.RESERVED, pd.Categorical(names))
    lines += [f"{each}\tleft out: the schema allows only dense arrays" for each in left_out]
    if options.names or (cellxgene.RESERVED in there and not moved):
        lines.append(
            "cell_type\tCELLxGENE adds this column itself; its validator rejects files that have it"
        )
    n_unknown = int(np.sum(ids == UNKNOWN))
    return [*lines, f"{cellxgene.COLUMN}\t{len(set(ids))} values; {n_unknown:,} cells {UNKNOWN}"]


def _write_cap(
    source: Path, out: Path, calls: WrittenCalls, ontology: Ontology, options: ExportOptions
) -> list[str]:
    name = options.labelset or calls.name
    _check_free(source, column_names(name), obs_columns(source))
    publication = _publication(source, options)
    evidence = _evidence(source, calls, ontology, options)
    with replaced_file(out) as temporary:
        _copy(source, temporary, [], [])
        with h5py.File(temporary, "r+") as file:
            writer = H5adWriter(file)
            for column, values in cap_columns(calls, ontology, name, evidence=evidence).items():
                writer.set_obs(column, values)
            for key, value in cap_notes(calls, name, publication).items():
                writer.set_uns(key, value)
    return [f"{name}\tlabelset with {len(column_names(name)) - 1} more columns"]


def _write_cas(
    source: Path, out: Path, calls: WrittenCalls, ontology: Ontology, options: ExportOptions
) -> list[str]:
    name = options.labelset or calls.name
    publication = _publication(source, options)
    evidence = _evidence(source, calls, ontology, options)
    document = annotation_set(calls, ontology, publication, name, evidence=evidence)
    with replaced_file(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
        file.write("\n")
    return [f"{name}\tlabelset with {len(document['annotations'])} annotations"]


def _evidence(
    source: Path, calls: WrittenCalls, ontology: Ontology, options: ExportOptions
) -> dict[str, list[str]]:
    """Return the genes that raise each call; {} if `options.evidence` is off."""
    if not options.evidence:
        return {}
    # These import torch, which takes seconds and is not needed otherwise.
    from zeroshot.evidence.group_evidence import (
        GroupCall,
        candidate_keys,
        candidates_below,
        explain_groups,
    )
    from zeroshot.report.groups import mean_scores

    grouping = group_by_call(calls.labels)
    with open_annotated(source) as opened:
        means = mean_scores(opened, Slots(key=options.key_added).scores, grouping)
    if means is None:
        raise ValueError(
            f"{source} has no scores, which {option('evidence')} needs; annotate it again"
        )
    ids = dict(zip(calls.labels, calls.term_ids, strict=True))
    keys = candidate_keys(calls.notes)
    asked = [
        GroupCall(
            group=label,
            call=label,
            term_id=ids[label],
            weights=scores * candidates_below(candidate_key(ids[label], label), keys, ontology),
        )
        for label, scores in zip(grouping.names, means, strict=True)
        if label != UNKNOWN
    ]
    found = explain_groups(
        source, asked, calls.labels, calls.notes, ontology=ontology, head=options.head
    )
    return {label: [gene.symbol for gene in each.raising] for label, each in found.items()}


def _publication(source: Path, options: ExportOptions) -> Publication:
    """Return the metadata from the options, else from uns; the time is that of the file."""
    with h5py.File(source, "r") as file:
        known = {
            key: str(read_elem(file[f"uns/{key}"])) if f"uns/{key}" in file else ""
            for key in ("title", "author_name")
        }
    return Publication(
        title=options.title or known["title"] or source.stem,
        author=options.author or known["author_name"],
        url=options.url,
        made=datetime.fromtimestamp(int(source.stat().st_mtime), tz=UTC),
    )


def _check_free(source: Path, wanted: Sequence[str], columns: Sequence[str]) -> None:
    if taken := [each for each in wanted if each in columns]:
        raise ValueError(
            f"{source} already has obs[{taken[0]!r}]; rename or remove it, or, for cap, pass another "
            f"{option('labelset')}"
        )


def _not_dense(source: Path) -> list[str]:
    """Return the entries of obsm that are not dense arrays."""
    with h5py.File(source, "r") as file:
        obsm = file.get("obsm", {})
        return [f"obsm/{name}" for name in obsm if not isinstance(obsm[name], h5py.Dataset)]


def _copy(source: Path, target: Path, left_out: list[str], moved: Sequence[str]) -> list[str]:
    """Copy an h5ad without some elements, rename obs columns, and return the elements left out."""
    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)
        for name in old:
            if not any(each.startswith(f"{name}/") for each in left_out):
                old.copy(name, new)
                continue
            new.create_group(name).attrs.update(old[name].attrs)
            for each in old[name]:
                if f"{name}/{each}" not in left_out:
                    old.copy(f"{name}/{each}", new[name])
        if moved:
            obs = new["obs"]
            for each in moved:
                obs.move(each, f"{each}{BEFORE}")
                if f"uns/{each}_colors" in new:
                    new.move(f"uns/{each}_colors", f"uns/{each}{BEFORE}_colors")
            order = [str(each) for each in obs.attrs["column-order"]]
            renamed = [f"{each}{BEFORE}" if each in moved else each for each in order]
            obs.attrs["column-order"] = np.array(renamed, dtype=h5py.string_dtype())
    return left_out
