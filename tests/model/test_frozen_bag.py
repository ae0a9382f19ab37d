"""Bags without torch: against the module that trains them, and bit by bit against themselves."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langcell.counts.reader import open_counts
from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.embed_cells import embed_cells
from langcell.model.embedder import load_embedder
from langcell.model.frozen_bag import FrozenBag
from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.config import CellEncoderConfig, LangCellConfig, MatchingConfig
from langcell.runtime.threads import set_threads
from langcell.tokens.tokenizer import RankTokenizer, collate_tokens

N_GENES = 50
MAX_GENES = 40


def make_model() -> LangCell:
    """A bag with every weight drawn, so that none of them can be left out unseen."""
    vocabulary = GeneVocabulary(
        ensembl_ids=tuple(f"ENSG{number:011d}" for number in range(N_GENES)),
        symbols=("",) * N_GENES,
        medians=np.ones(N_GENES),
    )
    config = LangCellConfig(
        cell=CellEncoderConfig(
            kind="bag", vocab_size=vocabulary.size, max_positions=6, hidden_size=22, n_heads=2,
            n_layers=1, intermediate_size=16, bag_size=25,
        ),
        matching=MatchingConfig(n_layers=1, hidden_size=8, n_heads=2, intermediate_size=16),
        embedding_dim=12,
        max_genes=MAX_GENES,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LangCell(config, vocabulary).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model


@pytest.fixture(scope="module")
def model() -> LangCell:
    return make_model()


@pytest.fixture(scope="module")
def bag(model) -> FrozenBag:
    return FrozenBag.of(model)


def end_to_end(cells, dtype=np.uint16) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.concatenate([np.asarray(cell, dtype=dtype) for cell in cells])
    return tokens, np.cumsum([0, *map(len, cells)]).astype(np.int64)


def with_torch(model: LangCell, cells) -> np.ndarray:
    """The slow obvious way: the module that trains, padded."""
    genes = model.genes
    ids, mask = collate_tokens(
        [np.asarray(cell, dtype=np.int64) for cell in cells], cls_id=genes.cls_id, pad_id=0
    )
    with inference(model):
        return model.encode_cell(torch.from_numpy(ids), torch.from_numpy(mask)).features.numpy()


def some_cells(n_cells: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(N_GENES)[: rng.integers(0, MAX_GENES + 1)] + 2 for _ in range(n_cells)]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_cells_are_what_the_module_makes_of_them(model, bag, dtype):
    cells = [np.arange(2, 2 + n) for n in range(10)] + some_cells(300)  # the first has no gene
    got = bag.encode_tokens(*end_to_end(cells, dtype))
    assert got.dtype == np.float32 and got.shape == (310, 12)
    np.testing.assert_allclose(got, with_torch(model, cells), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert np.abs(got[0] - got[1]).max() > 0.01


def written_out(model: LangCell, cell) -> np.ndarray:
    """Features of one cell in float64, formula by formula."""
    weights = {name: each.double().numpy() for name, each in model.state_dict().items()}
    shares = np.array([1 / math.log2(rank + 2) for rank in range(len(cell))])
    mean = shares @ weights["cell_encoder.token.weight"][list(cell)] / max(shares.sum(), 1e-6)
    mean = (mean - mean.mean()) / np.sqrt(mean.var() + model.config.cell.layer_norm_eps)
    mean = mean * weights["cell_encoder.mix.norm.weight"] + weights["cell_encoder.mix.norm.bias"]
    hidden = weights["cell_encoder.mix.hidden.weight"] @ mean
    hidden = hidden + weights["cell_encoder.mix.hidden.bias"]
    hidden = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in hidden]
    pooled = np.concatenate([mean, hidden])
    features = weights["cell_projection.weight"] @ pooled + weights["cell_projection.bias"]
    return features / np.linalg.norm(features)


genes = st.lists(st.integers(2, N_GENES + 1), unique=True, max_size=MAX_GENES)


@settings(deadline=None, max_examples=25)
@given(st.lists(genes, min_size=1, max_size=5))
def test_cells_are_what_the_formula_says(cells):
    model = make_model()
    got = FrozenBag.of(model).encode_tokens(*end_to_end(cells))
    np.testing.assert_allclose(got, [written_out(model, cell) for cell in cells], atol=1e-5)


def test_a_cell_has_the_same_bits_whatever_stands_beside_it(bag):
    cells = some_cells(300)
    together = bag.encode_tokens(*end_to_end(cells))
    order = np.random.default_rng(1).permutation(300)
    shuffled = bag.encode_tokens(*end_to_end([cells[place] for place in order]))
    assert (shuffled == together[order]).all()
    alone = [bag.encode_tokens(*end_to_end([cell])) for cell in cells[:20]]
    assert (np.concatenate(alone) == together[:20]).all()


def test_the_number_of_threads_changes_no_bit(bag):
    tokens, offsets = end_to_end(some_cells(600))
    try:
        set_threads(1)
        one = bag.encode_tokens(tokens, offsets)
        set_threads(3)
        assert (bag.encode_tokens(tokens, offsets) == one).all()
    finally:
        set_threads(None)


def test_texts_are_projected_as_the_module_does(model, bag):
    pooled = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
    np.testing.assert_allclose(bag.project_pooled(pooled), model.project_pooled(pooled), atol=1e-5)
    assert bag.scale.item() == pytest.approx(model.scale.item(), rel=1e-6)


def test_weights_are_shared_with_the_model_they_are_of():
    model = make_model()
    bag = FrozenBag.of(model)
    before = bag.encode_tokens(*end_to_end([[3, 2]]))
    with torch.no_grad():
        model.cell_projection.bias += 1
    after = bag.encode_tokens(*end_to_end([[3, 2]]))
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after, with_torch(model, [[3, 2]]), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folder_is_read_as_torch_reads_it(tmp_path, dtype):
    make_model().save_pretrained(tmp_path / "bag", dtype=dtype)
    bag = load_embedder(tmp_path / "bag")
    model = LangCell.from_pretrained(tmp_path / "bag")
    assert isinstance(bag, FrozenBag) and bag.sha256 == model.sha256
    assert bag.genes.ensembl_ids == model.genes.ensembl_ids
    cells = some_cells(20)
    got = bag.encode_tokens(*end_to_end(cells))
    assert (got == FrozenBag.of(model).encode_tokens(*end_to_end(cells))).all()


def test_texts_that_a_folder_does_not_hold_are_read_by_its_tower(tiny_bag, tiny_model):
    bag, model = load_embedder(str(tiny_bag)), LangCell.from_pretrained(str(tiny_bag))
    texts = ["cell type: one. ", "cell type: two. "]
    assert (bag.pool_texts(texts) == model.pool_texts(texts)).all()
    with pytest.raises(ValueError, match="call pool_texts of the LangCell"):
        FrozenBag.of(model).pool_texts(texts)


def test_what_a_bag_cannot_do_takes_torch(tiny_bag, tiny_model, make_cells):
    assert isinstance(load_embedder(str(tiny_bag), states=True), LangCell)
    assert isinstance(load_embedder(str(tiny_model)), LangCell)
    bag = load_embedder(str(tiny_bag))
    with (
        open_counts(make_cells(4)) as matrix,
        pytest.raises(ValueError, match="has no token states; load the model as a LangCell"),
    ):
        next(embed_cells(bag, matrix, states=True))


def test_weights_that_do_not_fit_are_named(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "bag")
    config = tmp_path / "bag" / "config.json"
    config.write_text(config.read_text().replace('"bag_size": 25', '"bag_size": 26'))
    wrong = r"hidden.weight has shape \(25, 22\), expected \(26, 22\)"
    with pytest.raises(ValueError, match=f"bag does not fit its config.json: .*{wrong}"):
        load_embedder(tmp_path / "bag")
    weights = tmp_path / "bag" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        load_embedder(tmp_path / "bag")


def test_real_cells_are_what_the_module_makes_of_them(shared: Path):
    path = shared / "corpus" / "validation" / "cells" / "kang2018_pbmc_ifnb.h5ad"
    model = LangCell.from_pretrained("mini-fast")
    tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes)
    with open_counts(path) as matrix:
        counts = matrix.read(0, 200)
        block = tokenizer.tokenize_csr(
            counts.counts, tokenizer.column_genes(matrix.resolution), counts.totals
        )
    cells = [block.cell(row) for row in range(block.n_cells)]
    bag = load_embedder("mini-fast")
    assert isinstance(bag, FrozenBag)
    got = bag.encode_tokens(block.tokens, block.offsets)
    np.testing.assert_allclose(got, with_torch(model, cells), atol=1e-5)


def test_embedding_does_not_import_torch(tiny_bag, make_cells, tmp_path):
    make_cells(5).write_h5ad(tmp_path / "cells.h5ad")
    words = ["langcell", "embed", "--h5ad", "cells.h5ad", "--model", str(tiny_bag)]
    code = (
        "import sys, langcell.cli\n"
        f"sys.argv = {[*words, '--out', 'cells.npy']!r}\n"
        "try:\n    langcell.cli.main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["wrote\tcells.npy", "False"], done.stderr
