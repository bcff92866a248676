#include "infer/model_card.h"

#include <fmt/core.h>

#include <cmath>
#include <vector>

#include "configs/files.h"
#include "data/indexed_dataset.h"
#include "infer/run_facts.h"
#include "model/cost.h"
#include "model/families/config_writer.h"
#include "model/transformer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

/// "12 345 678"
std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<size_t>(at), " ");
  return digits;
}

std::string front_matter(const ModelConfig& config) {
  std::string text = "---\n";
  if (loads_elsewhere(config)) text += "library_name: transformers\n";
  text += "pipeline_tag: text-generation\ntags:\n- basin\n";
  if (config.sink.kind != SinkKind::kNone) text += "- attention-sink\n- streaming\n";
  return text + "---\n\n";
}

std::string sink_section(const LoadedModel& model, const RunFacts& facts) {
  const SinkConfig& sink = model.model->config().sink;
  switch (sink.kind) {
    case SinkKind::kNone:
      return "No sink token: texts begin with their own first token, and nothing is prepended "
             "beyond what the tokenizer's own files say.\n";
    case SinkKind::kZero:
      return "Sink `zero`: the softmax of attention has 1 added to its denominator (SoftMax1). No "
             "other software computes this, so `model_type` is one that it does not know: only "
             "Basin reads this directory.\n";
    case SinkKind::kLogit:
      return "Sink `logit`: the softmax of attention has exp(s_h) added to its denominator, a "
             "learned s_h for each head. No other software computes this for this architecture, so "
             "`model_type` is one that it does not know: only Basin reads this directory.\n";
    case SinkKind::kToken:
      break;
  }
  std::string ids;
  for (const int64_t id : sink.ids()) {
    const bool named = model.tokenizer && id < model.tokenizer->vocab_size();
    ids += fmt::format("{}{}", ids.empty() ? "" : ", ", id);
    if (named) ids += fmt::format(" `{}`", model.tokenizer->piece(id));
  }
  std::string text = fmt::format(
      "Every training sample{} began with {} learned sink token{} (id{} {}). The tokenizer files "
      "prepend {}; keep {} in the cache when you stream ([StreamingLLM](https://arxiv.org/abs/"
      "2309.17453)), and evict the oldest of the others.\n",
      facts.value("train.init_from").empty() ? "" : " of the run described below",
      sink.count,
      sink.count == 1 ? "" : "s",
      sink.count == 1 ? "" : "s",
      ids,
      sink.count == 1 ? "it" : "them",
      sink.count == 1 ? "it" : "them");
  if (sink.count > 1)
    text +=
        "\nReaders that know one BOS token only (llama.cpp) prepend the first sink alone: spell "
        "the others in the prompt.\n";
  return text;
}

/// The last name of a model's directory, of a run's step with the run's.
std::string model_name(const fs::path& directory) {
  const fs::path path = without_slash(directory), name = path.filename();
  const bool is_step = name == "final" || !named_step(path).empty();
  return (is_step ? path.parent_path().filename() / name : name).string();
}

std::string data_section(const RunFacts& facts) {
  const std::vector<std::string> datasets = facts.datasets();
  if (datasets.empty())
    return "Not known: the directory that this was exported from has no training run around it.\n";
  std::string text;
  if (const std::string from = facts.value("train.init_from"); !from.empty())
    text += fmt::format("Started from the weights of `{}`, whose own training comes on top. ",
                        model_name(from));
  if (facts.tokens > 0)
    text += fmt::format("Trained on {} tokens", grouped(std::llround(facts.tokens)));
  else
    text += "Trained on a number of tokens that is not known (no metrics.jsonl)";
  text += " drawn from:\n\n";
  for (const std::string& path : datasets) {
    text += fmt::format("- `{}`", fs::path(path).filename().string());
    try {
      const IndexedDataset dataset(path);
      text += fmt::format(": {} tokens in {} documents",
                          grouped(dataset.num_tokens()),
                          grouped(dataset.num_documents()));
    } catch (const std::exception&) {  // moved or damaged since
      text += " (its size is not known: it is no longer where the run found it)";
    }
    text += "\n";
  }
  return text;
}

std::string config_section(const LoadedModel& model, const RunFacts& facts) {
  const ModelConfig& config = model.model->config();
  std::string text = "| | |\n|---|---:|\n";
  const auto row = [&](const char* name, const std::string& value) {
    if (!value.empty()) text += fmt::format("| {} | {} |\n", name, value);
  };
  row("architecture", std::string(enum_name(config.model_type)));
  row("parameters", grouped(count_parameters(config)));
  row("vocabulary", grouped(config.vocab_size));
  row("hidden size", grouped(config.hidden_size));
  row("layers", grouped(config.num_hidden_layers));
  row("query heads, key and value heads, head size",
      fmt::format("{}, {}, {}", config.heads(), config.kv_heads(), config.head_size()));
  row("MLP width", grouped(config.intermediate_size));
  row("tokens a training sample", model.trained_tokens > 0 ? grouped(model.trained_tokens) : "");
  row("step", facts.step >= 0 ? grouped(facts.step) : "");
  for (const auto& [name, key] : {std::pair("samples a step", "train.global_batch"),
                                  {"precision", "train.precision"},
                                  {"peak learning rate", "train.optimizer.lr"},
                                  {"schedule", "train.schedule.kind"},
                                  {"weight decay", "train.optimizer.weight_decay"},
                                  {"seed", "train.seed"}})
    row(name, facts.value(key));
  return text;
}

std::string loss_section(const RunFacts& facts) {
  if (!facts.loss && !facts.val_loss)
    return "Not known: there was no metrics.jsonl beside the model.\n";
  std::string text = "Nats per token:\n\n| | step | loss | perplexity |\n|---|---:|---:|---:|\n";
  const auto row = [&](const char* name, int64_t step, const std::optional<double>& loss) {
    if (loss)
      text += fmt::format("| {} | {} | {:.4f} | {:.2f} |\n", name, step, *loss, std::exp(*loss));
  };
  row("training, last logged", facts.loss_step, facts.loss);
  row("validation, in pieces as long as training's", facts.val_step, facts.val_loss);
  return text;
}

std::string streaming_section(const RunFacts& facts) {
  if (facts.tables.empty())
    return "Not measured: `basin evaluate RUN --dataset HELDOUT --sinks 0,1,2,4 --save` before the "
           "export puts the table here.\n";
  std::string text;
  for (const StreamTable& table : facts.tables) {
    text += fmt::format(
        "`{}`, a cache of {} entries{}, of which the first tokens of the stream keep theirs:\n\n"
        "| kept | scored tokens | nats a token | perplexity |\n|---:|---:|---:|---:|\n",
        table.source,
        table.cache,
        table.dtype == "float32" ? "" : ", " + table.dtype);
    for (const StreamRow& row : table.rows)
      text += fmt::format("| {} | {} | {:.4f} | {:.2f} |\n",
                          row.kept,
                          grouped(row.tokens),
                          row.nll,
                          row.perplexity);
    text += "\n";
  }
  text.pop_back();
  return text;
}

std::string use_section(const LoadedModel& model, const std::string& name) {
  const ModelConfig& config = model.model->config();
  const std::string ours =
      fmt::format("    basin generate {} --prompt \"Once upon a time\" --max-tokens 0\n", name);
  if (!loads_elsewhere(config))
    return fmt::format(
        "With Basin only: other software computes a `{0}` in another way, so `model_type` is "
        "`basin_{0}`, which it refuses.\n\n{1}",
        enum_name(config.model_type),
        ours);
  if (!model.tokenizer)
    return "There is no tokenizer in this directory: it reads and writes token ids.\n";
  return fmt::format(
      "With transformers:\n\n"
      "    from transformers import AutoModelForCausalLM, AutoTokenizer\n"
      "    tokenizer = AutoTokenizer.from_pretrained(\"{0}\")\n"
      "    model = AutoModelForCausalLM.from_pretrained(\"{0}\")\n"
      "    ids = tokenizer(\"Once upon a time\", return_tensors=\"pt\")\n"
      "    print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))\n\n"
      "With llama.cpp, {1}:\n\n"
      "    basin export {0} --format gguf --dtype q8_0 --out {0}.gguf\n"
      "    llama-server -m {0}.gguf --context-shift\n\n"
      "With Basin, for ever:\n\n{2}",
      name,
      config.sink.tokens() > 0
          ? "whose context shift keeps the BOS token, which is the sink, and needs no other setting"
          : "for architectures and tokenizers that it knows",
      ours);
}

}  // namespace

std::string model_card(const LoadedModel& model, const fs::path& target) {
  const RunFacts facts =
      read_run_facts(eval_directory(model.directory).parent_path(), step_of_model(model.directory));
  const fs::path own = model.directory / "README.md";
  if (!facts.has_config() && fs::exists(own)) return read_file(own);
  const std::string name = target.filename().string();
  const ModelConfig& config = model.model->config();
  return front_matter(config) +
         fmt::format("# {}\n\nA `{}` language model of {} parameters, exported by Basin.\n\n",
                     name,
                     enum_name(config.model_type),
                     grouped(count_parameters(config))) +
         "## Attention sink\n\n" + sink_section(model, facts) + "\n## Data\n\n" + data_section(facts) +
         "\n## Configuration\n\n" + config_section(model, facts) + "\n## Losses\n\n" +
         loss_section(facts) + "\n## Streaming perplexity\n\n" + streaming_section(facts) +
         "\n## Use\n\n" + use_section(model, name) +
         "\n## Licence\n\nNot stated: whoever publishes this knows under which terms its training "
         "text may be used.\n";
}

}  // namespace basin
