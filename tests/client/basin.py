"""Basin's programs as its users call them, and what the client tests of this folder share."""

import argparse
import pathlib
import struct
import subprocess
import tempfile
import time

import numpy


class Failed(Exception):
    """A program ended with another status than 0, or gave something else than it should."""


class Basin:
    def __init__(self, build):
        self.build = pathlib.Path(build)

    def call(self, program, *arguments):
        """Standard output; Failed with the error that the program named."""
        command = [str(self.build / program), *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()[-1:]
            raise Failed(f"{program} {arguments[0]} ended with {done.returncode}: {' '.join(said)}")
        return done.stdout

    def has_verb(self, verb):
        return any(line.split()[:1] == [verb] for line in self.call("basin", "--help").splitlines())

    def dense(self, model, ids, greedy, scratch):
        """Dense logits (N, V) in fp32, and the `greedy` likeliest ids that follow."""
        said = self.call("basin_model_tool", model, "--ids", write_ids(ids, scratch), "--logits", scratch / "logits.npy", "--greedy", greedy)
        return numpy.load(scratch / "logits.npy"), [int(id) for id in said.split()]

    def steps(self, model, ids, sinks, recent, scratch):
        """nll of ids[1:], one token a step: (2, N - 1), by Transformer::decode and by the decoder for single streams."""
        self.call("basin_model_tool", model, "--ids", write_ids(ids, scratch), "--steps", scratch / "steps.npy", "--sinks", sinks, "--recent", recent)
        return numpy.load(scratch / "steps.npy")

    def evaluate(self, model, dataset, scratch, *how):
        """nll per token, one row for each of the table."""
        self.call("basin", "evaluate", model, "--dataset", dataset, *how, "--per-token", scratch / "nll.npy", "--threads", 1, "--device", "cpu")
        return numpy.load(scratch / "nll.npy")


def write_ids(ids, scratch):
    path = scratch / "ids.txt"
    path.write_text(" ".join(map(str, ids)))
    return path


def write_dataset(ids, prefix):
    """One document in Megatron-LM's indexed format: PREFIX.bin and PREFIX.idx."""
    tokens = numpy.asarray(ids, dtype="<u2")
    prefix.with_suffix(".bin").write_bytes(tokens.tobytes())
    uint16, sequences, boundaries = 8, 1, 2
    prefix.with_suffix(".idx").write_bytes(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, uint16, sequences, boundaries) + struct.pack("<i", len(tokens))
                                           + struct.pack("<q", 0) + struct.pack("<qq", 0, 1))
    return prefix


def arguments_of(description, layouts):
    """The parser of a test: --build and --only."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Basin, default=Basin(pathlib.Path(__file__).resolve().parents[2] / "build"), dest="basin", help="where Basin's programs lie")
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(layouts), help="layouts, separated by commas")
    return parser


def run_checks(checks):
    """Runs all; the exit status. `checks`: (name, function of an empty folder, which returns what there is to say)."""
    failures = 0
    for name, check in checks:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                said = check(pathlib.Path(folder))
            except (Failed, AssertionError) as failure:
                failures += 1
                said = f"FAILED: {failure}"
        print(f"{name:<48} {said} ({time.perf_counter() - started:.1f} s)", flush=True)
    return min(failures, 1)
