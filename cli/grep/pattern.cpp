// SPDX-License-Identifier: Apache-2.0
//
// The two engines behind pattern.hpp. What makes this file more than glue:
//
//   - Hyperscan reports every end of every match, in no promised order, and a common match must not cost a
//   new scan
//     for each line: so the callback steps over what lies in the line it has just taken, and sorts only if
//     needed;
//   - in a UTF-8 locale the finder still looks at bytes. Among lines of ASCII alone that is the same; lines
//   with
//     other characters go to the judge, unless the pattern cannot tell the difference;
//   - hs_scan takes an unsigned int: a text of 4 GiB or more, which only a single line can be here, is
//   judged.
#define PCRE2_CODE_UNIT_WIDTH 8

#include "grep/pattern.hpp"

#include "grep/finder_text.hpp"

#include <hs.h>
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <utility>

namespace still::grep {
namespace {

struct code_free {
  void operator()(pcre2_code* code) const noexcept { pcre2_code_free(code); }
};
struct context_free {
  void operator()(pcre2_compile_context* c) const noexcept { pcre2_compile_context_free(c); }
  void operator()(pcre2_match_context* c) const noexcept { pcre2_match_context_free(c); }
};
struct data_free {
  void operator()(pcre2_match_data* data) const noexcept { pcre2_match_data_free(data); }
};
struct stack_free {
  void operator()(pcre2_jit_stack* stack) const noexcept { pcre2_jit_stack_free(stack); }
};
struct database_free {
  void operator()(hs_database_t* database) const noexcept { hs_free_database(database); }
};
struct scratch_free {
  void operator()(hs_scratch_t* scratch) const noexcept { hs_free_scratch(scratch); }
};

using code_ptr = std::unique_ptr<pcre2_code, code_free>;
using database_ptr = std::unique_ptr<hs_database_t, database_free>;
using scratch_ptr = std::unique_ptr<hs_scratch_t, scratch_free>;

// Ids in the finder's database: one each, because Hyperscan takes 1700 ms to compile 3,000 strings that share
// one and 150 ms where they have their own. The lowest bit says whether a hit is certain.
unsigned finder_id(std::size_t index, bool exact) {
  return static_cast<unsigned>(index) * 2 + (exact ? 1u : 0u);
}
bool is_exact(unsigned id) {
  return id & 1;
}

// A joined pattern longer than this is cut in two: PCRE2's own limit lies at 64 KiB of compiled code.
constexpr std::size_t joined_bytes_max = 16 * 1024;

std::string describe(int error) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(error, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// A fixed string, in effect, that begins and ends with a word character: then -w is \b on either side,
// exactly.
bool has_word_edges(std::string_view pattern, bool fixed) {
  if (pattern.empty() || !is_word(pattern.front()) || !is_word(pattern.back())) return false;
  return fixed || std::all_of(pattern.begin(), pattern.end(), is_word);
}

bool all_ascii(std::string_view text) {
  const char* at = text.data();
  std::size_t left = text.size();
  for (; left >= 64; at += 64, left -= 64) {
    std::uint64_t words[8];
    std::memcpy(words, at, sizeof words);
    std::uint64_t all = 0;
    for (const std::uint64_t word : words) all |= word;
    if (all & 0x8080808080808080U) return false;
  }
  for (; left > 0; ++at, --left)
    if (static_cast<unsigned char>(*at) & 0x80) return false;
  return true;
}

const char* line_end(const char* at, const char* text_end) {
  const void* found = std::memchr(at, '\n', static_cast<std::size_t>(text_end - at));
  return found ? static_cast<const char*>(found) : text_end;
}

const char* line_begin(const char* at, const char* text_begin) {
  const void* found = memrchr(text_begin, '\n', static_cast<std::size_t>(at - text_begin));
  return found ? static_cast<const char*>(found) + 1 : text_begin;
}

}  // namespace

struct pattern::engines {
  std::vector<std::string> patterns;
  bool fixed, ignore_case, whole_word, whole_line, utf8;

  bool every_line = false;
  bool bytes_suffice = true;  // the finder's word holds outside ASCII too
  database_ptr finder;

  // The judge is made when it is first asked: most searches never do, and its JIT costs as much as a small
  // file.
  mutable std::once_flag judge_once;
  mutable std::vector<code_ptr> judge;
  bool joinable = true;

  explicit engines(const request& what)
      : patterns(what.patterns),
        fixed(what.fixed),
        ignore_case(what.ignore_case),
        whole_word(what.whole_word),
        whole_line(what.whole_line),
        utf8(what.utf8) {
    if (utf8) fall_back_to_bytes();
    // Longer first, so that -o takes the longest fixed string where several begin.
    if (fixed) {
      std::stable_sort(patterns.begin(), patterns.end(),
                       [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
    } else {
      for (const std::string& text : patterns) compile(text);  // for its complaint about what the user typed
    }
    // And now, rather than in the middle of a search, for its complaint about size.
    for (const std::string& text : patterns)
      if (!fixed || text.size() > joined_bytes_max / 4) compile_alone(text);
    patterns.erase(std::unique(patterns.begin(), patterns.end()), patterns.end());
    for (const std::string& text : patterns) every_line = every_line || is_everywhere(text);
    if (!every_line && !patterns.empty()) make_finder();
  }

  // What is not UTF-8 itself cannot be given to a judge of characters; it may still be looked for as bytes.
  void fall_back_to_bytes() {
    for (const std::string& text : patterns) {
      if (all_ascii(text)) continue;
      int error = 0;
      PCRE2_SIZE offset = 0;
      const std::string safe = quoted(text);
      const code_ptr code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(safe.data()), safe.size(), PCRE2_UTF,
                                        &error, &offset, nullptr));
      if (!code && error < 0) utf8 = false;  // negative: not UTF-8; positive: another complaint
    }
  }

  bool is_everywhere(const std::string& text) const {
    if (whole_line || whole_word) return false;
    return text.empty() || (!fixed && !utf8 && (text == "^" || text == "$" || text == ".*"));
  }

  code_ptr compile(const std::string& text) const {
    const std::unique_ptr<pcre2_compile_context, context_free> context(pcre2_compile_context_create(nullptr));
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);  // a CR is an ordinary byte
    std::uint32_t options = PCRE2_DOLLAR_ENDONLY | PCRE2_DUPNAMES | PCRE2_NEVER_BACKSLASH_C;
    if (ignore_case) options |= PCRE2_CASELESS;
    if (utf8) options |= PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF;
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_ptr code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), options, &error,
                                &offset, context.get()));
    if (!code && error != PCRE2_ERROR_PATTERN_TOO_LARGE)
      throw pattern_error("pattern '" + text + "': " + describe(error) + " (at byte " +
                          std::to_string(offset) + ")");
    return code;
  }

  // One pattern as the judge takes it, with -w and -x.
  std::string framed(const std::string& text) const {
    const std::string body = fixed ? quoted(text) : text;
    // \E ends a \Q that was left open, and is nothing otherwise.
    const char* const close = !fixed && text.find("\\Q") != std::string::npos ? "\\E)" : ")";
    if (whole_line) return "^(?:" + body + close + "$";
    if (whole_word) return "(?<!\\w)(?:" + body + close + "(?!\\w)";
    return "(?:" + body + close;
  }

  code_ptr compile_alone(const std::string& text) const {
    code_ptr code = compile(framed(text));
    if (!code) throw pattern_error("pattern too large: it starts with '" + text.substr(0, 40) + "'");
    return code;
  }

  void add_judges(std::size_t from, std::size_t to) const {
    std::string joined;
    for (std::size_t i = from; i < to; ++i) {
      if (i > from) joined += '|';
      joined += framed(patterns[i]);
    }
    code_ptr code;
    if (to - from == 1)
      code = compile_alone(patterns[from]);
    else if (joined.size() <= joined_bytes_max)
      code = compile(joined);
    if (code) {
      pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // where it fails, pcre2_match interprets
      judge.push_back(std::move(code));
      return;
    }
    const std::size_t middle = from + (to - from) / 2;
    add_judges(from, middle);
    add_judges(middle, to);
  }

  const std::vector<code_ptr>& judges() const {
    std::call_once(judge_once, [this] {
      if (patterns.empty()) return;
      if (joinable) return add_judges(0, patterns.size());
      for (std::size_t i = 0; i < patterns.size(); ++i) add_judges(i, i + 1);
    });
    return judge;
  }

  void make_finder() {
    std::vector<std::string> texts;
    std::vector<unsigned> flags, ids;
    bool usable = hs_valid_platform() == HS_SUCCESS;
    for (const std::string& text : patterns) {
      const finder_text found =
          fixed ? rewrite_fixed(text, ignore_case, utf8) : rewrite(text, ignore_case, utf8);
      joinable = joinable && found.usable && found.plain;
      usable = usable && found.usable;
      if (!usable && !joinable) return;
      bool exact = found.exact;
      bool suffice = found.bytes_suffice;
      std::string wrapped = found.text;
      if (whole_line) {
        wrapped = "^(?:" + found.text + ")$";
      } else if (whole_word) {
        suffice = suffice && !utf8;
        if (has_word_edges(text, fixed))
          wrapped = "\\b" + found.text + "\\b";
        else
          exact = false;
      }
      bytes_suffice = bytes_suffice && suffice;
      const unsigned how = HS_FLAG_MULTILINE | (ignore_case ? unsigned{HS_FLAG_CASELESS} : 0u) |
                           (found.loose ? unsigned{HS_FLAG_PREFILTER} : 0u);
      // What may match nothing at all matches in too many places to be found by its ends. (A fixed string
      // cannot.)
      usable = usable && (fixed ? !text.empty() : has_width(wrapped, how));
      texts.push_back(std::move(wrapped));
      flags.push_back(how);
      ids.push_back(finder_id(ids.size(), exact));
    }
    if (!usable) return;
    std::vector<const char*> pointers;
    for (const std::string& text : texts) pointers.push_back(text.c_str());
    hs_database_t* made = nullptr;
    hs_compile_error_t* error = nullptr;
    if (hs_compile_multi(pointers.data(), flags.data(), ids.data(), static_cast<unsigned>(pointers.size()),
                         HS_MODE_BLOCK, nullptr, &made, &error) == HS_SUCCESS)
      finder.reset(made);
    else
      hs_free_compile_error(error);
  }

  static bool has_width(const std::string& text, unsigned flags) {
    hs_expr_info_t* information = nullptr;
    hs_compile_error_t* error = nullptr;
    if (hs_expression_info(text.c_str(), flags, &information, &error) != HS_SUCCESS) {
      hs_free_compile_error(error);
      return false;
    }
    const bool result = information->min_width > 0;
    std::free(information);
    return result;
  }
};

pattern::pattern(const request& what) : engines_(std::make_unique<engines>(what)) {}
pattern::~pattern() = default;
bool pattern::has_finder() const {
  return engines_->finder != nullptr;
}
void pattern::drop_finder() {
  engines_->finder.reset();
}

struct matcher::means {
  const pattern::engines& engines;
  scratch_ptr scratch;
  std::unique_ptr<pcre2_match_data, data_free> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, context_free> context;
  std::unique_ptr<pcre2_jit_stack, stack_free> stack;
  std::string failure;
  std::vector<line> proposals;

  explicit means(const pattern::engines& what) : engines(what) {
    if (!engines.finder) return;
    hs_scratch_t* made = nullptr;
    if (hs_alloc_scratch(engines.finder.get(), &made) != HS_SUCCESS) throw std::bad_alloc();
    scratch.reset(made);
  }

  // The first match at or after `from` by this code. The ovector tells where.
  bool run(const pcre2_code* code, std::string_view text, std::size_t from, std::uint32_t options) {
    if (!context) {
      context.reset(pcre2_match_context_create(nullptr));
      // 32 KiB of machine stack do for most patterns; this is for the others.
      stack.reset(pcre2_jit_stack_create(64 * 1024, 16 * 1024 * 1024, nullptr));
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    }
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int result = pcre2_match(code, subject, text.size(), from, options, data.get(), context.get());
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
      result =
          pcre2_match(code, subject, text.size(), from, options | PCRE2_NO_JIT, data.get(), context.get());
    if (result < 0 && result != PCRE2_ERROR_NOMATCH && failure.empty()) failure = describe(result);
    return result >= 0;
  }

  bool judge(std::string_view text) {
    if (engines.every_line) return true;
    for (const code_ptr& code : engines.judges())
      if (run(code.get(), text, 0, 0)) return true;
    return false;
  }
};

matcher::matcher(const pattern& what) : means_(std::make_unique<means>(*what.engines_)) {}
matcher::~matcher() = default;

bool matcher::matches(std::string_view one_line) {
  return means_->judge(one_line);
}

std::string matcher::take_failure() {
  return std::exchange(means_->failure, {});
}

std::optional<span> matcher::next_span(std::string_view one_line, std::size_t from) {
  std::optional<span> best;
  for (const code_ptr& code : means_->engines.judges()) {
    if (!means_->run(code.get(), one_line, from, PCRE2_NOTEMPTY)) continue;
    const PCRE2_SIZE* where = pcre2_get_ovector_pointer(means_->data.get());
    // \K may put the start behind the end, or leave nothing between them.
    const span found{where[0], where[1]};
    if (found.begin >= found.end || found.begin < from) continue;
    if (!best || found.begin < best->begin || (found.begin == best->begin && found.end > best->end))
      best = found;
  }
  return best;
}

namespace {

// What the finder's callback works on.
struct scan {
  const char* begin;
  const char* end;
  std::vector<line>* lines;
  bool any;      // stop at the first line that is certain
  bool trusted;  // an exact hit needs no judge
  bool in_order = true;
  matcher* judge;
  const char* taken_at = nullptr;  // the last hit that was looked into, and the end of its line
  const char* taken_end = nullptr;
};

int on_hit(unsigned id, unsigned long long, unsigned long long to, unsigned, void* opaque) {
  scan& state = *static_cast<scan*>(opaque);
  const char* const at = state.begin + to - 1;
  if (state.taken_at) {
    if (at <= state.taken_end) {
      if (at >= state.taken_at) return 0;  // the same line again
      state.in_order = false;
    }
  }
  const char* const end = line_end(at, state.end);
  state.taken_at = at;
  state.taken_end = end;
  if (!is_exact(id) || !state.trusted) {
    const char* const start = line_begin(at, state.begin);
    if (!state.judge->matches({start, static_cast<std::size_t>(end - start)})) return 0;
  }
  state.lines->push_back({at, end});
  return state.any ? 1 : 0;
}

}  // namespace

void matcher::matching_lines(std::string_view text, bool any, std::vector<line>& lines) {
  lines.clear();
  const pattern::engines& engines = means_->engines;
  if (text.empty() || engines.patterns.empty()) return;
  const char* const begin = text.data();
  const char* const end = begin + text.size();

  const bool scannable = engines.finder && text.size() <= std::numeric_limits<unsigned>::max();
  if (!scannable) {
    for (const char* at = begin; at < end;) {
      const char* const stop = line_end(at, end);
      if (means_->judge({at, static_cast<std::size_t>(stop - at)})) {
        lines.push_back({at, stop});
        if (any) return;
      }
      at = stop + 1;
    }
    return;
  }

  // Lines outside ASCII are for the judge, whether the finder proposes them or not.
  const bool mixed = engines.utf8 && !engines.bytes_suffice && !all_ascii(text);
  scan state{begin, end, mixed ? &means_->proposals : &lines, any && !mixed, true, true, this};
  if (mixed) means_->proposals.clear();
  const hs_error_t result = hs_scan(engines.finder.get(), begin, static_cast<unsigned>(text.size()), 0,
                                    means_->scratch.get(), on_hit, &state);
  if (result != HS_SUCCESS && result != HS_SCAN_TERMINATED)
    means_->failure = "Hyperscan: error " + std::to_string(result);
  if (!state.in_order) {
    std::vector<line>& found = *state.lines;
    std::sort(found.begin(), found.end(), [](const line& a, const line& b) { return a.end < b.end; });
    found.erase(
        std::unique(found.begin(), found.end(), [](const line& a, const line& b) { return a.end == b.end; }),
        found.end());
  }
  if (!mixed) return;

  auto proposed = means_->proposals.begin();
  for (const char* at = begin; at < end;) {
    const char* const stop = line_end(at, end);
    const std::string_view one{at, static_cast<std::size_t>(stop - at)};
    bool hit = false;
    if (proposed != means_->proposals.end() && proposed->end == stop) {
      hit = true;
      ++proposed;
    }
    if (!all_ascii(one)) hit = means_->judge(one);
    if (hit) {
      lines.push_back({at, stop});
      if (any) return;
    }
    at = stop + 1;
  }
}

}  // namespace still::grep
