// SPDX-License-Identifier: Apache-2.0
//
// `still grep`: a request carried out. Every file is one snapshot, opened as torn unless the request wants
// more, so that a log being written is searched like any other; no line is ever half old and half new *while
// it is looked at*.
#ifndef STILL_GREP_GREP_HPP
#define STILL_GREP_GREP_HPP

#include "grep/request.hpp"

namespace still::grep {

enum exit_code { found = 0, none_found = 1, trouble = 2 };

// Writes to standard output and standard error.
int run(const request& what);

}  // namespace still::grep

#endif
