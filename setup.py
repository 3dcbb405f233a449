"""Builds native/ for the instruction sets that this kind of processor may have. Without a compiler the install goes on."""

import copy
import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c"]
BUILDS = {"plain": []}
if platform.machine() in ("x86_64", "AMD64"):
    BUILDS |= {"avx2": ["-mavx2", "-mfma", "-mf16c"], "avx512": AVX512, "avx512_bf16": [*AVX512, "-mavx512bf16"]}
    BUILDS["amx"] = [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
HEADERS = [str(file) for file in sorted(Path("native").glob("*.h"))]
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []  # the threads that torch computes with: it brings the same library
COMMON = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=default", "-Wno-psabi"]


class BuildApart(build_ext):
    """Builds of one source at the same time, each with a folder of its own for what the compiler leaves on the way."""

    def build_extension(self, ext):
        own = copy.copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name)
        build_ext.build_extension(own, ext)


setup(
    cmdclass={"build_ext": BuildApart},
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=[]
    if sys.platform == "win32"
    else [
        Extension(
            f"danlu.{room}._{source}_{name}",
            [f"native/{source}.cpp"],
            depends=HEADERS,
            language="c++",
            extra_compile_args=[*COMMON, *flags, *threads],
            extra_link_args=["-pthread", *threads],
            optional=True,
        )
        for room, source, threads in (("kernels", "step", []), ("nn", "layers", OPENMP))
        for name, flags in BUILDS.items()
    ],
)
