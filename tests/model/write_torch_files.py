"""Directories with pytorch_model.bin as torch.save writes it, beside each a safetensors file of what torch.load gives back: write_torch_files.py FOLDER"""
import collections, json, os, pathlib, sys

import torch
from safetensors.torch import save_file

root = pathlib.Path(sys.argv[1])
torch.manual_seed(1)


def tensors():
    w = torch.randn(7, 5)
    storage = torch.randn(40)
    made = collections.OrderedDict(weight=w, transposed=w.t(), tied=w, slice=w[1:4, ::2], offset=storage[3:23].view(4, 5), strided=storage[1::3],
                                   expanded=torch.randn(3, 1).expand(3, 4), permuted=torch.randn(2, 3, 4).permute(2, 0, 1), scalar=torch.tensor(1.5),
                                   empty=torch.empty(0, 3), parameter=torch.nn.Parameter(torch.randn(3)), large=torch.randn(300, 300))
    made["name with ünïcode / and \"quotes\""] = torch.ones(1)
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        made[f"as.{dtype}"] = (torch.randn(4, 3) * 50).abs().to(dtype)
        made[f"as.{dtype}.t"] = made[f"as.{dtype}"].t()
    made["as.bool"] = torch.tensor([True, False, True])
    return made


def put(name, shards, **how):
    """shards: {file: tensors}; with an index when there are several."""
    folder = root / name
    folder.mkdir(parents=True)
    for file, content in shards.items():
        torch.save(content, folder / file, **how)
    if len(shards) > 1:
        weight_map = {tensor: file for file, content in shards.items() for tensor in content}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    if how.get("_use_new_zipfile_serialization", True):
        read = {key: value for file in shards for key, value in torch.load(folder / file, weights_only="pickle_protocol" not in how).items()}
        save_file({key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in read.items()}, folder / "expected.safetensors")


everything = tensors()
put("single", {"pytorch_model.bin": everything})
put("dict", {"pytorch_model.bin": dict(everything)})
put("protocol-4", {"pytorch_model.bin": everything}, pickle_protocol=4)
put("module", {"pytorch_model.bin": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LSTM(3, 5), torch.nn.BatchNorm1d(4)).half().state_dict()})
names = list(everything)
put("sharded", {f"pytorch_model-0000{i + 1}-of-00003.bin": {name: everything[name] for name in names[i::3]} for i in range(3)})
put("old", {"pytorch_model.bin": everything}, _use_new_zipfile_serialization=False)


class Harm:
    def __reduce__(self):
        return os.system, (f"touch '{root}/was-here'",)


(root / "harm").mkdir()
torch.save({"weight": torch.ones(2), "more": Harm()}, root / "harm/pytorch_model.bin")
(root / "float8").mkdir()
torch.save({"weight": torch.ones(2).to(torch.float8_e4m3fn)}, root / "float8/pytorch_model.bin")
