// What PyTorch itself saves reads here as it reads there.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cstdlib>

#include "configs/scratch_folder.h"
#include "model/safetensors.h"
#include "model/weight_files.h"
#include "tests/support/clients.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string refusal(const fs::path& directory) {
  try {
    WeightFiles files(directory);
    return "";
  } catch (const std::runtime_error& e) {
    return e.what();
  }
}

TEST(TorchFileClient, ReadsWhatTorchLoadReads) {
  const std::string python = python_of("clients");
  // tests/run.sh --clients installs it.
  if (python.empty())
    GTEST_SKIP() << "no PyTorch: 'bash configs/setup.sh --clients' installs it";
  const ScratchFolder directory;
  const fs::path root = directory.path() / "files";
  ASSERT_EQ(std::system(script_line(python, "model/write_torch_files.py", "'" + root.string() + "'")
                            .c_str()),
            0);
  for (const auto& [name, tensors] : {std::pair("single", 30u),
                                      {"dict", 30u},
                                      {"protocol-4", 30u},
                                      {"module", 11u},
                                      {"sharded", 30u}}) {
    const WeightFiles ours(root / name);
    const SafetensorsFile theirs(root / name / "expected.safetensors");
    EXPECT_EQ(ours.names().size(), tensors) << name;
    EXPECT_EQ(theirs.entries().size(), tensors) << name;
    for (const auto& [tensor, entry] : theirs.entries()) {
      ASSERT_TRUE(ours.has(tensor)) << name << ' ' << tensor;
      const at::Tensor a = ours.read(tensor), b = theirs.read(tensor);
      EXPECT_EQ(a.scalar_type(), b.scalar_type()) << name << ' ' << tensor;
      EXPECT_TRUE(at::equal(a, b)) << name << ' ' << tensor;
    }
  }
  EXPECT_TRUE(WeightFiles(root / "single").equal("weight", "tied"));
  EXPECT_THAT(refusal(root / "old"), HasSubstr("torch.save before PyTorch 1.6"));
  EXPECT_THAT(refusal(root / "harm"), HasSubstr(".system: only tensors are read, no code is run"));
  EXPECT_FALSE(fs::exists(root / "was-here"));
  EXPECT_THAT(refusal(root / "float8"), HasSubstr("asks for torch._utils._rebuild_tensor_v3"));
}

}  // namespace
}  // namespace basin
