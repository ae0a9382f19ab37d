"""Add LoRA adapters to a pretrained text tower."""

from langcell.nn.bert import BertBlock
from langcell.nn.lora import adapt_linears
from langcell.nn.text_encoder import TextEncoder


def add_adapters(tower: TextEncoder, *, rank: int, scale: float) -> None:
    """Freeze a text tower and add a LoRA adapter to every linear layer of its blocks.

    Cross-attention, which no pretrained tower has, gets no adapter and is trained in full.
    """
    tower.requires_grad_(False)
    for block in tower.stack.blocks:
        assert isinstance(block, BertBlock)
        if block.cross_attention is not None:
            block.cross_attention.requires_grad_(True)
        for part in (block.attention, block.feed_forward):
            adapt_linears(part, rank=rank, scale=scale)
