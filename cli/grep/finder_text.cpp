// SPDX-License-Identifier: Apache-2.0
//
// The scanner goes through the pattern once, left to right, and writes the finder's text as it goes. Three
// facts are lowered on the way: `exact` (a lookahead came by), `bytes_suffice` (something that may consume or
// look at a character outside ASCII), `usable` (something unknown). Anything not named here is unknown.
#include "grep/finder_text.hpp"

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace still::grep {
namespace {

using byte_set = std::bitset<256>;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_ascii(char c) {
  return static_cast<unsigned char>(c) < 0x80;
}
// The letters that have a case twin outside ASCII: U+017F for s, U+212A for k.
bool has_distant_twin(char c) {
  return c == 'k' || c == 'K' || c == 's' || c == 'S';
}

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void append_hex(std::string& out, unsigned value) {
  static constexpr char digits[] = "0123456789abcdef";
  out += "\\x";
  out += digits[value >> 4 & 15];
  out += digits[value & 15];
}

void append_literal(std::string& out, char c) {
  if (is_letter(c) || is_digit(c) || c == '_' || c == ' ')
    out += c;
  else
    append_hex(out, static_cast<unsigned char>(c));
}

void add_range(byte_set& set, unsigned from, unsigned to) {
  for (unsigned c = from; c <= to; ++c) set.set(c);
}

byte_set digits() {
  byte_set set;
  add_range(set, '0', '9');
  return set;
}
byte_set letters() {
  byte_set set;
  add_range(set, 'a', 'z');
  add_range(set, 'A', 'Z');
  return set;
}
byte_set words() {
  return (digits() | letters()).set('_');
}
byte_set spaces() {
  byte_set set;
  add_range(set, '\t', '\r');
  return set.set(' ');
}

std::optional<byte_set> posix_class(std::string_view name) {
  byte_set set;
  if (name == "alpha") return letters();
  if (name == "digit") return digits();
  if (name == "alnum") return letters() | digits();
  if (name == "word") return words();
  if (name == "space") return spaces();
  if (name == "blank") return set.set(' ').set('\t');
  if (name == "upper") return add_range(set, 'A', 'Z'), set;
  if (name == "lower") return add_range(set, 'a', 'z'), set;
  if (name == "xdigit") return add_range(set, 'a', 'f'), add_range(set, 'A', 'F'), set | digits();
  if (name == "cntrl") return add_range(set, 0, 31), set.set(127);
  if (name == "print") return add_range(set, 32, 126), set;
  if (name == "graph") return add_range(set, 33, 126), set;
  if (name == "punct") return add_range(set, 33, 126), set & ~(letters() | digits());
  return std::nullopt;
}

class scanner {
 public:
  scanner(std::string_view pattern, bool ignore_case, bool utf8)
      : pattern_(pattern), ignore_case_(ignore_case), utf8_(utf8) {}

  finder_text run() {
    result_.usable = result_.exact = result_.bytes_suffice = result_.plain = true;
    while (result_.usable && at_ < pattern_.size()) step();
    // U+212A in the pattern matches a k of ASCII when case is ignored: no finder of bytes proposes that line.
    if (utf8_ && ignore_case_ && non_ascii_) result_.usable = false;
    if (!result_.usable) return finder_text{};
    if (!utf8_) result_.bytes_suffice = result_.exact;
    return result_;
  }

 private:
  char peek(std::size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  bool more(std::size_t ahead = 0) const { return at_ + ahead < pattern_.size(); }
  bool give_up() { return result_.usable = false; }

  void step() {
    const char c = pattern_[at_];
    switch (c) {
      case '\\':
        return escape();
      case '[':
        return character_class();
      case '(':
        return group();
      case '.':
        ++at_;
        wide();
        result_.text += "[^\\n]";
        return;
      case '*':
      case '+':
      case '?':
        ++at_;
        result_.text += c;
        return after_quantifier();
      case '{':
        return brace();
      case '^':
      case '$':
      case '|':
      case ')':
        ++at_;
        result_.text += c;
        return;
      default:
        return literal();
    }
  }

  // One character. A character of several bytes is kept together, so that a quantifier behind it takes it
  // whole.
  void literal() {
    const char c = pattern_[at_];
    if (is_ascii(c) || !utf8_) {
      ++at_;
      letter(c);
      append_literal(result_.text, c);
      return;
    }
    non_ascii_ = true;
    result_.text += "(?:";
    do append_literal(result_.text, pattern_[at_++]);
    while (more() && (static_cast<unsigned char>(peek()) & 0xc0) == 0x80);
    result_.text += ')';
  }

  void letter(char c) {
    if (ignore_case_ && has_distant_twin(c)) wide();
  }
  void wide() { result_.bytes_suffice = false; }

  // A possessive + behind a quantifier forbids matches: leaving it out allows more.
  void after_quantifier() {
    if (peek() == '+') {
      ++at_;
      result_.exact = false;
    } else if (peek() == '?') {
      ++at_;  // laziness chooses among matches; a line has one or it has not
    }
  }

  // {3}, {3,}, {3,5}; any other brace is a character.
  void brace() {
    std::size_t end = at_ + 1;
    const auto number = [&] {
      const std::size_t start = end;
      while (end < pattern_.size() && is_digit(pattern_[end])) ++end;
      return end > start;
    };
    bool quantifier = number();
    if (quantifier && end < pattern_.size() && pattern_[end] == ',') {
      ++end;
      number();
    }
    quantifier = quantifier && end < pattern_.size() && pattern_[end] == '}';
    if (!quantifier) return literal();
    result_.text += pattern_.substr(at_, end + 1 - at_);
    at_ = end + 1;
    after_quantifier();
  }

  void set(const byte_set& members, bool negated) {
    result_.text += negated ? "[^\\n" : "[";
    bool empty = true;
    for (unsigned from = 0; from < 256; ++from) {
      if (!members.test(from) || from == '\n') continue;
      unsigned to = from;
      while (to + 1 < 256 && to + 1 != '\n' && members.test(to + 1)) ++to;
      append_hex(result_.text, from);
      if (to > from) {
        result_.text += '-';
        append_hex(result_.text, to);
      }
      from = to;
      empty = false;
    }
    // A class of newlines alone matches in no line. Leaving the newline in keeps it a class; the judge
    // rejects.
    if (empty && !negated) {
      result_.text += "\\n";
      result_.exact = false;
    }
    result_.text += ']';
    if (negated || (members.to_string().find('1') < 128)) wide();
  }

  // The value of \xHH or \x{H...} at at_, which is moved behind it.
  std::optional<unsigned> hex_escape() {
    at_ += 2;
    unsigned value = 0;
    if (peek() == '{') {
      ++at_;
      std::size_t count = 0;
      for (; more() && hex_value(peek()) >= 0 && count < 6; ++at_, ++count)
        value = value * 16 + static_cast<unsigned>(hex_value(peek()));
      if (count == 0 || peek() != '}') return std::nullopt;
      ++at_;
      return value;
    }
    if (hex_value(peek()) < 0 || hex_value(peek(1)) < 0) return std::nullopt;
    value = static_cast<unsigned>(hex_value(peek()) * 16 + hex_value(peek(1)));
    at_ += 2;
    return value;
  }

  std::optional<char> control_escape(char c) {
    switch (c) {
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case 'f':
        return '\f';
      case 'e':
        return '\x1b';
      case 'a':
        return '\a';
      default:
        return std::nullopt;
    }
  }

  void escape() {
    if (!more(1)) return void(give_up());
    const char c = peek(1);
    if (!is_letter(c) && !is_digit(c)) {
      ++at_;
      return literal();
    }
    if (const auto control = control_escape(c)) {
      at_ += 2;
      append_literal(result_.text, *control);
      return;
    }
    switch (c) {
      case 'd':
      case 'w':
        // By Unicode, \d and \w also have members outside ASCII.
        set(c == 'd' ? digits() : words(), false);
        break;
      case 's':
        set(spaces(), false);
        break;
      case 'D':
      case 'W':
        set(c == 'D' ? digits() : words(), true);
        break;
      case 'S':
        set(spaces(), true);
        break;
      case 'b':
      case 'B':
        result_.text += '\\';
        result_.text += c;
        break;
      case 'x': {
        const auto value = hex_escape();
        if (!value || *value == '\n' || (!utf8_ && *value > 0xff)) return void(give_up());
        if (*value < 0x80) {
          letter(static_cast<char>(*value));
          append_literal(result_.text, static_cast<char>(*value));
        } else {
          // In UTF-8 this names a character outside ASCII. Its bytes do not matter: a line that holds it is
          // given to the judge anyway.
          if (utf8_) non_ascii_ = true, wide();
          append_hex(result_.text, utf8_ ? 0xff : *value);
        }
        return;
      }
      default:
        // A backreference of one digit; \0 and more digits may be octal.
        if (c < '1' || c > '9' || is_digit(peek(2))) return void(give_up());
        result_.text += '\\';
        result_.text += c;
        result_.exact = result_.plain = false;
        result_.loose = true;
        at_ += 2;
        wide();
        return;
    }
    at_ += 2;
    wide();
  }

  // After "(": what kind of group.
  void group() {
    if (peek(1) == '*') return void(give_up());
    if (peek(1) != '?') {
      ++at_;
      result_.text += '(';
      return;
    }
    const std::string_view rest = pattern_.substr(at_);
    for (const std::string_view look : {"(?=", "(?!", "(?<=", "(?<!"}) {
      if (!rest.starts_with(look)) continue;
      result_.text += look;
      at_ += look.size();
      result_.exact = false;
      result_.loose = true;
      wide();
      return;
    }
    // (?: and the flags i, s, and their negations. Others change what ^ or a space means.
    std::size_t end = at_ + 2;
    bool sets_case = false;
    while (end < pattern_.size() && (pattern_[end] == 'i' || pattern_[end] == 's' || pattern_[end] == '-')) {
      sets_case = sets_case || pattern_[end] == 'i';
      ++end;
    }
    if (end >= pattern_.size() || (pattern_[end] != ':' && pattern_[end] != ')')) return void(give_up());
    if (end == at_ + 2 && pattern_[end] == ')') return void(give_up());
    if (sets_case) {
      ignore_case_ = true;  // only to be careful: from here on, and for the end's check
      wide();
    }
    // A flag set in the middle of a group lasts to the group's end, also past a |: in both engines.
    result_.text += pattern_.substr(at_, end + 1 - at_);
    at_ = end + 1;
  }

  // A class, as the set of its bytes. In UTF-8 only its members in ASCII count here: see \x above.
  void character_class() {
    byte_set members;
    ++at_;
    const bool negated = peek() == '^';
    if (negated) ++at_;
    bool first = true;
    for (;; first = false) {
      if (!more()) return void(give_up());
      if (peek() == ']' && !first) break;
      unsigned from = 0;
      if (peek() == '[' && (peek(1) == ':' || peek(1) == '.' || peek(1) == '=')) {
        const std::size_t end = pattern_.find(":]", at_ + 2);
        if (peek(1) != ':' || end == std::string_view::npos) return void(give_up());
        const auto named = posix_class(pattern_.substr(at_ + 2, end - at_ - 2));
        if (!named) return void(give_up());
        members |= *named;
        wide();
        at_ = end + 2;
        if (peek() == '-' && peek(1) != ']') return void(give_up());
        continue;
      }
      const item kind = class_item(from, members);
      if (kind == item::unknown) return void(give_up());
      if (peek() != '-' || peek(1) == ']' || !more(1)) {
        if (kind == item::character) members.set(from);
        continue;
      }
      if (kind == item::several) return void(give_up());  // [\d-z]: left to the judge
      ++at_;
      unsigned to = 0;
      if (peek() == '[' || class_item(to, members) != item::character || to < from) return void(give_up());
      add_range(members, from, to);
    }
    ++at_;
    if (ignore_case_ && utf8_) wide();
    set(members, negated);
  }

  enum class item { character, several, unknown };

  item class_item(unsigned& value, byte_set& members) {
    const char c = peek();
    if (c != '\\') {
      ++at_;
      value = static_cast<unsigned char>(c);
      if (value < 0x80 || !utf8_) return item::character;
      // A character outside ASCII: what stands for it is one byte that no line of ASCII has.
      non_ascii_ = true;
      wide();
      while (more() && (static_cast<unsigned char>(peek()) & 0xc0) == 0x80) ++at_;
      value = 0xff;
      return item::character;
    }
    if (!more(1)) return item::unknown;
    const char named = peek(1);
    if (!is_letter(named) && !is_digit(named)) {
      if (!is_ascii(named)) return item::unknown;
      at_ += 2;
      value = static_cast<unsigned char>(named);
      return item::character;
    }
    if (const auto control = control_escape(named)) {
      at_ += 2;
      value = static_cast<unsigned char>(*control);
      return item::character;
    }
    switch (named) {
      case 'n':
        at_ += 2, value = '\n';
        return item::character;
      case 'd':
        members |= digits();
        break;
      case 'w':
        members |= words();
        break;
      case 's':
        members |= spaces();
        break;
      case 'D':
        members |= ~digits();
        break;
      case 'W':
        members |= ~words();
        break;
      case 'S':
        members |= ~spaces();
        break;
      case 'x': {
        const auto read = hex_escape();
        if (!read || (!utf8_ && *read > 0xff)) return item::unknown;
        value = *read;
        if (utf8_ && value > 0x7f) non_ascii_ = true, wide(), value = 0xff;
        return item::character;
      }
      default:
        return item::unknown;
    }
    at_ += 2;
    wide();
    return item::several;
  }

  std::string_view pattern_;
  bool ignore_case_;
  bool utf8_;
  bool non_ascii_ = false;
  std::size_t at_ = 0;
  finder_text result_;
};

}  // namespace

finder_text rewrite(std::string_view pattern, bool ignore_case, bool utf8) {
  return scanner(pattern, ignore_case, utf8).run();
}

finder_text rewrite_fixed(std::string_view pattern, bool ignore_case, bool utf8) {
  finder_text result;
  result.usable = result.exact = result.bytes_suffice = result.plain = true;
  for (const char c : pattern) {
    if (utf8 && ignore_case && !is_ascii(c)) return finder_text{};
    if (utf8 && ignore_case && has_distant_twin(c)) result.bytes_suffice = false;
    append_literal(result.text, c);
  }
  return result;
}

std::string quoted(std::string_view fixed) {
  std::string result;
  for (const char c : fixed) {
    // A backslash before ASCII punctuation makes it literal; the bytes of a character stay as they are.
    if (c == '\0') {
      result += "\\x00";
      continue;
    }
    if (is_ascii(c) && !is_letter(c) && !is_digit(c)) result += '\\';
    result += c;
  }
  return result;
}

}  // namespace still::grep
