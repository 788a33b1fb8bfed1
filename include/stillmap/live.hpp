// SPDX-License-Identifier: Apache-2.0
//
// Live views: the bytes of a shared mapping as they are at this moment, and other ones a moment later. For
// what snapshots are no answer to: memory shared with another process, a file that is followed, a device. A
// plain pointer to such bytes lets the compiler read twice what the program read once; so no view gives one,
// and none converts to std::span.
//
//   namespace live = stillmap::live;
//   auto shared = live::mapping::open("/dev/shm/queue", live::mode::read_write);  // throws stillmap::error
//   const live::writable_atomic_bytes bytes = shared.as_writable_atomic_bytes();
//   const auto head = bytes.load<std::uint32_t>(0, std::memory_order_acquire);
//   std::byte message[256];
//   std::error_code ec;
//   bytes.copy_to(64, message, ec);  // EFAULT, and no signal, where the file was truncated
//   if (!ec) bytes.store<std::uint32_t>(4, head, std::memory_order_release);
//
// Which view: atomic_bytes for memory shared with other threads or processes, cell_bytes for one thread that
// needs no order, registers for devices.
//
// Promise: every access is checked against the view's size, and for alignment where one access is promised.
// It is made each time anew, neither left out nor merged with another. Each view copies into owned memory
// (copy_to) and, where writable, from it (copy_from); where the file was truncated a copy says EFAULT.
//
// No promise: a single access (load, store, get, set, read, write) to a page behind the end of a truncated
// file raises SIGBUS, as with every mmap(2). Up to the end of its last page such a file reads as zeros, in
// copies too, and what is stored there is lost. Copies may tear anywhere: a value of several bytes that
// others store is for load<T>.
//
// Lifetime: a view is a place and a size, copied freely, valid while the mapping lives; moving the mapping
// leaves its views valid.
//
// Threads: mappings and views may be used from any thread, cell_bytes from one at a time.
//
// Errors: errno values in std::generic_category. ERANGE: beyond the view. EINVAL: misaligned, or an order
// that the operation cannot have. The twin without an error_code throws stillmap::error with the same code.
// An access that is refused reads and writes nothing; a load then gives zero.
//
// Cost: an access is a few comparisons and one instruction. A copy is two system calls, gettid(2) and
// process_vm_readv(2) or process_vm_writev(2) on ourselves (Linux 3.2), and the bytes. A kernel without the
// two says ENOSYS, a container that forbids them EPERM: copies then give that error back, single accesses
// still work.
//
// Header-only; nothing of the library is linked. Builds with -fno-exceptions: the throwing functions are then
// left out, their error_code twins stay.
#ifndef STILLMAP_LIVE_HPP
#define STILLMAP_LIVE_HPP

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <stillmap/error.hpp>

#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

namespace stillmap::live {

enum class mode { read, read_write };

// What a view may hold: 1, 2, 4 or 8 bytes without padding, of which every pattern is a value, for anybody
// may have written them. So no bool (nor one within a struct, which cannot be seen here), and no pointer,
// which means nothing to another process.
template <class T>
concept element = std::is_trivially_copyable_v<T> && std::same_as<T, std::remove_cv_t<T>> &&
                  (sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8) &&
                  !std::same_as<T, bool> && !std::is_pointer_v<T> && !std::is_member_pointer_v<T> &&
                  (std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>);

// What a register may hold.
template <class T>
concept word = std::same_as<T, std::uint8_t> || std::same_as<T, std::uint16_t> ||
    std::same_as<T, std::uint32_t> || std::same_as<T, std::uint64_t>;

namespace detail {

// The same bytes may be read as words of several widths: hence may_alias, which a template argument would
// lose.
template <std::size_t>
struct word_of;
template <>
struct word_of<1> {
  using plain = std::uint8_t;
  using type [[gnu::may_alias]] = std::uint8_t;
};
template <>
struct word_of<2> {
  using plain = std::uint16_t;
  using type [[gnu::may_alias]] = std::uint16_t;
};
template <>
struct word_of<4> {
  using plain = std::uint32_t;
  using type [[gnu::may_alias]] = std::uint32_t;
};
template <>
struct word_of<8> {
  using plain = std::uint64_t;
  using type [[gnu::may_alias]] = std::uint64_t;
};
static_assert(__atomic_always_lock_free(8, nullptr), "a lock would be no other process's lock");

template <class T>
T from_word(typename word_of<sizeof(T)>::plain bits) noexcept {
  return std::bit_cast<T>(bits);
}
template <class T>
typename word_of<sizeof(T)>::plain to_word(const T& value) noexcept {
  return std::bit_cast<typename word_of<sizeof(T)>::plain>(value);
}

inline std::error_code code_of(int number) noexcept {
  return number == 0 ? std::error_code{} : std::error_code{number, std::generic_category()};
}

#if defined(__cpp_exceptions)
[[noreturn, gnu::cold, gnu::noinline]] inline void raise(int number) {
  throw error(code_of(number), number == ERANGE ? "stillmap: beyond the end of the live view"
                               : number == EACCES
                                   ? "stillmap: the live mapping is read-only"
                                   : "stillmap: misaligned for a live view, or no order for this");
}
#endif

inline bool loads(std::memory_order order) noexcept {
  return order == std::memory_order_relaxed || order == std::memory_order_consume ||
         order == std::memory_order_acquire || order == std::memory_order_seq_cst;
}
inline bool stores(std::memory_order order) noexcept {
  return order == std::memory_order_relaxed || order == std::memory_order_release ||
         order == std::memory_order_seq_cst;
}
inline bool exchanges(std::memory_order order) noexcept {
  return loads(order) || stores(order) || order == std::memory_order_acq_rel;
}

// Copies between owned memory and live bytes, by the kernel's hand: for a page that is gone it says EFAULT,
// where an access of our own would be a SIGBUS. Our thread's number, not the process's: its memory is found
// also after the main thread has left.
using transfer = ssize_t(pid_t, const iovec*, unsigned long, const iovec*, unsigned long, unsigned long);
inline std::size_t copy(transfer* call, std::byte* live, std::byte* owned, std::size_t length,
                        std::error_code& ec) noexcept {
  const pid_t self = ::gettid();
  std::size_t done = 0;
  while (done < length) {
    const iovec ours{owned + done, length - done};
    const iovec theirs{live + done, length - done};
    const ssize_t count = call(self, &ours, 1, &theirs, 1, 0);
    if (count <= 0) {
      ec = code_of(count == 0 ? EIO : errno);
      return done;
    }
    done += static_cast<std::size_t>(count);
  }
  ec = code_of(0);
  return done;
}

// What all views are: a place and a size.
class view {
 public:
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }

 protected:
  view() noexcept = default;
  view(std::byte* first, std::size_t size, bool device) noexcept
      : first_(first), size_(size & size_max), device_(device) {}

  // 0, or why `bytes` bytes at offset are not to be had.
  int beyond(std::size_t offset, std::size_t bytes) const noexcept {
    return bytes > size_ || offset > size_ - bytes ? ERANGE : 0;
  }
  template <class T>
  int misplaced(std::size_t offset) const noexcept {
    if (const int number = beyond(offset, sizeof(T))) return number;
    return (reinterpret_cast<std::uintptr_t>(first_) + offset) % sizeof(T) != 0 ? EINVAL : 0;
  }
  // volatile, for atomics too: a compiler may leave out or merge relaxed ones.
  template <class T>
  volatile typename word_of<sizeof(T)>::type* at(std::size_t offset) const noexcept {
    return reinterpret_cast<volatile typename word_of<sizeof(T)>::type*>(first_ + offset);
  }

  std::size_t copy_out(std::size_t offset, std::span<std::byte> to, std::error_code& ec) const noexcept {
    ec = code_of(beyond(offset, to.size()));
    return ec ? 0 : copy(::process_vm_readv, first_ + offset, to.data(), to.size(), ec);
  }
  // The kernel does not write through the local side of process_vm_writev: the const_cast is for iovec alone.
  std::size_t copy_in(std::size_t offset, std::span<const std::byte> from,
                      std::error_code& ec) const noexcept {
    ec = code_of(beyond(offset, from.size()));
    return ec ? 0
              : copy(::process_vm_writev, first_ + offset, const_cast<std::byte*>(from.data()), from.size(),
                     ec);
  }

  // Two words, so that a view is passed in registers, as a span is.
  static constexpr std::size_t size_max = std::numeric_limits<std::size_t>::max() >> 1;
  std::byte* first_ = nullptr;
  std::size_t size_ : std::numeric_limits<std::size_t>::digits - 1 = 0;
  bool device_ : 1 = false;  // no regular file: the width of an access may matter
};

}  // namespace detail

// Bytes that other threads and processes may store to: every access is atomic, relaxed unless said otherwise.
// A load<T> or store<T> is one lock-free access, so never torn; the offset is aligned to T as counted from
// the start of the file (EINVAL otherwise). Orders mean between processes what they mean between threads.
//
//   bytes.load(7)                                                one byte
//   bytes.load<std::uint64_t>(8, std::memory_order_acquire)      throws stillmap::error
//   bytes.load<std::uint64_t>(8, std::memory_order_acquire, ec)  noexcept
class atomic_bytes : public detail::view {
 public:
  atomic_bytes() noexcept = default;

  template <element T = std::byte>
  T load(std::size_t offset, std::memory_order order, std::error_code& ec) const noexcept {
    const int number = detail::loads(order) ? misplaced<T>(offset) : EINVAL;
    ec = detail::code_of(number);
    return number == 0 ? load_at<T>(offset, order) : detail::from_word<T>(0);
  }
  // Bytes copied: less than to.size() only with an error. EFAULT: the file was truncated, the storage could
  // not read the page, or this is a device's memory (VM_IO, VM_PFNMAP), which registers can copy.
  std::size_t copy_to(std::size_t offset, std::span<std::byte> to, std::error_code& ec) const noexcept {
    return copy_out(offset, to, ec);
  }

#if defined(__cpp_exceptions)
  template <element T = std::byte>
  T load(std::size_t offset, std::memory_order order = std::memory_order_relaxed) const {
    if (const int number = detail::loads(order) ? misplaced<T>(offset) : EINVAL) detail::raise(number);
    return load_at<T>(offset, order);
  }
#endif

 protected:
  atomic_bytes(std::byte* first, std::size_t size, bool device) noexcept : view(first, size, device) {}
  friend class mapping;

 private:
  template <class T>
  T load_at(std::size_t offset, std::memory_order order) const noexcept {
    return detail::from_word<T>(__atomic_load_n(at<T>(offset), static_cast<int>(order)));
  }
};

class writable_atomic_bytes : public atomic_bytes {
 public:
  writable_atomic_bytes() noexcept = default;

  template <element T = std::byte>
  void store(std::size_t offset, std::type_identity_t<T> value, std::memory_order order,
             std::error_code& ec) const noexcept {
    const int number = detail::stores(order) ? misplaced<T>(offset) : EINVAL;
    ec = detail::code_of(number);
    if (number == 0) store_at<T>(offset, value, order);
  }
  // The value before; wraps around.
  template <element T>
  requires std::integral<T> T fetch_add(std::size_t offset, std::type_identity_t<T> value,
                                        std::memory_order order, std::error_code& ec)
  const noexcept {
    const int number = detail::exchanges(order) ? misplaced<T>(offset) : EINVAL;
    ec = detail::code_of(number);
    return number == 0 ? add_at<T>(offset, value, order) : T{0};
  }
  // Compares bits. True: desired was stored. False without an error: `expected` has what was there.
  template <element T>
  bool compare_exchange(std::size_t offset, T& expected, std::type_identity_t<T> desired,
                        std::memory_order order, std::error_code& ec) const noexcept {
    const int number = detail::exchanges(order) ? misplaced<T>(offset) : EINVAL;
    ec = detail::code_of(number);
    return number == 0 && exchange_at<T>(offset, expected, desired, order);
  }
  // As copy_to, in the other direction.
  std::size_t copy_from(std::size_t offset, std::span<const std::byte> from,
                        std::error_code& ec) const noexcept {
    return copy_in(offset, from, ec);
  }

#if defined(__cpp_exceptions)
  template <element T = std::byte>
  void store(std::size_t offset, std::type_identity_t<T> value,
             std::memory_order order = std::memory_order_relaxed) const {
    if (const int number = detail::stores(order) ? misplaced<T>(offset) : EINVAL) detail::raise(number);
    store_at<T>(offset, value, order);
  }
  template <element T>
  requires std::integral<T> T fetch_add(std::size_t offset, std::type_identity_t<T> value,
                                        std::memory_order order = std::memory_order_relaxed)
  const {
    if (const int number = detail::exchanges(order) ? misplaced<T>(offset) : EINVAL) detail::raise(number);
    return add_at<T>(offset, value, order);
  }
  template <element T>
  bool compare_exchange(std::size_t offset, T& expected, std::type_identity_t<T> desired,
                        std::memory_order order = std::memory_order_relaxed) const {
    if (const int number = detail::exchanges(order) ? misplaced<T>(offset) : EINVAL) detail::raise(number);
    return exchange_at<T>(offset, expected, desired, order);
  }
#endif

 private:
  writable_atomic_bytes(std::byte* first, std::size_t size, bool device) noexcept
      : atomic_bytes(first, size, device) {}
  friend class mapping;

  template <class T>
  void store_at(std::size_t offset, T value, std::memory_order order) const noexcept {
    __atomic_store_n(at<T>(offset), detail::to_word(value), static_cast<int>(order));
  }
  template <class T>
  T add_at(std::size_t offset, T value, std::memory_order order) const noexcept {
    return detail::from_word<T>(
        __atomic_fetch_add(at<T>(offset), detail::to_word(value), static_cast<int>(order)));
  }
  template <class T>
  bool exchange_at(std::size_t offset, T& expected, T desired, std::memory_order order) const noexcept {
    // A failure stores nothing, so it has the loading half of the order.
    const int failure = order == std::memory_order_acq_rel   ? __ATOMIC_ACQUIRE
                        : order == std::memory_order_release ? __ATOMIC_RELAXED
                                                             : static_cast<int>(order);
    typename detail::word_of<sizeof(T)>::type found = detail::to_word(expected);
    const bool exchanged = __atomic_compare_exchange_n(at<T>(offset), &found, detail::to_word(desired), false,
                                                       static_cast<int>(order), failure);
    if (!exchanged) expected = detail::from_word<T>(found);
    return exchanged;
  }
};

// Bytes that one thread of this process looks at, while others outside of it may change them. No order and no
// atomicity: a T of several bytes is read byte by byte, at any offset, and may be torn. Two gets are two
// reads. Two threads at once, one of them with set, are a data race.
class cell_bytes : public detail::view {
 public:
  cell_bytes() noexcept = default;

  template <element T = std::byte>
  T get(std::size_t offset, std::error_code& ec) const noexcept {
    const int number = beyond(offset, sizeof(T));
    ec = detail::code_of(number);
    return number == 0 ? get_at<T>(offset) : detail::from_word<T>(0);
  }
  // As atomic_bytes::copy_to.
  std::size_t copy_to(std::size_t offset, std::span<std::byte> to, std::error_code& ec) const noexcept {
    return copy_out(offset, to, ec);
  }

#if defined(__cpp_exceptions)
  template <element T = std::byte>
  T get(std::size_t offset) const {
    if (const int number = beyond(offset, sizeof(T))) detail::raise(number);
    return get_at<T>(offset);
  }
#endif

 protected:
  cell_bytes(std::byte* first, std::size_t size, bool device) noexcept : view(first, size, device) {}
  friend class mapping;

 private:
  template <class T>
  T get_at(std::size_t offset) const noexcept {
    const volatile unsigned char* const from = at<unsigned char>(offset);
    unsigned char bytes[sizeof(T)];
    for (std::size_t i = 0; i < sizeof(T); ++i) bytes[i] = from[i];
    typename detail::word_of<sizeof(T)>::plain bits;
    std::memcpy(&bits, bytes, sizeof bits);
    return detail::from_word<T>(bits);
  }
};

class writable_cell_bytes : public cell_bytes {
 public:
  writable_cell_bytes() noexcept = default;

  template <element T = std::byte>
  void set(std::size_t offset, std::type_identity_t<T> value, std::error_code& ec) const noexcept {
    const int number = beyond(offset, sizeof(T));
    ec = detail::code_of(number);
    if (number == 0) set_at<T>(offset, value);
  }
  std::size_t copy_from(std::size_t offset, std::span<const std::byte> from,
                        std::error_code& ec) const noexcept {
    return copy_in(offset, from, ec);
  }

#if defined(__cpp_exceptions)
  template <element T = std::byte>
  void set(std::size_t offset, std::type_identity_t<T> value) const {
    if (const int number = beyond(offset, sizeof(T))) detail::raise(number);
    set_at<T>(offset, value);
  }
#endif

 private:
  writable_cell_bytes(std::byte* first, std::size_t size, bool device) noexcept
      : cell_bytes(first, size, device) {}
  friend class mapping;

  template <class T>
  void set_at(std::size_t offset, T value) const noexcept {
    volatile unsigned char* const to = at<unsigned char>(offset);
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    for (std::size_t i = 0; i < sizeof(T); ++i) to[i] = bytes[i];
  }
};

// A device's registers: read<T> and write<T> are one access of exactly 8, 16, 32 or 64 bits, also where its
// value is not used, in the order of the program among themselves (volatile). No order against other memory,
// and no barrier: those are the driver's. A misaligned offset is refused (EINVAL). Byte order is the
// machine's.
//
// Copies: of a device, aligned reads or writes of 32 bits, one a word, lowest first, by this process itself:
// the kernel refuses to copy such memory. Of a regular file or memfd, as atomic_bytes::copy_to, of no
// promised width; EFAULT where it was truncated. Both take multiples of 4 bytes at offsets aligned to 4 alone
// (EINVAL), so that code tested on a memfd is right on a device. A device whose memory goes away raises
// SIGBUS.
class registers : public detail::view {
 public:
  registers() noexcept = default;

  template <word T>
  T read(std::size_t offset, std::error_code& ec) const noexcept {
    const int number = misplaced<T>(offset);
    ec = detail::code_of(number);
    return number == 0 ? read_at<T>(offset) : T{0};
  }
  std::size_t copy_to(std::size_t offset, std::span<std::byte> to, std::error_code& ec) const noexcept {
    ec = detail::code_of(no_words(offset, to.size()));
    if (ec) return 0;
    if (!device_) return copy_out(offset, to, ec);
    for (std::size_t i = 0; i < to.size(); i += sizeof(std::uint32_t)) {
      const std::uint32_t one = read_at<std::uint32_t>(offset + i);
      std::memcpy(to.data() + i, &one, sizeof one);
    }
    return to.size();
  }

#if defined(__cpp_exceptions)
  template <word T>
  T read(std::size_t offset) const {
    if (const int number = misplaced<T>(offset)) detail::raise(number);
    return read_at<T>(offset);
  }
#endif

 protected:
  registers(std::byte* first, std::size_t size, bool device) noexcept : view(first, size, device) {}
  friend class mapping;

  int no_words(std::size_t offset, std::size_t bytes) const noexcept {
    if (const int number = beyond(offset, bytes)) return number;
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(first_) + offset;
    return (address | bytes) % sizeof(std::uint32_t) != 0 ? EINVAL : 0;
  }

 private:
  static_assert(sizeof(void*) == 8, "a word of 64 bits is to be one access");

  template <class T>
  T read_at(std::size_t offset) const noexcept {
    return *at<T>(offset);
  }
};

class writable_registers : public registers {
 public:
  writable_registers() noexcept = default;

  template <word T>
  void write(std::size_t offset, std::type_identity_t<T> value, std::error_code& ec) const noexcept {
    const int number = misplaced<T>(offset);
    ec = detail::code_of(number);
    if (number == 0) write_at<T>(offset, value);
  }
  std::size_t copy_from(std::size_t offset, std::span<const std::byte> from,
                        std::error_code& ec) const noexcept {
    ec = detail::code_of(no_words(offset, from.size()));
    if (ec) return 0;
    if (!device_) return copy_in(offset, from, ec);
    for (std::size_t i = 0; i < from.size(); i += sizeof(std::uint32_t)) {
      std::uint32_t one = 0;
      std::memcpy(&one, from.data() + i, sizeof one);
      write_at<std::uint32_t>(offset + i, one);
    }
    return from.size();
  }

#if defined(__cpp_exceptions)
  template <word T>
  void write(std::size_t offset, std::type_identity_t<T> value) const {
    if (const int number = misplaced<T>(offset)) detail::raise(number);
    write_at<T>(offset, value);
  }
#endif

 private:
  writable_registers(std::byte* first, std::size_t size, bool device) noexcept
      : registers(first, size, device) {}
  friend class mapping;

  template <class T>
  void write_at(std::size_t offset, T value) const noexcept {
    *at<T>(offset) = value;
  }
};

// Owner of a shared mapping. Movable, not copyable; unmapped by the destructor. One that is default
// constructed, moved from, or left by a failure has size 0 and gives empty views. A mapping in mode
// read_write counts as a writer of its file: no snapshot of it can be leased meanwhile, and opening it breaks
// the leases that there are.
class mapping {
 public:
  mapping() noexcept = default;
  mapping(mapping&& other) noexcept
      : pages_(std::exchange(other.pages_, nullptr)),
        pages_bytes_(std::exchange(other.pages_bytes_, 0)),
        lead_bytes_(std::exchange(other.lead_bytes_, 0)),
        size_(std::exchange(other.size_, 0)),
        writable_(std::exchange(other.writable_, false)),
        device_(std::exchange(other.device_, false)) {}
  mapping& operator=(mapping&& other) noexcept {
    mapping taken(std::move(other));
    std::swap(pages_, taken.pages_);
    std::swap(pages_bytes_, taken.pages_bytes_);
    std::swap(lead_bytes_, taken.lead_bytes_);
    std::swap(size_, taken.size_);
    std::swap(writable_, taken.writable_);
    std::swap(device_, taken.device_);
    return *this;
  }
  mapping(const mapping&) = delete;
  mapping& operator=(const mapping&) = delete;
  ~mapping() {
    if (pages_ != nullptr) ::munmap(pages_, pages_bytes_);
  }

  // The whole of a regular file. Waits as open(2) does: for a lease to be given up, and for the other end of
  // a FIFO. For devices, which have no size, from_fd. Errors: those of open(2) and from_fd.
  static mapping open(const char* path, mode how, std::error_code& ec) noexcept {
    int fd;
    do {
      fd = ::open(path, (how == mode::read_write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY);
    } while (fd == -1 && errno == EINTR);
    if (fd == -1) {
      ec = detail::code_of(errno);
      return {};
    }
    mapping result = from_fd(fd, how, 0, 0, ec);
    ::close(fd);
    return result;
  }

  // `length` bytes from `offset`, which need not lie on a page; length 0: to the end of the file as it is
  // now. What the file grows by later is not seen. The descriptor stays the caller's, and may be closed.
  // Errors: those of fstat(2) and mmap(2): EACCES where the descriptor was not opened for this mode, EPERM
  // where a seal forbids writing, ENODEV for what cannot be mapped. EISDIR. ERANGE: beyond the end of a
  // regular file. EOVERFLOW: offset + length is no size of a file. EINVAL: length 0 for what is no regular
  // file.
  static mapping from_fd(int fd, mode how, std::uint64_t offset, std::uint64_t length,
                         std::error_code& ec) noexcept {
    mapping result;
    ec = detail::code_of(result.map(fd, how, offset, length));
    return result;
  }

#if defined(__cpp_exceptions)
  static mapping open(const char* path, mode how) {
    std::error_code ec;
    mapping result = open(path, how, ec);
    if (ec) throw error(ec, std::string("stillmap: cannot map ") + path + " live: " + ec.message());
    return result;
  }
  template <class String>
  requires requires(const String& s) {
    { s.c_str() } -> std::convertible_to<const char*>;
  }
  static mapping open(const String& path, mode how) {
    return open(path.c_str(), how);
  }
  static mapping from_fd(int fd, mode how, std::uint64_t offset = 0, std::uint64_t length = 0) {
    std::error_code ec;
    mapping result = from_fd(fd, how, offset, length, ec);
    if (ec)
      throw error(ec, "stillmap: cannot map descriptor " + std::to_string(fd) + " live: " + ec.message());
    return result;
  }
#endif
  template <class String>
  requires requires(const String& s) {
    { s.c_str() } -> std::convertible_to<const char*>;
  }
  static mapping open(const String& path, mode how, std::error_code& ec) noexcept {
    return open(path.c_str(), how, ec);
  }

  std::size_t size() const noexcept {
    return size_;
  }
  bool writable() const noexcept {
    return writable_;
  }

  atomic_bytes as_atomic_bytes() const noexcept {
    return give<atomic_bytes>();
  }
  cell_bytes as_cell_bytes() const noexcept {
    return give<cell_bytes>();
  }
  registers as_registers() const noexcept {
    return give<registers>();
  }

  // EACCES, and an empty view, where the mode is not read_write.
  writable_atomic_bytes as_writable_atomic_bytes(std::error_code& ec) noexcept {
    return give_writable<writable_atomic_bytes>(ec);
  }
  writable_cell_bytes as_writable_cell_bytes(std::error_code& ec) noexcept {
    return give_writable<writable_cell_bytes>(ec);
  }
  writable_registers as_writable_registers(std::error_code& ec) noexcept {
    return give_writable<writable_registers>(ec);
  }
#if defined(__cpp_exceptions)
  writable_atomic_bytes as_writable_atomic_bytes() {
    return give_writable<writable_atomic_bytes>();
  }
  writable_cell_bytes as_writable_cell_bytes() {
    return give_writable<writable_cell_bytes>();
  }
  writable_registers as_writable_registers() {
    return give_writable<writable_registers>();
  }
#endif

 private:
  int map(int fd, mode how, std::uint64_t offset, std::uint64_t length) noexcept {
    struct stat file;
    if (::fstat(fd, &file) != 0) return errno;
    if (S_ISDIR(file.st_mode)) return EISDIR;
    constexpr std::uint64_t offset_max = std::numeric_limits<off_t>::max();
    if (offset > offset_max || length > offset_max - offset) return EOVERFLOW;
    std::uint64_t page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    if (S_ISREG(file.st_mode)) {
      const std::uint64_t end = static_cast<std::uint64_t>(file.st_size);
      if (offset > end || length > end - offset) return ERANGE;
      if (length == 0) length = end - offset;
      // hugetlbfs unmaps whole huge pages alone.
      struct statfs filesystem;
      if (::fstatfs(fd, &filesystem) != 0) return errno;
      constexpr std::uint32_t hugetlbfs_magic = 0x958458f6;
      if (static_cast<std::uint32_t>(filesystem.f_type) == hugetlbfs_magic)
        page = static_cast<std::uint64_t>(filesystem.f_bsize);
    } else if (length == 0) {
      return EINVAL;
    }
    if (length != 0) {  // an empty file has nothing to map
      const std::uint64_t lead = offset % page;
      if (length > offset_max - lead - page) return EOVERFLOW;
      const std::uint64_t bytes = (lead + length + page - 1) / page * page;
      void* const pages = ::mmap(nullptr, bytes, how == mode::read_write ? PROT_READ | PROT_WRITE : PROT_READ,
                                 MAP_SHARED, fd, static_cast<off_t>(offset - lead));
      if (pages == MAP_FAILED) return errno;
      pages_ = static_cast<std::byte*>(pages);
      pages_bytes_ = bytes;
      lead_bytes_ = lead;
      size_ = length;
    }
    writable_ = how == mode::read_write;
    device_ = !S_ISREG(file.st_mode);
    return 0;
  }

  template <class View>
  View give() const noexcept {
    return size_ == 0 ? View{} : View(pages_ + lead_bytes_, size_, device_);
  }
  template <class View>
  View give_writable(std::error_code& ec) const noexcept {
    ec = detail::code_of(writable_ ? 0 : EACCES);
    return writable_ ? give<View>() : View{};
  }
#if defined(__cpp_exceptions)
  template <class View>
  View give_writable() const {
    if (!writable_) detail::raise(EACCES);
    return give<View>();
  }
#endif

  std::byte* pages_ = nullptr;
  std::size_t pages_bytes_ = 0;
  std::size_t lead_bytes_ = 0;  // from the start of the first page to `offset`
  std::size_t size_ = 0;
  bool writable_ = false;
  bool device_ = false;
};

}  // namespace stillmap::live

#endif
