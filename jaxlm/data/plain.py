"""Changes a tokenizer.json so that text is only text; `LibraryTokenizer` encodes with the result.

Ids keep their meaning. What changes is which ids a text can produce:
- No text produces a control id: its name in the vocabulary is replaced by one no text contains.
- The name of a byte in a text, such as `<0x0A>`, does not produce the id of the byte.
- No space is put before a text; the caller does that, once for each document.
- Added words do not absorb the white space around them.
- Nothing is random, truncated or padded.
"""

import copy
import json
import secrets

from jaxlm.host.checked import Json

ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
_CONTROL = (
    "<unk>",
    "<s>",
    "<pad>",
    "<mask>",
    "<bos>",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[PAD]",
    "[MASK]",
)
_BYTE_NAME = "<(?=0x[0-9A-Fa-f]{2}>)"


def control_ids(specification: Json, id_of_token: dict[str, int]) -> set[int]:
    """The ids of special tokens: so marked, so named, unknown, or of the post-processor."""
    found = {token["id"] for token in specification["added_tokens"] if token["special"]}
    unknown = unknown_id(specification, id_of_token)
    found |= set() if unknown is None else {unknown}
    found |= {id_of_token[name] for name in (*ENDS, *_CONTROL) if name in id_of_token}
    for part in _parts(specification["post_processor"]):
        for special in part.get("special_tokens", {}).values():
            found |= set(special["ids"])
        found |= {part[name][1] for name in ("sep", "cls") if name in part}
    return found


def unknown_id(specification: Json, id_of_token: dict[str, int]) -> int | None:
    """The id that the model gives to unknown text, if it has one."""
    model = specification["model"]
    if model["type"] == "Unigram":
        return model["unk_id"]
    return id_of_token.get(model["unk_token"])


def prepends_blank(specification: Json) -> bool:
    """Whether the tokenizer puts a space before a text."""
    parts = [*_parts(specification["normalizer"]), *_parts(specification["pre_tokenizer"])]
    return any(
        part["type"] == "Prepend"
        or (part["type"] == "Metaspace" and part["prepend_scheme"] != "never")
        or (part["type"] == "ByteLevel" and part["add_prefix_space"])
        for part in parts
    )


def decoder_types(specification: Json) -> set[str]:
    """The types of the decoder's parts."""
    return {part["type"] for part in _parts(specification["decoder"])}


def for_plain_text(specification: Json, names: dict[int, str]) -> Json:
    """The specification to encode with; `names` are the control ids' names."""
    result = copy.deepcopy(specification)
    hidden = {name: f"{secrets.token_hex(16)}-{i}" for i, name in names.items()}
    result |= {"truncation": None, "padding": None, "post_processor": None, "decoder": None}
    for token in result["added_tokens"]:
        token |= {"lstrip": False, "rstrip": False}
        if token["content"] in hidden:
            token |= {"content": hidden[token["content"]], "special": True, "normalized": False}
    result["normalizer"] = _without_prepend(result["normalizer"])
    for part in _parts(result["pre_tokenizer"]):
        if _removes_blanks(part):  # a space is then put before each word, not before the text
            break
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        elif part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
    if "ByteFallback" in decoder_types(specification):
        result["pre_tokenizer"] = _byte_names_split(result["pre_tokenizer"])
    _hide(result["model"], hidden)
    return result


def _parts(component: Json | None) -> list[Json]:
    """A normalizer, pre-tokenizer, post-processor or decoder as a flat list of its parts."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    parts = next(value for value in component.values() if isinstance(value, list))
    return [single for part in parts for single in _parts(part)]


def _removes_blanks(part: Json) -> bool:
    """Whether a pre-tokenizer keeps only words."""
    words_only = ("WhitespaceSplit", "Whitespace", "BertPreTokenizer", "CharDelimiterSplit")
    return part["type"] in words_only or part.get("behavior") == "Removed"


def _without_prepend(normalizer: Json | None) -> Json | None:
    kept = [part for part in _parts(normalizer) if part["type"] != "Prepend"]
    return {"type": "Sequence", "normalizers": kept} if kept else None


def _byte_names_split(pre_tokenizer: Json | None) -> Json:
    """`<` in front of `0x0A>` ends a word, so that no piece spans the name of a byte."""
    split = {
        "type": "Split",
        "pattern": {"Regex": _BYTE_NAME},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [*_parts(pre_tokenizer), split]}


def _hide(model: Json, hidden: dict[str, str]) -> None:
    """Rename entries of the vocabulary, in place."""
    if model["type"] == "Unigram":
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in model["vocab"]]
        return
    model["vocab"] = {hidden.get(token, token): i for token, i in model["vocab"].items()}
    model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
    if model["type"] == "BPE":
        prefix = model["continuing_subword_prefix"] or ""
        model["dropout"] = None
        model["merges"] = [
            [a, b]
            for a, b in model["merges"]
            if not hidden.keys() & {a, b, a + b.removeprefix(prefix)}
        ]


def canonical(specification: Json) -> Json:
    """The specification as the library itself writes it. Raises its exceptions."""
    from tokenizers import Tokenizer

    return json.loads(Tokenizer.from_str(json.dumps(specification)).to_str())
