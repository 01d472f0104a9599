"""All parameters of a network in flat arrays, with named views: what is summed, updated and saved."""

import zlib
from dataclasses import dataclass
from math import prod

import numpy as np

from nptrain.errors import InputError
from nptrain.network.layers import STATISTICS, Blob


@dataclass
class Parameter:
    """One trained blob: where it lies in the flat arrays, and its views there."""

    layer: str
    kind: str
    blob: Blob
    part: slice
    w: np.ndarray
    dw: np.ndarray


@dataclass
class Norm:
    """The running statistics of one batch norm layer, and the sums of its batches' own.

    The value used is mean / factor and var / factor, as in Caffe.
    """

    layer: str
    channels: int
    mean: np.ndarray
    var: np.ndarray
    factor: np.ndarray
    batch_mean: np.ndarray
    batch_var: np.ndarray


class Arena:
    """The flat arrays `weights`, `history` (momentum) and `gradients`, stored as the kernels `ops` want them.

    `gradients` has the sums of batch statistics as its tail, so that one reduction carries both.
    """

    def __init__(self, layers, ops, dtype=np.float32):
        self.layers, self.ops, self.dtype = tuple(layers), ops, dtype
        shapes = [(layer, blob, self._stored(blob.shape)) for layer in self.layers for blob in layer.blobs]
        trained = [entry for entry in shapes if entry[0].kind != STATISTICS]
        norms = [layer for layer in self.layers if layer.kind == STATISTICS]
        self.size = sum(prod(stored) for *_, stored in trained)
        statistics = sum(2 * prod(self._stored(layer.blobs[0].shape)) for layer in norms)
        self.weights = np.zeros(self.size, dtype)
        self.history = np.zeros(self.size, dtype)
        self.gradients = np.zeros(self.size + statistics, dtype)
        self.batch_statistics = self.gradients[self.size :]
        self.statistics = np.zeros(statistics, dtype)  # running, in the order of batch_statistics
        self.factors = np.zeros(len(norms), dtype)
        self.parameters = self._parameters(trained)
        self.norms = dict(self._norms(norms))

    def _parameters(self, trained):
        found, at = [], 0
        for layer, blob, stored in trained:
            part = slice(at, at := at + prod(stored))
            w, dw = (flat[part].reshape(stored) for flat in (self.weights, self.gradients))
            found.append(Parameter(layer.name, layer.kind, blob, part, w, dw))
        return found

    def _norms(self, norms):
        at = 0
        for index, layer in enumerate(norms):
            size = prod(self._stored(layer.blobs[0].shape))
            first, second = slice(at, at + size), slice(at + size, at := at + 2 * size)
            running, batch = self.statistics, self.batch_statistics
            views = (
                running[first],
                running[second],
                self.factors[index : index + 1],
                batch[first],
                batch[second],
            )
            yield layer.name, Norm(layer.name, layer.blobs[0].shape[0], *views)

    def of(self, layer):
        """The parameters of one layer, in order: [weights] or [weights, bias] or [gamma, beta]."""
        return [parameter for parameter in self.parameters if parameter.layer == layer]

    def initialise(self, seed):
        """Fill the weights as the net file says, from random streams keyed by seed and layer."""
        for parameter in self.parameters:
            blob = parameter.blob
            stream = np.random.Philox(key=[seed, zlib.crc32(parameter.layer.encode())])
            if blob.std is not None:
                values = np.random.Generator(stream).normal(0, blob.std, blob.shape)
            elif blob.bound is not None:
                values = np.random.Generator(stream).uniform(-blob.bound, blob.bound, blob.shape)
            else:
                values = np.full(blob.shape, blob.value)
            parameter.w[...] = self.pack(values)

    def begin_next_pass(self, fraction):
        """Before another batch of the same worker: what its batches so far have added to the batch statistics counts
        `fraction` less, as in `blend_statistics`.
        """
        self.batch_statistics *= fraction

    def blend_statistics(self, fraction, passes, workers):
        """Caffe's running statistics after `passes` batches of each worker, averaged over workers:
        running = fraction * running + batch, for the sums, and for the factor with 1.
        """
        decay = fraction**passes
        self.statistics *= decay
        self.statistics += self.batch_statistics / workers
        self.factors *= decay
        self.factors += sum(fraction**j for j in range(passes))

    def export(self):
        """[(layer, kind, blobs)] of every layer in net order, blobs plain arrays in Caffe's shapes."""
        return [(layer.name, layer.kind, self._blobs_of(layer, self.weights)) for layer in self.layers]

    def export_history(self):
        """The momentum of every blob in net order; those of batch norm count, and are zero."""
        return [blob for layer in self.layers for blob in self._blobs_of(layer, self.history)]

    def load(self, blobs, where):
        """Take weights and statistics from {layer: blobs}, matched by name. Returns (missing, extra) names.

        Raises InputError, naming `where`, on a shape that differs.
        """
        names = [layer.name for layer in self.layers]
        for layer in self.layers:
            if layer.name in blobs:
                self._fill(layer, blobs[layer.name], self.weights, where)
        return [n for n in names if n not in blobs], [n for n in blobs if n not in names]

    def load_history(self, history, where):
        """Take the momentum from a list as `export_history` gives it. Raises InputError, naming `where`."""
        expected = sum(len(layer.blobs) for layer in self.layers)
        if len(history) != expected:
            raise InputError(f"{where}: {len(history)} history blobs, expected {expected}")
        rest = iter(history)
        for layer in self.layers:
            self._fill(layer, [next(rest) for _ in layer.blobs], self.history, where)

    def _stored(self, shape):
        if len(shape) == 1:
            return self.ops.vector_shape(shape[0])
        return self.ops.weights_shape(*shape, *(1,) * (4 - len(shape)))

    def pack(self, values):
        """A blob as Caffe shapes it -> as the kernels store it."""
        if values.ndim == 1:
            return self.ops.pack_vector(values)
        return self.ops.pack_weights(values.reshape(*values.shape, *(1,) * (4 - values.ndim)))

    def unpack(self, stored, shape):
        """The way back, to the blob's `shape`."""
        if len(shape) == 1:
            return self.ops.unpack_vector(stored, shape[0]).copy()
        full = self.ops.unpack_weights(stored, (*shape, *(1,) * (4 - len(shape))))
        return full.reshape(shape).copy()

    def _blobs_of(self, layer, flat):
        if layer.kind != STATISTICS:
            return [self.unpack(flat[p.part].reshape(p.w.shape), p.blob.shape) for p in self.of(layer.name)]
        if flat is self.history:
            return [np.zeros(blob.shape, self.dtype) for blob in layer.blobs]
        norm = self.norms[layer.name]
        mean, var = (self.unpack(v, (norm.channels,)) for v in (norm.mean, norm.var))
        return [mean, var, norm.factor.copy()]

    def _fill(self, layer, blobs, flat, where):
        if len(blobs) != len(layer.blobs):
            raise InputError(f"{where}: layer {layer.name} has {len(blobs)} blobs, expected {len(layer.blobs)}")
        for index, (values, blob) in enumerate(zip(blobs, layer.blobs, strict=True)):
            if _squeezed(values.shape) != _squeezed(blob.shape):
                raise InputError(f"{where}: layer {layer.name} blob {index} has shape {tuple(values.shape)}, "
                                 f"expected {blob.shape}")  # fmt: skip
        blobs = [values.reshape(blob.shape) for values, blob in zip(blobs, layer.blobs, strict=True)]
        if layer.kind != STATISTICS:
            for parameter, values in zip(self.of(layer.name), blobs, strict=True):
                flat[parameter.part] = self.pack(values).reshape(-1)
        elif flat is self.weights:
            norm = self.norms[layer.name]
            norm.mean[...], norm.var[...] = (self.pack(values) for values in blobs[:2])
            norm.factor[...] = blobs[2]


def _squeezed(shape):
    """A legacy blob has leading ones: (1, 1, 1, 64) is a vector of 64, (1, 1, 10, 2048) a matrix."""
    return tuple(n for n in shape if n != 1)
