"""The kind of a file: by its name, or by its first bytes if the name says nothing.

A file is plain text, a table with a field of text, or refused by name with advice, so that nothing
else is mistaken for text.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".lzma": "xz", ".zst": "zstd"}
FORMS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_TOKENS = (".bin", ".npy", ".idx", ".tokens")
_PLAIN = frozenset(
    ".txt .text .md .markdown .mkd .rst .adoc .asciidoc .org .tex .ltx .bib .textile .wiki .srt "
    ".py .pyi .c .h .cc .cpp .cxx .hpp .hh .cu .cuh .rs .go .java .kt .scala .js .jsx .ts .tsx "
    ".rb .pl .pm .php .lua .r .jl .m .hs .ml .mli .lean .v .clj .ex .exs .erl .lisp .el .scm .f "
    ".f90 .swift .cs .fs .sh .bash .sql .asm .s".split()
)
_UNPACK = "Unpack it and give the folder."
_EXPORT = "Export its text as .txt, .jsonl or .csv."
_RENAME = "Extract its text; to train on the markup itself, rename it to .txt."
_IDS = "For token ids, use data=tokens with data.vocab_size=N."
_REFUSED = {
    **dict.fromkeys(
        (".zip", ".tar", ".tgz", ".tbz", ".txz", ".7z", ".rar"),
        ("an archive", _UNPACK),
    ),
    ".pdf": ("a PDF", "Extract its text, for example with pdftotext."),
    **dict.fromkeys(
        (".doc", ".docx", ".odt", ".epub", ".mobi", ".pages", ".pptx"),
        ("a formatted document", "Convert it to .txt, for example with pandoc."),
    ),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), ("a spreadsheet", "Save it as .csv.")),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xml", ".svg", ".rtf"), ("markup", _RENAME)),
    ".ipynb": ("a notebook", _EXPORT),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro"), ("a binary table", _EXPORT)),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), ("a database", _EXPORT)),
    **dict.fromkeys((".h5", ".hdf5", ".mat", ".npz", ".tfrecord", ".mds"), ("arrays", _EXPORT)),
    **dict.fromkeys(_TOKENS, ("a file of numbers", _IDS)),
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".onnx", ".msgpack"),
        ("a model's weights", "Give a text file."),
    ),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), ("a pickle, which is never loaded", _EXPORT)),
    **dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ico"),
        ("an image", "Give a text file."),
    ),
    **dict.fromkeys(
        (".mp3", ".wav", ".flac", ".ogg", ".mp4", ".mkv", ".avi", ".mov", ".webm"),
        ("audio or video", "Give a text file."),
    ),
    **dict.fromkeys(
        (".exe", ".dll", ".so", ".o", ".a", ".pyc", ".class", ".jar", ".wasm", ".dylib"),
        ("a program", "Give a text file."),
    ),
}
_MAGIC = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a zip archive (.zip, .docx, .xlsx, .epub, .npz, .pt)"),
    (b"\x89PNG\r\n", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF87a", "an image"),
    (b"GIF89a", "an image"),
    (b"II*\x00", "an image"),
    (b"\x1f\x8b\x08", "gzip data"),
    (b"BZh91AY&SY", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"7z\xbc\xaf\x27\x1c", "an archive"),
    (b"Rar!\x1a\x07", "an archive"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1\x00\x00", "an Arrow table"),
    (b"\xff\xff\xff\xff\x10\x00\x00\x00", "an Arrow stream"),
    (b"Obj\x01", "an Avro table"),
    (b"SQLite format 3\x00", "a database"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x93NUMPY", "a .npy array"),
    (b"MMIDIDX\x00\x00", "Megatron's index of a token file"),
    (b"TNTIDX\x00\x00", "fairseq's index of a token file"),
    (b"LITPKDS", "a packed data set of lit-gpt"),
    (b"JAXLMTOK", "a token file of this program"),
    (b"GGUF", "a model's weights"),
    (b"\x7fELF", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\x00asm", "a program"),
    (b"{\\rtf", "an RTF document"),
    (b"OggS", "audio or video"),
    (b"fLaC", "audio or video"),
)
LLM_C = range(20240301, 20250101)  # its magic numbers are dates
_PICKLE = re.compile(rb"\x80[\x02-\x05](\x95.{6}\x00\x00|[}\](cK\x8c])", re.DOTALL)


class Kind(NamedTuple):
    """`form` is text, jsonl, json, csv, tsv, parquet, refused, or unknown (the content decides).

    `packing` is the compression, if any. A refused file has `what` it is and `advice`.
    """

    form: str
    packing: str | None = None
    what: str = ""
    advice: str = ""


def kind_of(file: Path) -> Kind:
    """The kind of a file by its name, ignoring case."""
    name = file.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), None)
    packing = PACKED.get(packed or "")
    suffix = Path(name.removesuffix(packed or "")).suffix
    if suffix in _REFUSED:
        return Kind("refused", packing, *_REFUSED[suffix])
    if suffix in FORMS:
        return Kind(FORMS[suffix], packing)
    return Kind("text" if suffix in _PLAIN else "unknown", packing)


def has_fields(file: Path) -> bool:
    """Whether data.text_field selects the text in this file."""
    return kind_of(file).form in FORMS.values()


def holds_tokens(file: Path) -> bool:
    """Whether a file name is that of a file of token ids."""
    return kind_of(file).advice == _IDS


def known_bytes(head: bytes) -> str | None:
    """What a file is by its first bytes, if they are known and not text."""
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive"
    if _PICKLE.match(head):
        return "a pickle, which is never loaded"
    if head[8:10] == b'{"' and 0 < int.from_bytes(head[:8], "little") < 1 << 32:
        return "a model's weights (safetensors)"
    if len(head) >= 1024 and int.from_bytes(head[:4], "little") in LLM_C:
        return "a file of llm.c"
    return None


def hidden_json(text: str) -> str | None:
    """'.json' or '.jsonl' if a text begins like a file of records, else None."""
    if re.match(r'\s*\[\s*\{\s*"[^"]*"\s*:', text):
        return ".json"
    if not re.match(r'\s*\{\s*"[^"\n]*"\s*:\s*["\[{\dtfn-]', text):
        return None
    try:
        return ".jsonl" if json.loads(text.lstrip().partition("\n")[0]) else None
    except (ValueError, RecursionError):
        return ".json"


def may_be_list(text: str) -> bool:
    """Whether a text begins like a JSON list of strings or objects."""
    return re.match(r'\s*\[\s*(["{]|null\s*,)', text) is not None
