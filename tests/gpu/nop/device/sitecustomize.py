"""In every process on a GPU that computes nothing: no cuDNN, whose kernels are not stood in for."""

import importlib.abc
import importlib.util
import sys


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torch.backends.cudnn":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            import torch

            torch._C._set_cudnn_enabled(False)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder())
