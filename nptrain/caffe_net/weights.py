"""What a file of weights says about its network and its input: fields of a Recipe."""

from nptrain.caffe.model import layers_of
from nptrain.caffe.text import decimal
from nptrain.network.layers import DEPTHS, Architecture, convolutions


def recipe_fields(paths):
    """({field of a Recipe: value}, number of classes or None) of the ResNet whose weights are in the .caffemodel files
    `paths`; of layers with the same name the last one counts.

    The depth is that of the ResNet that has the most layers in common. What the files do not say is left out: those of
    this project say all but the resize of test images; those of others may have no Data layer, and those from before
    2014 no fields. Raises InputError for a file that is not a .caffemodel.
    """
    shapes, parameters = {}, {}
    for path in paths:
        for layer in layers_of(path):
            shapes[layer.name] = [blob.shape for blob in layer.blobs]
            parameters[layer.name] = layer.parameter
    depth = min(DEPTHS, key=lambda d: len({conv.name for conv in convolutions(Architecture(d))} ^ shapes.keys()))
    bottleneck = DEPTHS[depth][1]
    fields = {"depth": depth, "first_projection": not bottleneck and "res2a_branch1" in shapes}
    if stem := shapes.get("conv1"):
        fields |= {"stem_bias": len(stem) > 1, "width": stem[0][0]}
    for parameter in filter(None, parameters.values()):
        fields |= _input_fields(parameter)
    stride = _stride(parameters.get("res3a_branch2a"))
    if stride and bottleneck:
        fields["downsample"] = "1x1" if stride == 2 else "3x3"
    classifier = shapes.get("fc1000")
    return fields, classifier[0][-2] if classifier and len(classifier[0]) > 1 else None


def _stride(parameter):
    """The stride of a Convolution layer; None if the file does not say it."""
    if parameter is None or not parameter.HasField("convolution_param"):
        return None
    param = parameter.convolution_param
    return param.stride[0] if param.stride else param.stride_h or 1


def _input_fields(parameter):
    """The fields that one layer says."""
    if parameter.type == "BatchNorm" and parameter.batch_norm_param.HasField("eps"):
        return {"bn_eps": decimal(parameter.batch_norm_param.eps, "eps")}
    transform = parameter.transform_param
    if parameter.type != "Data" or transform.crop_size < 32 or len(transform.mean_value) not in (1, 3):
        return {}
    mean = [decimal(value, "mean_value") for value in transform.mean_value]
    return {"crop_size": transform.crop_size, "scale": decimal(transform.scale, "scale"),
            "mean_bgr": tuple(mean * (3 // len(mean)))}  # fmt: skip
