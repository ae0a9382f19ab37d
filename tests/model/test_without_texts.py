"""Models without a text tower: they embed cells, and refuse in a line whatever asks for a text."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

import zeroshot
from langcell.model.embedder import load_embedder
from langcell.model.frozen_bag import FrozenBag
from langcell.model.langcell import LangCell
from langcell.nn.config import NO_TEXTS, LangCellConfig
from tests.support.command_line import run_langcell

REFUSED = "the model has no text tower: it can only embed cells; train the second stage"
# What a model of the first stage is, what a converted Geneformer is, and a bag of genes.
PROJECTED, POOLED, BAG = "projected", "pooled", "bag"
KINDS = (PROJECTED, POOLED, BAG)


@pytest.fixture(scope="module")
def work(
    tiny_model: Path,
    tiny_bag: Path,
    make_cells: Callable[..., anndata.AnnData],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Folder with the models and cells.h5ad."""
    folder = tmp_path_factory.mktemp("without_texts")
    make_cells(40).write_h5ad(folder / "cells.h5ad")
    for kind in KINDS:
        full = LangCell.from_pretrained(tiny_bag if kind == BAG else tiny_model)
        config = replace(full.config, text=NO_TEXTS)
        if kind == POOLED:
            config = replace(config, project_cells=False, embedding_dim=32)
        model = LangCell(config, full.genes)
        own = full.state_dict()
        model.load_state_dict({name: own[name] for name in model.state_dict()})
        model.save_pretrained(folder / kind)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_it_embeds_cells_as_the_model_with_texts_does(
    work: Path, tiny_model: Path, tiny_bag: Path, kind: str
) -> None:
    done = run_langcell(
        work, "embed", "--h5ad", "cells.h5ad", "--model", kind, "--out", f"{kind}.npy"
    )
    assert done.returncode == 0, done.stderr
    found = np.load(work / f"{kind}.npy")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    full = LangCell.from_pretrained(tiny_bag if kind == BAG else tiny_model)
    if kind == POOLED:
        full.cell_projection = torch.nn.Identity()
        full.config = replace(full.config, embedding_dim=32)
    np.testing.assert_allclose(found, full.encode_cells(work / "cells.h5ad"), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_its_checkpoint_holds_nothing_of_texts(work: Path, kind: str) -> None:
    values = json.loads((work / kind / "config.json").read_text())
    assert values["text"] == {"tower": "", "sha256": ""} and "matching" not in values
    model = LangCell.from_pretrained(work / kind)
    assert not model.config.has_texts and model.config.project_cells == (kind != POOLED)
    parts = {name.split(".")[0] for name in model.state_dict()}
    own = {"cell_encoder", "logit_scale"}
    assert parts == (own if kind == POOLED else own | {"cell_projection"})


@pytest.mark.parametrize("kind", KINDS)
def test_it_refuses_texts(work: Path, tiny_model: Path, kind: str) -> None:
    model = LangCell.from_pretrained(work / kind)
    ids = torch.ones(1, 3, dtype=torch.int64)
    full = LangCell.from_pretrained(tiny_model)
    asked: list[Callable[[], object]] = [
        lambda: model.encode_texts(["B cell"]),
        lambda: model.pool_texts(["B cell"]),
        lambda: model.tokenize_texts(["B cell"]),
        lambda: model.encode_text(ids, None),
        lambda: model.project_pooled(np.ones((1, 32), np.float32)),
        lambda: model.match(full.encode_text(ids, None), full.encode_cell(ids, None)),
        lambda: model(ids, None, ids, None),
        lambda: zeroshot.annotate(work / "cells.h5ad", model=model),
        lambda: zeroshot.search(work / "cells.h5ad", ["B cell"], model=model),
        lambda: zeroshot.fit_few_shot(work / "cells.h5ad", "cell_type", model=model),
    ]
    if kind == BAG:
        bag = load_embedder(work / kind)
        assert isinstance(bag, FrozenBag)
        asked += [
            lambda: bag.pool_texts(["B cell"]),
            lambda: bag.project_pooled(np.ones((1, 32), np.float32)),
        ]
    for ask in asked:
        with pytest.raises(ValueError, match=REFUSED) as refused:
            ask()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "words",
    [
        ("zeroshot", "--out", "out.h5ad"),
        ("zeroshot", "--rerank", "5", "--out", "out.h5ad"),
        ("zeroshot", "--scoring", "official", "--labels", "B cell; T cell", "--out", "out.h5ad"),
        ("zeroshot", "calibrate", "--truth", "cell_type", "--out", "out.json"),
        ("search", "B cell", "--out", "out.csv"),
        ("explain", "--cluster-key", "cell_type", "--out", "out.csv"),
        ("fewshot", "fit", "--label-key", "cell_type", "--out", "out"),
        ("fewshot", "fit", "--label-key", "cell_type", "--head", "langcell", "--out", "out"),
    ],
    ids=" ".join,
)
def test_a_command_that_needs_texts_says_so_and_writes_nothing(
    work: Path, kind: str, words: tuple[str, ...]
) -> None:
    done = run_langcell(work, *words, "--h5ad", "cells.h5ad", "--model", kind)
    assert done.returncode == 1
    assert REFUSED in done.stderr and "Traceback" not in done.stderr
    assert not list(work.glob("out*"))


def test_older_checkpoints_that_say_cells_only_are_read(work: Path, tmp_path: Path) -> None:
    values = json.loads((work / POOLED / "config.json").read_text())
    del values["text"], values["project_cells"]
    config = LangCellConfig.read(work / POOLED / "config.json")
    assert LangCellConfig.from_dict({**values, "cells_only": True}) == config
    with_texts = LangCellConfig.from_dict({**values, "cells_only": False})
    assert with_texts.has_texts and with_texts.project_cells
