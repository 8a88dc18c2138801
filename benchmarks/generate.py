"""How fast text is generated: `python benchmarks/generate.py [SHAPE ...]`; a table and JSON.

New tokens per second over all samples, from half a context to a full one: with the key/value cache,
as a stream of a few tokens at a time, and without the cache (a forward pass over the whole window
for each token). Initial parameters, temperature 0.8. Shapes are those of configs/model.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from input_pipeline import cpu_name  # noqa: E402

from jaxlm.config.compose import compose  # noqa: E402
from jaxlm.config.schema import resolve_model  # noqa: E402
from jaxlm.engine.decoding import Decoder  # noqa: E402
from jaxlm.engine.kernels import Kernels  # noqa: E402
from jaxlm.engine.model import Transformer  # noqa: E402
from jaxlm.engine.sampling import draw, filtered_logits, thresholds  # noqa: E402
from jaxlm.engine.tree import nest  # noqa: E402
from jaxlm.spec.flops import parameter_counts  # noqa: E402
from jaxlm.spec.parameters import parameter_shapes  # noqa: E402
from jaxlm.spec.sampling import Sampling  # noqa: E402

VOCABULARIES = {"quickstart": 1024, "shakespeare_gpt": 65, "gpt2_124m": 50257}
SAMPLES = (1, 8)
STREAM_CHUNK = 4
SAMPLING = Sampling(temperature=0.8)


def best_seconds(function: Callable[[], object], rounds: int = 3) -> float:
    """The shortest of `rounds` rounds, after one that compiles."""
    function()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def uncached_seconds(network: Transformer, parameters: object, samples: int) -> float:
    """Seconds for one token of each sample, by a plain forward pass over a full window."""

    @jax.jit
    def next_tokens(tokens_BxC):
        logits_BxCxV = network.apply({"params": parameters}, tokens_BxC)
        last_BxV = logits_BxCxV[:, -1]
        x_BxV = filtered_logits(last_BxV, jnp.zeros(last_BxV.shape, bool), thresholds(SAMPLING))
        new_B = draw(x_BxV, np.uint32(0), np.int32(0))
        return jnp.concatenate([tokens_BxC[:, 1:], new_B[:, None]], axis=1)

    tokens_BxC = jnp.zeros((samples, network.model.context_length), jnp.int32)
    return best_seconds(lambda: next_tokens(tokens_BxC).block_until_ready())


def measure(shape: str, precision: str) -> list[dict]:
    """One row for each number of samples."""
    model = resolve_model(compose([f"model={shape}"]).model, VOCABULARIES[shape])
    network = Transformer(model, jnp.dtype(precision), Kernels(jax.default_backend()))
    shapes, key = parameter_shapes(model), jax.random.key(0)
    parameters = jax.tree.map(
        lambda s: 0.02 * jax.random.normal(key, s), nest(shapes), is_leaf=lambda s: type(s) is tuple
    )
    decoder = Decoder(network, parameters, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    prompt_T = np.arange(model.context_length // 2) % model.vocab_size
    new = model.context_length - len(prompt_T)
    rows = []
    for samples in SAMPLES:

        def generate(chunk, samples=samples):
            arguments = {"rows": samples, "sampling": SAMPLING, "seed": 0, "chunk": chunk}
            for _ in decoder(prompt_T, max_tokens=new, **arguments):
                pass

        start = time.perf_counter()
        generate(None)
        first = time.perf_counter() - start
        cached = best_seconds(lambda: generate(None))  # noqa: B023
        streamed = best_seconds(lambda: generate(STREAM_CHUNK))  # noqa: B023
        uncached = uncached_seconds(network, parameters, samples)
        rows.append(
            {
                "shape": shape,
                "parameters": parameter_counts(model).total,
                "context": model.context_length,
                "precision": precision,
                "samples": samples,
                "cached_tokens_per_second": samples * new / cached,
                "streamed_tokens_per_second": samples * new / streamed,
                "uncached_tokens_per_second": samples / uncached,
                "compile_seconds": first - cached,
            }
        )
    return rows


def main(shapes: list[str]) -> None:
    """Measure, print, write benchmarks/results/generate_DEVICE_DATE.json."""
    device = jax.devices()[0]
    precisions = ("float32",) if device.platform == "cpu" else ("float32", "bfloat16")
    print(
        f"{'shape':<18}{'precision':<10}{'samples':>8}{'cached':>10}{'streamed':>10}{'uncached':>10}"
    )
    rows = []
    for shape in shapes or ["quickstart", "shakespeare_gpt"]:
        for precision in precisions:
            for row in measure(shape, precision):
                rows.append(row)
                rates = [row[f"{k}_tokens_per_second"] for k in ("cached", "streamed", "uncached")]
                shown = "".join(f"{rate:>10,.1f}" for rate in rates)
                print(
                    f"{shape:<18}{precision:<10}{row['samples']:>8}{shown}   tokens/s", flush=True
                )
    date = time.strftime("%Y-%m-%d")
    machine = {
        "device": device.device_kind,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }
    path = Path(__file__).parent / "results" / f"generate_{device.platform}_{date}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"date": date, "machine": machine, "rates": rows}, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
