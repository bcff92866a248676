"""What fuzzing starts from, standard library only.
seeds.py FOLDER TARGET          writes into FOLDER the seeds made here and what corpus/TARGET.xz holds: inputs that long runs found to do something new
seeds.py --pack FOLDER TARGET   makes corpus/TARGET.xz of the files in FOLDER"""
import io, json, lzma, pathlib, pickle, struct, sys, zipfile


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def dataset_index(sizes, documents, code=8, width=2):
    pointers = [sum(sizes[:i]) * width for i in range(len(sizes))]
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(sizes), len(documents))
    body = struct.pack(f"<{len(sizes)}i{len(sizes)}q{len(documents)}q", *sizes, *pointers, *documents)
    return struct.pack("<I", sum(sizes) * width) + head + body


def state_dict(tensors, protocol=2):
    """data.pkl as torch.save writes it: stand-ins for torch's names, pickled without torch."""
    class Named:
        def __init__(self, module, name): self.module, self.name = module, name

    class Call:
        def __init__(self, function, arguments): self.function, self.arguments = function, arguments

    class Storage:
        def __init__(self, kind, key, elements): self.kind, self.key, self.elements = kind, key, elements

    class Pickler(pickle._Pickler):  # the one in Python: it can be taught to write names that are not there
        def persistent_id(self, thing):
            return ("storage", Named("torch", thing.kind), thing.key, "cpu", thing.elements) if isinstance(thing, Storage) else None

        def save(self, thing, save_persistent_id=True):
            if isinstance(thing, Named) and id(thing) not in self.memo:
                self.write(b"c" + f"{thing.module}\n{thing.name}\n".encode())
            elif isinstance(thing, Call):
                self.save(thing.function)
                self.save(thing.arguments)
                self.write(b"R")
            else:
                super().save(thing, save_persistent_id)

    out = io.BytesIO()
    ordered = lambda: Call(Named("collections", "OrderedDict"), ())
    pickler = Pickler(out, protocol)
    pickler.write(b"\x80" + bytes([protocol]))
    pickler.framer.start_framing() if protocol >= 4 else None
    pickler.save(ordered())
    pickler.write(b"(")
    for name, kind, key, elements, offset, shape, strides in tensors:
        pickler.save(name)
        pickler.save(Call(Named("torch._utils", "_rebuild_tensor_v2"), (Storage(kind, key, elements), offset, shape, strides, False, ordered())))
    pickler.write(b"u")
    pickler.write(b"}")
    pickler.save("_metadata")
    pickler.save(ordered())
    pickler.write(b"sb.")
    pickler.framer.end_framing() if protocol >= 4 else None
    return out.getvalue()


def archive(tensors, storages, **kinds):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("m/data.pkl", state_dict(tensors, **kinds))
        file.writestr("m/byteorder", "little")
        for key, data in storages.items():
            file.writestr(f"m/data/{key}", data)
        file.writestr("m/version", "3\n")
    return out.getvalue()


def message(*fields):
    """A protobuf message: (number, bytes | int | float)."""
    out = b""
    for number, value in fields:
        kind = 2 if isinstance(value, bytes) else 5 if isinstance(value, float) else 0
        out += bytes([number << 3 | kind]) + (bytes([len(value)]) + value if kind == 2 else struct.pack("<f", value) if kind == 5 else bytes([value]))
    return out


TENSORS = [("a", "FloatStorage", "0", 6, 0, (2, 3), (3, 1)), ("t", "FloatStorage", "0", 6, 0, (3, 2), (1, 3)),
           ("h", "HalfStorage", "1", 4, 1, (3,), (1,)), ("b", "BFloat16Storage", "2", 1, 0, (), ()), ("e", "LongStorage", "3", 0, 0, (0,), (1,))]
STORAGES = {"0": bytes(24), "1": bytes(8), "2": bytes(2), "3": b""}
LLAMA = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 8, "intermediate_size": 48, "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "initializer_range": 0.02,
         "rope_theta": 10000.0, "rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "attention_bias": False,
         "mlp_bias": False, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32", "sink": {"kind": "token", "count": 1, "token_ids": [1]}}
LLAMA3 = LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}, "rope_parameters": None}
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
NEOX = SMALL | {"model_type": "gpt_neox", "hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True, "attention_bias": True,
                "layer_norm_eps": 1e-5, "max_position_embeddings": 128, "tie_word_embeddings": False}
MPT = {"model_type": "mpt", "vocab_size": 64, "d_model": 36, "n_heads": 6, "n_layers": 2, "expansion_ratio": 4, "max_seq_len": 128, "no_bias": True, "layer_norm_epsilon": 1e-5,
       "learned_pos_emb": False, "attn_config": {"attn_type": "multihead_attention", "alibi": True, "alibi_bias_max": 8, "clip_qkv": None, "softmax_scale": None, "qk_ln": False}}
FALCON = {"model_type": "falcon", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2, "ffn_hidden_size": 128, "activation": "gelu",
          "alibi": False, "bias": False, "multi_query": False, "parallel_attn": True, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 2, "layer_norm_epsilon": 1e-5}



def byte_level(pre_tokenizer, **more):
    """A byte-level BPE of few merges over the GPT-2 alphabet."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) if b in plain else None for b in range(256)]
    spare = iter(range(256, 512))
    letters = [letter or chr(next(spare)) for letter in letters]
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], [letters[32], "w"], ["a", "a"]]
    tokens = letters + ["".join(pair) for pair in merges]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": False, "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return tokenizer({"type": "NFC"}, pre_tokenizer, decoder, model, len(tokens), **more)


def tokenizer(normalizer, pre_tokenizer, decoder, model, size, post_processor=None):
    added = [{"id": size, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]
    text = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor, "decoder": decoder, "model": model}
    return json.dumps(text, ensure_ascii=False, separators=(",", ":")).encode()


def sentencepiece_style():
    """Llama 2's: byte fallback, spaces as U+2581."""
    tokens = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "h", "e", "l", "o", "he", "ll", "\u2581he"]
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": {token: i for i, token in enumerate(tokens)},
             "merges": ["h e", "l l", "\u2581 he"]}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    decoder = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [len(tokens)], "tokens": ["<s>"]}}}
    return tokenizer(normalizer, None, decoder, model, len(tokens), template)


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
CUT = {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"}, "behavior": "Isolated", "invert": False}
FALCON_CUTS = {"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Contiguous"}, BYTES, {"type": "Digits", "individual_digits": False},
                                                     {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False}]}

SEEDS = {
    "tokenizer_json": [byte_level(BYTES), byte_level({"type": "Sequence", "pretokenizers": [CUT, BYTES | {"use_regex": False}]}), byte_level(FALCON_CUTS), sentencepiece_style()],
    "safetensors": [
        safetensors({"__metadata__": {"format": "pt"}, "a": entry("F32", [1, 2], 0, 8), "b": entry("BF16", [1], 8, 10)}, bytes(10)),
        safetensors({"s": entry("F32", [], 0, 4), "e": entry("F16", [0, 3], 4, 4), "q": entry("F4", [2], 4, 5)}, bytes(5)),
        safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
        safetensors({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, bytes(8)), struct.pack("<Q", 100_000_001) + b"{}", safetensors({})],
    "dataset_index": [dataset_index([4, 2, 6], [0, 1, 2, 3]), dataset_index([4, 0, 6], [0, 2, 2, 3], 4, 4), dataset_index([], [0]), dataset_index([3], [0, 1], 5, 8), dataset_index([4, 2, 6], [0, 10**9, 2, 3]),
                      dataset_index([3], [0, 1]) + b"\0"],
    "torch_pickle": [state_dict(TENSORS), state_dict(TENSORS, 4), b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.", b"\x80\x02}(X\x01\0\0\0aK\x01X\x01\0\0\0b]N\x88\x89ae0u."],
    "torch_file": [archive(TENSORS, STORAGES), archive(TENSORS[:1], {"0": bytes(24)}, protocol=4), archive([], {})],
    "weight_index": [json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "../b.safetensors"}}).encode(),
                     b'{"weight_map":{"a":"model.safetensors.index.json"}}'],
    "sentencepiece_model": [message((1, message((1, b"<unk>"), (2, 0.0), (3, 2))), (1, message((1, b"<0x41>"), (3, 6))), (1, message((1, b"he"), (2, -1.0))),
                                    (2, message((3, 2))), (3, message((2, b"\0\0\0\0"), (3, 0), (4, 0))))],
    "config": [json.dumps(c).encode() for c in (LLAMA, LLAMA3, LLAMA3 | {"model_type": "mistral", "sliding_window": 4096}, LLAMA | {"model_type": "qwen2", "use_sliding_window": False},
                                                LLAMA | {"model_type": "basin_llama", "partial_rotary_factor": 0.5, "sink": {"kind": "logit"}}, NEOX, MPT, FALCON,
                                                FALCON | {"new_decoder_architecture": False, "multi_query": True}, FALCON | {"new_decoder_architecture": False, "alibi": True, "bias": True, "parallel_attn": False})],
}


def corpus(target):
    return pathlib.Path(__file__).parent / "corpus" / f"{target}.xz"


def unpack(target):
    inputs, at = [], 0
    packed = lzma.decompress(corpus(target).read_bytes()) if corpus(target).exists() else b""
    while at < len(packed):
        size, = struct.unpack_from("<I", packed, at)
        inputs.append(packed[at + 4:at + 4 + size])
        at += 4 + size
    return inputs


def pack(folder, target):
    inputs = sorted((path.read_bytes() for path in pathlib.Path(folder).iterdir()), key=lambda one: (len(one), one))
    corpus(target).parent.mkdir(exist_ok=True)
    corpus(target).write_bytes(lzma.compress(b"".join(struct.pack("<I", len(one)) + one for one in inputs), preset=9))


def write(folder, target):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for number, one in enumerate([*SEEDS[target], *unpack(target)]):
        (pathlib.Path(folder) / f"{number:05}").write_bytes(one)


if sys.argv[1] == "--pack":
    pack(*sys.argv[2:])
else:
    write(*sys.argv[1:])
