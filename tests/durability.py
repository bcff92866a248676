#!/usr/bin/env python3
"""Kills training runs of two ranks at random moments and resumes them, until they have finished as if nothing had happened.

  python3 tests/durability.py [KILLS] [--program build/basin] [--seed S]      KILLS: 200

kill -9 hits one rank or all processes at once, during start-up, stepping and saving. Each run that finishes is compared with one
that nobody disturbed: weights and moments bit for bit, the rows of metrics.jsonl, the TensorBoard files. No checkpoint that was
reported as saved may be lost. The first difference ends it with 1, and the evidence stays.
"""
import argparse, collections, json, os, pathlib, random, re, shutil, signal, struct, subprocess, sys, tempfile, time

STEPS, EVERY, RANKS, VOCABULARY, FIRST_TOKEN = 240, 6, 2, 64, 6   # below the first token lie the ids that sinks use
TIMEOUT_S = 120


class Failure(Exception):
    pass


def write_dataset(prefix, tokens):
    """A Megatron-LM dataset of one document: the next token follows from the last one, sometimes disturbed."""
    chance, last, ids = random.Random(1), 0, []
    for _ in range(tokens):
        last = chance.randrange(VOCABULARY - FIRST_TOKEN) if chance.random() < 1 / 8 else (last * 5 + 3) % (VOCABULARY - FIRST_TOKEN)
        ids.append(last + FIRST_TOKEN)
    pathlib.Path(f"{prefix}.bin").write_bytes(struct.pack(f"<{tokens}H", *ids))
    pathlib.Path(f"{prefix}.idx").write_bytes(b"MMIDIDX\0\0" + struct.pack("<QBQQiqqq", 1, 8, 1, 2, tokens, 0, 0, 1))


def write_config(path, data):
    path.write_text(f"""
model: {{vocab_size: {VOCABULARY}, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}}
data: {{train: {data}, sequence_length: 16}}
train:
  steps: {STEPS}
  global_batch: 8
  device: cpu
  log_every: 1
  optimizer: {{lr: 0.01, min_lr: 0.001}}
  schedule: {{kind: cosine, warmup_steps: 20}}
  checkpoint: {{every: {EVERY}, keep_last: 2}}
""")


def children_of(pid):
    try:
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Training:
    """One started process of a run with its ranks."""

    def __init__(self, program, config, run, errors):
        self.run, self.errors = run, errors
        self.old = set(self.unfinished())   # what earlier kills left
        with open(errors, "wb") as stderr:
            self.process = subprocess.Popen([program, "train", str(config), "--set", f"run.dir={run}", "--nproc", str(RANKS)],
                                            stdout=subprocess.DEVNULL, stderr=stderr, env=dict(os.environ, BASIN_THREADS="1"))

    def unfinished(self):
        return [path.name for path in self.run.glob("step-*.tmp.*")]

    def phase(self):
        if set(self.unfinished()) - self.old:
            return "save"
        return "step" if "saved" in self.text() or re.search(r"step +\d+", self.text()) else "start-up"

    def wait_for_first_step(self):
        """However long the machine takes for it: a fixed delay would kill a busy one before it ever steps."""
        while self.process.poll() is None and self.phase() == "start-up":
            time.sleep(0.002)

    def text(self):
        return self.errors.read_text(errors="replace")

    def kill(self, everything):
        """SIGKILL for one rank or for all; returns what the run was doing, or None when it was over before."""
        ranks = children_of(self.process.pid)
        if not ranks:   # still before the ranks, or over
            if self.process.poll() is not None:
                return None
            everything = True
        phase = self.phase()
        for pid in [self.process.pid, *ranks] if everything else [random.choice(ranks)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        status = self.wait()
        deadline = time.time() + TIMEOUT_S
        while any(is_running(pid) for pid in ranks):
            if time.time() > deadline:
                raise Failure(f"ranks {ranks} outlived what was killed")
            time.sleep(0.01)
        return None if status == 0 else phase   # 0: it had just come to its end

    def wait(self):
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"no end within {TIMEOUT_S} s") from None

    def steps(self, pattern):
        return [int(step) for step in re.findall(pattern + r" \S*/step-(\d+)", self.text())]


CRC_TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    CRC_TABLE.append(byte)


def masked_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def check_events(path):
    """TFRecords with valid checksums; TensorBoard stops at a record that a kill has cut, so the last one may be."""
    data, at, records = path.read_bytes(), 0, 0
    while at + 12 <= len(data):
        length, crc = struct.unpack_from("<QI", data, at)
        end = at + 12 + length + 4
        if masked_crc32c(data[at:at + 8]) != crc:
            raise Failure(f"{path}: the length at byte {at} is damaged")
        if end > len(data):
            return
        if masked_crc32c(data[at + 12:end - 4]) != struct.unpack_from("<I", data, end - 4)[0]:
            raise Failure(f"{path}: the record at byte {at} is damaged")
        if records == 0 and b"brain.Event:2" not in data[at + 12:end]:
            raise Failure(f"{path}: does not begin with TensorBoard's version")
        at, records = end, records + 1


def compare(run, reference):
    """Raises Failure at the first difference of two finished runs."""
    for name in sorted(str(path.relative_to(reference / "final")) for path in (reference / "final").rglob("*.safetensors")):
        if (run / "final" / name).read_bytes() != (reference / "final" / name).read_bytes():
            sums = [json.loads((where / "final/manifest.json").read_text())["files"].get(name, {}).get("tensors", {}) for where in (run, reference)]
            other = [tensor for tensor in sums[1] if sums[0].get(tensor) != sums[1][tensor]]
            raise Failure(f"{run}/final/{name} differs from {reference}: tensors {' '.join(other[:5]) or '(none: header)'}")
    rows = [[json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()] for where in (run, reference)]
    steps = [row["step"] for row in rows[0]]
    if steps != list(range(1, STEPS + 1)):
        raise Failure(f"{run}/metrics.jsonl has the steps {steps}")
    for key in ("loss", "lr", "grad_norm"):
        if [row[key] for row in rows[0]] != [row[key] for row in rows[1]]:
            raise Failure(f"{run}/metrics.jsonl: {key} differs from {reference}")
    for path in run.glob("events.out.tfevents.*"):
        check_events(path)


def undisturbed(program, config, scratch):
    """A whole run: its directory, seconds up to the first row, seconds in all."""
    began = time.time()
    training = Training(program, config, scratch / "reference", scratch / "reference.err")
    training.wait_for_first_step()
    first_s = time.time() - began
    if training.wait() != 0:
        raise Failure(f"the undisturbed run failed:\n{training.text()}")
    return training.run, first_s, time.time() - began


def torture(arguments, scratch):
    write_dataset(scratch / "data", 20000)
    write_config(scratch / "run.yaml", scratch / "data")
    reference, start_s, whole_s = undisturbed(arguments.program, scratch / "run.yaml", scratch)
    print(f"an undisturbed run: {start_s:.1f} s to its first step, {whole_s:.1f} s in all; seed {arguments.seed}", flush=True)
    table, counts = collections.Counter(), collections.Counter()
    run, reported, began, shown = scratch / "run", 0, time.time(), 0
    while counts["kills"] < arguments.kills:
        training = Training(arguments.program, scratch / "run.yaml", run, scratch / "run.err")
        # A third of the kills goes to the start; of the rest some come too late, and the run finishes.
        if random.random() < 1 / 3:
            delay = random.uniform(0, start_s)
        else:
            training.wait_for_first_step()
            delay = random.uniform(0, 1.2 * (whole_s - start_s) * (STEPS - reported) / STEPS)
        everything = random.random() < 0.5
        try:
            training.process.wait(delay)
            phase = None
        except subprocess.TimeoutExpired:
            phase = training.kill(everything)
        counts["passed over"] += training.text().count("passing over damaged checkpoint")
        resumed = training.steps("resuming from")
        counts["resumes"] += bool(resumed)
        if phase != "start-up" and max(resumed, default=0) < reported:
            raise Failure(f"step {reported} had been reported as saved, but the run went on from {max(resumed, default=0)}")
        reported = max([reported, *training.steps("saved")])
        if phase:
            counts["kills"] += 1
            table["all processes" if everything else "one rank", phase] += 1
        elif training.process.returncode != 0:
            raise Failure(f"exit status {training.process.returncode} that no kill explains:\n{training.text()}")
        else:
            compare(run, reference)
            counts["finished"] += 1
            shutil.rmtree(run)
            reported = 0
        if time.time() - shown > 5:
            shown, done = time.time(), counts["kills"]
            left = (arguments.kills - done) * (shown - began) / max(1, done)
            print(f"{done} of {arguments.kills} kills, {counts['finished']} runs finished, about {left:.0f} s left", flush=True)
    while run.exists():   # the last one, too, has to come to its end
        training = Training(arguments.program, scratch / "run.yaml", run, scratch / "run.err")
        if training.wait() != 0:
            raise Failure(f"the last run could not go on:\n{training.text()}")
        counts["resumes"] += bool(training.steps("resuming from"))
        compare(run, reference)
        counts["finished"] += 1
        shutil.rmtree(run)
    return table, counts, time.time() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", nargs="?", type=int, default=200)
    parser.add_argument("--program", default="build/basin")
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    arguments.seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    random.seed(arguments.seed)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="basin-kills-"))
    try:
        table, counts, seconds = torture(arguments, scratch)
    except Failure as failure:
        print(f"durability: error: {failure}\nthe evidence is in {scratch}; seed {arguments.seed}", file=sys.stderr)
        return 1
    shutil.rmtree(scratch)
    phases = ("start-up", "step", "save")
    print(f"\n{'kill -9 of':14}" + "".join(f"{phase:>10}" for phase in phases))
    for hit in ("one rank", "all processes"):
        print(f"{hit:14}" + "".join(f"{table[hit, phase]:10}" for phase in phases))
    print(f"\n{counts['kills']} kills, {counts['resumes']} resumes, {counts['finished']} runs finished, all as the undisturbed one; "
          f"{counts['passed over']} checkpoints passed over; {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
