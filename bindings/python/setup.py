# SPDX-License-Identifier: Apache-2.0
"""Builds the module with the CMake project that this folder is part of, the library inside it, and packs it."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

here = pathlib.Path(__file__).resolve().parent
project = here.parents[1]
if not (project / "include/stillmap/stillmap.h").exists():
    sys.exit("setup.py: the sources of the library are expected two folders up: install from a whole source tree")


def version():
    header = (project / "include/stillmap/stillmap.h").read_text()
    return ".".join(re.findall(r"^#define STILL_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", header, re.M))


class build_with_cmake(build_ext):
    def build_extension(self, extension):
        build = pathlib.Path(self.build_temp).resolve() / "cmake"
        off = [f"-DSTILLMAP_{part}=OFF" for part in ("CLI", "PRELOAD", "TESTS", "EXAMPLES", "BENCH")]
        subprocess.run(["cmake", "-S", project, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF",
                        "-DSTILLMAP_PYTHON=ON", f"-DPython3_EXECUTABLE={sys.executable}", *off], check=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(len(os.sched_getaffinity(0))))
        subprocess.run(["cmake", "--build", build, "--target", "stillmap_python", "--parallel", jobs], check=True)
        target = pathlib.Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(build / "bindings/python/package/stillmap/_stillmap.abi3.so", target)


setup(
    version=version(),
    ext_modules=[Extension("stillmap._stillmap", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": build_with_cmake},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
