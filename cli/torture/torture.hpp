// SPDX-License-Identifier: Apache-2.0
//
// `still torture`: proof, on this machine and in this folder, that bytes hold still. Scratch files are
// changed without pause in every way that Linux has, and under that one storm are read through plain mmap, by
// read, and through each of stillmap's ways; every byte is looked at twice, with changes between the looks.
// It proves itself: a storm that does plain mmap no harm has proved nothing, and that is said.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace still::torture {

struct arguments {
  std::string directory = ".";
  double seconds = 20;
  bool json = false;
};

void declare(CLI::App& app, arguments& into);

// 0: what stillmap held did hold still, and what nothing held was harmed; 1: bytes changed under stillmap; 3:
// the storm was too weak to tell; 2: it could not be run.
int run(const arguments& what);

}  // namespace still::torture
