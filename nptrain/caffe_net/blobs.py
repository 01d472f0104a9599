"""Initial values and multipliers of blobs: Caffe's FillerParameter and ParamSpec, and the layer table's Blob."""

from math import prod, sqrt

from nptrain.caffe.caffe_pb2 import FillerParameter
from nptrain.caffe.text import decimal, single
from nptrain.caffe_net.fields import first_of, refuse, shown
from nptrain.errors import InputError, within
from nptrain.network.layers import layers

WITH_BLOBS = ("Convolution", "BatchNorm", "Scale", "InnerProduct")
IN, OUT, AVERAGE = FillerParameter.FAN_IN, FillerParameter.FAN_OUT, FillerParameter.AVERAGE


def fill(filler, blob):
    """Write the initial values of `blob` to the empty FillerParameter: as msra or xavier if one gives its number."""
    fans = {norm: _fan(blob.shape, norm) for norm in (IN, OUT, AVERAGE)} if len(blob.shape) > 1 else {}
    number = blob.std if blob.std is not None else blob.bound
    name, square = ("msra", 2) if blob.std is not None else ("xavier", 3)
    rule = next((norm for norm, fan in fans.items() if number == sqrt(square / fan)), None)
    if number is None:
        filler.type, filler.value = "constant", single(blob.value, "value")
    elif rule is not None:
        filler.type = name
        if rule != IN:
            filler.variance_norm = rule
    elif name == "msra":
        filler.type, filler.std = "gaussian", single(number, "std")
    else:
        filler.type, filler.min, filler.max = "uniform", single(-number, "min"), single(number, "max")


def start(filler, shape):
    """{"std", "bound", "value"} of the Blob of that shape that the filler fills. Raises InputError, which begins with
    the field, for a filler that a Blob cannot express.
    """
    values = {"std": None, "bound": None, "value": 0.0}
    if filler.sparse >= 0:
        raise InputError(f"sparse: found {filler.sparse}, expected none")
    if filler.scale != 1:
        raise InputError(f"scale: found {filler.scale:g}, expected 1")
    if filler.type == "constant":
        values["value"] = decimal(filler.value, "value")
    elif filler.type == "gaussian":
        if filler.mean:
            raise InputError(f"mean: found {filler.mean:g}, expected 0")
        values["std"] = decimal(filler.std, "std")
    elif filler.type == "uniform":
        if filler.min != -filler.max or filler.max < 0:
            raise InputError(f"min: found {filler.min:g}, max {filler.max:g}, expected a range around 0")
        values["bound"] = decimal(filler.max, "max")
    elif filler.type in ("msra", "xavier") and len(shape) > 1:
        fan = _fan(shape, filler.variance_norm)
        field, square = ("std", 2) if filler.type == "msra" else ("bound", 3)
        values[field] = sqrt(square / fan)
    else:
        kinds = "constant, gaussian, uniform" + (", msra or xavier" if len(shape) > 1 else "")
        raise InputError(f"type: found {filler.type!r}, expected {kinds}")
    return values


def _fan(shape, norm):
    """Caffe's fan-in or fan-out, or their mean, as `norm` says; shape is (K, C, R, S) or (K, C)."""
    fan_in, fan_out = prod(shape[1:]), prod(shape) // shape[1]
    return {IN: fan_in, OUT: fan_out}.get(norm, (fan_in + fan_out) / 2)


def changes(train, model):
    """Yields (layer, index of the blob, field, value) where a filler or multiplier differs from the layer table.
    `train` are the layers of a net, `model` is a Recipe with its architecture and classes.
    """
    table = {layer.name: layer.blobs for layer in layers(model.architecture, model.classes)}
    norm = None
    for layer in train:
        if layer.type == "BatchNorm":
            norm = layer
            for rate, _ in _multipliers(layer, 3):
                if rate:
                    refuse(layer, "param.lr_mult", shown(rate), "0: running statistics are not trained")
        elif layer.type in WITH_BLOBS:
            blobs = table[layer.name]
            multipliers = _multipliers(layer, len(blobs))
            for index, (blob, (rate, decay)) in enumerate(zip(blobs, multipliers, strict=True)):
                values = {**_start(layer, norm, index, blob.shape), "lr_mult": rate, "decay_mult": decay}
                for field, value in values.items():
                    if value != getattr(blob, field):
                        yield layer.name, index, field, value


def _multipliers(layer, count):
    """[(lr_mult, decay_mult)] of a layer's blobs."""
    if len(layer.param) > count:
        refuse(layer, "param", f"{len(layer.param)} of them", f"at most {count}, one a blob")
    multipliers = []
    for spec in layer.param:
        for field in ("name", "share_mode"):
            if spec.HasField(field):
                refuse(layer, f"param.{field}", getattr(spec, field), "none: no blobs are shared")
        values = [decimal(getattr(spec, field), f"layer {layer.name}: {field}") for field in ("lr_mult", "decay_mult")]
        if min(values) < 0:
            refuse(layer, "param", shown(min(values)), "0 or more")
        multipliers.append(tuple(values))
    rest = (0.0, 0.0) if layer.type == "BatchNorm" else (1.0, 1.0)
    return multipliers + [rest] * (count - len(multipliers))


def _start(layer, norm, index, shape):
    """The initial values of a blob. The filler of gamma and beta is in their Scale layer, as in Caffe, or in the
    BatchNorm layer into which the fork merges it; without a filler they are 1 and 0.
    """
    if layer.type == "Scale":
        places = {"batch_norm_param": norm, "scale_param": layer}
        name = ("filler", "bias_filler")[index]
    else:
        places = {"convolution_param" if layer.type == "Convolution" else "inner_product_param": layer}
        name = ("weight_filler", "bias_filler")[index]
    starts = []
    for param, where in places.items():
        if getattr(where, param).HasField(name):
            with within(f"layer {where.name}: {param}.{name}"):
                starts.append(start(getattr(getattr(where, param), name), shape))
    if len(starts) == 2 and starts[0] != starts[1]:
        refuse(layer, f"scale_param.{name}", "a different one", f"that of {norm.name}, or none")
    if starts:
        return starts[0]
    return {"std": None, "bound": None, "value": 1.0 if layer.type == "Scale" and index == 0 else 0.0}


def unfilled(blobs):
    """A note if weights start as a constant, Caffe's default: such files are made for trained weights."""
    names = [name for name, index, field, value in blobs if (index, field, value) == (0, "std", None)]
    bounds = {name for name, index, field, _ in blobs if (index, field) == (0, "bound")}
    names = [name for name in names if name not in bounds]
    if names:
        yield f"layer {first_of(names)}: weight_filler is constant or absent: start from trained weights"
