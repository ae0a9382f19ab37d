"""Public names of this package alone, each listed once; `langcell` hands them on."""

from .checkpoints.checkpoint import list_bundled_models as list_bundled_models
from .checkpoints.label_embeddings import LabelEmbeddings as LabelEmbeddings
from .counts.reader import open_counts as open_counts
from .genes.gene_table import GeneTable as GeneTable
from .genes.vocabulary import GeneVocabulary as GeneVocabulary
from .model.langcell import LangCell as LangCell
from .nn.config import LangCellConfig as LangCellConfig
from .output.embed import embed as embed
from .tokens.token_corpus import TokenCorpus as TokenCorpus
from .tokens.tokenizer import RankTokenizer as RankTokenizer
