"""Put on PYTHONPATH, this writes down every execution of a stage, in whatever process it happens.

It knows nothing of store or MLflow, so that what they say can be checked against it. One line per event, appended in
one write: `start KEY PID TIME` when a stage's function is called, `end KEY PID TIME` when it returns.
"""

import functools
import importlib.abc
import importlib.util
import os
import sys
import time

LOG = os.environ.get("TRANSFERGRID_EXECUTION_LOG")


def _append(event, key):
    handle = os.open(LOG, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(handle, f"{event} {key} {os.getpid()} {time.time():.3f}\n".encode())
    os.close(handle)


def _logged(function):
    @functools.wraps(function)
    def stage(spec, context):
        key = context._stage.key
        _append("start", key)
        result = function(spec, context)
        _append("end", key)
        return result

    return stage


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the module be found as always, and wraps its registry once it has been executed."""

    def find_spec(self, name, path, target=None):
        if name != "trainables.stages":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.STAGES.update({kind: _logged(function) for kind, function in module.STAGES.items()})

        spec.loader.exec_module = exec_module
        return spec


if LOG:
    sys.meta_path.insert(0, _Finder())
