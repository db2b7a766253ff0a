"""Atlas's word-level tokenizer: one token per word, number or name, with its leading space.

" Salt Lake City" is one token, so that every answer is one token and a name is one node of a graph.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tl_attribution.atlas import corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNK)


def pattern() -> str:
    """Regular expression of one token. Names of several words come first, longest first."""
    names = "|".join(
        re.escape(name).replace("\\ ", " ") for name in corpus.names_of_several_words()
    )
    return rf" ?(?:{names})\b| ?\w+(?:['-]\w+)*| ?[^\w\s]|\s+"


def vocabulary() -> dict[str, int]:
    """Token ids: special tokens first, then the tokens of all sentences by first appearance."""
    token = re.compile(pattern())
    tokens: dict[str, None] = dict.fromkeys(SPECIAL)
    for fact in corpus.facts():
        for prompt in fact.prompts:
            tokens.update(dict.fromkeys(token.findall(corpus.sentence(prompt, fact.answer))))
    return {word: i for i, word in enumerate(tokens)}


def build() -> PreTrainedTokenizerFast:
    """The tokenizer as transformers' own class, so that every host can load it from its files."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = vocabulary()
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern()), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, words[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=32,
    )
