"""Tokenizers of the three families that models come with, trained here on a few sentences."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tiny import SENTENCES, make_tokenizer

KINDS = ("byte-bpe", "unigram", "wordpiece")
FORM = "QUESTION: \nANSWER:\nCORRECTION:"


@lru_cache
def make(kind: str) -> Any:
    """byte-bpe: any text round-trips.  unigram: as sentencepiece makes them, with byte fallback and NFKC.
    wordpiece: as BERT's, lower-case, unknown words lost.  Each has an end of its own, and a pad that differs.
    """
    return {"byte-bpe": make_tokenizer, "unigram": _unigram, "wordpiece": _wordpiece}[kind]()


def _unigram() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    trained.train_from_iterator([*SENTENCES * 4, FORM], trainer)
    scores = sorted(((p, i) for p, i in trained.get_vocab().items()), key=lambda one: one[1])
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(piece, -float(i + 1) / 10) for piece, i in scores if piece != "<unk>"] + [(b, -99.0) for b in alphabet]
    core = Tokenizer(models.Unigram(pieces, 2, True))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _wordpiece() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[END]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    core.train_from_iterator([*SENTENCES * 4, FORM], trainer)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="[END]",
    )  # fmt: skip
