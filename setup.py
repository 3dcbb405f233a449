"""Builds native/step.cpp for the instruction sets that this kind of processor may have. Without a compiler the install goes on."""

import os
import platform
import sys

from setuptools import Extension, setup

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c"]
BUILDS = {"plain": []}
if platform.machine() in ("x86_64", "AMD64"):
    BUILDS |= {"avx2": ["-mavx2", "-mfma", "-mf16c"], "avx512": AVX512, "avx512_bf16": [*AVX512, "-mavx512bf16"]}
COMMON = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=default", "-Wno-psabi"]

setup(
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=[]
    if sys.platform == "win32"
    else [
        Extension(
            f"danlu.kernels._step_{name}",
            ["native/step.cpp"],
            depends=[f"native/{part}.h" for part in ("model", "vectors", "avx512", "avx2", "plain", "threads", "products", "attention")],
            language="c++",
            extra_compile_args=[*COMMON, *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for name, flags in BUILDS.items()
    ],
)
