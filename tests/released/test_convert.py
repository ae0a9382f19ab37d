"""Released folders to checkpoints: the numbers that come out, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse

from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.langcell import LangCell
from langcell.nn.config import CellEncoderConfig, LangCellConfig
from langcell.released.convert import convert
from pretrain.run.warm_start import start_from
from tests.support.released_files import (
    V1,
    V2,
    edit_json,
    symbols_to_ids,
    write_dictionaries,
    write_geneformer,
)

POSITIONS = 48


@pytest.fixture(params=["V1", "V2"])
def version(request) -> str:
    return request.param


@pytest.fixture
def special(version):
    return V1 if version == "V1" else V2


@pytest.fixture
def genes(coding_genes) -> list[str]:
    return symbols_to_ids(coding_genes)


@pytest.fixture
def source(tmp_path, genes, special):
    """A Geneformer folder with its dictionaries."""
    folder = tmp_path / "geneformer"
    write_dictionaries(folder, genes, special)
    write_geneformer(folder, len(genes) + len(special), positions=POSITIONS)
    return folder


def their_tokens(counts, genes, medians, tokens, special) -> list[list[int]]:
    """Tokenise as Geneformer does: in rank order, cut, <cls> before and <eos> after in V2."""
    n_genes = POSITIONS - 2 * ("<eos>" in special)
    cells = []
    for row in counts:
        values = row / row.sum() * 1e4 / np.array([medians[gene] for gene in genes])
        order = np.argsort(-values, kind="stable")[: min(n_genes, (row > 0).sum())]
        cell = [tokens[genes[i]] for i in order]
        cells.append([special["<cls>"], *cell, special["<eos>"]] if "<eos>" in special else cell)
    return cells


def test_a_geneformer_embeds_cells_as_transformers_does(
    source, special, genes, tmp_path, make_cells
):
    tokens, medians = write_dictionaries(source, genes, special)
    reference = write_geneformer(source, len(tokens), positions=POSITIONS)
    done = convert(source, tmp_path / "ours")
    assert "V2" in done.layout if "<eos>" in special else "V1" in done.layout
    model = LangCell.from_pretrained(tmp_path / "ours")
    adata = make_cells(5)
    counts = adata.X.toarray()
    counts[0, 30:] = counts[1, 60:] = 0  # two that are not cut
    adata.X = sparse.csr_matrix(counts)
    expected = []
    for cell in their_tokens(counts, genes, medians, tokens, special):
        with torch.no_grad():
            states = reference.bert(torch.tensor([cell])).last_hidden_state[0]
        pooled = states[0] if "<eos>" in special else states.mean(0)
        expected.append(torch.nn.functional.normalize(pooled, dim=0))
    with open_counts(adata) as matrix:
        got = np.concatenate([block.features for block in embed_cells(model, matrix)])
    np.testing.assert_allclose(got, torch.stack(expected).numpy(), atol=1e-5)
    assert np.abs(got[0] - got[1]).max() > 1e-2


def test_a_cell_without_genes_is_finite(source, tmp_path, make_cells):
    convert(source, tmp_path / "ours")
    model = LangCell.from_pretrained(tmp_path / "ours")
    adata = make_cells(3)
    counts = adata.X.toarray()
    counts[1] = 0
    adata.X = sparse.csr_matrix(counts)
    with open_counts(adata) as matrix, pytest.warns(UserWarning, match="1 cells express no known"):
        (block,) = embed_cells(model, matrix, states=True)
    assert np.isfinite(block.features).all()
    assert np.linalg.norm(block.features, axis=1) == pytest.approx(1, abs=1e-5)
    n_special = model.config.cell.n_special
    assert block.cells is not None and block.cells.attention_mask is not None
    assert block.cells.attention_mask.sum(1).tolist() == [POSITIONS, max(1, n_special), POSITIONS]


def test_its_masked_gene_head_comes_along(source, special, genes, tmp_path):
    reference = write_geneformer(source, len(genes) + len(special), positions=POSITIONS)
    convert(source, tmp_path / "ours")
    model = LangCell.from_pretrained(tmp_path / "ours")
    theirs = torch.tensor([[len(special) + gene for gene in (5, 0, 9)]])
    ours = torch.tensor([[2 + gene for gene in (5, 0, 9)]])
    with torch.no_grad():
        expected = reference(theirs).logits[:, :, len(special) :]
        got = model.masked_gene_logits(model.cell_encoder(ours, None))[:, :, 2 : len(genes) + 2]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_class_token_that_is_not_there_begins_as_the_mean_gene(tmp_path, genes):
    write_dictionaries(tmp_path / "v1", genes, V1)
    reference = write_geneformer(tmp_path / "v1", len(genes) + 2, positions=POSITIONS)
    convert(tmp_path / "v1", tmp_path / "ours")
    table = load_file(tmp_path / "ours" / "model.safetensors")[
        "cell_encoder.embeddings.token.weight"
    ]
    theirs = reference.bert.embeddings.word_embeddings.weight.detach()
    assert torch.equal(table[:-1], theirs)
    torch.testing.assert_close(table[-1], theirs[2:].mean(0))


def test_genes_without_a_median_are_left_out_and_named(source, special, genes, tmp_path):
    path = source / "gene_median_dictionary.json"
    _, medians = write_dictionaries(source, genes, special)
    (source / "gene_median_dictionary.pkl").unlink()
    path.write_text("{" + ", ".join(f'"{gene}": {medians[gene]}' for gene in genes[2:]) + "}")
    done = convert(source, tmp_path / "ours")
    assert done.without_median == tuple(sorted(genes[:2]))
    model = LangCell.from_pretrained(tmp_path / "ours")
    assert model.genes.ensembl_ids == tuple(genes[2:])
    given = load_file(source / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    ours = model.cell_encoder.gene_embeddings
    assert torch.equal(ours[2 : model.genes.cls_id], given[len(special) + 2 :])
    if "<cls>" in special:
        assert torch.equal(ours[model.genes.cls_id :], given[2:4])


def test_what_is_written_is_a_checkpoint_and_nothing_else(source, tmp_path):
    convert(source, tmp_path / "ours")
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert names == ["config.json", "genes.tsv", "model.safetensors"]
    config = LangCellConfig.read(tmp_path / "ours" / "config.json")
    assert not config.has_texts and not config.project_cells
    written = json.loads(config.to_json())
    assert written["text"] == {"tower": "", "sha256": ""} and "matching" not in written
    with pytest.raises(FileExistsError, match="ours exists already; pass overwrite=True"):
        convert(source, tmp_path / "ours")
    convert(source, tmp_path / "ours", overwrite=True)
    with pytest.raises(FileExistsError, match="is not a langcell checkpoint; not replaced"):
        convert(source, source, overwrite=True)


def test_cells_alone_name_nothing(source, tmp_path):
    convert(source, tmp_path / "ours")
    model = LangCell.from_pretrained(tmp_path / "ours")
    with pytest.raises(
        ValueError, match="has no text tower: it can only embed cells; train the second"
    ):
        model.encode_texts(["cell type: B cell. "])
    again = tmp_path / "again"
    model.save_pretrained(again)
    assert LangCell.from_pretrained(again).config == model.config


def test_parts_that_a_configuration_cannot_have_are_refused():
    cell = CellEncoderConfig(vocab_size=9, hidden_size=8, n_heads=2, max_positions=7)
    with pytest.raises(ValueError, match="embedding_dim must be 8, the width of pooled cells"):
        LangCellConfig(cell=cell, max_genes=4, project_cells=False)
    eos = replace(cell, special_tokens="cls_eos")
    with pytest.raises(ValueError, match="max_genes=6 and 2 special tokens need .* >= 8, got 7"):
        LangCellConfig(cell=eos, max_genes=6)
    with pytest.raises(ValueError, match="a bag of genes needs cell.special_tokens 'cls'"):
        replace(eos, kind="bag", bag_size=4)


def test_pretraining_starts_from_it(source, special, tmp_path, genes):
    convert(source, tmp_path / "ours")
    earlier = LangCell.from_pretrained(tmp_path / "ours")
    cell = earlier.config.cell

    def fresh(**changed) -> LangCell:
        sizes = {
            "vocab_size": earlier.genes.size, "hidden_size": 16, "n_layers": 2, "n_heads": 4,
            "intermediate_size": 24, "hidden_act": "relu", "max_positions": 9,
        }  # fmt: skip
        values = {"cell": {**sizes, **changed}, "max_genes": 8, "format_version": 1}
        return LangCell(LangCellConfig.from_dict(values), earlier.genes)

    model = fresh()
    start_from(model, str(tmp_path / "ours"))
    for name, given in earlier.cell_encoder.state_dict().items():
        taken = model.cell_encoder.state_dict()[name]
        if name == "embeddings.position.weight":
            given = given[:9]
        elif name in ("embeddings.token.weight", "masked_gene_head.bias"):
            given = given[: model.genes.size]  # without <eos>, which no model of ours reads
        assert torch.equal(taken, given), name
    assert cell.hidden_act == "relu"
    for changed, said in (
        ({"hidden_act": "gelu"}, "model.hidden_act must be relu, as in that model, got gelu"),
        ({"n_heads": 2}, "model.n_heads must be 4, as in that model, got 2"),
    ):
        with pytest.raises(ValueError, match=said):
            start_from(fresh(**changed), str(tmp_path / "ours"))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t.pop("bert.encoder.layer.1.output.dense.bias"), r"missing encoder\.layer\.1"),
        (lambda t: t.update(classifier=torch.zeros(2)), "unknown classifier"),
        (
            lambda t: t.update({"bert.embeddings.LayerNorm.bias": torch.zeros(3)}),
            r"embeddings\.LayerNorm\.bias has shape \(3,\), expected \(16,\)",
        ),
        (
            lambda t: t.pop("cls.predictions.transform.dense.bias"),
            r"missing transform\.dense\.bias",
        ),
        (
            lambda t: t.update(
                {"cls.predictions.decoder.weight": torch.zeros_like(
                    t["bert.embeddings.word_embeddings.weight"]
                )}
            ),
            "must equal the word embeddings",
        ),
    ],
)  # fmt: skip
def test_wrong_tensors_are_named(source, tmp_path, edit, said):
    tensors = load_file(source / "model.safetensors")
    edit(tensors)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=said) as caught:
        convert(source, tmp_path / "ours")
    assert "\n" not in str(caught.value) and str(source) in str(caught.value)
    assert not (tmp_path / "ours").exists()


def test_a_bin_file_without_prefix_or_head_is_read_too(source, tmp_path):
    tensors = load_file(source / "model.safetensors")
    bare = {
        name.removeprefix("bert."): tensor
        for name, tensor in tensors.items()
        if name.startswith("bert.")
    }
    (source / "model.safetensors").unlink()
    torch.save(bare, source / "pytorch_model.bin")
    convert(source, tmp_path / "ours")
    model = LangCell.from_pretrained(tmp_path / "ours")
    assert not model.config.cell.masked_gene_head


def test_dictionaries_that_do_not_fit_are_refused(source, special, genes, tmp_path):
    target = tmp_path / "ours"
    write_dictionaries(source, genes[:-1], special)
    with pytest.raises(
        ValueError, match=r"tokens, but the token dictionary has .* of the same release"
    ):
        convert(source, target)
    shutil.copy(source / "token_dictionary.pkl", source / "token_dictionary_gc30M.pkl")
    with pytest.raises(
        ValueError, match=r"has token_dictionary\.pkl, .* choose one with token_dict"
    ):
        convert(source, target)
    for path in source.glob("token_dictionary*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="pass token_dictionary"):
        convert(source, target)
    for values, said in (
        ({"<pad>": 0, genes[0]: 1}, "has no token <mask>"),
        ({**V1, genes[0]: 3}, "must be 0 to 2, each once"),
        ({**V1, "<sep>": 2}, "has a token <sep> that no known release reads"),
        ({**V1, "<eos>": 2}, "has a token <eos> but no <cls>"),
        ({**V1, "gene": 2}, "no gene of .* has a median"),
    ):
        path = source / "token_dictionary.json"
        path.write_text(str(values).replace("'", '"'))
        with pytest.raises(ValueError, match=said):
            convert(source, target)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads must be 1 to 1000000, got 0"),
        ({"num_hidden_layers": 10**6}, "has 2 layers, its config.json says 1000000"),
        ({"hidden_size": None}, "has no key 'hidden_size'"),
        ({"hidden_act": "__import__('os')"}, "hidden_act must be one of gelu, gelu_new, relu"),
        ({"position_embedding_type": "relative_key"}, "absolute positions"),
    ],
)
def test_configurations_that_are_none_are_refused(source, tmp_path, values, said):
    edit_json(source / "config.json", **values)
    with pytest.raises(ValueError, match=said):
        convert(source, tmp_path / "ours")


def test_other_folders_are_refused(tmp_path, source):
    with pytest.raises(FileNotFoundError, match=r"nothing is not a folder"):
        convert(tmp_path / "nothing", tmp_path / "ours")
    edit_json(source / "config.json", model_type="t5")
    with pytest.raises(ValueError, match="is neither a released LangCell .* nor a Geneformer"):
        convert(source, tmp_path / "ours")
    edit_json(source / "config.json", model_type="bert")
    with pytest.raises(ValueError, match="has no text encoder: leave out tokenizer"):
        convert(source, tmp_path / "ours", tokenizer="somewhere")
