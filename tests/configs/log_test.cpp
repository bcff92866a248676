#include "configs/log.h"

#include <gmock/gmock.h>

#include "tests/support/logged.h"

namespace basin {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Log, SaysWhatItIsGivenEvenWhereThatLooksLikeAFormat) {
  const std::string said = logged_by([] { log_warn("{}: {} left out", "books{0}/{x}", 3); });
  EXPECT_THAT(said, HasSubstr("books{0}/{x}: 3 left out"));
  EXPECT_THAT(said, HasSubstr("warning"));
}

TEST(Log, OnlyErrorsAreSaidWhileItIsQuiet) {
  const std::string said = logged_by([] {
    {
      const QuietLog quiet;
      log_info("an info");
      log_warn("a warning");
      log_error("an error");
    }
    log_info("louder again");
  });
  EXPECT_THAT(said, Not(HasSubstr("an info")));
  EXPECT_THAT(said, Not(HasSubstr("a warning")));
  EXPECT_THAT(said, HasSubstr("an error"));
  EXPECT_THAT(said, HasSubstr("louder again"));
}

}  // namespace
}  // namespace basin
