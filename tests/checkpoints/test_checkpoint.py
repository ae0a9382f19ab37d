import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from langcell.checkpoints import checkpoint
from langcell.checkpoints.checkpoint import list_bundled_models, replaced_folder, resolve_checkpoint
from langcell.checkpoints.label_embeddings import LabelEmbeddings
from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell
from langcell.nn.config import CellEncoderConfig, LangCellConfig, MatchingConfig, TextEncoderConfig


@pytest.fixture
def vocabulary() -> GeneVocabulary:
    return GeneVocabulary(
        ensembl_ids=("ENSG00000000003", "ENSG00000000005", "ENSG00000000419"),
        symbols=("TSPAN6", "TNMD", "DPM1"),
        medians=np.array([2.0, 3.25, 1 / 3]),
    )


@pytest.fixture
def model(vocabulary) -> LangCell:
    torch.manual_seed(0)
    config = LangCellConfig(
        cell=CellEncoderConfig(
            vocab_size=6, hidden_size=8, n_heads=2, n_layers=1, intermediate_size=8, max_positions=4
        ),
        matching=MatchingConfig(hidden_size=8, n_heads=2, n_layers=1, intermediate_size=8),
        embedding_dim=5,
        max_genes=3,
    )
    return LangCell(config, vocabulary).eval()


@pytest.fixture
def labels() -> LabelEmbeddings:
    return LabelEmbeddings(
        term_ids=("CL:0000236", "CL:0000540"),
        texts=('cell type: B cell. "quoted"; ', "cell type: neuron. "),
        pooled=np.arange(2 * 384).reshape(2, 384) / 999,
        release="2024-04-05",
    )


@pytest.fixture
def saved(model, tmp_path):
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    return folder


IDS = torch.tensor([[5, 2, 3, 4], [5, 4, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def test_round_trip_is_exact(model, saved):
    loaded = LangCell.from_pretrained(saved)
    assert loaded.config == model.config
    assert loaded.vocabulary.ensembl_ids == model.vocabulary.ensembl_ids
    assert np.array_equal(loaded.vocabulary.medians, model.vocabulary.medians)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    expected, got = model.encode_cell(IDS, MASK), loaded.encode_cell(IDS, MASK)
    assert torch.equal(got.features, expected.features)
    assert loaded.sha256 == model.sha256 == checkpoint.sha256_of(saved / "model.safetensors")
    assert not loaded.training
    assert all(weight.requires_grad for weight in loaded.parameters())


def test_frozen_tower_is_kept_by_reference(saved):
    names = load_file(saved / "model.safetensors")
    assert not [name for name in names if name.startswith("text_encoder.")]
    text = json.loads((saved / "config.json").read_text())["text"]
    assert (text["tower"], text["sha256"][:6]) == ("all-MiniLM-L6-v2", "53aa51")


def test_tuned_tower_is_kept_in_the_checkpoint(model, vocabulary, tmp_path):
    text = TextEncoderConfig(
        frozen=False,
        vocab_size=11,
        hidden_size=4,
        n_layers=1,
        n_heads=2,
        intermediate_size=4,
        max_positions=5,
        max_tokens=5,
    )
    tuned = LangCell(
        LangCellConfig(cell=model.config.cell, text=text, max_genes=3), vocabulary
    ).eval()
    tuned.save_pretrained(tmp_path / "tuned")
    loaded = LangCell.from_pretrained(tmp_path / "tuned")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(
        loaded.encode_text(ids, None).features, tuned.encode_text(ids, None).features
    )


def test_half_precision_is_read_as_float32(model, tmp_path):
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = LangCell.from_pretrained(tmp_path / "half")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    got, expected = loaded.encode_cell(IDS, MASK), model.encode_cell(IDS, MASK)
    # float16 keeps 11 bits of each weight.
    torch.testing.assert_close(got.features, expected.features, atol=5e-3, rtol=0)


def test_label_embeddings_travel_along(model, labels, tmp_path):
    model.label_embeddings = labels
    model.save_pretrained(tmp_path / "labelled")
    loaded = LangCell.from_pretrained(tmp_path / "labelled").label_embeddings
    assert loaded.term_ids == labels.term_ids
    assert loaded.texts == labels.texts
    assert loaded.release == "2024-04-05"
    assert loaded.pooled.dtype == np.float16
    assert np.array_equal(loaded.pooled, labels.pooled.astype(np.float16))


def test_label_embeddings_that_do_not_belong_together_are_refused(labels, tmp_path):
    labels.write(tmp_path)
    path = tmp_path / "labels.tsv"
    path.write_text("\n".join(path.read_text().split("\n")[:-2]) + "\n")
    with pytest.raises(ValueError, match=r"does not fit labels\.safetensors"):
        LabelEmbeddings.read(tmp_path)
    with pytest.raises(ValueError, match="2 terms, 1 texts and 0 rows"):
        LabelEmbeddings(term_ids=("a", "b"), texts=("a",), pooled=np.zeros((0, 3)), release="")
    with pytest.raises(ValueError, match="tabs or line breaks"):
        LabelEmbeddings(
            term_ids=("a",), texts=("a\nb",), pooled=np.zeros((1, 3)), release=""
        ).write(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("cell_projection.bias"), r"missing cell_projection\.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown extra"),
        (
            lambda t: t.update({"cell_projection.bias": torch.zeros(4)}),
            r"cell_projection\.bias has shape \(4,\), expected \(5,\)",
        ),
    ],
)
def test_wrong_tensors_are_named(saved, edit, message):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=message) as caught:
        LangCell.from_pretrained(saved)
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)


def test_damaged_weights_are_named(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        LangCell.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "genes.tsv"])
def test_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"it has no {name}"):
        LangCell.from_pretrained(saved)


def test_another_format_is_refused(saved):
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(values | {"format_version": 99}))
    with pytest.raises(ValueError, match="format_version is 99"):
        LangCell.from_pretrained(saved)
    (saved / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(
        ValueError, match="format_version is None; for released weights, use langcell convert"
    ):
        LangCell.from_pretrained(saved)


def test_gene_table_of_another_size_is_refused(saved):
    path = saved / "genes.tsv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"has 2 genes, config\.json says 3"):
        LangCell.from_pretrained(saved)


def test_saving_replaces_a_checkpoint_and_nothing_else(model, saved, tmp_path):
    (saved / "labels.tsv").write_text("left over")
    model.save_pretrained(saved)
    assert not (saved / "labels.tsv").exists()
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(FileExistsError, match="not a langcell checkpoint; not replaced"):
        model.save_pretrained(other)
    assert (other / "cat.jpg").read_bytes() == b"meow"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "saved"]


def test_failed_write_leaves_the_old_folder_alone(saved, tmp_path):
    before = (saved / "config.json").read_text()
    with pytest.raises(KeyboardInterrupt), replaced_folder(saved) as new:
        (new / "config.json").write_text("half")
        raise KeyboardInterrupt
    assert (saved / "config.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_the_old_folder_stays_where_nothing_takes_its_place(saved, tmp_path, monkeypatch):
    replace = os.replace

    def only_away(source, target):
        if target == saved:
            raise OSError("no way back")
        replace(source, target)

    monkeypatch.setattr(os, "replace", only_away)
    with pytest.raises(OSError, match="no way back"), replaced_folder(saved):
        pass
    (old,) = tmp_path.glob(".saved.*.old")
    assert (old / "config.json").is_file()


def test_model_without_genes_is_not_saved(model, tmp_path):
    model.vocabulary = None
    with pytest.raises(ValueError, match="needs a gene vocabulary"):
        model.save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_unknown_name_lists_the_bundled_models(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(checkpoint, "_BUNDLED", tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    assert list_bundled_models() == ("tiny",)
    assert resolve_checkpoint("tiny") == tmp_path / "tiny"
    with pytest.raises(OSError, match=r"'nobody/nothing'.*bundled models: tiny") as caught:
        resolve_checkpoint("nobody/nothing")
    assert "\n" not in str(caught.value)
    for missing in ("./nothing", tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="bundled models: tiny"):
            resolve_checkpoint(missing)


def test_hub_checkpoint_is_read_from_the_cache_without_network(monkeypatch, model, saved, tmp_path):
    cache, commit = tmp_path / "cache", "0" * 40
    repository = cache / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(saved, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    loaded = LangCell.from_pretrained("someone/model")
    assert loaded.sha256 == model.sha256
