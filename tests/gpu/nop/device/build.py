"""Builds the libraries of the GPU that computes nothing, and says how a program gets one."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

SOURCES = Path(__file__).parent
ROOT = SOURCES.parents[3]


def environment(folder: Path) -> dict[str, str]:
    """Build into a folder; return what a program's environment needs. Needs a C compiler."""
    site = Path(sysconfig.get_paths()["purelib"])
    places = ("nvidia/**/cuda_runtime_api.h", "triton/**/cuda.h")  # of torch's and Triton's wheels
    include = [f"-I{min(site.glob(place)).parent}" for place in places]
    (folder / "stub").mkdir()
    for library, sources, options in (
        ("libnop.so", ("runtime.c", "blas.c"), [*include, "-lpthread", "-ldl"]),
        ("stub/libcuda.so.1", ("driver.c",), ["-Wl,-soname,libcuda.so.1"]),
        ("stub/libnvidia-ml.so.1", ("nvml.c",), ["-Wl,-soname,libnvidia-ml.so.1"]),
    ):
        files = [str(SOURCES / source) for source in sources]
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-w", *files, *options, "-o", folder / library],
            check=True,
        )
    return {
        "LD_PRELOAD": str(folder / "libnop.so"),
        "LD_LIBRARY_PATH": _joined(folder / "stub", "LD_LIBRARY_PATH"),
        "PYTHONPATH": _joined(SOURCES, ROOT, "PYTHONPATH"),
        "OMP_NUM_THREADS": "1",
        # what kernels do not write is zero, and not what an earlier tensor has left there
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    }


def _joined(*parts: Path | str) -> str:
    """Folders, and behind them those of a variable."""
    *folders, name = parts
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(str(name))])])
