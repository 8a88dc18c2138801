"""GFLOP/s of the forms of a weight gradient in XLA: the reason for `layers.weight_gradient`.

    python benchmarks/weight_gradient.py

Each form computes dy^T x over 64 x 128 rows and uses it in an update, as in training.
"""

import statistics
import time

from common import print_table, write_result

from jaxlm.host.allocator import restart_with_huge_pages

ROUNDS, CALLS = 9, 5


def main() -> None:
    import jax
    import jax.numpy as jnp
    from jax import lax

    def product(a, b):
        return lax.dot_general(a, b, (((0, 1), (0, 1)), ((), ())))

    forms = {
        "dy^T x": lambda x, dy: product(dy, x),
        "(x^T dy)^T": lambda x, dy: product(x, dy).T,
        "barrier(x^T dy)^T": lambda x, dy: lax.optimization_barrier(product(x, dy)).T,
    }
    rows = []
    for into, out in ((256, 256), (256, 1024), (1024, 256)):
        x, dy, w = jnp.ones((64, 128, into)), jnp.ones((64, 128, out)), jnp.ones((out, into))
        steps = {
            name: jax.jit(lambda x, dy, w, form=form: w - 1e-3 * form(x, dy))
            for name, form in forms.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(ROUNDS + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                for _ in range(CALLS):
                    w = step(x, dy, w)
                w.block_until_ready()
                seconds[name].append((time.perf_counter() - started) / CALLS)
        flops = 2 * 64 * 128 * into * out
        speed = {n: flops / statistics.median(s[1:]) / 1e9 for n, s in seconds.items()}
        rows.append({"in": into, "out": out} | speed)
    print_table(rows)
    write_result("weight_gradient", {"gflops_per_second": rows})


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
