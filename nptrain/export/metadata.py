"""What a file of weights for other programs says of itself: network, preprocessing, names of the classes."""

import json

NETWORK = ("depth", "downsample", "bn_eps")  # fields of a recipe that tensors do not show
PIXELS = ("crop_size", "test_resize", "scale")


def describe(recipe, names, channels):
    """{name: text} for the metadata of a file whose input has these `channels`, "RGB" or "BGR".

    Values are JSON. `mean` is in the order of the channels. `classes`, the names in the order of the labels, is left
    out if `names` is None. `test_resize` is the length of an image's shorter side before the crop in its middle, null
    if it is not resized.
    """
    mean = recipe.mean_bgr if channels == "BGR" else recipe.mean_bgr[::-1]
    values = {field: getattr(recipe, field) for field in (*NETWORK, *PIXELS)} | {"mean": mean}
    if names is not None:
        values["classes"] = names
    return {"network": recipe.architecture.name, "channels": channels} | {
        name: json.dumps(value, ensure_ascii=False) for name, value in values.items()
    }
