"""A small BERT with the tokenizer of the packaged tower, as a folder of the Hugging Face layout."""

import shutil
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from langcell.checkpoints.text_towers import find_tower


def write_tower(folder: Path) -> Path:
    """Write a tower of one narrow layer, without dropout, with random weights."""
    torch.manual_seed(7)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        source = find_tower("all-MiniLM-L6-v2") / name
        if source.is_file():
            shutil.copy(source, folder / name)
    return folder
