// SPDX-License-Identifier: Apache-2.0
//
// stillmap's failures as std::system_error. Error numbers below STILL_ERROR_BASE are errno values and stand
// in std::generic_category; the library's own stand in stillmap::category().
#ifndef STILLMAP_ERROR_HPP
#define STILLMAP_ERROR_HPP

#include <stillmap/stillmap.h>

#include <string>
#include <system_error>

namespace stillmap {

enum class errc {
  busy_writer = STILL_ERROR_BUSY_WRITER,
  unsupported = STILL_ERROR_UNSUPPORTED,
  over_budget = STILL_ERROR_OVER_BUDGET,
  changing = STILL_ERROR_CHANGING,
  lost = STILL_ERROR_LOST,
};

namespace detail {
class error_category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "stillmap"; }
  std::string message(int number) const override { return still_strerror(number); }
};
}  // namespace detail

inline const std::error_category& category() noexcept {
  static const detail::error_category instance;
  return instance;
}

inline std::error_code make_error_code(errc value) noexcept {
  return {static_cast<int>(value), category()};
}

// The error_code for a number that a C function of the library returned.
inline std::error_code error_code_of(int number) noexcept {
  return {number, number > STILL_ERROR_BASE ? category() : std::generic_category()};
}

// Thrown by the throwing functions. what() is still_message(): file, cause and remedy.
class error : public std::system_error {
 public:
  error(std::error_code code, const std::string& message) : std::system_error(code), message_(message) {}
  const char* what() const noexcept override {
    return message_.empty() ? std::system_error::what() : message_.c_str();
  }

 private:
  std::string message_;
};

}  // namespace stillmap

template <>
struct std::is_error_code_enum<stillmap::errc> : std::true_type {};

#endif
