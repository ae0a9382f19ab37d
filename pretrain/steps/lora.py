"""Which weights of a pretrained text tower learn by low-rank adapters."""

from langcell.nn.bert import BertBlock
from langcell.nn.lora import adapt_linears
from langcell.nn.text_encoder import TextEncoder


def add_adapters(tower: TextEncoder, *, rank: int, scale: float) -> None:
    """Freeze a tower and give every matrix of its blocks an adapter.

    Cross-attention, which no pretrained tower brings, stays as it is and learns all of its weights.
    """
    tower.requires_grad_(False)
    for block in tower.stack.blocks:
        assert isinstance(block, BertBlock)
        if block.cross_attention is not None:
            block.cross_attention.requires_grad_(True)
        for part in (block.attention, block.feed_forward):
            adapt_linears(part, rank=rank, scale=scale)
