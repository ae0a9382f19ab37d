"""The bag of genes: against the sum written out, alone and beside a transformer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.config import (
    NO_TEXTS,
    CellEncoderConfig,
    CellEncoderKind,
    LangCellConfig,
    MatchingConfig,
)
from langcell.nn.gene_bag import GeneBag
from pretrain.run.warm_start import start_from

N_GENES = 30


def make_vocabulary(n_genes: int = N_GENES) -> GeneVocabulary:
    return GeneVocabulary(
        ensembl_ids=tuple(f"ENSG{number:011d}" for number in range(n_genes)),
        symbols=tuple(f"G{number}" for number in range(n_genes)),
        medians=np.ones(n_genes),
    )


def make_model(kind: CellEncoderKind, *, bag_size: int = 12, max_positions: int = 6) -> LangCell:
    config = LangCellConfig(
        cell=CellEncoderConfig(
            kind=kind,
            vocab_size=N_GENES + 3,
            max_positions=max_positions,
            hidden_size=8,
            n_layers=1,
            n_heads=2,
            intermediate_size=16,
            bag_size=bag_size,
            pooling="mean",
        ),
        matching=MatchingConfig(n_layers=1, hidden_size=8, n_heads=2, intermediate_size=16),
        embedding_dim=8,
        max_genes=10,
    )
    torch.manual_seed(0)
    return LangCell(config, make_vocabulary()).eval()


def some_cells() -> tuple[torch.Tensor, torch.Tensor]:
    """Three cells of 10, 4 and 0 genes; 0 is padding, N_GENES + 2 is CLS."""
    ids = torch.zeros(3, 11, dtype=torch.int64)
    ids[:, 0] = N_GENES + 2
    generator = torch.Generator().manual_seed(1)
    ids[0, 1:] = torch.randperm(N_GENES, generator=generator)[:10] + 2
    ids[1, 1:5] = torch.randperm(N_GENES, generator=generator)[:4] + 2
    return ids, ids != 0


def test_a_bag_is_the_mean_weighted_by_rank() -> None:
    encoder = make_model("bag").cell_encoder
    assert isinstance(encoder, GeneBag)
    ids, mask = some_cells()
    with inference(encoder):
        states, pooled = encoder.encode(ids, mask)
        for row, n in enumerate((10, 4, 0)):
            mean = torch.zeros(8)
            weights = [1 / np.log2(rank + 2) for rank in range(n)]
            for weight, token in zip(weights, ids[row, 1 : n + 1], strict=True):
                mean = mean + weight / sum(weights) * encoder.gene_embeddings[token]
            mean = encoder.mix.norm(mean)
            hidden = torch.nn.functional.gelu(encoder.mix.hidden(mean))
            torch.testing.assert_close(pooled[row], torch.cat([mean, hidden]))
        torch.testing.assert_close(states, encoder.gene_embeddings[ids])


def test_padding_changes_nothing() -> None:
    model = make_model("bag")
    ids, mask = some_cells()
    with inference(model):
        padded = model.encode_cell(ids[1:2], mask[1:2]).features
        alone = model.encode_cell(ids[1:2, :5], None).features
    torch.testing.assert_close(padded, alone)


def test_a_bag_has_no_masked_genes() -> None:
    with pytest.raises(ValueError, match="no masked-gene head"):
        make_model("bag").masked_gene_logits(torch.zeros(1, 8))


def test_a_bag_needs_a_size() -> None:
    with pytest.raises(ValueError, match="bag_size"):
        make_model("bag", bag_size=0)


def test_a_bag_survives_saving(tmp_path: Path) -> None:
    model = make_model("bag")
    model.save_pretrained(tmp_path / "bag")
    again = LangCell.from_pretrained(tmp_path / "bag")
    ids, mask = some_cells()
    with inference(model), inference(again):
        torch.testing.assert_close(
            model.encode_cell(ids, mask).features, again.encode_cell(ids, mask).features
        )


def test_the_bag_beside_a_transformer_reads_the_genes_beyond_it() -> None:
    model = make_model("transformer")
    ids, mask = some_cells()
    other = ids.clone()
    other[0, 10] = next(t for t in range(2, N_GENES + 2) if t not in ids[0])
    with inference(model):
        first, second = model.encode_cell(ids, mask), model.encode_cell(other, mask)
    assert first.states.shape == (3, 6, 8)
    assert first.attention_mask is not None and first.attention_mask.shape == (3, 6)
    torch.testing.assert_close(first.states, second.states)
    assert (first.features[0] - second.features[0]).abs().max() > 1e-4
    torch.testing.assert_close(first.features[1:], second.features[1:])


def test_a_transformer_starts_as_the_bag_it_starts_from(tmp_path: Path) -> None:
    bag, model = make_model("bag"), make_model("transformer")
    bag.save_pretrained(tmp_path / "bag")
    start_from(model, str(tmp_path / "bag"))
    ids, mask = some_cells()
    with inference(bag), inference(model):
        torch.testing.assert_close(
            model.encode_cell(ids, mask).features, bag.encode_cell(ids, mask).features
        )
        pooled = torch.randn(2, model.config.text.hidden_size)
        torch.testing.assert_close(model.project_text(pooled), bag.project_text(pooled))


@pytest.mark.parametrize("tower", ["", "another"])
def test_a_projection_of_other_texts_is_not_taken_from_a_bag(tmp_path: Path, tower: str) -> None:
    config = make_model("bag").config
    text = NO_TEXTS if not tower else replace(config.text, tower=tower)
    bag = LangCell(replace(config, text=text), make_model("bag").vocabulary)
    bag.save_pretrained(tmp_path / "bag")
    model = make_model("transformer")
    before = model.text_projection.weight.clone()
    loaded = start_from(model, str(tmp_path / "bag"))
    assert torch.equal(model.text_projection.weight, before)
    assert "text_projection.weight" in loaded.new and "cell_projection.weight" in loaded.copied


def test_a_bag_of_other_sizes_is_refused(tmp_path: Path) -> None:
    make_model("bag").save_pretrained(tmp_path / "bag")
    with pytest.raises(ValueError, match="bag_size"):
        start_from(make_model("transformer", bag_size=10), str(tmp_path / "bag"))
    make_model("transformer").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="a bag of genes cannot start from a transformer"):
        start_from(make_model("bag"), str(tmp_path / "other"))


def test_a_model_takes_over_what_an_earlier_one_of_its_kind_has(tmp_path: Path) -> None:
    """Genes by their ids, in another order and some of them new; more positions; another head."""
    earlier = make_model("transformer", max_positions=6)
    earlier.save_pretrained(tmp_path / "earlier")
    model = make_model("transformer", bag_size=10, max_positions=9)
    order = np.random.default_rng(0).permutation(N_GENES)
    ids = [earlier.genes.ensembl_ids[i] for i in order]
    ids[0] = "ENSG00000999999"  # which the earlier one does not know
    model.vocabulary = GeneVocabulary(
        ensembl_ids=tuple(ids), symbols=("",) * N_GENES, medians=np.ones(N_GENES)
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for each in model.parameters():
            each.normal_()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    start_from(model, str(tmp_path / "earlier"))
    after, given = model.state_dict(), earlier.state_dict()
    genes = "cell_encoder.embeddings.token.weight"
    assert torch.equal(after[genes][2], before[genes][2])
    for row in range(1, N_GENES):
        assert torch.equal(after[genes][row + 2], given[genes][order[row] + 2])
    assert torch.equal(after[genes][N_GENES + 2], given[genes][N_GENES + 2])  # CLS
    positions = "cell_encoder.embeddings.position.weight"
    assert torch.equal(after[positions][:6], given[positions])
    assert torch.equal(after[positions][6:], before[positions][6:])
    hidden = "cell_encoder.mix.hidden.weight"  # of another size
    assert torch.equal(after[hidden], before[hidden])
    same = "text_projection.weight"
    assert torch.equal(after[same], given[same])


def test_positions_bound_the_genes_without_a_bag() -> None:
    config = make_model("transformer").config
    with pytest.raises(ValueError, match="max_positions"):
        replace(config, cell=replace(config.cell, bag_size=0))
