"""Zero-shot tasks through lm-eval's hf backend and through `basin evaluate --tasks`: the same numbers, for the vanilla and the sink model of
tests/golden. lm-eval gets nothing but the checkpoint and two task files like its own piqa.yaml and lambada_openai.yaml.

  .deps/clients/bin/python tests/client/zero_shot.py PROGRAM
"""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
               "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
golden = pathlib.Path(__file__).parent.parent / "golden"

PIQA = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: "{file}"}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "Question: {{{{goal}}}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{{{[sol1, sol2]}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_bytes, aggregation: mean, higher_is_better: true}}
"""
BARE = PIQA.replace("Question: {{{{goal}}}}\\nAnswer:", "{{{{context}}}}").replace("target: label", "target: answer").replace("[sol1, sol2]", "choices") + "target_delimiter: \"\"\n"
LAMBADA = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' '+text.split(' ')[-1]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""

WHO = ["The people of the", "The Congress of the", "The farmers and workers of the", "Every citizen of the", "The señores of the"]
WHERE = ["United States", "United Nations", "old world", "western States", "river towns near Zürich"]
DID = ["have asked for peace", "will keep their faith in the law", "have built a new government", "must pay for the war", "may trust the courts"]
TAILS = [" and for the good of the country.", " in the interest of the public service.", ", naïve as it seems.", " for the welfare of our own people.",
         " – so be it."]


def lambada_docs():
    """Texts whose last word is now easy, now hard, now of several tokens."""
    for i, who in enumerate(WHO):
        for j, where in enumerate(WHERE):
            yield {"text": f"{who} {where} {DID[(i + j) % 5]}{TAILS[(i * j + 1) % 5]}".rsplit(".", 1)[0]}
            yield {"text": f"It is the duty of {who.lower()}  {where}"}


def long_docs():
    """More than the 128 tokens that the models were trained on: lm-eval leaves out the beginning, and a sink with it."""
    for who in WHO:
        yield {"text": " ".join(f"{who} {where} {did}{tail}" for where, did, tail in zip(WHERE, DID, TAILS)) + " The United States"}


def piqa_docs():
    for i, who in enumerate(WHO):
        for j, where in enumerate(WHERE):
            goal = f"What have {who.lower()} {where} done" + ("?" if j else " ?\n")
            sols = [DID[(i + j) % 5] + TAILS[j], DID[(2 * i + j + 1) % 5] + (" — très bien, déjà vu." if i % 2 else TAILS[i])]
            yield {"goal": goal, "sol1": sols[0], "sol2": sols[1], "label": (i * j) % 2}


def bare_docs():
    """Nothing in front of the choices: a vanilla model gets what ends a text there, a sink model its sink."""
    for i, who in enumerate(WHO):
        yield {"context": "", "choices": [f" {who}", f" {DID[i]}", f" {WHERE[i]}"], "answer": i % 3}


def write(folder, name, docs, yaml):
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(doc, ensure_ascii=i % 2 == 0) + "\n" for i, doc in enumerate(docs)), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(yaml.format(name=name, file=file))
    return file


def theirs(model, tasks, folder):
    import lm_eval
    from lm_eval.tasks import TaskManager
    with contextlib.redirect_stdout(sys.stderr):
        return lm_eval.simple_evaluate(model="hf", model_args=f"pretrained={model},dtype=float32", tasks=tasks, device="cpu",
                                       batch_size=8, bootstrap_iters=1000, task_manager=TaskManager(include_path=str(folder), include_defaults=False))


def ours(program, model, files, folder):
    each = folder / "each.jsonl"
    out = subprocess.run([program, "evaluate", model, "--tasks", *files, "--json", "--threads", "1", "--per-example", each], check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    lines = [json.loads(line) for line in each.read_text().splitlines()]
    return {task["name"]: task for task in json.loads(out)["tasks"]}, lines


def close(name, a, b, relative=1e-3):
    assert abs(a - b) <= relative * max(abs(a), abs(b), 1e-12), f"{name}: lm-eval {a}, basin {b}"


def compare(program, model, files, folder):
    them, (us, each) = theirs(model, [file.stem for file in files], folder), ours(program, model, files, folder)
    for task, mine in us.items():
        result, samples = them["results"][task], them["samples"][task]
        assert mine["examples"] == len(samples)
        for metric in ("acc", "acc_norm", "acc_bytes", "perplexity"):
            assert (f"{metric},none" in result) == (metric in mine), (task, metric)
            if metric not in mine:
                continue
            close(f"{model.name} {task} {metric}", result[f"{metric},none"], mine[metric])
            if metric != "perplexity":  # whose error lm-eval draws
                close(f"{model.name} {task} {metric} stderr", result[f"{metric}_stderr,none"], mine[f"{metric}_stderr"])
        for sample, line in zip(sorted(samples, key=lambda s: s["doc_id"]), (line for line in each if line["task"] == task), strict=True):
            likelihoods = line["log_likelihoods"] if "log_likelihoods" in line else [line["log_likelihood"]]
            for (likelihood, greedy), own in zip(sample["filtered_resps"], likelihoods, strict=True):
                close(f"{model.name} {task} line {line['line']}", likelihood, own)
            assert sample["acc"] == line["acc"], sample
        print(model.name, task, {key: round(mine[key], 4) for key in mine if key in ("examples", "truncated", "acc", "acc_norm", "acc_bytes", "perplexity")})
    return us


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ |= {"HF_HOME": f"{name}/hf", "HF_DATASETS_CACHE": f"{name}/datasets"}
        files = [write(folder, "piqa_style", piqa_docs(), PIQA), write(folder, "lambada_style", lambada_docs(), LAMBADA),
                 write(folder, "bare_style", bare_docs(), BARE)]
        long = write(folder, "too_long", long_docs(), LAMBADA)
        vanilla = compare(sys.argv[1], golden / "sink-effect-none", [*files, long], folder)
        sink = compare(sys.argv[1], golden / "sink-effect-sink", files, folder)
        # The comparison says something only where both outcomes occur and the models differ.
        assert 0 < sink["lambada_style"]["acc"] < 1 and vanilla["too_long"]["truncated"] == 5
        assert vanilla["lambada_style"]["perplexity"] != sink["lambada_style"]["perplexity"]


main()
