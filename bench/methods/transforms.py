"""The other side of the rows against SciPy and PyWavelets: the same transforms of the same float32 data, which come and go as raw files.

Requests, which pipe.py reads, and answers:
  hello                     -> versions
  offer work, inputs, ...   -> the ways this side knows to do that work
  call way, result          -> nothing: the work is done once; its result is written to that file where one is named
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pipe


class Server:
    def __init__(self):
        import numpy
        import pywt
        import scipy
        import scipy.fft
        self.numpy, self.pywt, self.scipy, self.ways = numpy, pywt, scipy, {}

    def answer(self, request):
        return getattr(self, request["do"])(request)

    def hello(self, _):
        return {"missing": None, "versions": {"SciPy": self.scipy.__version__, "PyWavelets": self.pywt.__version__}}

    def offer(self, request):
        inputs = [self.numpy.fromfile(file, self.numpy.float32) for file in request["inputs"]]
        self.ways = dict([getattr(self, request["work"])(request, *inputs)])
        return {"ways": list(self.ways)}

    def call(self, request):
        result = self.ways[request["way"]]()
        if request["result"]:
            result = [result] if isinstance(result, self.numpy.ndarray) else self.flat(result)
            self.numpy.concatenate([band.ravel() for band in result]).tofile(request["result"])
        return {}

    def inverse(self, request, x):
        x, workers = x.reshape(request["rows"], request["cols"]), request["threads"]
        return f"SciPy {self.scipy.__version__} idctn, {workers} workers", lambda: self.scipy.fft.idctn(x, norm="ortho", workers=workers)

    def merge(self, request, w, places, values):
        """In place in one matrix that is there already; equal places are added beforehand."""
        shape, workers = (request["rows"], request["cols"]), request["threads"]
        w, s = w.reshape(shape), self.numpy.empty(shape, self.numpy.float32)
        last = self.numpy.array(shape)[:, None] - 1
        row, col = self.numpy.rint(places.reshape(2, -1).astype(float) * last).astype(int)
        spots, which = self.numpy.unique(row * shape[1] + col, return_inverse=True)
        sums = self.numpy.bincount(which, values).astype(self.numpy.float32)

        def run():
            s.fill(0)
            s.ravel()[spots] = sums
            y = self.scipy.fft.idctn(s, norm="ortho", workers=workers, overwrite_x=True)
            y += w
            return y
        return f"SciPy {self.scipy.__version__} idctn in place, {workers} workers", run

    def analysis(self, request, x):
        x, options = x.reshape(request["rows"], request["cols"]), self.options(request)
        return f"PyWavelets {self.pywt.__version__} wavedec2", lambda: self.pywt.wavedec2(x, level=request["levels"], **options)

    def synthesis(self, request, x):
        options, at = self.options(request), 0
        like = self.pywt.wavedec2(self.numpy.zeros((request["rows"], request["cols"]), self.numpy.float32), level=request["levels"], **options)

        def take(band):
            nonlocal at
            at += band.size
            return x[at - band.size:at].reshape(band.shape)
        coefficients = [take(like[0])] + [tuple(take(band) for band in level) for level in like[1:]]
        return f"PyWavelets {self.pywt.__version__} waverec2", lambda: self.pywt.waverec2(coefficients, **options)

    def options(self, request):
        return {"wavelet": request["wavelet"], "mode": request["mode"]}

    def flat(self, coefficients):
        return [coefficients[0]] + [band for level in coefficients[1:] for band in level]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True, help="folder for the log")
    pipe.serve(Server, os.path.join(parser.parse_args().work, "peer.log"))
