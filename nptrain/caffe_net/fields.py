"""What a layer of a net file computes, as plain values: two layers with the same values compute the same.

The values are those of all fields of a layer's messages, Caffe's default where one is absent, except for the fields in
the tables below.
"""

from nptrain.errors import InputError

PARAMS = {
    "Data": (),
    "Convolution": ("convolution_param",),
    "BatchNorm": ("batch_norm_param",),
    "Scale": ("scale_param",),
    "ReLU": ("relu_param",),
    "Pooling": ("pooling_param",),
    "Eltwise": ("eltwise_param",),
    "InnerProduct": ("inner_product_param",),
    "SoftmaxWithLoss": ("loss_param", "softmax_param"),
    "Accuracy": ("accuracy_param",),
}
# accepted with a note: how something is computed, not what
NOTED = ("engine", "conv_algorithm", "force_nd_im2col", "fuse")
# read elsewhere; and without meaning for these layers
TAKEN = ("weight_filler", "bias_filler", "filler", "eps", "moving_average_fraction", "use_global_stats")
IRRELEVANT = ("stable_prod_grad", "avg_include_pad")
SPATIAL = {  # (height, width, default)
    "kernel_size": ("kernel_h", "kernel_w", 0),
    "stride": ("stride_h", "stride_w", 1),
    "pad": ("pad_h", "pad_w", 0),
}
LAYER = ("name", "type", "bottom", "top", "include", "exclude", "param", "engine")


def refuse(layer, field, found, expected):
    """Raise InputError: which layer, which field, what was found and what was expected."""
    raise InputError(f"layer {layer.name}: {field}: found {found}, expected {expected}")


def shown(value):
    """A value as text, for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "x".join(map(str, value)) if value else "none"
    return str(value)


def first_of(names):
    """The first of several names, and how many more there are, as text."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def computes(layer):
    """{field: value} of all that decides what the layer computes from its inputs and blobs. Raises InputError for a
    field that no layer of this network has.
    """
    if layer.type not in PARAMS:
        refuse(layer, "type", layer.type or "none", f"one of {', '.join(PARAMS)}")
    params = PARAMS[layer.type]
    allowed = (*LAYER, *params, *(("transform_param", "data_param") if layer.type == "Data" else ()))
    for field, value in layer.ListFields():
        if field.name == "loss_weight" and layer.type == "SoftmaxWithLoss" and list(value) == [1]:
            continue
        if field.name not in allowed and not (field.name == "propagate_down" and all(value)):
            refuse(layer, field.name, _short(value), "none")
    values = {}
    for name in params:
        values.update(_values(layer, name, getattr(layer, name)))
    return values


def _values(layer, name, param):
    found = {}
    spatial = SPATIAL if layer.type in ("Convolution", "Pooling") else {}
    skipped = {*NOTED, *TAKEN, *IRRELEVANT, *spatial, *(part for parts in spatial.values() for part in parts[:2])}
    if layer.type == "Convolution" and not param.relu:
        skipped.add("negative_slope")
    for field in param.DESCRIPTOR.fields:
        if field.name not in skipped:
            value = getattr(param, field.name)
            if field.enum_type:
                value = field.enum_type.values_by_number[value].name
            found[f"{name}.{field.name}"] = tuple(value) if field.is_repeated else value
    for field, parts in spatial.items():
        found[f"{name}.{field}"] = _both_sides(layer, name, param, field, *parts)
    coefficients = f"{name}.coeff"
    if set(found.get(coefficients, ())) == {1}:
        found[coefficients] = ()
    if layer.type == "SoftmaxWithLoss":
        _forgive_means(found, param)
    if found.get(f"{name}.dilation") in ((1,), (1, 1)):
        found[f"{name}.dilation"] = ()
    return found


def _both_sides(layer, name, param, field, tall, wide, default):
    """(height, width) of kernel_size, stride or pad, which a file can give in three ways."""
    values = list(getattr(param, field))
    if param.HasField(tall) or param.HasField(wide):
        if values:
            refuse(layer, f"{name}.{field}", f"together with {tall} or {wide}", "one of them")
        return getattr(param, tall), getattr(param, wide)
    if len(values) > 2:
        refuse(layer, f"{name}.{field}", f"{len(values)} values", "one or two")
    return tuple(values * (2 // len(values))) if values else (default, default)


def _forgive_means(found, param):
    """With one label per image and none ignored, all these normalizations are the mean over the images."""
    if param.DESCRIPTOR.name == "LossParameter":
        if found["loss_param.normalization"] in ("FULL", "BATCH_SIZE"):
            found["loss_param.normalization"] = "VALID"
        found.pop("loss_param.normalize")
        found.pop("loss_param.pre_fixed_normalizer")
        found["loss_param.ignore_label"] = param.ignore_label if param.HasField("ignore_label") else "none"


def notes(net):
    """A line for each field that is accepted and has no effect, naming the first layer that has it."""
    layers = {}
    for layer in net.layer:
        for name in (*PARAMS.get(layer.type, ()), None):
            param = getattr(layer, name) if name else layer
            for field, value in param.ListFields():
                if field.name in NOTED and value != field.default_value:
                    label = field.enum_type.values_by_number[value].name if field.enum_type else shown(value)
                    key = f"{name}.{field.name} {label}" if name else f"{field.name} {label}"
                    layers.setdefault(key, []).append(layer.name)
    lines = [f"layer {first_of(names)}: {field}" for field, names in layers.items()]
    if net.engine:
        lines.append(f"engine {net.engine}")
    lines = [f"{line} has no effect: the kernels are this project's own" for line in lines]
    if net.debug_info:
        lines.append("debug_info has no effect: the log of a run is metrics.jsonl")
    return lines


def _short(value):
    text = " ".join(str(value).split())
    return text if 0 < len(text) < 60 else "a value"
