"""The Data layer of a net file: where images are read, and how they are prepared."""

from dataclasses import dataclass

from nptrain.caffe.caffe_pb2 import DataParameter, ResizeParameter
from nptrain.caffe.text import decimal
from nptrain.caffe_net.fields import refuse, shown

# fields that must have Caffe's default, and what is expected instead
TRANSFORM = {
    "mean_file": "mean_value",
    "crop_h": "crop_size alone",
    "crop_w": "crop_size alone",
    "force_gray": "images of three channels",
    "flow": "images",
}
DATA = {
    "rand_skip": "0: every run reads the records in the same order",
    "scale": "it in transform_param",
    "mean_file": "mean_value in transform_param",
    "crop_size": "it in transform_param",
    "mirror": "it in transform_param",
}
WAYS = ("random_resize_param", "random_aspect_ratio_param", "resize_param")


@dataclass(frozen=True)
class DataLayer:
    """The fields of a Phase and a Recipe that a Data layer sets. `resize` is the shorter side before the crop, or None.
    `min_area`, `aspect` and `max_attempt` have their defaults unless the augmentation is "random_aspect_ratio".
    """

    source: str
    batch_size: int
    crop_size: int
    mirror: bool
    mean_bgr: tuple[float, float, float]
    scale: float
    augmentation: str = "random_crop"
    min_area: float = 0.08
    aspect: float = 0.75
    max_attempt: int = 10
    resize: int | None = None
    shuffle: bool = False
    prefetch: int = 4


def data_layer(layer, train):
    """The DataLayer of a LayerParameter of type Data: in the TRAIN phase if `train`, else in the TEST phase, where
    images are cropped in the centre. Raises InputError for a field that is not honoured.
    """
    transform, data = layer.transform_param, layer.data_param
    for param, table, name in ((transform, TRANSFORM, "transform_param"), (data, DATA, "data_param")):
        for field in table:
            default, value = param.DESCRIPTOR.fields_by_name[field].default_value, getattr(param, field)
            if value != default:
                refuse(layer, f"{name}.{field}", shown(value), table[field])
    if not data.source:
        refuse(layer, "data_param.source", "none", "the folder of an LMDB")
    if data.backend != DataParameter.LMDB:
        refuse(layer, "data_param.backend", DataParameter.DB.Name(data.backend), "LMDB")
    for name in ("batch_size", "prefetch"):
        if not getattr(data, name):
            refuse(layer, f"data_param.{name}", getattr(data, name), "1 or more")
    if transform.crop_size < 32:
        refuse(layer, "transform_param.crop_size", transform.crop_size or "none",
               "the side of the images that the network sees, 32 or more")  # fmt: skip
    if not train and transform.mirror:
        refuse(layer, "transform_param.mirror", "true in the TEST phase", "false: test images are not mirrored")
    if len(transform.mean_value) not in (0, 1, 3):
        refuse(layer, "transform_param.mean_value", f"{len(transform.mean_value)} values", "one or three")
    mean = [_number(layer, "mean_value", value) for value in transform.mean_value] or [0.0]
    return DataLayer(
        data.source, data.batch_size, transform.crop_size, transform.mirror, tuple(mean * (3 // len(mean))),
        _number(layer, "scale", transform.scale), shuffle=data.shuffle, prefetch=data.prefetch,
        **_augmentation(layer, transform, train))  # fmt: skip


def _augmentation(layer, transform, train):
    """The fields of the DataLayer that say what happens before the crop."""
    ways = [name for name in WAYS if transform.HasField(name)]
    if len(ways) > 1:
        refuse(layer, f"transform_param.{ways[1]}", f"together with {ways[0]}", "one of them")
    if "random_resize_param" in ways:
        return {"resize": _random_resize(layer, transform.random_resize_param, transform.crop_size)}
    if "resize_param" in ways:
        return {"resize": _resize(layer, transform.resize_param, transform.crop_size)}
    if "random_aspect_ratio_param" in ways:
        if not train:
            refuse(layer, "transform_param.random_aspect_ratio_param", "one in the TEST phase", "none")
        return _random_aspect_ratio(layer, transform.random_aspect_ratio_param, transform.crop_size)
    return {}


def _random_resize(layer, param, crop_size):
    name = "transform_param.random_resize_param"
    if param.min_size != param.max_size:
        refuse(layer, f"{name}.max_size", param.max_size, f"min_size, {param.min_size}: one size")
    if param.min_size < crop_size:
        refuse(layer, f"{name}.min_size", param.min_size, f"crop_size, {crop_size}, or more")
    _cubic(layer, param.resize_param, name, {0, param.min_size})
    return param.min_size


def _resize(layer, param, crop_size):
    name = "transform_param"
    if param.resize_mode != ResizeParameter.FIT_SMALL_SIZE:
        found = ResizeParameter.Resize_mode.Name(param.resize_mode)
        refuse(layer, f"{name}.resize_param.resize_mode", found, "FIT_SMALL_SIZE")
    if param.height < crop_size:
        refuse(layer, f"{name}.resize_param.height", param.height, f"crop_size, {crop_size}, or more")
    _cubic(layer, param, name, {param.height}, mode=ResizeParameter.FIT_SMALL_SIZE)
    return param.height


def _random_aspect_ratio(layer, param, crop_size):
    name = "transform_param.random_aspect_ratio_param"
    if param.max_area_ratio != 1:
        refuse(layer, f"{name}.max_area_ratio", f"{param.max_area_ratio:g}", "1")
    if param.max_attempt < 1:
        refuse(layer, f"{name}.max_attempt", param.max_attempt, "1 or more")
    values = {}
    for field, caffe_field in (("min_area", "min_area_ratio"), ("aspect", "aspect_ratio_change")):
        values[field] = _number(layer, f"random_aspect_ratio_param.{caffe_field}", getattr(param, caffe_field))
        if not 0 < values[field] <= 1:
            refuse(layer, f"{name}.{caffe_field}", values[field], "more than 0, at most 1")
    _cubic(layer, param.resize_param, name, {0, crop_size})
    return {"augmentation": "random_aspect_ratio", "max_attempt": param.max_attempt, **values}


def _cubic(layer, param, name, sizes, mode=ResizeParameter.WARP):
    """Refuse a resize that is not simply a bicubic one to one of `sizes`."""
    name = f"{name}.resize_param"
    if list(param.interp_mode) != [ResizeParameter.CUBIC]:
        found = ", ".join(map(ResizeParameter.Interp_mode.Name, param.interp_mode)) or "none, which is LINEAR"
        refuse(layer, f"{name}.interp_mode", found, "CUBIC")
    for field in ("height", "width"):
        if getattr(param, field) not in sizes:
            refuse(layer, f"{name}.{field}", getattr(param, field), " or ".join(map(str, sorted(sizes))))
    if param.width != param.height:
        refuse(layer, f"{name}.width", param.width, f"height, {param.height}")
    expected = ResizeParameter(interp_mode=param.interp_mode, resize_mode=mode)
    for field in ("prob", "resize_mode", "height_scale", "width_scale"):
        if getattr(param, field) != getattr(expected, field):
            refuse(layer, f"{name}.{field}", shown(getattr(param, field)), shown(getattr(expected, field)))


def _number(layer, field, value):
    return decimal(value, f"layer {layer.name}: transform_param.{field}")
