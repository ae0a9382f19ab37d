"""Small folders in the layouts of released models, for tests."""

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from langcell.genes.gene_table import GeneTable

V1 = {"<pad>": 0, "<mask>": 1}
V2 = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}


def write_dictionaries(
    folder: Path, genes: list[str], special: dict[str, int]
) -> tuple[dict[str, int], dict[str, np.float64]]:
    """Write token_dictionary.pkl and gene_median_dictionary.pkl as the releases have them."""
    tokens = special | {name: len(special) + i for i, name in enumerate(genes)}
    values = np.random.default_rng(5).uniform(0.5, 5, len(genes))  # items of it are numpy's
    medians = dict(zip(genes, values, strict=True))
    as_released = {
        name: number if name in special else np.int16(number) for name, number in tokens.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token_dictionary.pkl").write_bytes(pickle.dumps(as_released))
    (folder / "gene_median_dictionary.pkl").write_bytes(pickle.dumps(medians))
    return tokens, medians


def symbols_to_ids(symbols: list[str]) -> list[str]:
    """Return the Ensembl id of each symbol."""
    return list(GeneTable.bundled().resolve(symbols).ensembl_ids)


def write_geneformer(folder: Path, n_tokens: int, *, positions: int) -> BertForMaskedLM:
    """Write random weights as `save_pretrained` does, and return the model that has them."""
    torch.manual_seed(7)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=n_tokens, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=24, max_position_embeddings=positions, hidden_act="relu",
            hidden_dropout_prob=0.02, attention_probs_dropout_prob=0.02,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name:
                weight.normal_(std=0.3)  # so that cells differ by more than rounding
    model.save_pretrained(folder)
    return model.eval()


def edit_json(path: Path, **values: object) -> None:
    """Change values of a JSON object; None removes one."""
    changed = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: each for key, each in changed.items() if each is not None}))
