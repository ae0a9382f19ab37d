"""Read and write a few-shot head as a folder: weights, metadata, calibration and README."""

import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from langcell.checkpoints.checkpoint import replaced_folder
from langcell.runtime.parameter_names import option
from langcell.runtime.version import __version__
from langcell.tokens.shard_file import write_tensors
from ontology.graph import Ontology
from zeroshot.confidence.calibration import Calibration
from zeroshot.confidence.novelty import Novelty
from zeroshot.heads.few_shot_head import FewShotHead, HasHead
from zeroshot.labels.candidates import own_candidates

WEIGHTS, DESCRIPTION, CALIBRATION, CARD = (
    *("head.safetensors", "head.json", "calibration.json", "README.md"),
)
CHANGES = "model_changes.safetensors"  # only if the model was fine-tuned with the head
_FORMAT = 2
_ARRAYS = ("n_shots", "feature_weights", "gene_tokens", "gene_weights", "intercepts")
_PROTOTYPES = "prototypes"
_VALUES = ("kind", "target", "by_types", "text_weight", "model", "model_sha256", "matches")


def check_head_output(folder: Path, *, overwrite: bool) -> None:
    """Raise, before any work, if the folder may not be replaced or cannot be written.

    Raises
    ------
    OSError
        If the folder exists and is not a head, or is a head and `overwrite` is False, or its parent
        is missing or not writable.
    """
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {folder}: there is no folder {folder.parent}")
    if not os.access(folder.absolute().parent, os.W_OK):
        raise PermissionError(f"cannot write {folder}: no permission to write in {folder.parent}")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / DESCRIPTION).is_file():
        raise FileExistsError(f"{folder} exists and is not a head; choose another name")
    if not overwrite:
        raise FileExistsError(
            f"{folder} already holds a head; replace it with {option('overwrite', True)}"
        )


def write_head(
    head: FewShotHead | HasHead, folder: str | Path, *, card: str = "", overwrite: bool = False
) -> None:
    """Write a few-shot head to a folder, whole or not at all.

    Parameters
    ----------
    head
        Head, or what `fit_few_shot` returned.
    folder
        A new folder, or one that holds a head.
    card
        Content of README.md; by default what kind of head it is.
    overwrite
        Replace an existing head.

    Raises
    ------
    OSError
        As in `check_head_output`.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.write_head(fitted, "my-head")  # doctest: +SKIP
    """
    head, folder = (head if isinstance(head, FewShotHead) else head.head), Path(folder)
    card = card or f"# Few-shot head for langcell\n\n{head!r}\n"
    check_head_output(folder, overwrite=overwrite)
    metadata = {
        "format_version": _FORMAT,
        "langcell": __version__,
        "keys": list(head.keys),
        "changes": sorted(head.changes),
        **{name: getattr(head, name) for name in _VALUES},
        "typical_similarity": head.novelty.typical,
        "far_similarity": head.novelty.far,
    }
    with replaced_folder(folder) as temporary:
        tensors = {name: getattr(head, name) for name in _ARRAYS}
        write_tensors(temporary / WEIGHTS, {**tensors, _PROTOTYPES: head.novelty.prototypes})
        if head.changes:
            write_tensors(temporary / CHANGES, head.changes)
        (temporary / CALIBRATION).write_text(head.calibration.to_json(), encoding="utf-8")
        (temporary / CARD).write_text(card, encoding="utf-8")
        text = json.dumps(metadata, indent=1, ensure_ascii=False)
        (temporary / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_head(folder: Path) -> FewShotHead:
    """Read a head that `write_head` wrote.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder holds no head, the head has another format, or a file is damaged.
    """
    for name in (DESCRIPTION, WEIGHTS, CALIBRATION):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a head: it has no {name}; make one with langcell fewshot fit"
            )
    try:
        metadata = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version = metadata["format_version"]
        if version != _FORMAT:
            raise ValueError(
                f"it has format {version}, and this version reads {_FORMAT}; fit it again"
            )
        arrays = load_file(folder / WEIGHTS)
        head = FewShotHead(
            keys=tuple(map(str, metadata["keys"])),
            calibration=Calibration.read(folder / CALIBRATION),
            novelty=Novelty(
                prototypes=arrays[_PROTOTYPES],
                typical=float(metadata["typical_similarity"]),
                far=float(metadata["far_similarity"]),
            ),
            kind=str(metadata["kind"]),
            target=str(metadata["target"]),
            by_types=bool(metadata["by_types"]),
            text_weight=float(metadata["text_weight"]),
            model=str(metadata["model"]),
            model_sha256=str(metadata["model_sha256"]),
            n_shots=arrays["n_shots"],
            feature_weights=arrays["feature_weights"],
            gene_tokens=arrays["gene_tokens"],
            gene_weights=arrays["gene_weights"],
            intercepts=arrays["intercepts"],
            changes=_read_changes(folder, metadata["changes"]),
            matches=bool(metadata["matches"]),
        )
        _check(head)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"cannot read the head in {folder}: {error}") from error
    return head


def _read_changes(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    if not (folder / CHANGES).is_file():
        raise ValueError(f"it has no {CHANGES}, the weights of its fine-tuned model")
    changes: dict[str, np.ndarray] = load_file(folder / CHANGES)
    if sorted(changes) != names:
        raise ValueError(f"{CHANGES} belongs to another head")
    return changes


def _check(head: FewShotHead) -> None:
    n_labels, n_genes = len(head.keys), len(head.gene_tokens)
    shapes = {
        "n_shots": (n_labels,),
        "feature_weights": (n_labels, head.feature_weights.shape[-1]),
        "gene_weights": (n_labels, n_genes),
        "intercepts": (n_labels,),
    }
    arrays = {name: getattr(head, name) for name in shapes}
    shapes[_PROTOTYPES] = (n_labels, head.feature_weights.shape[-1])
    arrays[_PROTOTYPES] = head.novelty.prototypes
    for name, shape in shapes.items():
        found = arrays[name]
        if found.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {found.shape}")
        if not np.isfinite(found).all():
            raise ValueError(f"{name} holds values that are not finite")
    for name, change in head.changes.items():
        if not np.isfinite(change).all():
            raise ValueError(f"{CHANGES}: {name} holds values that are not finite")
    own_candidates(head.keys, Ontology.bundled())  # raises if a label no longer resolves
