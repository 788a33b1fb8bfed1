// SPDX-License-Identifier: Apache-2.0
//
// The pager's threads, and the list of regions. Application threads take `gate` to change the list, with
// `pool::mutex` for the moment of the change; the pager's threads take the pool's mutex alone. A fork holds
// the gate, so that a child finds a list that is whole, while the pager goes on: whoever holds a lock that
// the fork waits for may itself be waiting for a page.
#include "pager/pager.hpp"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>

#include "linux/descriptor.hpp"
#include "linux/kernel.hpp"
#include "memory.hpp"
#include "pager/fetch.hpp"
#include "pager/region.hpp"
#include "source.hpp"
#include "warden/threads.hpp"

namespace stillmap::pager {
namespace {

constexpr int threads_usual = 3;  // the reader, an idle one, and one that waits for storage
constexpr int threads_max = 16;

#ifndef UFFD_FEATURE_POISON
constexpr std::uint64_t UFFD_FEATURE_POISON = 1u << 14;  // Linux 6.6
#endif

// What an application's thread asks of the pager, on its own stack, while it waits.
struct command {
  enum class kind : std::uint8_t { open, let_go, populate, read_ahead };
  kind what;
  region* of;
  page_span pages{};
  const terms* wanted = nullptr;
  pid_t thread = 0;  // whose descriptor it is
  long result = 0;
  std::atomic<std::uint32_t> done{0};  // futex
  command* next = nullptr;

  // May wait for storage for long. (So may the last close of an unlinked file: rarely.)
  bool is_slow() const noexcept { return what == kind::populate || what == kind::read_ahead; }
};

class command_list {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  void put(command* one) noexcept {
    (last_ != nullptr ? last_->next : first_) = one;
    last_ = one;
  }
  command* take() noexcept {
    command* const one = first_;
    first_ = one->next;
    if (first_ == nullptr) last_ = nullptr;
    return one;
  }

 private:
  command *first_ = nullptr, *last_ = nullptr;
};

struct pool {
  std::mutex mutex;
  std::condition_variable work;
  command_list quick, slow;
  int threads = 0, idle = 0;
  int waiting = 0;           // for storage, or about to
  bool cannot_grow = false;  // a thread could not be started
  bool has_reader = false;
  userfault kernel_side;  // set before the second thread starts

  // Sorted by address; in a mapping of its own.
  region** regions = nullptr;
  std::size_t count = 0, capacity = 0;
};

// Never destroyed; made anew in a forked child.
alignas(pool) std::byte pool_place[sizeof(pool)];
alignas(std::mutex) std::byte gate_place[sizeof(std::mutex)];
pool& the_pool() noexcept {
  static pool* const one = new (pool_place) pool;
  return *one;
}
std::mutex& gate() noexcept {
  static std::mutex* const one = new (gate_place) std::mutex;
  return *one;
}

constexpr std::uint32_t not_started = 0, running = 1, refused = 2;
std::atomic<std::uint32_t> started{not_started};  // futex
std::atomic<long> refusal{0};
std::atomic<bool> user_mode{false};

// A handler that ran on a thread that holds one of our mutexes, and touched a page, would wait for ever.
class signals_blocked {
 public:
  signals_blocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~signals_blocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  signals_blocked(const signals_blocked&) = delete;
  signals_blocked& operator=(const signals_blocked&) = delete;

 private:
  sigset_t before_;
};

// --- the list of regions, under the pool's mutex ---

region** place_for(pool& shared, const std::byte* address) noexcept {
  return std::upper_bound(shared.regions, shared.regions + shared.count, address,
                          [](const std::byte* at, const region* one) { return at < one->address; });
}

region* find(pool& shared, const std::byte* address) noexcept {
  region** const after = place_for(shared, address);
  if (after == shared.regions) return nullptr;
  region* const one = after[-1];
  return address < one->address + one->bytes ? one : nullptr;
}

bool insert(pool& shared, region* one) noexcept {
  if (shared.count == shared.capacity) {
    const std::size_t bytes = std::max(memory::page_bytes(), shared.capacity * 2 * sizeof(region*));
    const long fresh =
        kernel::map(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (kernel::failed(fresh)) return false;
    auto** const larger = reinterpret_cast<region**>(fresh);
    if (shared.count > 0) {
      std::copy_n(shared.regions, shared.count, larger);
      kernel::unmap(shared.regions, shared.capacity * sizeof(region*));
    }
    shared.regions = larger;
    shared.capacity = bytes / sizeof(region*);
  }
  region** const at = place_for(shared, one->address);
  std::copy_backward(at, shared.regions + shared.count, shared.regions + shared.count + 1);
  *at = one;
  ++shared.count;
  return true;
}

void erase(pool& shared, region* one) noexcept {
  region** const end = shared.regions + shared.count;
  region** const at = std::find(shared.regions, end, one);
  if (at == end) return;
  std::copy(at + 1, end, at);
  --shared.count;
}

// --- on the pager's threads ---

void let_go(pool& shared, region* one) noexcept {
  {
    const std::lock_guard lock(shared.mutex);
    if (--one->references > 0) return;
  }
  if (one->fd >= 0) kernel::close(one->fd);
  kernel::unmap(one, one->own_bytes);
}

bool is_the_file(long fd, const terms& wanted) noexcept {
  stamps found;
  return !kernel::failed(fd) && read_stamps(static_cast<int>(fd), nullptr, found) == 0 &&
         found.device == wanted.device && found.inode == wanted.inode;
}

// The caller's descriptor in our own table. Its number may mean another file to the process's first thread,
// where threads do not share one table: then by the thread's own.
long take_descriptor(const command& asked) noexcept {
  descriptor own(static_cast<int>(std::max(-1L, kernel::descriptor_of_process(asked.wanted->fd))));
  if (own && is_the_file(own.get(), *asked.wanted)) return own.release();
  char link[64];
  std::snprintf(link, sizeof link, "/proc/self/task/%d/fd/%d", asked.thread, asked.wanted->fd);
  const long fd = kernel::open_read_only(link, O_NONBLOCK);
  if (kernel::failed(fd)) return fd;
  own = descriptor(static_cast<int>(fd));
  return is_the_file(fd, *asked.wanted) ? own.release() : -ESTALE;
}

long open_here(const pool& shared, const command& asked) noexcept {
  region& one = *asked.of;
  const long fd = take_descriptor(asked);
  if (kernel::failed(fd)) return fd;
  one.fd = static_cast<int>(fd);
  return kernel::userfault_register(shared.kernel_side.fd, one.address, one.bytes);
}

long populate_here(const pool& shared, const command& asked, std::byte* buffer) noexcept {
  region& one = *asked.of;
  for (;;) {
    const std::uint32_t seen = one.settlings.load();
    bool met = false;
    job work;
    for (page_span left = asked.pages; claim_absent(one, left, work, met); left.begin = work.window.end)
      run(work, shared.kernel_side, true, buffer);
    if (!met) break;
    kernel::futex_wait(one.settlings, seen, 100'000'000);
  }
  const std::lock_guard lock(one.mutex);
  for (std::size_t page = asked.pages.begin; page < asked.pages.end; ++page)
    if (one.lost().has(page)) return -EIO;
  return 0;
}

void obey(pool& shared, command& asked, std::byte* buffer) noexcept {
  const std::size_t page_bytes = memory::page_bytes();
  switch (asked.what) {
    case command::kind::open:
      asked.result = open_here(shared, asked);
      break;
    case command::kind::let_go:
      let_go(shared, asked.of);
      break;
    case command::kind::populate:
      asked.result = populate_here(shared, asked, buffer);
      break;
    case command::kind::read_ahead:
      kernel::read_ahead(asked.of->fd, asked.of->offset + asked.pages.begin * page_bytes,
                         (asked.pages.end - asked.pages.begin) * page_bytes);
      break;
  }
  asked.done.store(1);
  kernel::futex_wake(asked.done);
}

// Reads one fault and answers it, as far as that goes without waiting for storage. True: `work` is left over.
bool read_one(pool& shared, job& work, std::byte* buffer) noexcept {
  const userfault& by = shared.kernel_side;
  uffd_msg message;
  const long got = kernel::read(by.fd, &message, sizeof message);
  if (got < 0) kernel::sleep(1'000'000);  // for want of memory, if ever: not without a pause
  if (got != static_cast<long>(sizeof message) || message.event != UFFD_EVENT_PAGEFAULT) return false;
  auto* const address = reinterpret_cast<std::byte*>(message.arg.pagefault.address);
  region* one = nullptr;
  {
    const std::lock_guard lock(shared.mutex);
    one = find(shared, address);
    if (one != nullptr) ++one->references;
  }
  if (one == nullptr) {  // unmapped by now
    kernel::userfault_wake(by.fd, address, memory::page_bytes());
    return false;
  }
  const auto page = static_cast<std::size_t>(address - one->address) / memory::page_bytes();
  // Where more faults wait, another thread looks at them meanwhile.
  if (claim_for_touch(*one, by, page, work) &&
      (kernel::is_readable(by.fd) || !run(work, by, false, buffer)))
    return true;
  let_go(shared, one);
  return false;
}

void* run_thread(void* first);

// A thread more, by one that holds the lock. It is let go of meanwhile.
void grow(pool& shared, std::unique_lock<std::mutex>& lock) noexcept {
  if (shared.cannot_grow || shared.threads >= threads_max) return;
  ++shared.threads;
  lock.unlock();
  const bool started_one = warden::start_thread(run_thread, "stillmap-pager");
  lock.lock();
  if (started_one) return;
  --shared.threads;
  shared.cannot_grow = true;
}

// One thread at least does not wait for storage: it opens and closes.
bool may_wait(const pool& shared) noexcept {
  return shared.waiting < shared.threads - 1;
}

// What is left to do goes to the next one; a thread that is to be busy leaves an idle one behind.
void pass_on(pool& shared, std::unique_lock<std::mutex>& lock) noexcept {
  if (shared.idle == 0) grow(shared, lock);
  if (!shared.has_reader || !shared.quick.empty() || !shared.slow.empty()) shared.work.notify_one();
}

void serve_command(pool& shared, command_list& from, std::unique_lock<std::mutex>& lock,
                   std::byte* buffer) noexcept {
  command* const one = from.take();
  const bool slow = one->is_slow();
  if (slow) ++shared.waiting;
  pass_on(shared, lock);
  lock.unlock();
  obey(shared, *one, buffer);
  lock.lock();
  if (slow) --shared.waiting;
}

void serve_fault(pool& shared, std::unique_lock<std::mutex>& lock, std::byte* buffer) noexcept {
  shared.has_reader = true;
  pass_on(shared, lock);
  lock.unlock();
  job work;
  const bool left_over = read_one(shared, work, buffer);
  lock.lock();
  shared.has_reader = false;
  if (!left_over) return;
  ++shared.waiting;
  pass_on(shared, lock);
  lock.unlock();
  run(work, shared.kernel_side, true, buffer);
  let_go(shared, work.of);
  lock.lock();
  --shared.waiting;
  shared.cannot_grow = false;
}

// False: nobody missed this thread for a while, and others are idle.
bool wait_for_work(pool& shared, std::unique_lock<std::mutex>& lock) noexcept {
  ++shared.idle;
  bool missed = true;
  if (shared.threads <= threads_usual) {
    shared.work.wait(lock);
  } else {
    // By the system's clock: ThreadSanitizer does not know the call that waits by the other one.
    missed = shared.work.wait_until(lock, std::chrono::system_clock::now() + std::chrono::seconds(1)) ==
             std::cv_status::no_timeout;
  }
  --shared.idle;
  // The time was up just as somebody called.
  const bool called = !shared.has_reader || !shared.quick.empty() || !shared.slow.empty();
  return missed || called || shared.idle == 0 || shared.threads <= threads_usual;
}

// Until this thread is one too many.
void serve(pool& shared, std::byte* buffer) noexcept {
  std::unique_lock lock(shared.mutex);
  for (;;) {
    if (!may_wait(shared)) grow(shared, lock);
    if (!shared.quick.empty()) {
      serve_command(shared, shared.quick, lock, buffer);
    } else if (may_wait(shared) && !shared.has_reader) {
      serve_fault(shared, lock, buffer);
    } else if (may_wait(shared) && !shared.slow.empty()) {
      serve_command(shared, shared.slow, lock, buffer);
    } else if (!wait_for_work(shared, lock)) {
      break;
    }
  }
  --shared.threads;
  lock.unlock();
  kernel::unmap(buffer, piece_bytes);
}

std::byte* take_buffer() noexcept {
  const long buffer =
      kernel::map(nullptr, piece_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (kernel::failed(buffer)) return nullptr;
  auto* const result = reinterpret_cast<std::byte*>(buffer);
  kernel::advise(result, piece_bytes, MADV_DONTFORK);
  return result;
}

// Full rights first: a system call may then be given a page that is not fetched. Who lacks CAP_SYS_PTRACE
// gets them by the device, where it is theirs to open; everybody else for faults of user mode alone.
long begin_userfault(userfault& into) noexcept {
  into = {};
  long fd = kernel::userfault_open(0);
  if (kernel::failed(fd)) {
    const long by_device = kernel::userfault_open_by_device();
    if (!kernel::failed(by_device)) fd = by_device;
  }
  if (kernel::failed(fd)) {
    fd = kernel::userfault_open(UFFD_USER_MODE_ONLY);
    into.user_mode_only = true;
  }
  if (kernel::failed(fd)) return fd;
  descriptor own(static_cast<int>(fd));
  into.can_poison = kernel::userfault_begin(own.get(), UFFD_FEATURE_POISON) == 0;
  if (!into.can_poison) {
    if (const long error = kernel::userfault_begin(own.get(), 0); error != 0) return error;
  }
  into.fd = own.release();
  return 0;
}

void announce(std::uint32_t state, long error) noexcept {
  refusal.store(error);
  started.store(state);
  kernel::futex_wake(started);
}

// The first thread leaves the process's descriptors behind; the others, which it and they start, share its
// new table.
void* run_first(void*) {
  pool& shared = the_pool();
  std::byte* const buffer = take_buffer();
  long error = buffer == nullptr ? -ENOMEM : kernel::leave_descriptors();
  if (error == 0) error = begin_userfault(shared.kernel_side);
  if (error != 0) {
    if (buffer != nullptr) kernel::unmap(buffer, piece_bytes);
    announce(refused, error);
    return nullptr;
  }
  user_mode.store(shared.kernel_side.user_mode_only);
  {
    std::unique_lock lock(shared.mutex);
    shared.threads = 1;
    shared.cannot_grow = false;
    while (shared.threads < threads_usual && !shared.cannot_grow) grow(shared, lock);
    error = shared.threads == 1 ? -EAGAIN : 0;
  }
  if (error != 0) {  // alone it could not do both, read faults and obey
    kernel::close(shared.kernel_side.fd);
    kernel::unmap(buffer, piece_bytes);
    announce(refused, error);
    return nullptr;
  }
  announce(running, 0);
  serve(shared, buffer);
  return nullptr;
}

void* run_thread(void*) {
  pool& shared = the_pool();
  if (std::byte* const buffer = take_buffer()) {
    serve(shared, buffer);
  } else {
    const std::lock_guard lock(shared.mutex);
    --shared.threads;
  }
  return nullptr;
}

// --- on the application's threads ---

long give(command& asked) noexcept {
  {
    const signals_blocked quiet;
    pool& shared = the_pool();
    const std::lock_guard lock(shared.mutex);
    (asked.is_slow() ? shared.slow : shared.quick).put(&asked);
    shared.work.notify_one();
  }
  while (asked.done.load() == 0) kernel::futex_wait(asked.done, 0, -1);
  return asked.result;
}

// With the gate held. Refused once does not mean refused for ever: a process may get or drop privileges.
long start() noexcept {
  if (started.load() == running) return 0;
  started.store(not_started);
  if (!warden::start_thread(run_first, "stillmap-pager")) return -EAGAIN;
  while (started.load() == not_started) kernel::futex_wait(started, not_started, -1);
  return refusal.load();
}

page_span pages_of(const region& one, std::size_t begin, std::size_t bytes) noexcept {
  const std::size_t end = std::min(begin + bytes, one.bytes);
  if (begin >= end) return {};
  return {begin / memory::page_bytes(), (end + memory::page_bytes() - 1) / memory::page_bytes()};
}

region* make_region(const terms& wanted) noexcept {
  const std::size_t pages = wanted.bytes / memory::page_bytes();
  const std::size_t own_bytes =
      memory::page_ceiling(sizeof(region) + 3 * page_set::words_for(pages) * sizeof(std::uint64_t));
  const long block = kernel::map(nullptr, own_bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (kernel::failed(block)) return nullptr;
  region* const one = new (reinterpret_cast<void*>(block)) region;
  one->address = wanted.address;
  one->bytes = wanted.bytes;
  one->offset = wanted.offset;
  one->own_bytes = own_bytes;
  one->carried = wanted.carried;
  one->access.store(wanted.access);
  return one;
}

}  // namespace

long open(const terms& wanted, region*& into) noexcept {
  // What a child would see of a page that is not fetched is a page of zeros: it gets none.
  if (const long error = kernel::advise(wanted.address, wanted.bytes, MADV_DONTFORK); error != 0) return error;
  {
    const signals_blocked quiet;
    const std::lock_guard lock(gate());
    if (const long error = start(); error != 0) return error;
  }
  region* const one = make_region(wanted);
  if (one == nullptr) return -ENOMEM;
  command asked{command::kind::open, one};
  asked.wanted = &wanted;
  asked.thread = kernel::thread();
  long error = give(asked);
  if (error == 0) {
    const signals_blocked quiet;
    const std::lock_guard structure(gate());
    pool& shared = the_pool();
    const std::lock_guard lock(shared.mutex);
    if (!insert(shared, one)) error = -ENOMEM;
  }
  if (error != 0) {
    command back{command::kind::let_go, one};
    give(back);
    return error;
  }
  into = one;
  return 0;
}

void close(region* one) noexcept {
  if (one->orphan) {
    kernel::unmap(one->address, one->bytes);
    memory::discharge(one->fetched_bytes.load());
    kernel::unmap(one, one->own_bytes);
    return;
  }
  {
    const signals_blocked quiet;
    const std::lock_guard structure(gate());
    pool& shared = the_pool();
    {
      const std::lock_guard lock(shared.mutex);
      erase(shared, one);
    }
    {
      const std::lock_guard lock(one->mutex);
      one->closed = true;
    }
    while (const std::uint32_t busy = one->installing.load()) kernel::futex_wait(one->installing, busy, -1);
    kernel::unmap(one->address, one->bytes);
    memory::discharge(one->fetched_bytes.exchange(0));
  }
  command last{command::kind::let_go, one};
  give(last);
}

long populate(region& one, std::size_t begin, std::size_t bytes) noexcept {
  if (one.orphan) return one.lost_bytes.load() != 0 ? -EIO : 0;
  command asked{command::kind::populate, &one};
  asked.pages = pages_of(one, begin, bytes);
  return give(asked);
}

void read_ahead(region& one, std::size_t begin, std::size_t bytes) noexcept {
  if (one.orphan) return;
  command asked{command::kind::read_ahead, &one};
  asked.pages = pages_of(one, begin, bytes);
  if (asked.pages.begin < asked.pages.end) give(asked);
}

void expect(region& one, int access) noexcept {
  one.access.store(access, std::memory_order_relaxed);
}

std::uint64_t fetched_bytes(const region& one) noexcept {
  return one.fetched_bytes.load();
}
std::uint64_t lost_bytes(const region& one) noexcept {
  return std::min<std::uint64_t>(one.lost_bytes.load(), one.bytes);
}
bool user_mode_only() noexcept {
  return user_mode.load();
}

void before_fork() noexcept {
  gate().lock();
  // Only the gate's holders change the list.
  pool& shared = the_pool();
  for (std::size_t i = 0; i < shared.count; ++i) {
    region& one = *shared.regions[i];
    if (!one.carried || one.inherited) continue;
    populate(one, 0, one.bytes);
    const std::lock_guard lock(one.mutex);
    const page_set settled = one.settled();
    std::size_t page = 0;
    while (page < one.pages() && settled.has(page)) ++page;
    one.inherited = page == one.pages() && kernel::advise(one.address, one.bytes, MADV_DOFORK) == 0;
  }
}

void after_fork_in_parent() noexcept {
  gate().unlock();
}

namespace {

// In a child: a reservation where the memory was, so that nothing else lands there. Never over what another
// library's handler put there in the meantime: the range is ours no more.
void make_absent(region& one) noexcept {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  one.lost_bytes.store(one.bytes);
  memory::discharge(one.fetched_bytes.exchange(0));
  if (kernel::failed(kernel::map(one.address, one.bytes, PROT_NONE, flags, -1, 0))) {
    one.address += one.bytes;
    one.bytes = 0;
  }
}

// In a child: a page that was lost stays so, whatever the kernel made of its mark.
void forbid_lost(region& one) noexcept {
  const page_set lost = one.lost();
  for (std::size_t page = 0; page < one.pages(); ++page)
    if (lost.has(page))
      kernel::protect(one.address + page * memory::page_bytes(), memory::page_bytes(), PROT_NONE);
}

}  // namespace

void after_fork_in_child() noexcept {
  pool& before = the_pool();
  for (std::size_t i = 0; i < before.count; ++i) {
    region& one = *before.regions[i];
    one.orphan = true;
    if (!one.inherited) {
      make_absent(one);
    } else if (one.lost_bytes.load() != 0) {
      forbid_lost(one);
    }
  }
  if (before.regions != nullptr) kernel::unmap(before.regions, before.capacity * sizeof(region*));
  // Made anew, not unlocked: threads that waited for them are counted in them, and are not here.
  gate().unlock();
  new (pool_place) pool;
  new (gate_place) std::mutex;
  started.store(not_started);
}

}  // namespace stillmap::pager
