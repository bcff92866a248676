// Each case runs in a process of its own, because a pending signal stays pending.
#include "configs/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "configs/files.h"
#include "configs/scratch_folder.h"

namespace basin {
namespace {

TEST(SignalsDeathTest, NothingIsPendingAtFirst) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        check_interrupt();
        std::exit(pending_signal());
      },
      testing::ExitedWithCode(0),
      "");
}

TEST(SignalsDeathTest, TheFirstSignalIsRemembered) {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP})
    EXPECT_EXIT(
        {
          install_signal_handlers();
          raise(signal);
          try {
            check_interrupt();
          } catch (const Interrupted& stop) {
            std::fputs(stop.what(), stderr);
            std::exit(pending_signal());
          }
          std::exit(99);
        },
        testing::ExitedWithCode(signal),
        "interrupted");
}

TEST(SignalsDeathTest, AnEchoOfTheSameRequestIsIgnored) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        raise(SIGINT);
        raise(SIGTERM);
        raise(SIGINT);
        std::exit(pending_signal());
      },
      testing::ExitedWithCode(SIGINT),
      "");
}

TEST(SignalsDeathTest, ALaterSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        raise(SIGINT);
        usleep(1'010'000);
        raise(SIGTERM);
        std::exit(99);
      },
      testing::ExitedWithCode(128 + SIGTERM),
      "");
}

TEST(SignalsDeathTest, ATerminalThatGoesAsksOnceHoweverOftenItSaysSo) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        raise(SIGHUP);
        usleep(1'010'000);
        raise(SIGHUP);
        std::exit(pending_signal());
      },
      testing::ExitedWithCode(SIGHUP),
      "");
}

TEST(SignalsDeathTest, NohupStaysInForce) {
  EXPECT_EXIT(
      {
        signal(SIGHUP, SIG_IGN);
        install_signal_handlers();
        raise(SIGHUP);
        std::exit(pending_signal());
      },
      testing::ExitedWithCode(0),
      "");
}

TEST(SignalsDeathTest, AMappedFileThatIsCutShortIsSaid) {
  const ScratchFolder folder;
  const std::filesystem::path path = folder.path() / "tokens.bin";
  EXPECT_EXIT(
      {
        install_signal_handlers();
        write_file(path, std::string(10'000, 'x'));
        const MappedFile map(path);
        std::filesystem::resize_file(path, 100);
        std::exit(static_cast<int>(map.data()[9000]));
      },
      testing::ExitedWithCode(1),
      "error: bus error: a mapped file");
}

TEST(SignalsDeathTest, BlockingCallsReturn) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        int ends[2];
        if (pipe(ends) != 0) std::exit(98);
        const pid_t parent = getpid();
        if (fork() == 0) {
          usleep(100'000);
          kill(parent, SIGINT);
          _exit(0);
        }
        char byte;
        const ssize_t got = read(ends[0], &byte, 1);
        std::exit(got == -1 && errno == EINTR ? pending_signal() : 97);
      },
      testing::ExitedWithCode(SIGINT),
      "");
}

}  // namespace
}  // namespace basin
