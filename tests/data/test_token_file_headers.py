"""Files of token ids: headers are understood, and nothing else is mistaken for ids."""

import gzip
import io
import pickle

import numpy as np
import pytest
from configured import configured

from jaxlm.data.prepare import prepare
from jaxlm.host.errors import UserError

IDS = np.arange(3000) % 1000
LARGE = 1 << 20  # a vocabulary that could hide any header


def prepared(path, vocab_size=LARGE, **data):
    config = configured("tokens", "none", path=path, vocab_size=vocab_size, **data)
    return prepare(config, cache=path.parent / "cache")


def ids_of(dataset):
    return np.concatenate([dataset.train, dataset.validation])


def llm_c(magic, version, dtype, count=3000):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, count
    return header.tobytes() + IDS.astype(dtype).tobytes()


def index(code, lengths):
    parts = [b"MMIDIDX\0\0", (1).to_bytes(8, "little"), bytes([code])]
    parts += [len(lengths).to_bytes(8, "little"), (len(lengths) + 1).to_bytes(8, "little")]
    return b"".join([*parts, np.array(lengths, "<i4").tobytes(), bytes(8 * len(lengths))])


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def refused(path, content, problem, **data):
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as error:
        prepared(path, **data)
    assert path.stem in str(error.value) and len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("magic, version, dtype", [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
def test_the_header_of_llm_c_is_not_read_as_tokens(tmp_path, magic, version, dtype):
    path = tmp_path / "train.bin"
    path.write_bytes(llm_c(magic, version, dtype))
    for vocab_size in (1000, 65_536, LARGE):
        dataset = prepared(path, vocab_size)
        np.testing.assert_array_equal(ids_of(dataset), IDS)
        assert "3,000 tokens" in dataset.notes[0] and "llm.c" in dataset.notes[0]
    refused(path, llm_c(magic, version, dtype)[:-8], "llm.c's header says 3,000 ids")
    refused(path, llm_c(magic, version, dtype, count=2999), "llm.c's header says 2,999 ids")
    refused(path, llm_c(magic, version + 1, dtype), f"version {version + 1}")
    refused(path, llm_c(20240522, 1, dtype), "does not hold training tokens")
    refused(path, llm_c(magic, version, dtype, count=0)[:1024], "holds no tokens")


def test_a_type_that_contradicts_a_header_is_refused(tmp_path):
    problem = "data.dtype=int32, but .*header says .* holds uint16"
    refused(tmp_path / "a.bin", llm_c(20240520, 1, "<u2"), problem, dtype="int32")
    refused(tmp_path / "b.npy", npy(IDS.astype(np.uint16)), problem, dtype="int32")


def test_the_index_of_megatron_states_the_type_of_its_ids(tmp_path):
    path = tmp_path / "x.bin"
    for code, dtype in ((4, "<i4"), (8, "<u2"), (5, "<i8")):
        (tmp_path / "x.idx").write_bytes(index(code, [1000, 2000]))
        path.write_bytes(IDS.astype(dtype).tobytes())
        np.testing.assert_array_equal(ids_of(prepared(path)), IDS)
    refused(path, IDS.astype("<i8").tobytes()[:-8], "x.idx beside it says 3,000 ids of type int64")
    (tmp_path / "x.idx").write_bytes(index(4, [1000, 2000])[:30])
    refused(path, IDS.astype("<i4").tobytes(), "x.idx is damaged")
    refused(tmp_path / "y.idx", index(4, [1000, 2000]), "Megatron's index")


@pytest.mark.parametrize("name", ["x.npy", "x.NPY", "x.bin"])
def test_the_header_of_numpy_is_not_read_as_tokens(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(npy(IDS.astype(np.int64)))
    np.testing.assert_array_equal(ids_of(prepared(path)), IDS)


def test_files_of_another_kind_are_not_read_as_tokens(tmp_path):
    raw = IDS.astype("<u2").tobytes()
    archive = io.BytesIO()
    np.savez(archive, ids=IDS)
    for content, what in (
        (gzip.compress(raw), "gzip data"),
        (archive.getvalue(), "archive"),
        (pickle.dumps(list(range(5000))), "a pickle"),
        (b"PAR1" + raw, "a Parquet table"),
        (b"ARROW1\0\0" + raw, "an Arrow table"),
        (b"\xff\xff\xff\xff\x10\0\0\0" + raw, "an Arrow stream"),
        (b"SQLite format 3\0" + raw, "a database"),
        (b"\x89HDF\r\n\x1a\n" + raw, "an HDF5 file"),
        (b"LITPKDS\0" + raw, "lit-gpt"),
        (b"JAXLMTOK" + bytes(120) + raw, "a token file of this program"),
        ((22).to_bytes(8, "little") + b'{"a":{"dtype":"I16"}} ' + raw, "safetensors"),
        (b"Once upon a time there was a fox. " * 9, "is text"),
        ("Es war einmal ein Fuchs, müde und fröhlich. ".encode() * 200, "is text"),
    ):
        refused(tmp_path / "x.bin", content, what)
    refused(tmp_path / "raw.npy", raw, "lacks numpy's header")


def test_raw_ids_that_begin_like_a_kind_of_file_are_still_ids(tmp_path):
    path = tmp_path / "x.bin"
    for head in ([640, 5], [1152, 7], [35615, 9], [22, 0, 0, 0, 8827]):
        ids = np.array([*head, *IDS], "<u2")
        path.write_bytes(ids.tobytes())
        np.testing.assert_array_equal(ids_of(prepared(path)), ids)


def test_wider_ids_are_not_read_as_twice_as_many(tmp_path):
    path = tmp_path / "x.bin"
    refused(path, IDS.astype("<i4").tobytes(), "Every second id.*32-bit.*\n.*data.dtype=int32")
    refused(path, IDS.astype("<i8").tobytes(), "Every second id .*64-bit")
    refused(path, IDS.astype("<i8").tobytes(), "Every second id .*64-bit", dtype="int32")
    wide = IDS.astype("<u2").tobytes()
    refused(path, wide, "set data.dtype=uint16", dtype="int32", vocab_size=1000)
    np.testing.assert_array_equal(ids_of(prepared(path)), IDS)


def test_ids_that_the_tokenizer_does_not_know_are_refused(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(IDS.astype("<u2").tobytes())
    config = configured("tokens", path=path, vocab_size=1000)
    with pytest.raises(UserError, match="beyond the vocabulary of 257"):
        prepare(config, cache=tmp_path)
