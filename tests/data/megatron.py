"""The Megatron-LM / GPT-NeoX indexed dataset, read and written with nothing but numpy, after the format's description and not after Basin's code.

  python tests/data/megatron.py read PREFIX                    prints {"dtype": ..., "documents": [[ids], ...]}
  python tests/data/megatron.py write PREFIX DTYPE <JSON       writes {"documents": [[ids], ...], "boundaries": [...]} from standard input;
                                                               boundaries, optional: which sequences make a document
"""
import json
import struct
import sys

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}


def read(prefix):
    index = open(prefix + ".idx", "rb").read()
    assert index[:9] == MAGIC
    version, code, sequences, boundaries = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    sizes = np.frombuffer(index, np.int32, sequences, 34)
    pointers = np.frombuffer(index, np.int64, sequences, 34 + sizes.nbytes)
    documents = np.frombuffer(index, np.int64, boundaries, 34 + sizes.nbytes + pointers.nbytes)
    assert len(index) == 34 + sizes.nbytes + pointers.nbytes + documents.nbytes
    dtype = np.dtype(DTYPES[code])
    data = np.memmap(prefix + ".bin", np.uint8, "r")
    assert len(data) == sizes.sum(dtype=np.int64) * dtype.itemsize
    tokens = [np.frombuffer(data, dtype, size, pointer) for size, pointer in zip(sizes, pointers)]
    return dtype.name, [[int(id) for part in tokens[begin:end] for id in part] for begin, end in zip(documents, documents[1:])]


def write(prefix, dtype, sequences, boundaries):
    dtype = np.dtype(dtype)
    code = next(code for code, known in DTYPES.items() if known == dtype)
    sizes = np.array([len(sequence) for sequence in sequences], np.int32)
    pointers = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))[:-1] * dtype.itemsize
    with open(prefix + ".bin", "wb") as data:
        for sequence in sequences:
            data.write(np.array(sequence, dtype).tobytes())
    with open(prefix + ".idx", "wb") as index:
        index.write(MAGIC + struct.pack("<QBQQ", 1, code, len(sizes), len(boundaries)))
        index.write(sizes.tobytes() + pointers.astype(np.int64).tobytes() + np.array(boundaries, np.int64).tobytes())


if sys.argv[1] == "read":
    name, read_documents = read(sys.argv[2])
    json.dump({"dtype": name, "documents": read_documents}, sys.stdout)
else:
    given = json.load(sys.stdin)
    write(sys.argv[2], sys.argv[3], given["documents"], given.get("boundaries", range(len(given["documents"]) + 1)))
