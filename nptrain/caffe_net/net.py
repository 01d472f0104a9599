"""Net files, read and compared with the networks of this project.

A net is accepted if it is a ResNet of the layer table: it is compared layer by layer with what `train_val` writes, by
what the layers compute, not by how they are written.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest

from nptrain.caffe.caffe_pb2 import TEST, TRAIN, NetParameter
from nptrain.caffe.text import decimal, parse, text_of
from nptrain.caffe_net.blobs import WITH_BLOBS, changes, unfilled
from nptrain.caffe_net.data_layer import DataLayer, data_layer
from nptrain.caffe_net.fields import computes, notes, refuse, shown
from nptrain.caffe_net.writer import train_val
from nptrain.errors import InputError, within
from nptrain.network.layers import DEPTHS, RESNET50, Architecture, convolutions
from nptrain.recipes.recipe import Phase as RecipePhase
from nptrain.recipes.recipe import Recipe

OF_NET = ("name", "layer", "engine", "debug_info")  # other fields are refused
INSTEAD = {
    "input": "a Data layer: this is a deploy net",
    "layers": "layer: convert the file with Caffe's upgrade_net_proto_text",
}
OTHER_DATA = {  # types of data layers that are not read, and what to do with their data
    "ImageData": "bin/make_lmdb --list makes one of such a list",
    "HDF5Data": "bin/make_lmdb makes one of images",
    "DummyData": "bin/make_lmdb makes one of images",
    "MemoryData": "bin/make_lmdb makes one of images",
    "WindowData": "bin/make_lmdb makes one of images",
    "AnnotatedData": "bin/make_lmdb makes one of images",
    "Input": "this is a deploy net",
}
IN_PLACE = ("BatchNorm", "Scale", "ReLU")  # layers that Caffe can compute in the memory of their input


@dataclass(frozen=True)
class NetFile:
    """What a net file contains: the data of both phases (`test` is None without a TEST data layer), and the network, as
    fields of a Recipe. `blob_overrides` are differences from the layer table, `notes` lines on what has no effect.
    """

    train: DataLayer
    test: DataLayer | None
    architecture: Architecture
    classes: int
    bn_eps: float
    moving_average_fraction: float
    blob_overrides: tuple = ()
    notes: tuple[str, ...] = ()

    @property
    def says_test_resize(self):
        """Whether the file says to what size test images are resized: in the TEST layer or, without one, in a TRAIN
        layer whose images are cropped without a change of their scale.
        """
        return self.test is not None or self.train.augmentation == "random_crop"

    @property
    def test_resize(self):
        """The shorter side of test images before the crop, or None; where the file does not say it, as it is in the
        published one, 256 for a crop of 224.
        """
        if not self.says_test_resize:
            return round(self.train.crop_size * 256 / 224)
        return (self.test or self.train).resize

    def recipe(self, name, description, phases, workers):
        """The Recipe of the network and its data; the batch of the TRAIN layer is that of a worker."""
        train, test = self.train, self.test
        return Recipe(
            name, description, phases, workers=workers, classes=self.classes, crop_size=train.crop_size,
            batch_size=train.batch_size, mean_bgr=train.mean_bgr, scale=train.scale, bn_eps=self.bn_eps,
            moving_average_fraction=self.moving_average_fraction, blob_overrides=self.blob_overrides,
            test_resize=self.test_resize, test_batch_size=test.batch_size if test else None,
            **vars(self.architecture))  # fmt: skip

    def tested_alone(self):
        """The Recipe to test weights by this file alone."""
        return self.recipe("", "", (RecipePhase("", 1, 1, 0),), 1)


def read_net(path):
    """The NetParameter in a text file. Raises InputError: FILE:LINE:COLUMN, and what is wrong there."""
    text = text_of(path, "NetParameter")
    try:
        return parse(text, NetParameter(), path)
    except InputError:
        net = NetParameter()
        with suppress(InputError):
            parse(text, net, path, allow_unknown=True)
        with within(path):  # the fields of another type of layer are unknown, but the type says more
            _expect_data(net.layer)
        raise


def _expect_data(layers):
    """Raise InputError for the first layer that reads data in another way than a Data layer."""
    for layer in layers:
        if layer.type in OTHER_DATA:
            refuse(layer, "type", layer.type, f"Data, with an LMDB: {OTHER_DATA[layer.type]}")


def understand(net, where):
    """The NetFile of a NetParameter from the file `where`. Raises InputError for a net that cannot be trained here. The
    message begins with `where` and names layer and field, what was found and what was expected.
    """
    with within(where):
        return _understood(net)


def _understood(net):
    for field, value in net.ListFields():
        if field.name not in OF_NET and (field.is_repeated or value != field.default_value):
            raise InputError(f"{field.name}: found a value, expected {INSTEAD.get(field.name, 'none')}")
    _expect_data(net.layer)
    train, test = (_chosen(net, phase) for phase in (TRAIN, TEST))
    if not train or train[0].type != "Data":
        first = f"layer {train[0].name}, type {train[0].type or 'none'}" if train else "no layer"
        raise InputError(f"{first} is the first in the TRAIN phase, expected type Data")
    data, test_data = data_layer(train[0], train=True), None
    architecture = _architecture(train)
    classes = next((x.inner_product_param.num_output for x in reversed(train) if x.type == "InnerProduct"), 1000)
    model = Recipe("", "", (RecipePhase("", 1, 1, 0),), classes=classes, crop_size=data.crop_size,
                   test_resize=None, **vars(architecture))  # fmt: skip
    reference = train_val(model, model.phases[0], "train", "test")
    _compare(train, _chosen(reference, TRAIN), TRAIN)
    fraction, eps = (_in_all(train, field) for field in ("moving_average_fraction", "eps"))
    if any(not layer.bottom for layer in test):  # else Caffe does not build a test net, either
        with within("TEST phase"):
            _compare(test, _chosen(reference, TEST), TEST)
            _in_all([train[2], *test], "eps")
            test_data = data_layer(test[0], train=False)
            _same_input(test[0], test_data, data)
    blobs = tuple(changes(train, model))
    replace(model, blob_overrides=blobs)  # checks them
    return NetFile(data, test_data, architecture, classes, eps, fraction, blobs,
                   (*notes(net), *unfilled(blobs)))  # fmt: skip


def _chosen(net, phase):
    """The layers that Caffe builds in a phase, by their include and exclude rules, which may name phases only."""
    return [layer for layer in net.layer if _is_in(layer, phase)]


def _is_in(layer, phase):
    for name in ("include", "exclude"):
        for rule in getattr(layer, name):
            for field, _ in rule.ListFields():
                if field.name != "phase":
                    refuse(layer, f"{name}.{field.name}", "a value", "phase alone")
    if layer.include and layer.exclude:
        refuse(layer, "exclude", "together with include", "one of them")
    matches = [not rule.HasField("phase") or rule.phase == phase for rule in (*layer.include, *layer.exclude)]
    return any(matches) if layer.include else not any(matches)


def _architecture(train):
    """That of the ResNet that has the most names of convolutions in common with the net."""
    convs = {layer.name: layer for layer in train if layer.type == "Convolution"}
    depth = min(DEPTHS, key=lambda d: len({conv.name for conv in convolutions(Architecture(d))} ^ convs.keys()))
    firsts = [convs[name] for name in (f"res{stage}a_branch2a" for stage in (3, 4, 5)) if name in convs]
    strides = [computes(layer)["convolution_param.stride"] for layer in firsts]
    bottleneck = DEPTHS[depth][1]
    stem = convs["conv1"].convolution_param if "conv1" in convs else None
    if stem and (stem.num_output == 0 or stem.num_output % 16):
        refuse(convs["conv1"], "convolution_param.num_output", stem.num_output, "a multiple of 16")
    return Architecture(depth, "1x1" if bottleneck and strides.count((2, 2)) > 1 else "3x3",
                        stem is None or stem.bias_term, not bottleneck and "res2a_branch1" in convs,
                        stem.num_output if stem else RESNET50.width)  # fmt: skip


def _graph(layers):
    """([(layer, inputs)], the same for the Accuracy layers). An input is (index of the layer that makes it, index among
    that layer's tops): so the names of blobs and computing in place make no difference.
    """
    makers, graph, accuracies = {}, [], []
    for layer in layers:
        for bottom in layer.bottom:
            if bottom not in makers:
                refuse(layer, "bottom", repr(bottom), "the output of a layer before it")
        inputs = [makers[bottom] for bottom in layer.bottom]
        for place, top in enumerate(layer.top):
            if top in makers and top not in layer.bottom:
                refuse(layer, "top", f"{top!r}, which a layer before it makes", "another name")
            if top in layer.bottom and layer.type not in IN_PLACE:
                refuse(layer, "top", f"{top!r}, its own bottom", "another name")
            makers[top] = (len(graph), place) if layer.type != "Accuracy" else None
        (accuracies if layer.type == "Accuracy" else graph).append((layer, inputs))
    return graph, accuracies


def _compare(layers, expected, phase):
    """Refuse the first layer that does not compute what the expected one does."""
    if phase == TEST and not any(layer.type == "SoftmaxWithLoss" for layer in layers):
        expected = [layer for layer in expected if layer.type != "SoftmaxWithLoss"]  # a test computes it anyway
    _compare_types(*([layer for layer in net if layer.type != "Accuracy"] for net in (layers, expected)))
    graph, accuracies = _graph(layers)
    references, reference_accuracies = _graph(expected)
    names = [layer.name for layer, _ in references]
    for (layer, inputs), (reference, reference_inputs) in zip(graph, references, strict=True):
        if reference.type == "Eltwise":  # a sum is the same in any order
            inputs, reference_inputs = sorted(inputs), sorted(reference_inputs)
        if inputs != reference_inputs:
            refuse(layer, "bottom", ", ".join(layer.bottom) or "none",
                   f"what {' and '.join(names[place] for place, _ in reference_inputs)} made")  # fmt: skip
        if len(layer.top) != len(reference.top) and reference.type != "SoftmaxWithLoss":
            refuse(layer, "top", ", ".join(layer.top) or "none", f"{len(reference.top)} names")
        _compare_values(layer, reference, phase)
    _, scores_and_labels = (reference_accuracies or references)[-1]
    for layer, inputs in accuracies:
        computes(layer)  # refuses fields that an Accuracy layer cannot have
        param = layer.accuracy_param
        if inputs != scores_and_labels:
            refuse(layer, "bottom", ", ".join(layer.bottom), "the scores and the labels")
        if param.top_k not in (1, 5):
            refuse(layer, "accuracy_param.top_k", param.top_k, "1 or 5")
        if param.HasField("ignore_label"):
            refuse(layer, "accuracy_param.ignore_label", param.ignore_label, "none")
        if param.axis != 1:
            refuse(layer, "accuracy_param.axis", param.axis, "1")


def _compare_types(layers, references):
    previous = None
    for layer, reference in zip_longest(layers, references):
        if layer is None:
            refuse(reference, "type", f"none after layer {previous}", reference.type)
        if reference is None:
            refuse(layer, "type", layer.type or "none", f"none after layer {previous}")
        if layer.type != reference.type:
            refuse(layer, "type", layer.type or "none", f"{reference.type}, for {reference.name}")
        if layer.type in WITH_BLOBS and layer.name != reference.name:
            refuse(layer, "name", layer.name, f"{reference.name}, the name of its weights")
        previous = layer.name


def _compare_values(layer, reference, phase):
    values, expected = computes(layer), computes(reference)
    if expected.get("pooling_param.pool") == "AVE":  # one window, over the whole map
        values["pooling_param.stride"] = expected["pooling_param.stride"]
        if values["pooling_param.global_pooling"]:
            same = ("pooling_param.global_pooling", "pooling_param.kernel_size")
            values.update({field: expected[field] for field in same})
    for field, value in expected.items():
        if values[field] != value:
            refuse(layer, field, shown(values[field]), shown(value))
    norm, field = layer.batch_norm_param, "use_global_stats"
    if layer.type == "BatchNorm" and norm.HasField(field) and norm.use_global_stats == (phase == TRAIN):
        when = "TRAIN" if phase == TRAIN else "TEST"
        refuse(layer, f"batch_norm_param.{field}", f"{shown(norm.use_global_stats)} in the {when} phase",
               "none: without the field, Caffe uses them in the TEST phase only")  # fmt: skip


def _in_all(layers, field):
    """The value of a field, which must be the same in all BatchNorm layers."""
    norms = [layer for layer in layers if layer.type == "BatchNorm"]
    first = getattr(norms[0].batch_norm_param, field)
    for layer in norms:
        value = getattr(layer.batch_norm_param, field)
        if value != first:
            refuse(layer, f"batch_norm_param.{field}", shown(value), f"{shown(first)}, as in {norms[0].name}")
    return decimal(first, f"layer {norms[0].name}: batch_norm_param.{field}")


def _same_input(layer, test, train):
    for field, caffe_field in (("crop_size", "crop_size"), ("mean_bgr", "mean_value"), ("scale", "scale")):
        if getattr(test, field) != getattr(train, field):
            refuse(layer, f"transform_param.{caffe_field}", shown(getattr(test, field)),
                   f"{shown(getattr(train, field))}, as in the TRAIN phase")  # fmt: skip
