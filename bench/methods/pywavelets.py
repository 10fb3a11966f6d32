"""Milliseconds that PyWavelets takes for the rows "wavelets" of the bench: the best of some calls, one thread, float32, zeros outside.

    python3 bench/methods/pywavelets.py [SIZE]
"""
import sys
import time

import numpy
import pywt

size = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
levels, calls = 3, 5
x = numpy.random.default_rng(1).standard_normal((size, size), dtype=numpy.float32)
print(f"PyWavelets {pywt.__version__}, {size}x{size}, {levels} levels")
for name in ("haar", "db4", "bior4.4"):
    coefficients = pywt.wavedec2(x, name, mode="zero", level=levels)
    for title, call in (("wavedec2", lambda: pywt.wavedec2(x, name, mode="zero", level=levels)), ("waverec2", lambda: pywt.waverec2(coefficients, name, mode="zero"))):
        best = float("inf")
        for _ in range(calls):
            began = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - began)
        print(f"{title} {name}: {1000 * best:.0f} ms")
