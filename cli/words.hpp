// SPDX-License-Identifier: Apache-2.0
//
// CLI11 takes a word like [abc] for a list where an option may have several values, and cuts it up. To it we
// show such words with a NUL at their end, which no word of a command line can have, and take it off again
// afterwards.
#ifndef STILL_WORDS_HPP
#define STILL_WORDS_HPP

#include <string>
#include <vector>

namespace still {

inline void shield(std::vector<std::string>& words) {
  for (std::string& word : words)
    if (!word.empty() && word.front() == '[' && word.back() == ']') word += '\0';
}

inline std::string unshielded(std::string word) {
  if (!word.empty() && word.back() == '\0') word.pop_back();
  return word;
}

inline std::vector<std::string> unshielded(std::vector<std::string> words) {
  for (std::string& word : words) word = unshielded(std::move(word));
  return words;
}

}  // namespace still

#endif
