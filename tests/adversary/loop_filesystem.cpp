// SPDX-License-Identifier: Apache-2.0
//
// The server speaks the little of FUSE that a loop device needs of one file: look up, open, read, write,
// flush. It is a child without threads; reads that it is told to keep waiting are polled for, in order, and
// answered late.
#include "loop_filesystem.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "hostile_case.hpp"

namespace adversary {
namespace {

constexpr std::uint64_t image_bytes = 64 << 20;
constexpr std::uint64_t image_inode = 2;
constexpr std::size_t request_bytes_max = (1 << 20) + 4096;

fuse_attr attributes(std::uint64_t inode) {
  fuse_attr result = {};
  result.ino = inode;
  result.mode = inode == FUSE_ROOT_ID ? S_IFDIR | 0700 : S_IFREG | 0600;
  result.size = inode == FUSE_ROOT_ID ? 0 : image_bytes;
  result.blocks = result.size / 512;
  result.nlink = 1;
  result.blksize = 4096;
  return result;
}

void answer_fuse(int device, const fuse_in_header& to, int error, const void* body, std::size_t size) {
  fuse_out_header head = {};
  head.len = static_cast<std::uint32_t>(sizeof head + (error ? 0 : size));
  head.error = -error;
  head.unique = to.unique;
  const iovec parts[2] = {{&head, sizeof head}, {const_cast<void*>(body), error ? 0 : size}};
  [[maybe_unused]] const ssize_t told = writev(device, parts, 2);
}

[[noreturn]] void serve_image(int device, int image, const std::atomic<bool>* hanging) {
  std::vector<char> in(request_bytes_max), out(request_bytes_max);
  for (;;) {
    const ssize_t got = read(device, in.data(), in.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT)) continue;
    if (got < static_cast<ssize_t>(sizeof(fuse_in_header))) _exit(0);  // unmounted
    fuse_in_header head;
    std::memcpy(&head, in.data(), sizeof head);
    const char* body = in.data() + sizeof head;
    switch (head.opcode) {
      case FUSE_INIT: {
        fuse_init_out result = {};
        result.major = FUSE_KERNEL_VERSION;
        result.minor = 31;
        result.max_write = 128 * 1024;
        result.max_readahead = 128 * 1024;
        answer_fuse(device, head, 0, &result, sizeof result);
        break;
      }
      case FUSE_LOOKUP: {
        fuse_entry_out result = {};
        result.nodeid = image_inode;
        result.attr = attributes(image_inode);
        result.attr_valid = result.entry_valid = 3600;
        answer_fuse(device, head, std::strcmp(body, "image") == 0 ? 0 : ENOENT, &result, sizeof result);
        break;
      }
      case FUSE_GETATTR:
      case FUSE_SETATTR: {
        fuse_attr_out result = {};
        result.attr = attributes(head.nodeid);
        result.attr_valid = 3600;
        answer_fuse(device, head, 0, &result, sizeof result);
        break;
      }
      case FUSE_OPEN: {
        const fuse_open_out result = {};
        answer_fuse(device, head, 0, &result, sizeof result);
        break;
      }
      case FUSE_READ: {
        while (hanging->load()) poll(nullptr, 0, 5);
        fuse_read_in ask;
        std::memcpy(&ask, body, sizeof ask);
        const ssize_t done = pread(image, out.data(), ask.size, static_cast<off_t>(ask.offset));
        answer_fuse(device, head, done < 0 ? EIO : 0, out.data(),
                    static_cast<std::size_t>(done < 0 ? 0 : done));
        break;
      }
      case FUSE_WRITE: {
        fuse_write_in ask;
        std::memcpy(&ask, body, sizeof ask);
        const ssize_t done = pwrite(image, body + sizeof ask, ask.size, static_cast<off_t>(ask.offset));
        fuse_write_out result = {};
        result.size = static_cast<std::uint32_t>(done < 0 ? 0 : done);
        answer_fuse(device, head, done < 0 ? EIO : 0, &result, sizeof result);
        break;
      }
      case FUSE_FLUSH:
      case FUSE_RELEASE:
      case FUSE_FSYNC:
        answer_fuse(device, head, 0, nullptr, 0);
        break;
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        break;  // these want no answer
      default:
        answer_fuse(device, head, ENOSYS, nullptr, 0);
    }
  }
}

int run_quietly(const std::string& command) {
  const int status = std::system((command + " >/dev/null 2>&1").c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

}  // namespace

loop_filesystem::loop_filesystem(bool can_hang) {
  const char* scratch = std::getenv("STILLMAP_TEST_SCRATCH");
  if (!scratch) skip_case("no scratch folder");
  image_ = std::string(scratch) + "/loop.img";
  folder_ = std::string(scratch) + "/loop";
  mkdir(folder_.c_str(), 0700);
  if (run_quietly("truncate -s 64M " + image_ + " && mkfs.ext4 -q -O ^has_journal " + image_) != 0) {
    skip_case("no mkfs.ext4");
  }
  std::string backing = image_;
  if (can_hang) {
    server_folder_ = std::string(scratch) + "/server";
    mkdir(server_folder_.c_str(), 0700);
    const int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    const std::string data =
        "fd=" + std::to_string(device) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
    if (device < 0 ||
        mount("image", server_folder_.c_str(), "fuse", MS_NOSUID | MS_NODEV, data.c_str()) != 0) {
      skip_case("no FUSE");
    }
    void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) skip_case("no shared memory");
    hanging_ = new (shared) std::atomic<bool>(false);
    server_ = fork();
    if (server_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      serve_image(device, open(image_.c_str(), O_RDWR | O_CLOEXEC), hanging_);
    }
    close(device);
    backing = server_folder_ + "/image";
  }
  if (run_quietly("mount -o loop " + backing + " " + folder_) != 0) skip_case("no loop device");
}

loop_filesystem::~loop_filesystem() {
  thaw();
  if (hanging_) *hanging_ = false;
  if (umount2(folder_.c_str(), MNT_DETACH) != 0) std::perror("umount of the loop file system");
  if (server_ > 0) {
    // The loop device is given back by the kernel a little later, and with it the last use of the image.
    for (int i = 0; i < 2000 && umount2(server_folder_.c_str(), 0) != 0 && errno == EBUSY; ++i)
      poll(nullptr, 0, 1);
    kill(server_, SIGKILL);
    waitpid(server_, nullptr, 0);
    rmdir(server_folder_.c_str());
  }
  unlink(image_.c_str());
  rmdir(folder_.c_str());
}

bool loop_filesystem::freeze() {
  const int fd = open(folder_.c_str(), O_RDONLY | O_CLOEXEC);
  frozen_ = fd >= 0 && ioctl(fd, FIFREEZE, 0) == 0;
  close(fd);
  return frozen_;
}

void loop_filesystem::thaw() {
  if (!frozen_) return;
  const int fd = open(folder_.c_str(), O_RDONLY | O_CLOEXEC);
  ioctl(fd, FITHAW, 0);
  close(fd);
  frozen_ = false;
}

void loop_filesystem::hang(bool on) {
  if (on) drop_cached(server_folder_ + "/image");  // as the loop device has cached it
  *hanging_ = on;
}

void drop_cached(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  fsync(fd);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

}  // namespace adversary
