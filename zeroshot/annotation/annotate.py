"""The public function that annotates cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from langcell.counts.modality import modality_of
from langcell.model.embedder import Embedder
from langcell.runtime.keywords import options_from, public
from zeroshot.annotation.annotator import annotate_source
from zeroshot.annotation.cell_scorer import Progress
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import Calibration
from zeroshot.heads.few_shot_head import FewShotHead
from zeroshot.heads.head_hub import HasHead, as_head
from zeroshot.labels.candidates import label_list
from zeroshot.results.annotations import Annotations

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@public
def annotate(
    adata: "AnnData | MuData | str | Path",
    labels: str | Sequence[str] | None = None,
    *,
    model: "Embedder | str | Path" = "mini-fast",
    tissue: str | None = None,
    confidence: float = 0.9,
    head: FewShotHead | HasHead | str | Path | None = None,
    key_added: str = "langcell",
    overwrite: bool = False,
    layer: str | None = None,
    allow_normalized: bool = False,
    out: str | Path | None = None,
    inplace: bool = False,
    modality: str | None = None,
    tissue_mode: str = "weigh",
    tissue_obo: str | Path | None = None,
    rerank: int = 0,
    rerank_weight: float = 1.0,
    scoring: str = "fused",
    alpha: float | None = None,
    calibration: Calibration | str | Path | None = None,
    top_k: int = 10,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    batch_size: int | None = None,
    options: AnnotateOptions | None = None,
    model_name: str = "in memory",
    progress: Progress | None = None,
) -> Annotations:
    """Annotate cells with cell types of the Cell Ontology, without labelled cells.

    Each cell is labelled with the deepest term whose confidence reaches `confidence`, or "unknown".
    The label of a cell does not depend on the other cells. A file is read in blocks: memory does
    not grow with the number of cells, but for their names and 24 bytes each. An interrupted run
    that writes a file goes on where it stopped when it is called again.

    Parameters
    ----------
    adata
        AnnData or MuData with raw counts, which gets the results; or path of an .h5ad, .zarr, 10x
        .h5 or 10x folder.
    labels
        Candidate cell types: names, synonyms or ids of the Cell Ontology, or "text: " and any words.
        A list, one string such as "B cell; T cell", or a file with one a line. All cell types by
        default.
    model
        A model, or the name, folder or hub id of one: "mini-fast" or "mini" are bundled.
    tissue
        Name or UBERON id of the tissue, or "auto" for obs["tissue_ontology_term_id"]. Cell types
        that the tissue does not hold lose weight.
    confidence
        Least confidence of a label, between 0 and 1: the calibrated probability that the label is
        right or an ancestor of the right one. Lower gives finer labels.
    head
        Few-shot head of `fit_few_shot`, or its folder or hub id. Its labels are the candidates.
    key_added
        Prefix of the results in obs, obsm and uns.
    overwrite
        Replace results or an output that exist already.
    layer
        Layer of the raw counts; found in X, raw.X or layers["counts"] by default.
    allow_normalized
        Accept log1p, CPM or TPM values in place of counts.
    out
        File to write: .h5ad for a copy with the results, .csv or .parquet for the obs columns alone.
    inplace
        Add the results to the input .h5ad itself.
    modality
        Modality of a MuData with the counts of RNA.
    tissue_mode
        "weigh" or "restrict" the candidates by the tissue.
    tissue_obo
        Release of the Cell Ontology (.obo) whose relations say where a cell type is found.
    rerank
        Number of best candidates that the matching head looks at again; 0 for none.
    rerank_weight
        Weight of the matching head beside the similarity.
    scoring
        "fused", or "official" for the scores of the LangCell paper (Zhao et al. 2024).
    alpha
        Weight of the similarity in the official scoring; 0.1 by default.
    calibration
        Calibration of `calibrate`, or its file, in place of the model's.
    top_k
        Candidates of each cell whose scores are stored.
    device
        "cpu", "cuda", "cuda:1" or "mps"; "auto" takes a CUDA GPU if there is one.
    devices, nodes
        Devices of each node, and nodes, that share the work on one output file.
    batch_size
        Cells encoded at once; chosen for the device by default.
    options
        An `AnnotateOptions` in place of its single keywords.
    model_name
        Name to record for a model that is given loaded.
    progress
        Called after each block with the number of cells done and of all cells.

    Returns
    -------
    Annotations
        Labels of all cells; shows itself as a table of cell types. An AnnData gets
        obs["langcell_label"], obs["langcell_ontology_term_id"], obs["langcell_confidence"] and more.

    Raises
    ------
    ValueError, OSError
        If the input, the labels, the model or the output is not usable; then nothing is written.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.annotate(adata, tissue="pancreas", confidence=0.8)  # doctest: +SKIP
    >>> lc.annotate(adata, ["B cell", "T cell", "monocyte"])  # doctest: +SKIP
    >>> lc.annotate("atlas.h5ad", out="annotated.h5ad")  # doctest: +SKIP
    """
    if isinstance(calibration, str | Path):
        calibration = Calibration.read(Path(calibration))
    head = as_head(head)
    options = options_from(AnnotateOptions, options, locals())
    return annotate_source(
        modality_of(adata, modality),
        model=model,
        model_name=model_name,
        labels=None if labels is None else label_list(labels),
        out=None if out is None else Path(out),
        options=options,
        progress=progress,
    )
