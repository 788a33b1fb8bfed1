// SPDX-License-Identifier: Apache-2.0
//
// From selected lines to text as GNU grep writes it: names, numbers, separators, context, colour. One printer
// serves one file; it is told the selected lines in order and finds the lines around them in the file's
// bytes.
#ifndef STILL_GREP_PRINT_HPP
#define STILL_GREP_PRINT_HPP

#include "grep/outlet.hpp"
#include "grep/pattern.hpp"
#include "grep/request.hpp"

#include <cstdint>
#include <string_view>

namespace still::grep {

// How many lines text has; one without its newline counts.
std::uint64_t count_lines(std::string_view text);
std::uint64_t count_newlines(std::string_view text);

class printer {
 public:
  // Everything is borrowed. named: each line bears the file's name.
  printer(const request& what, matcher& judge, std::string_view text, std::string_view name, bool named,
          page& to)
      : what_(what),
        judge_(judge),
        begin_(text.data()),
        end_(text.data() + text.size()),
        name_(name),
        named_(named),
        page_(to),
        counted_(begin_) {}

  // A selected line; end is its newline or the end of the text.
  void select(const char* begin, const char* end);
  // No more selected lines: the context behind the last one, which ends at `limit`.
  void finish(const char* limit);

  void file_count(std::uint64_t count);
  void file_name();

 private:
  void lead(const char* line_begin, std::size_t offset, char separator);
  void write_line(const char* begin, const char* end, bool selected);
  void write_matches(const char* begin, const char* end);
  void write_painted(const char* begin, const char* end);
  void trail(const char* limit);
  const char* after_newline(const char* end) const { return end < end_ ? end + 1 : end_; }
  void paint(std::string_view color, std::string_view text);

  const request& what_;
  matcher& judge_;
  const char* const begin_;
  const char* const end_;
  const std::string_view name_;
  const bool named_;
  page& page_;

  const char* counted_;            // where line_number_ counts from
  std::uint64_t line_number_ = 1;  // of the line at counted_
  const char* printed_ = nullptr;  // end of the last line written, newline included
  std::uint64_t after_left_ = 0;
};

}  // namespace still::grep

#endif
