// SPDX-License-Identifier: Apache-2.0
//
// A server that sends a file as it is at one instant, however slowly a client reads and however often the
// file is rewritten meanwhile. A thread for each client.
//
//   example_serve FILE SOCKET    a client gets the length in decimal, a newline, and the bytes
//
// send(2) copies the bytes before it returns. Do not use MSG_ZEROCOPY, sendfile or vmsplice here: references
// to pages that the kernel keeps beyond the call are outside of what is promised.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <stillmap/snapshot.hpp>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

namespace {

// One instant cannot be had in the middle of somebody's write: then it is tried again.
stillmap::snapshot open_patiently(const char* path, std::error_code& ec) {
  using namespace std::chrono_literals;
  stillmap::snapshot file;
  for (auto pause = 1ms; pause < 500ms; pause *= 2) {
    file = stillmap::snapshot::open(path, {.require = stillmap::consistency::point_in_time}, ec);
    if (ec != stillmap::errc::busy_writer && ec != stillmap::errc::changing) break;
    std::this_thread::sleep_for(pause);
  }
  return file;
}

bool send_all(int client, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(client, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;  // the client has gone; EFAULT: the bytes were lost, and are never sent wrong
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

void serve(int client, const char* path) {
  std::error_code ec;
  if (const stillmap::snapshot file = open_patiently(path, ec)) {
    const std::string_view bytes(static_cast<const char*>(file.data()), file.size());
    if (!send_all(client, std::to_string(bytes.size()) + "\n") || !send_all(client, bytes))
      std::perror("send");
  } else {
    std::fprintf(stderr, "%s\n", still_message());  // this thread's last failure
  }
  close(client);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return std::fputs("usage: example_serve FILE SOCKET\n", stderr), 2;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (std::strlen(arguments[2]) >= sizeof address.sun_path)
    return std::fputs("SOCKET is too long\n", stderr), 2;
  std::strcpy(address.sun_path, arguments[2]);

  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 64) != 0)
    return std::perror(arguments[2]), 1;
  for (;;) {
    const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (client >= 0)
      std::thread(serve, client, arguments[1]).detach();
    else if (errno != EINTR && errno != ECONNABORTED)
      return std::perror("accept"), 1;
  }
}
