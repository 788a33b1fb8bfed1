// SPDX-License-Identifier: Apache-2.0
//
// The layout is GNU grep's, colour sequences included, so that editors and scripts which read one read the
// other.
#include "grep/print.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace still::grep {
namespace {

// GREP_COLORS' defaults.
constexpr std::string_view color_match = "01;31", color_name = "35", color_number = "32",
                           color_separator = "36";

void append_number(std::string& out, std::uint64_t value) {
  char digits[20];
  const auto result = std::to_chars(digits, digits + sizeof digits, value);
  out.append(digits, result.ptr);
}

}  // namespace

std::uint64_t count_newlines(std::string_view text) {
  // In runs of 255 bytes, so that the compiler may count in bytes and widen once a run.
  std::uint64_t total = 0;
  std::size_t at = 0;
  for (; at + 192 <= text.size(); at += 192) {
    unsigned char run = 0;
    for (std::size_t i = 0; i < 192; ++i)
      run = static_cast<unsigned char>(run + (text[at + i] == '\n' ? 1 : 0));
    total += run;
  }
  for (; at < text.size(); ++at) total += text[at] == '\n' ? 1u : 0u;
  return total;
}

std::uint64_t count_lines(std::string_view text) {
  return count_newlines(text) + (!text.empty() && text.back() != '\n' ? 1u : 0u);
}

void printer::paint(std::string_view color, std::string_view text) {
  std::string& out = page_.text();
  if (!what_.color) {
    out += text;
    return;
  }
  out += "\33[";
  out += color;
  out += "m\33[K";
  out += text;
  out += "\33[m\33[K";
}

// What stands before a line. line_begin is for its number; offset is the byte that -b tells.
void printer::lead(const char* line_begin, std::size_t offset, char separator) {
  std::string& out = page_.text();
  const std::string_view mark(&separator, 1);
  char digits[20];
  if (named_) {
    paint(color_name, name_);
    if (what_.null_after_name)
      out += '\0';
    else
      paint(color_separator, mark);
  }
  if (what_.line_numbers) {
    line_number_ += count_newlines({counted_, static_cast<std::size_t>(line_begin - counted_)});
    counted_ = line_begin;
    const auto result = std::to_chars(digits, digits + sizeof digits, line_number_);
    paint(color_number, {digits, static_cast<std::size_t>(result.ptr - digits)});
    paint(color_separator, mark);
  }
  if (what_.byte_offsets) {
    const auto result = std::to_chars(digits, digits + sizeof digits, offset);
    paint(color_number, {digits, static_cast<std::size_t>(result.ptr - digits)});
    paint(color_separator, mark);
  }
}

void printer::write_matches(const char* begin, const char* end) {
  const std::string_view text(begin, static_cast<std::size_t>(end - begin));
  for (std::size_t from = 0; from <= text.size();) {
    const auto found = judge_.next_span(text, from);
    if (!found) break;
    lead(begin, static_cast<std::size_t>(begin - begin_) + found->begin, ':');
    paint(color_match, text.substr(found->begin, found->end - found->begin));
    page_.text() += '\n';
    page_.relieve();
    from = found->end;
  }
}

void printer::write_painted(const char* begin, const char* end) {
  const std::string_view text(begin, static_cast<std::size_t>(end - begin));
  std::size_t from = 0;
  while (const auto found = judge_.next_span(text, from)) {
    page_.text() += text.substr(from, found->begin - from);
    paint(color_match, text.substr(found->begin, found->end - found->begin));
    from = found->end;
  }
  page_.text() += text.substr(from);
}

void printer::write_line(const char* begin, const char* end, bool selected) {
  printed_ = after_newline(end);
  if (what_.only_matching) {
    if (selected && !what_.invert) write_matches(begin, end);
    return;
  }
  lead(begin, static_cast<std::size_t>(begin - begin_), selected ? ':' : '-');
  // Matches are painted where they are: in the selected lines, or with -v in the context.
  if (what_.color && selected != what_.invert)
    write_painted(begin, end);
  else
    page_.text().append(begin, end);
  page_.text() += '\n';
  page_.relieve();
}

// Context behind the last selected line, up to limit.
void printer::trail(const char* limit) {
  while (after_left_ > 0 && printed_ < limit) {
    const void* const found = std::memchr(printed_, '\n', static_cast<std::size_t>(limit - printed_));
    const char* const end = found ? static_cast<const char*>(found) : limit;
    --after_left_;
    write_line(printed_, end, false);
  }
}

void printer::select(const char* begin, const char* end) {
  if (!what_.context) return write_line(begin, end, true);
  if (printed_) trail(begin);
  const char* from = begin;
  const char* const stop = printed_ ? printed_ : begin_;
  for (std::uint64_t left = what_.before; left > 0 && from > stop; --left) {
    const void* const found = memrchr(stop, '\n', static_cast<std::size_t>(from - 1 - stop));
    from = found ? static_cast<const char*>(found) + 1 : stop;
  }
  if (printed_ && from != printed_ && what_.group_separator_on) {
    paint(color_separator, what_.group_separator);
    page_.text() += '\n';
  }
  while (from < begin) {
    const char* const newline =
        static_cast<const char*>(std::memchr(from, '\n', static_cast<std::size_t>(begin - from)));
    write_line(from, newline, false);
    from = newline + 1;
  }
  write_line(begin, end, true);
  after_left_ = what_.after;
}

void printer::finish(const char* limit) {
  if (what_.context && printed_) trail(limit);
}

void printer::file_count(std::uint64_t count) {
  if (named_) {
    paint(color_name, name_);
    if (what_.null_after_name)
      page_.text() += '\0';
    else
      paint(color_separator, ":");
  }
  append_number(page_.text(), count);
  page_.text() += '\n';
}

void printer::file_name() {
  paint(color_name, name_);
  page_.text() += what_.null_after_name ? '\0' : '\n';
}

}  // namespace still::grep
