"""Zero-shot validation on labelled studies during training, which selects the best checkpoint."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.counts.reader import open_counts
from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.metrics import accuracy, macro_f1
from langcell.tokens.tokenizer import RankTokenizer, collate_tokens
from ontology.graph import Ontology
from pretrain.recipe.cell_config import Scale
from pretrain.recipe.config import Recipe
from pretrain.recipe.sources import label_rows

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledTokens:
    """Tokenised cells of one validation file.

    Attributes
    ----------
    study
        Study name; files of one study are averaged first.
    cells
        Tokens of each cell.
    truth
        Index of each cell's type in `candidates`, shape (n_cells,).
    candidates
        The study's own types, as rows of the table of all cell types.
    """

    study: str
    cells: tuple[np.ndarray, ...]
    truth: np.ndarray
    candidates: np.ndarray


@dataclass(frozen=True, kw_only=True)
class StudyScore:
    """Zero-shot scores of one study.

    Attributes
    ----------
    accuracy, macro_f1
        Of predictions among the study's own labels.
    recall
        Share of cells whose own description is among the k nearest of all descriptions, for k in
        `RECALL_AT`.
    """

    study: str
    accuracy: float
    macro_f1: float
    recall: tuple[float, ...]


def read_validation(
    recipe: Recipe, ontology: Ontology, vocabulary: GeneVocabulary, candidates: Sequence[str]
) -> list[LabelledTokens]:
    """Tokenise evenly spaced labelled cells of each validation file."""
    place = {term_id: row for row, term_id in enumerate(candidates)}
    tokenizer = RankTokenizer(vocabulary, max_genes=recipe.model.max_genes)
    files = []
    for file in recipe.validation.files:
        path = recipe.root / file.path
        labels = label_rows(path, recipe.columns, ontology)
        usable = np.flatnonzero([term_id in place for term_id in labels.term_ids])
        if not len(usable):
            raise ValueError(f"{path}: no row has a term among the candidate labels")
        own, truth = np.unique(labels.term_ids[usable], return_inverse=True)
        n = min(len(usable), recipe.validation.max_cells)
        kept = np.unique(np.linspace(0, len(usable) - 1, n).round().astype(int))
        rows = labels.rows[usable[kept]]
        files.append(
            LabelledTokens(
                study=file.study,
                cells=_tokens(path, file.scale, rows, tokenizer),
                truth=truth[kept],
                candidates=np.array([place[term_id] for term_id in own]),
            )
        )
    return files


def _tokens(
    path: Path, scale: Scale, rows: np.ndarray, tokenizer: RankTokenizer
) -> tuple[np.ndarray, ...]:
    """Tokenise the given rows of a file, in ascending order."""
    cells: list[np.ndarray] = []
    with open_counts(path, scale=scale) as matrix:
        genes = tokenizer.column_genes(matrix.resolution)
        for block in matrix.blocks():
            inside = rows[(rows >= block.start) & (rows < block.start + block.counts.shape[0])]
            inside = inside - block.start
            if len(inside):
                found = tokenizer.tokenize_csr(block.counts[inside], genes, block.totals[inside])
                cells += [found.cell(row).copy() for row in range(found.n_cells)]
    return tuple(cells)


def score_studies(
    model: LangCell,
    files: Sequence[LabelledTokens],
    candidates: torch.Tensor,
    reference: Sequence[np.ndarray],
    *,
    batch_size: int,
    min_cells: int,
) -> list[StudyScore]:
    """Predict a label among its study's own for each cell, as `zeroshot` does, and score them.

    Parameters
    ----------
    candidates
        Pooled texts of all cell types, shape (n_candidates, text hidden).
    reference
        Tokens of the reference cells.
    min_cells
        Cells that a class needs to count in macro-F1.

    Returns
    -------
    list of StudyScore
        One per study, in the order of the files.
    """
    by_study: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    with inference(model):
        texts = model.project_text(candidates.to(model.device))
        cells = reference_features(model, reference, batch_size=batch_size)
        offsets = cells.label_offsets(texts.cpu().numpy(), model.scale.item())
        for file in files:
            features = _encode(model, file.cells, batch_size)
            predicted = _predict(file, features, texts, torch.from_numpy(offsets))
            # A sample of a small study may leave no class with enough cells.
            enough = min(min_cells, int(np.bincount(file.truth).max()))
            f1 = macro_f1(file.truth, predicted, min_cells=enough)
            recall = _recall(features @ texts.T, file.candidates[file.truth])
            by_study[file.study].append((accuracy(file.truth, predicted), f1, *recall))
    return [
        StudyScore(study=study, accuracy=mean[0], macro_f1=mean[1], recall=tuple(mean[2:]))
        for study, scores in by_study.items()
        for mean in [np.mean(scores, axis=0).tolist()]
    ]


def reference_features(
    model: LangCell, cells: Sequence[np.ndarray], *, batch_size: int
) -> ReferenceCells:
    """Encode the reference cells, given as tokens, as they are saved with the model."""
    with inference(model):
        features = _encode(model, cells, batch_size)
    return ReferenceCells(features=features.cpu().numpy().astype(np.float16))


def _recall(similarities: torch.Tensor, truth: np.ndarray) -> list[float]:
    """Return R@k of the cells' own texts, given similarities of shape (n_cells, n_texts)."""
    rows = torch.arange(len(truth), device=similarities.device)
    own = similarities[rows, torch.from_numpy(truth).to(rows.device)]
    rank = (similarities > own[:, None]).sum(dim=1)
    return [float((rank < k).float().mean()) for k in RECALL_AT]


def _predict(
    file: LabelledTokens, features: torch.Tensor, texts: torch.Tensor, offsets: torch.Tensor
) -> np.ndarray:
    similarities = features @ texts[file.candidates].T  # (n_cells, n_candidates)
    return (similarities.cpu() - offsets[file.candidates]).argmax(dim=1).numpy()


def _encode(model: LangCell, cells: Sequence[np.ndarray], batch_size: int) -> torch.Tensor:
    encoded = []
    for start in range(0, len(cells), batch_size):
        ids, mask = collate_tokens(
            cells[start : start + batch_size],
            cls_id=model.genes.cls_id,
            pad_id=model.genes.pad_id,
        )
        batch = model.encode_cell(
            torch.from_numpy(ids).to(model.device),
            torch.from_numpy(mask).to(model.device),
            cls_only=True,
        )
        encoded.append(batch.features)
    return torch.cat(encoded)  # (n_cells, embedding_dim)
