"""Read and write checkpoints: config.json, model.safetensors, genes.tsv and optional files."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from safetensors import SafetensorError, safe_open

from langcell.checkpoints import hub
from langcell.checkpoints import reference_cells as reference
from langcell.checkpoints.label_embeddings import LabelEmbeddings
from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.genes.vocabulary import GeneVocabulary
from langcell.nn.config import LangCellConfig
from langcell.runtime.digest import sha256_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS = "model.safetensors"
_CALIBRATION = "calibration.json"
_BEST = "best"  # subfolder with the checkpoint in an output folder of langcell pretrain
_BUNDLED = Path(__file__).parents[1] / "models"
_REQUIRED = ("config.json", WEIGHTS, "genes.tsv")
_FILES = (*_REQUIRED, "labels.*", "reference.*", "calibration.*")

AnyTensor = TypeVar("AnyTensor")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Generic[AnyTensor]):
    """Contents of a checkpoint folder, from which a model is built.

    Attributes
    ----------
    tensors
        Weights by parameter name, torch or NumPy; without those of a frozen text tower.
    vocabulary
        Gene vocabulary; None for released weights that were read without one.
    calibration
        Text of calibration.json, read by `zeroshot.confidence.calibration`; '' if there is none.
    sha256
        SHA-256 of the weights file.
    """

    config: LangCellConfig
    tensors: dict[str, AnyTensor]
    vocabulary: GeneVocabulary | None
    labels: LabelEmbeddings | None = None
    reference: ReferenceCells | None = None
    calibration: str = ""
    sha256: str = ""


def list_bundled_models() -> tuple[str, ...]:
    """Return the names of the models that are bundled with the package."""
    return tuple(sorted(path.parent.name for path in _BUNDLED.glob("*/config.json")))


def resolve_checkpoint(name: str | Path, *, revision: str = "", download: bool = True) -> Path:
    """Return the local folder of a checkpoint.

    Parameters
    ----------
    name
        Bundled name, folder, or Hugging Face hub id, `owner/name` or `owner/name@revision`; tried
        in this order (write `./mini` for a folder with the name of a bundled model).
    revision
        Commit, tag or branch of a hub id.
    download
        Download files that are not in the local cache of the hub.

    Raises
    ------
    OSError
        If the checkpoint is not found; the message lists the bundled models.
    ValueError
        If a revision is given for a local checkpoint, or two revisions for a hub id.
    """
    folder = Path(name).expanduser()
    if str(name) in list_bundled_models() or folder.is_dir():
        if revision:
            raise ValueError(
                f"revision {revision!r} needs a hub id, but {str(name)!r} is a local checkpoint"
            )
        return _BUNDLED / str(name) if str(name) in list_bundled_models() else folder
    bundled = f"bundled models: {', '.join(list_bundled_models()) or 'none'}"
    repo_id, in_name = hub.split_revision(str(name))
    if isinstance(name, Path) or not hub.is_hub_id(repo_id):
        raise FileNotFoundError(f"no checkpoint folder {str(name)!r}; {bundled}")
    if revision and in_name:
        raise ValueError(f"{name!r} already has a revision, but got revision {revision!r} too")
    try:
        return hub.download(
            repo_id,
            _FILES,
            revision=revision or in_name,
            required=_REQUIRED,
            only_cached=not download,
        )
    except OSError as error:
        raise OSError(f"no folder {name!r}, and {error}; {bundled}") from error


def read_checkpoint(
    folder: Path, read: Callable[[Path], dict[str, AnyTensor]]
) -> Checkpoint[AnyTensor]:
    """Read a checkpoint folder.

    Parameters
    ----------
    read
        Function that reads the weights: `read_weights` as torch tensors, or
        `langcell.model.frozen_bag.read_arrays` as NumPy arrays.

    Raises
    ------
    FileNotFoundError
        If config.json, the weights or the gene table are missing.
    ValueError
        If the folder has another format or a file in it is damaged.
    """
    for name in _REQUIRED:
        if not (folder / name).is_file():
            remedy = "to convert released LangCell or Geneformer weights, run langcell convert"
            if (folder / _BEST / name).is_file():
                remedy = f"did you mean {folder / _BEST}?"
            raise FileNotFoundError(
                f"{folder} is not a langcell checkpoint: it has no {name}; {remedy}"
            )
    config = LangCellConfig.read(folder / "config.json")
    vocabulary = GeneVocabulary.read(folder / "genes.tsv")
    if vocabulary.n_genes != config.cell.n_genes:
        raise ValueError(
            f"{folder / 'genes.tsv'} has {vocabulary.n_genes} genes, config.json says "
            f"{config.cell.n_genes}"
        )
    has_labels = (folder / "labels.safetensors").is_file()
    has_reference = (folder / reference.FILE).is_file()
    calibration = folder / _CALIBRATION
    return Checkpoint(
        config=config,
        tensors=read(folder / WEIGHTS),
        vocabulary=vocabulary,
        labels=LabelEmbeddings.read(folder) if has_labels else None,
        reference=ReferenceCells.read(folder) if has_reference else None,
        calibration=calibration.read_text(encoding="utf-8") if calibration.is_file() else "",
        sha256=sha256_of(folder / WEIGHTS),
    )


def read_weights(path: Path) -> "dict[str, Tensor]":
    """Read all weights as float32 torch tensors.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name).float() for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder next to `target`; it replaces `target` if the block ends without error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    old = new.with_name(new.name + ".old")
    try:
        yield new
        new.chmod(0o755)  # mkdtemp makes the folder private, and safetensors its files
        for file in new.iterdir():
            file.chmod(0o644)
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():  # else the old folder is the only one left
            shutil.rmtree(old, ignore_errors=True)


def write_checkpoint(
    folder: Path, checkpoint: "Checkpoint[Tensor]", *, dtype: "torch.dtype"
) -> str:
    """Write a checkpoint folder atomically; return the SHA-256 of its weights.

    Parameters
    ----------
    folder
        Replaced if it already holds a checkpoint.
    dtype
        Dtype of the stored weights; they are read back as float32.

    Raises
    ------
    ValueError
        If there is no gene vocabulary to write.
    FileExistsError
        If the folder holds something other than a checkpoint.
    """
    from safetensors.torch import save_file  # imported here: torch takes seconds to import

    if checkpoint.vocabulary is None:
        raise ValueError("a checkpoint needs a gene vocabulary; load the model with vocabulary=...")
    if folder.exists() and not _may_replace(folder):
        raise FileExistsError(f"{folder} exists and is not a langcell checkpoint; not replaced")
    with replaced_folder(folder) as new:
        (new / "config.json").write_text(checkpoint.config.to_json(), encoding="utf-8")
        tensors = {
            name: tensor.detach().to("cpu", dtype).contiguous()
            for name, tensor in checkpoint.tensors.items()
        }
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        checkpoint.vocabulary.write(new / "genes.tsv")
        if checkpoint.labels is not None:
            checkpoint.labels.write(new)
        if checkpoint.reference is not None:
            checkpoint.reference.write(new)
        if checkpoint.calibration:
            (new / _CALIBRATION).write_text(checkpoint.calibration, encoding="utf-8")
        return sha256_of(new / WEIGHTS)


def _may_replace(folder: Path) -> bool:
    """Tell whether `folder` is empty or a langcell checkpoint, so that no other data is lost."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return "format_version" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
