"""Tokenizers of every kind, trained here, with the decoders that are usual for them."""

import json
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

from jaxlm.data.tokenizer import LibraryTokenizer

PROSE = (
    "Once upon a time  there was a cat called Zoë. The cat said: “meow”, 3 or 42 times!\n"
    "<s>old</s> <unk> a<b, [CLS] (x) <0x0A> \tdon't ▁ end\r\n"
) * 40
BYTES = [f"<0x{value:02X}>" for value in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level(prefix: bool = False) -> Tokenizer:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre.ByteLevel(add_prefix_space=prefix)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([PROSE], trainer)
    return library


def fallback_bpe(legacy: bool) -> Tokenizer:
    """Like Llama 2's: the normalizer (legacy) or Metaspace puts a space before the text."""
    library = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=460, special_tokens=SPECIAL + BYTES, show_progress=False, limit_alphabet=40
    )
    library.train_from_iterator(PROSE.splitlines(), trainer)
    if legacy:
        library.pre_tokenizer = None
        library.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + [decoders.Strip(" ", 1, 0)]
    )
    specification = json.loads(library.to_str())  # bytes are ordinary pieces, not special ones
    specification["added_tokens"] = specification["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(specification))


def unigram(scheme: str, split: bool = True, mark: str = "▁", fallback: bool = False) -> Tokenizer:
    library = Tokenizer(models.Unigram())
    library.pre_tokenizer = pre.Metaspace(mark, prepend_scheme=scheme, split=split)
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False,
        initial_alphabet=sorted(set(PROSE)),
    )  # fmt: skip
    library.train_from_iterator([PROSE], trainer)
    library.decoder = decoders.Metaspace(mark, prepend_scheme=scheme, split=split)
    if fallback:
        specification = json.loads(library.to_str())
        specification["model"]["vocab"] += [[name, 0.0] for name in BYTES]
        specification["model"]["byte_fallback"] = True
        metaspace = specification["decoder"]
        parts = [{"type": "ByteFallback"}, metaspace]
        specification["decoder"] = {"type": "Sequence", "decoders": parts}
        library = Tokenizer.from_str(json.dumps(specification))
    return library


def by_words() -> Tokenizer:
    """Like XLM-R's: white space is removed, and Metaspace puts a space before each word."""
    library = unigram("always")
    library.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()])
    return library


def wordpiece() -> Tokenizer:
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    library.train_from_iterator([PROSE], trainer)
    return library


def wordlevel(decoder: bool) -> Tokenizer:
    library = Tokenizer(models.WordLevel(unk_token="<unk>"))
    library.pre_tokenizer = pre.Split(Regex(r"\s+|\w+|[^\w\s]+"), "isolated")
    if not decoder:
        library.pre_tokenizer = pre.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False)
    library.train_from_iterator([PROSE], trainer)
    if decoder:
        library.decoder = decoders.Fuse()
    return library


def suffix_bpe() -> Tokenizer:
    library = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    library.pre_tokenizer = pre.Whitespace()
    library.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    library.train_from_iterator([PROSE], trainer)
    return library


def odd_decoder() -> Tokenizer:
    """A tokenizer with a decoder that acts on several tokens at once."""
    library = unigram("never")
    library.decoder = decoders.Sequence(
        [decoders.Fuse(), decoders.Replace("▁", " "), decoders.Replace("the", "THE")]
    )
    return library


def stripping() -> Tokenizer:
    library = unigram("never")
    parts = [decoders.Replace(Regex("▁"), " "), decoders.Fuse(), decoders.Strip(" ", 2, 1)]
    library.decoder = decoders.Sequence(parts)
    return library


def with_words(library: Tokenizer, **options) -> Tokenizer:
    library.add_tokens([AddedToken("two words", **options), AddedToken("é!", **options)])
    return library


MAKERS = {
    "byte level": byte_level,
    "byte level, prefix": lambda: byte_level(prefix=True),
    "byte level, words": lambda: with_words(byte_level()),
    "byte level, stripping words": lambda: with_words(byte_level(), lstrip=True, rstrip=True),
    "fallback": lambda: fallback_bpe(legacy=False),
    "fallback, legacy": lambda: fallback_bpe(legacy=True),
    "fallback, words": lambda: with_words(fallback_bpe(legacy=True), normalized=False),
    "unigram always": lambda: unigram("always"),
    "unigram first": lambda: unigram("first"),
    "unigram never": lambda: unigram("never"),
    "unigram unsplit": lambda: unigram("always", split=False),
    "unigram mark": lambda: unigram("always", mark="_"),
    "unigram fallback": lambda: unigram("first", fallback=True),
    "unigram words": lambda: with_words(unigram("always")),
    "by words": by_words,
    "wordpiece": wordpiece,
    "wordlevel": lambda: wordlevel(decoder=True),
    "wordlevel, no decoder": lambda: wordlevel(decoder=False),
    "suffix": suffix_bpe,
    "odd decoder": odd_decoder,
    "stripping": stripping,
}
LOSSLESS = [name for name in MAKERS if name.startswith(("byte level", "fallback", "unigram"))]


@cache
def library(name: str) -> Tokenizer:
    """The object of the `tokenizers` library."""
    return MAKERS[name]()


@cache
def tokenizer(name: str) -> LibraryTokenizer:
    """The same tokenizer, as read by this program."""
    return LibraryTokenizer(json.loads(library(name).to_str()))
