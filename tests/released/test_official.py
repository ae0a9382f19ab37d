"""Parity with the released code, on the synthetic weights and outputs of its own modules."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from langcell.model.langcell import LangCell
from langcell.nn.bert import Attended
from langcell.nn.features import CellFeatures, TextFeatures
from langcell.released.convert import convert
from tests.support.released_files import V1, V2, write_dictionaries

TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "parity" / "golden_model"


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory):
    """The release as a checkpoint of ours, with a dictionary of 57 genes without <cls>."""
    folder = tmp_path_factory.mktemp("converted")
    write_dictionaries(folder, [f"ENSG{number:011d}" for number in range(57)], V1)
    convert(
        golden / "mini_ckpt",
        folder / "ours",
        token_dictionary=folder / "token_dictionary.pkl",
        gene_medians=folder / "gene_median_dictionary.pkl",
    )
    return folder / "ours"


@pytest.fixture(scope="module")
def model(converted) -> LangCell:
    return LangCell.from_pretrained(converted)


@pytest.fixture(scope="module")
def inputs(golden) -> dict[str, torch.Tensor]:
    return load_file(golden / "inputs.safetensors")


@pytest.fixture(scope="module")
def expected(golden) -> dict[str, torch.Tensor]:
    return load_file(golden / "outputs.safetensors")


@pytest.fixture(scope="module")
def cells(model, inputs) -> CellFeatures:
    return model.encode_cell(inputs["cell_input_ids"], inputs["cell_attention_mask"])


@pytest.fixture(scope="module")
def texts(model, inputs) -> TextFeatures:
    return model.encode_text(inputs["text_input_ids"], inputs["text_attention_mask"])


def layer_states(encoder, *args, **kwargs) -> list[torch.Tensor]:
    """Run an encoder and return the embeddings and the states after each block."""
    states = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: states.append(output))
        for module in (encoder.embeddings, *encoder.stack.blocks)
    ]
    encoder(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return states


def pairs(n_cells: int, n_texts: int) -> dict[str, torch.Tensor]:
    return {
        "cell_rows": torch.arange(n_cells).repeat_interleave(n_texts),
        "text_rows": torch.arange(n_texts).repeat(n_cells),
    }


def test_cell_encoder(model, inputs, cells, expected):
    states = layer_states(
        model.cell_encoder, inputs["cell_input_ids"], inputs["cell_attention_mask"]
    )
    for layer, got in enumerate(states):
        torch.testing.assert_close(got, expected[f"cell_hidden_{layer}"], **TOLERANCE)
    torch.testing.assert_close(cells.states, expected["cell_last_hidden_state"], **TOLERANCE)
    torch.testing.assert_close(cells.features, expected["cell_embedding"], **TOLERANCE)


def test_text_encoder_in_text_mode(model, inputs, texts, expected):
    ids, mask = inputs["text_input_ids"], inputs["text_attention_mask"]
    for layer, got in enumerate(layer_states(model.text_encoder, ids, mask)):
        torch.testing.assert_close(got, expected[f"text_hidden_{layer}"], **TOLERANCE)
    torch.testing.assert_close(texts.states, expected["text_last_hidden_state"], **TOLERANCE)
    torch.testing.assert_close(texts.features, expected["text_embedding"], **TOLERANCE)
    each = [
        model.encode_text(row[None, :length], None).features
        for row, length in zip(ids, mask.sum(1).tolist(), strict=True)
    ]
    torch.testing.assert_close(
        torch.cat(each), expected["text_embedding_each_unpadded"], **TOLERANCE
    )


def test_text_encoder_in_multimodal_mode(model, inputs, cells, expected):
    ids, mask = inputs["text_input_ids"], inputs["text_attention_mask"]
    attended = Attended(states=cells.states, attention_mask=cells.attention_mask)
    first = ids[:1].expand(5, -1), mask[:1].expand(5, -1)
    states = layer_states(model.text_encoder, *first, cells=attended)
    for layer, got in enumerate(states):
        torch.testing.assert_close(got, expected[f"multimodal_text0_hidden_{layer}"], **TOLERANCE)
    torch.testing.assert_close(
        states[-1], expected["multimodal_text0_last_hidden_state"], **TOLERANCE
    )
    one_cell = Attended(
        states=cells.states[:1],
        attention_mask=cells.attention_mask[:1],
        rows=torch.zeros(3, dtype=torch.long),
    )
    got = model.text_encoder(ids, mask, cells=one_cell)
    torch.testing.assert_close(
        got, expected["multimodal_padded_cell0_last_hidden_state"], **TOLERANCE
    )
    rows = torch.arange(5).repeat_interleave(3)
    every = Attended(states=cells.states, attention_mask=cells.attention_mask, rows=rows)
    got = model.text_encoder(ids.repeat(5, 1), mask.repeat(5, 1), cells=every, first_only=True)
    torch.testing.assert_close(got.view(5, 3, -1), expected["ctm_cls_hidden"], **TOLERANCE)


def test_matching_and_zero_shot_scores(model, cells, texts, expected):
    logits = model.match(texts, cells, **pairs(5, 3)).view(5, 3, 2)
    torch.testing.assert_close(logits, expected["ctm_logits"], **TOLERANCE)
    probability = logits.softmax(-1)[..., 1]
    torch.testing.assert_close(probability, expected["ctm_prob"], **TOLERANCE)
    similarity = cells.features @ texts.features.T * model.scale
    torch.testing.assert_close(similarity, expected["sim_scaled"], **TOLERANCE)
    by_similarity, by_matching = similarity.softmax(-1), probability.softmax(-1)
    torch.testing.assert_close(by_similarity, expected["sim_softmax"], **TOLERANCE)
    torch.testing.assert_close(by_matching, expected["ctm_softmax_of_prob"], **TOLERANCE)
    for alpha in (0.1, 0.5):
        scores = alpha * by_similarity + (1 - alpha) * by_matching
        torch.testing.assert_close(scores, expected[f"zero_shot_alpha{alpha}"], **TOLERANCE)


def test_few_shot_losses_and_gradients(converted, inputs, expected):
    model = LangCell.from_pretrained(converted)
    cells = model.encode_cell(inputs["cell_input_ids"], inputs["cell_attention_mask"])
    texts = model.encode_text(inputs["text_input_ids"], inputs["text_attention_mask"])
    similarity = cells.features @ texts.features.T * model.scale
    probability = model.match(texts, cells, **pairs(5, 3)).softmax(-1)[:, 1].view(5, 3)
    losses = [functional.cross_entropy(x, inputs["labels"]) for x in (similarity, probability)]
    torch.testing.assert_close(losses[0], expected["fewshot_loss_sim"], **TOLERANCE)
    torch.testing.assert_close(losses[1], expected["fewshot_loss_ctm"], **TOLERANCE)
    sum(losses).backward()
    weights = dict(model.named_parameters())
    cell_layer = "cell_encoder.stack.blocks.0.attention.query_key_value.weight"
    text_layer = "text_encoder.stack.blocks.0.cross_attention.key_value.weight"
    for name, got in {
        "cell_bert.encoder.layer.0.attention.self.query.weight": weights[cell_layer].grad[:32],
        "text_bert.encoder.layer.0.crossattention.self.key.weight": weights[text_layer].grad[:48],
        "cell_proj.weight": model.cell_projection.weight.grad,
        "text_proj.weight": model.text_projection.weight.grad,
        "ctm_head.weight": model.matching.weight.grad,
    }.items():
        torch.testing.assert_close(got, expected[f"fewshot_grad.{name}"], **TOLERANCE)


def test_every_golden_array_is_covered(expected):
    covered = (
        "cell_hidden_ cell_last text_hidden_ text_last text_embedding cell_embedding multimodal_ "
        "ctm_ sim_ zero_shot_alpha0.1 zero_shot_alpha0.5 fewshot_"
    ).split()
    assert [name for name in expected if not name.startswith(tuple(covered))] == []


def test_the_reader_gives_what_the_flat_weights_hold(golden, model):
    flat = load_file(golden / "weights.safetensors")
    query = flat["cell_bert.encoder.layer.1.attention.self.query.weight"]
    ours = model.cell_encoder.stack.blocks[1].attention.query_key_value.weight[:32]
    assert torch.equal(ours, query)
    assert torch.equal(model.matching.bias, flat["ctm_head.bias"])
    assert len(model.sha256) == 64


@pytest.fixture
def copied(golden, tmp_path):
    folder = tmp_path / "release"
    shutil.copytree(golden / "mini_ckpt", folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    return folder


def edit_tensors(path, edit) -> None:
    tensors = torch.load(path, weights_only=True)
    edit(tensors)
    torch.save(tensors, path)


@pytest.mark.parametrize(
    ("part", "edit", "message"),
    [
        (
            "text_bert/pytorch_model.bin",
            lambda t: t.pop("encoder.layer.1.crossattention.self.key.weight"),
            r"missing encoder\.layer\.1\.crossattention\.self\.key\.weight",
        ),
        (
            "cell_bert/pytorch_model.bin",
            lambda t: t.update({"encoder.layer.9.output.dense.bias": torch.zeros(3)}),
            r"unknown encoder\.layer\.9\.output\.dense\.bias",
        ),
        (
            "cell_bert/pytorch_model.bin",
            lambda t: t.update({"embeddings.word_embeddings.weight": torch.zeros(59, 32)}),
            r"word_embeddings\.weight has shape \(59, 32\), expected \(60, 32\)",
        ),
        ("ctm_head.bin", lambda t: t.pop("bias"), "ctm_head.* missing bias"),
        ("cell_proj.bin", lambda t: t.pop("weight"), "no tensor 'weight'"),
    ],
)
def test_wrong_tensors_are_named_in_one_line(copied, part, edit, message):
    edit_tensors(copied / part, edit)
    with pytest.raises(ValueError, match=message) as caught:
        LangCell.from_pretrained(copied)
    assert "\n" not in str(caught.value)


def test_prefix_and_unused_heads_are_ignored(copied, cells, inputs):
    def as_saved_with_a_head(tensors):
        for name in list(tensors):
            tensors[f"bert.{name}"] = tensors.pop(name)
        tensors["cls.predictions.bias"] = torch.zeros(60)

    edit_tensors(copied / "cell_bert" / "pytorch_model.bin", as_saved_with_a_head)
    again = LangCell.from_pretrained(copied)
    got = again.encode_cell(inputs["cell_input_ids"], inputs["cell_attention_mask"])
    assert torch.equal(got.features, cells.features)


def test_a_missing_part_and_a_foreign_pickle_are_refused(copied):
    (copied / "text_proj.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"text_proj\.bin is not a readable weights file"):
        LangCell.from_pretrained(copied)
    (copied / "text_proj.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no text_proj\.bin"):
        LangCell.from_pretrained(copied)


def test_text_encoder_without_cross_attention_is_refused(copied):
    path = copied / "text_bert" / "config.json"
    values = json.loads(path.read_text())
    del values["encoder_width"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="must set add_cross_attention and encoder_width"):
        LangCell.from_pretrained(copied)


def test_a_release_is_read_without_its_genes(golden, inputs, cells, texts, model):
    release = LangCell.from_pretrained(golden / "mini_ckpt")
    again = release.encode_cell(inputs["cell_input_ids"], inputs["cell_attention_mask"])
    assert torch.equal(again.features, cells.features)
    rows = pairs(5, 3)
    assert torch.equal(release.match(texts, cells, **rows), model.match(texts, cells, **rows))
    with pytest.raises(ValueError, match="has no gene vocabulary"):
        _ = release.genes
    with_genes = LangCell.from_pretrained(golden / "mini_ckpt", vocabulary=model.vocabulary)
    assert with_genes.genes.cls_id == model.genes.cls_id == 59
    with pytest.raises(ValueError, match="is for .* genes, but the vocabulary has 57"):
        LangCell(replace(model.config, cell=replace(model.config.cell, vocab_size=59)), model.genes)


def test_dictionaries_beside_the_weights_are_found(copied, tmp_path, model):
    genes = [f"ENSG{number:011d}" for number in range(57)]
    write_dictionaries(copied, genes, V1)
    done = convert(copied, tmp_path / "ours")
    assert done.layout == "LangCell"
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert names == ["config.json", "genes.tsv", "model.safetensors"]
    again = LangCell.from_pretrained(tmp_path / "ours")
    assert again.genes.ensembl_ids == tuple(genes)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    for path in copied.glob("*.pkl"):
        path.unlink()
    model.genes.write(copied / "genes.tsv")
    convert(copied, tmp_path / "from-table")
    assert LangCell.from_pretrained(tmp_path / "from-table").genes.ensembl_ids == tuple(genes)


def test_dictionaries_of_another_release_are_refused(copied, tmp_path):
    for genes, special, said in (
        (56, V1, "cell_bert has 60 tokens, but the token dictionary and CLS have 59"),
        (56, V2, "LangCell reads <cls> and no <eos>"),
    ):
        write_dictionaries(copied, [f"ENSG{number:011d}" for number in range(genes)], special)
        with pytest.raises(ValueError, match=said):
            convert(copied, tmp_path / "ours")


def test_the_tokenizer_of_the_texts_can_be_named(copied, tmp_path, model):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cell", "type", ":", "b", "."]
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(words))
    edit = {"model_type": "bert"}
    (tmp_path / "words" / "config.json").write_text(json.dumps(edit))
    model.genes.write(copied / "genes.tsv")
    convert(copied, tmp_path / "ours", tokenizer=str(tmp_path / "words"))
    ours = LangCell.from_pretrained(tmp_path / "ours")
    ids, _ = ours.tokenize_texts(["cell type: B cell."])
    assert ids.tolist() == [[2, 5, 6, 7, 8, 5, 9, 3]]
    (tmp_path / "words" / "vocab.txt").write_text("\n".join([*words, *map(str, range(61))]))
    with pytest.raises(ValueError, match="has 71 tokens, but the text encoder has 70"):
        convert(copied, tmp_path / "other", tokenizer=str(tmp_path / "words"))
