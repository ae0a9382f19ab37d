"""Describe the run for the report: input, model, provenance and the command to repeat it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from langcell.runtime.digest import sha256_of
from langcell.runtime.version import __version__
from ontology.graph import Ontology

_CANDIDATES_SHOWN = 40


def facts(details: Mapping[str, Any], *, n_cells: int, label: str) -> list[tuple[str, str]]:
    """Return the facts about the input and the model, as (name, value)."""
    coverage = details.get("gene_coverage", {})
    counts = str(details.get("counts_source", "not recorded"))
    transform = str(details.get("counts_transform", "none"))
    if transform != "none":
        counts += f", normalised values, converted back to linear by {transform}"
    elif "counts_source" in details:
        counts += ", raw counts (whole numbers)"
    rows = [("file", f"{label}, {n_cells:,} cells"), ("counts", counts)]
    if coverage:
        rows += [
            (
                "genes",
                f"{coverage['share_coding_resolved']:.0%} of the protein-coding genes were "
                f"recognised; the model knows {coverage['n_known_genes']:,} of the file's "
                f"{coverage['n_genes']:,} genes",
            ),
            (
                "depth",
                f"{coverage['median_known_genes']:,.0f} known genes expressed in the median cell",
            ),
        ]
    if head := details.get("head"):
        rows.append(
            (
                "head",
                f"{head['kind']}, fitted to {int(head['n_cells']):,} labelled cells (id {head['id']})",
            )
        )
    candidates = list(map(str, details.get("candidate_names", ())))
    named = ""
    if details.get("candidates") != "all cell types" and candidates:
        named = ": " + "; ".join(candidates[:_CANDIDATES_SHOWN])
        named += " …" if len(candidates) > _CANDIDATES_SHOWN else ""
    rows += [
        ("model", str(details.get("model", "not recorded"))),
        (
            "candidates",
            f"{len(candidates):,} types ({details.get('candidates', 'not recorded')}, Cell Ontology "
            f"{details.get('ontology_release', 'release not recorded')}){named}",
        ),
    ]
    return rows


def names_study(fitted_on: str, known_as: Sequence[str]) -> bool:
    """Return whether a data set is one of the studies that a calibration was fitted on.

    >>> names_study("Baron 2016, Kang 2018", ["kang2018_pbmc.h5ad"])
    True

    Parameters
    ----------
    fitted_on: names of the calibration's studies, separated by commas
    known_as: names of the data set and of its studies
    """
    studies = [_words(each) for each in fitted_on.split(",") if each.strip()]
    names = [_words(each) for each in known_as]
    # A study name of one word, such as "a", could be part of any name: it must match exactly.
    return any(
        study == name or (len(study) > 1 and set(study) <= set(name))
        for study in studies
        for name in names
    )


def _words(name: str) -> list[str]:
    """Split a name into runs of letters and runs of digits.

    >>> _words("kang2018_pbmc.h5ad")
    ['kang', '2018', 'pbmc']
    """
    return re.findall(r"[a-z]+|\d+", name.lower().removesuffix(".h5ad"))


def tissues(details: Mapping[str, Any], ontology: Ontology) -> list[tuple[str, list[str]]]:
    """Return, for each given tissue, a summary and the names of the labels that it affected."""
    given = details.get("tissue", {})
    word = "excluded" if given.get("mode") == "restrict" else "demoted"
    n_labels = len(details.get("candidate_names", ()))
    found = []
    for tissue_id, noted in given.get("tissues", {}).items():
        keys = [str(key) for key in noted.get(word, ())]
        names = [ontology.terms[key].name if key in ontology.index else key for key in keys]
        said = f"{noted['name']} ({tissue_id}): {len(keys):,} of {n_labels:,} labels {word}"
        found.append((said, names))
    unknown = given.get("unknown", {})
    if len(unknown):
        cells, values = sum(map(int, unknown["n_cells"])), list(map(str, unknown["values"]))
        found.append((f"{cells:,} cells with an unknown tissue, called without one", values))
    return found


def provenance(details: Mapping[str, Any], *, source: Path | None) -> list[tuple[str, str]]:
    """Return versions, checksums and parameters, as (name, value)."""
    rows = [
        ("langcell version (annotation)", str(details.get("version", "not recorded"))),
        ("langcell version (report)", __version__),
        ("model", str(details.get("model", "not recorded"))),
        ("model sha256", str(details.get("model_sha256", "") or "not recorded")),
        ("Cell Ontology release", str(details.get("ontology_release", "not recorded"))),
    ]
    if source is not None:
        rows += [("annotated file", str(source)), ("annotated file sha256", sha256_of(source))]
    for part, word in (("calibration", "calibration"), ("parameters", "parameter")):
        notes = details.get(part, {})
        if isinstance(notes, Mapping):
            # Reliability is plotted in the confidence section.
            notes = {name: value for name, value in notes.items() if name != "reliability"}
            rows += [(f"{word} {name}", value) for name, value in flattened(notes)]
    return rows


def flattened(notes: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Flatten nested notes to (dotted name, value as text).

    >>> flattened({"top_k": 10, "tissue": {"name": "lung"}})
    [('top_k', '10'), ('tissue.name', 'lung')]
    """
    rows = []
    for name, value in notes.items():
        if isinstance(value, Mapping):
            rows += flattened(value, f"{before}{name}.")
        elif isinstance(value, np.ndarray) and value.size > 10:
            rows.append((f"{before}{name}", f"{value.size} values"))
        else:
            rows.append((f"{before}{name}", str(value)))
    return rows


def command(details: Mapping[str, Any], *, label: str) -> str:
    """Return the command line that made the calls.

    If none was recorded, because Python made the calls, return an equivalent one.

    >>> command({"model": "mini", "parameters": {"rerank": 8}}, label="x.h5ad")
    'langcell zeroshot --h5ad INPUT.h5ad --model mini --rerank 8 --out x.h5ad'
    """
    if details.get("command"):
        return str(details["command"])
    parameters = details.get("parameters", {})
    words = ["langcell", "zeroshot", "--h5ad", str(details.get("source", "INPUT.h5ad"))]
    words += ["--model", str(details.get("model", "mini-fast"))]
    if "head" in details:
        words += ["--head", f"FOLDER_OF_{details['head']['id']}"]
    elif details.get("candidates") == "given":
        words += ["--labels", "; ".join(map(str, details["candidate_ids"]))]
    counts = str(details.get("counts_source", "")).removeprefix("layers/")
    if counts and counts not in ("raw.X", "X", "counts"):
        words += ["--layer", counts]
    if parameters.get("allow_normalized"):
        words += ["--allow-normalized"]
    if parameters.get("rerank"):
        words += ["--rerank", str(parameters["rerank"])]
    if "alpha" in parameters:
        words += ["--scoring", "official", "--alpha", f"{float(parameters['alpha']):g}"]
    tissue = details.get("tissue", {})
    if tissue:
        words += ["--tissue", str(tissue["given"]), "--tissue-mode", str(tissue["mode"])]
    if "confidence" in parameters:
        words += ["--confidence", f"{float(parameters['confidence']):g}"]
    return shlex.join([*words, "--out", label])
