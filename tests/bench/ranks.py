#!/usr/bin/env python3
"""What several ranks cost and gain on this machine.

  ranks.py scaling   tokens/s of 2 ranks with a thread each against 1 rank with 2, at 1, 10 and 60 million parameters
  ranks.py nodes     two "nodes" (network namespaces, a core each) over links of limited rate, and with a delay: what overlapping the
                     reduction with backward hides, and what adding up inside a node first saves. Needs root and iproute2.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

BASIN = "build/basin"
DATA = "runs/demo/data/demo"
COMMON = {
    "data.train": DATA + "_train", "data.heldout": '""', "data.sequence_length": 256, "train.schedule.warmup_steps": 0,
    "train.validation.every": 0, "train.checkpoint.every": 0, "train.sink_metric_every": 0, "train.log_every": 1, "train.precision": "bf16",
}
SHAPES = {  # name: hidden, layers, heads, MLP, samples a step, steps
    "1 M": (128, 4, 4, 384, 32, 24),
    "10 M": (320, 7, 5, 864, 16, 8),
    "60 M": (640, 12, 10, 1728, 8, 4),
}


def settings(shape):
    hidden, layers, heads, mlp, batch, steps = SHAPES[shape]
    return COMMON | {"model.hidden_size": hidden, "model.num_hidden_layers": layers, "model.num_attention_heads": heads,
                     "model.intermediate_size": mlp, "train.global_batch": batch, "train.steps": steps}


def command(values, *more):
    sets = [f"--set={key}={value}" for key, value in values.items()]
    return [BASIN, "train", "configs/demo.yaml", *sets, *more]


def rows(directory):
    with open(os.path.join(directory, "metrics.jsonl"), encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return found[len(found) // 3:]  # the first steps allocate


def summary(directory):
    found = rows(directory)
    waiting = [row.get("communication", 0) for row in found]
    return statistics.median(row["tokens_per_second"] for row in found), statistics.median(waiting), found[-1]["loss"]


def check_losses(losses, what):
    if max(losses) - min(losses) > 1e-3 * min(losses):
        sys.exit(f"ranks: error: {what}: the runs did not compute the same: last losses {losses}")


def run(values, scratch, name, ranks, threads):
    directory = os.path.join(scratch, name)
    shutil.rmtree(directory, ignore_errors=True)
    environment = os.environ | {"BASIN_THREADS": str(threads)}
    done = subprocess.run(command(values | {"run.dir": directory}, "--nproc", str(ranks)), env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"ranks: error: {' '.join(done.args)}\n{done.stderr[-2000:]}")
    result = summary(directory)
    shutil.rmtree(directory)
    return result


def scaling(scratch):
    variants = {"1 rank x 2 threads": (1, 2, {}), "2 ranks x 1 thread": (2, 1, {}),
                "2 ranks, sharded": (2, 1, {"train.distributed.shard_optimizer": "true"})}
    print("| parameters | " + " | ".join(f"{name}, tokens/s" for name in variants) + " | ratio | waiting | sharded: ratio | waiting |")
    print("|---|" + "---:|" * (len(variants) + 4))
    for shape in SHAPES:
        results = {name: [] for name in variants}
        for _ in range(3):  # in turn
            for name, (ranks, threads, more) in variants.items():
                results[name].append(run(settings(shape) | more, scratch, "run", ranks, threads))
        check_losses([r[2] for found in results.values() for r in found], shape)
        speed = {name: statistics.median(r[0] for r in found) for name, found in results.items()}
        waiting = {name: statistics.median(r[1] for r in found) for name, found in results.items()}
        one, two, sharded = variants
        cells = [f"{speed[name]:.0f}" for name in variants]
        for name in (two, sharded):
            cells += [f"{speed[name] / speed[one]:.2f}", f"{100 * waiting[name]:.0f} %"]
        print(f"| {shape} | " + " | ".join(cells) + " |", flush=True)


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


class Nodes:
    """Two network namespaces and a link between them: a veth pair, or one with a delay (delayed_link.py)."""
    names = ("basin-a", "basin-b")

    def __enter__(self):
        self.delayed = None
        self.__exit__()
        for name in self.names:
            if (made := ip("netns", "add", name)).returncode != 0:
                sys.exit(f"ranks: error: ip netns add: {made.stderr.strip()}: 'nodes' needs root and iproute2")
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "bveth0", "netns", self.names[0], "type", "veth", "peer", "name", "bveth1", "netns", self.names[1])
        for i, name in enumerate(self.names):
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", f"bveth{i}")
            ip("-n", name, "link", "set", f"bveth{i}", "up")
        return self

    def __exit__(self, *_):
        self.end_delay()
        for name in self.names:
            ip("netns", "del", name)

    def end_delay(self):
        if self.delayed:
            self.delayed.kill()
            self.delayed.wait()
        self.delayed = None

    def connect(self, mbit, delay_ms):
        """The link's rate in both directions (0: as fast as it goes) and the time that a packet takes to the other node."""
        self.end_delay()
        self.device, self.address = ("blink", "10.78.0.1") if delay_ms else ("bveth", "10.77.0.1")
        if delay_ms:
            words = [sys.executable, os.path.join(os.path.dirname(__file__), "delayed_link.py"), *self.names, str(mbit), str(delay_ms)]
            self.delayed = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            if self.delayed.stdout.readline() != "ready\n":
                sys.exit("ranks: error: the delayed link did not come up, see above: it needs root and /dev/net/tun")
            return
        for i, name in enumerate(self.names):
            tc = ["ip", "netns", "exec", name, "tc", "qdisc"]
            device = ["dev", f"bveth{i}"]
            subprocess.run([*tc, "del", *device, "root"], capture_output=True)
            tbf = [*tc, "add", *device, "root", "tbf", "rate", f"{mbit}mbit", "burst", "1mb", "latency", "100ms"]
            if mbit and (made := subprocess.run(tbf, capture_output=True, text=True)).returncode != 0:
                sys.exit(f"ranks: error: {made.stderr.strip()}: this kernel cannot limit a link's rate")

    def run(self, values, scratch, local):
        """`local` ranks a node."""
        directory = os.path.join(scratch, "run")
        shutil.rmtree(directory, ignore_errors=True)
        started = []
        for rank in range(2 * local):
            node = rank // local
            environment = os.environ | {
                "RANK": str(rank), "WORLD_SIZE": str(2 * local), "LOCAL_RANK": str(rank % local), "LOCAL_WORLD_SIZE": str(local),
                "MASTER_ADDR": self.address, "MASTER_PORT": "29511", "GLOO_SOCKET_IFNAME": f"{self.device}{node}", "BASIN_THREADS": "1"}
            words = ["ip", "netns", "exec", self.names[node], "taskset", "-c", str(node), *command(values | {"run.dir": directory})]
            started.append(subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate()[1] for process in started]
        if any(process.returncode != 0 for process in started):
            sys.exit("ranks: error: a run between nodes failed\n" + "\n".join(error[-1000:] for error in errors))
        return summary(directory)


def compare(pair, values, variants, scratch, local):
    """Speed and share of waiting of each variant, medians of three rounds in turn."""
    results = {name: [] for name in variants}
    for _ in range(3):
        for name, more in variants.items():
            results[name].append(pair.run(values | more, scratch, local))
    check_losses([r[2] for found in results.values() for r in found], "nodes")
    return [(statistics.median(r[0] for r in found), statistics.median(r[1] for r in found)) for found in results.values()]


def nodes(scratch):
    values = settings("10 M") | {"train.global_batch": 8, "train.steps": 9}
    studies = {
        1: {"buckets of 4 MiB, sent during backward": {"train.distributed.bucket_mib": 4},
            "all at the end of backward": {"train.distributed.bucket_mib": 65536}},
        2: {"inside the node first": {"train.distributed.bucket_mib": 4},
            "one ring over all": {"train.distributed.bucket_mib": 4, "train.distributed.two_level": "false"}},
    }
    with Nodes() as pair:
        for local, variants in studies.items():
            print(f"\n| 2 nodes x {local} rank(s), link | " + " | ".join(f"{name}: tokens/s | waiting" for name in variants) + " | ratio |")
            print("|---|" + "---:|" * (2 * len(variants) + 1))
            for mbit, delay_ms in ((0, 0), (1000, 0), (500, 0), (1000, 5), (1000, 20)):
                pair.connect(mbit, delay_ms)
                found = compare(pair, values, variants, scratch, local)
                link = f"{mbit} Mbit/s" + (f", {delay_ms} ms away" if delay_ms else "") if mbit else "not limited"
                cells = [f"{speed:.0f} | {100 * waiting:.0f} %" for speed, waiting in found]
                print(f"| {link} | " + " | ".join(cells) + f" | {found[0][0] / found[1][0]:.2f} |", flush=True)


def main():
    wanted = sys.argv[1:]
    if wanted not in (["scaling"], ["nodes"]):
        sys.exit(__doc__)
    if not os.path.exists(DATA + "_train.bin"):
        sys.exit(f"ranks: error: {DATA}_train.bin is not there: run 'bash train/demo.sh' once, it prepares its text first")
    with tempfile.TemporaryDirectory() as scratch:
        {"scaling": scaling, "nodes": nodes}[wanted[0]](scratch)


if __name__ == "__main__":
    main()
