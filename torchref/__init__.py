"""The same model, step, evaluation and generation in PyTorch. Imports no JAX.

    model.py        the Transformer, its blocks, its initial weights
    layers.py       linear layers, norms, embeddings, activations, positions
    attention.py    the plain form and the fused kernel; the KV cache
    dropout.py      the engine's masks, bit for bit
    taps.py         hooks that read the output of each part
    threefry.py     the counter-based generator behind dropout and sampling
    optimizer.py    AdamW with two groups of parameters, Lion, clipping
    step.py         one training step and one evaluation step
    sampling.py     from logits to the next token
    decoding.py     cached decoding
    checkpoint.py   the only file that uses Orbax (and through it JAX)
    engine.py       everything above as `jaxlm.spec.contract.Engine`, chosen by `backend=torch`

Configuration, data, initial values, schedules, the training loop, run directory and reports come
from jaxlm; those parts use neither framework.
"""
