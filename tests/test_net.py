"""Net files: the published ones are understood to the letter, and ours come back."""

from dataclasses import replace

import pytest
from google.protobuf import text_format

from nptrain.caffe.caffe_pb2 import TEST, TRAIN, FillerParameter, NetParameter
from nptrain.caffe_net.blobs import start
from nptrain.caffe_net.data_layer import DataLayer
from nptrain.caffe_net.net import read_net, understand
from nptrain.caffe_net.writer import deploy, to_text, train_val
from nptrain.errors import InputError
from nptrain.network.layers import Architecture, layers
from nptrain.recipes.published import RECIPES, get_recipe
from nptrain.recipes.recipe import override
from tests import caffe_net

PUBLISHED = get_recipe("resnet50-448nodes")


def parsed(text):
    return text_format.Parse(text, NetParameter())


@pytest.fixture(scope="module")
def published():
    return parsed(caffe_net.train_val())


def copy(net):
    new = NetParameter()
    new.CopyFrom(net)
    return new


def test_the_published_net_to_the_letter(tmp_path):
    path = tmp_path / "train_val.prototxt"
    path.write_text(caffe_net.train_val())
    net = understand(read_net(path), path)
    common = {"crop_size": 224, "mean_bgr": (104, 117, 123), "scale": 0.0078125}
    assert net.train == DataLayer("/tmp/ilsvrc12_train_lmdb", 16, mirror=True, augmentation="random_aspect_ratio",
                                  min_area=0.08, aspect=0.75, shuffle=True, prefetch=2, **common)  # fmt: skip
    assert net.test == DataLayer("examples/imagenet/ilsvrc12_val_lmdb", 50, mirror=False, resize=256, **common)
    assert (net.architecture, net.classes, net.blob_overrides, net.notes) == (Architecture(), 1000, (), ())
    assert (net.bn_eps, net.moving_average_fraction) == (1e-5, 0.95)

    path.write_text(caffe_net.train_val(augmented=False, val=None))
    noaug = understand(read_net(path), path)
    assert noaug == replace(net, test=None, train=replace(net.train, augmentation="random_crop"))


@pytest.mark.parametrize(("depth", "downsample"), [(18, "3x3"), (50, "3x3"), (50, "1x1")])
def test_written_nets_are_those_of_the_published_file(depth, downsample):
    """Layer by layer, apart from fields that make no difference: ours and the independent text are one network."""
    recipe = replace(PUBLISHED, depth=depth, downsample=downsample)
    ours = train_val(recipe, recipe.phases[0], "/tmp/ilsvrc12_train_lmdb", "examples/imagenet/ilsvrc12_val_lmdb")
    theirs = parsed(caffe_net.train_val(depth=depth, downsample=downsample))
    fields = ("name", "type", "bottom", "top", "include", "param")
    for a, b in zip(ours.layer, theirs.layer, strict=True):
        if b.type != "Accuracy":
            assert [getattr(a, field) for field in fields] == [getattr(b, field) for field in fields]
    found, expected = (understand(net, "net") for net in (ours, theirs))
    assert replace(found, test=replace(found.test, batch_size=50)) == expected


def settings(recipe, phase, net):
    """What the net file says of a recipe and a phase, and what they say themselves."""
    train, data = recipe.phases[phase], net.train
    of_phase = ("augmentation", "mirror", "resize", "shuffle", "prefetch")
    of_phase += ("min_area", "aspect", "max_attempt") if train.augmentation == "random_aspect_ratio" else ()
    of_data = ("batch_size", "crop_size", "mean_bgr", "scale")
    of_net = ("architecture", "classes", "bn_eps", "moving_average_fraction", "blob_overrides")
    found = [*(getattr(data, f) for f in (*of_phase, *of_data)), *(getattr(net, f) for f in of_net)]
    return found, [*(getattr(train, f) for f in of_phase), *(getattr(recipe, f) for f in (*of_data, *of_net))]


CHANGES = [
    [],
    ["depth=18", "crop_size=32", "test_resize=none", "classes=5"],
    ["depth=34", "stem_bias=false", "first_projection=true", "crop_size=97", "scale=1", "mean_bgr=0,0,0.1"],
    ["depth=101", "downsample=1x1", "bn_eps=0.001", "moving_average_fraction=0.999"],
    ["depth=152", "mirror=false", "shuffle=false", "prefetch=1", "min_area=0.3", "aspect=0.5", "max_attempt=3"],
    ["augmentation=random_crop", "resize=300", "batch_size=7", "crop_size=299", "test_resize=330"],
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("phase", [0, 1])
def test_round_trip(tmp_path, changes, phase):
    recipe = override(PUBLISHED, changes)
    path = tmp_path / "net.prototxt"
    path.write_text(to_text(train_val(recipe, recipe.phases[phase], "a b", 'the "val"')))
    net = understand(read_net(path), path)
    found, expected = settings(recipe, phase, net)
    assert found == expected
    assert (net.train.source, net.test.source, net.test.resize) == ("a b", 'the "val"', recipe.test_resize)
    assert not net.test.mirror


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_written_or_refused_in_one_line(name):
    recipe = get_recipe(name)
    for index, phase in enumerate(recipe.phases):
        if phase.pad:
            with pytest.raises(InputError, match=rf"^{phase.name}.pad: found {phase.pad}, which no field of Caffe's"):
                train_val(recipe, phase, "train")
            continue
        found, expected = settings(recipe, index, understand(train_val(recipe, phase, "train"), "net"))
        assert found == expected


BLOBS = (
    ("conv1", 0, "std", None),
    ("conv1", 0, "bound", 0.25),
    ("conv1", 1, "lr_mult", 2.0),
    ("conv1", 1, "decay_mult", 0.0),
    ("scale_conv1", 0, "decay_mult", 1.0),
    ("res2a_branch2a", 0, "lr_mult", 0.0),
    ("scale2a_branch2b", 0, "value", 0.0),
    ("scale2a_branch2b", 1, "value", 0.5),
    ("fc1000", 0, "std", 0.02),
    ("fc1000", 1, "value", -0.1),
)


def test_changed_fillers_and_multipliers_come_back():
    recipe = replace(PUBLISHED, depth=18, blob_overrides=BLOBS)
    net = understand(train_val(recipe, recipe.phases[0], "train"), "net")
    assert sorted(map(str, net.blob_overrides)) == sorted(map(str, BLOBS))
    found, expected = (list(layers(Architecture(18), 1000, blobs)) for blobs in (net.blob_overrides, BLOBS))
    assert found == expected


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bn_eps": 1 / 3}, "bn_eps: found 0.3333333333333333, which Caffe's file would round to 0.33333334"),
        ({"scale": 1e60}, "scale: found inf, expected a number that a float32 can hold"),
        ({"augmentation": "plain"}, "1.augmentation: found plain, which no field"),
        ({"resize": 256}, "1.resize: found 256, expected none"),
    ],
)
def test_what_cannot_be_written(change, line):
    of_recipe = {field: value for field, value in change.items() if hasattr(PUBLISHED, field)}
    phase = replace(PUBLISHED.phases[0], **{f: v for f, v in change.items() if f not in of_recipe})
    with pytest.raises(InputError, match=f"^{line}"):
        train_val(replace(PUBLISHED, **of_recipe), phase, "train")


def test_names_of_blobs_and_computing_in_place_make_no_difference(published):
    net, names = copy(published), {}
    for index, layer in enumerate(net.layer):
        layer.bottom[:] = [names.get(name, name) for name in layer.bottom]
        if layer.type not in ("Data", "Accuracy"):
            for place, top in enumerate(layer.top):
                names[top] = layer.top[place] = f"blob {index}"
    for layer in net.layer:
        if layer.type in ("ReLU", "Pooling", "Eltwise", "SoftmaxWithLoss"):
            layer.name += " of mine"
        if layer.type == "Eltwise":
            layer.bottom[:] = reversed(layer.bottom)
    assert understand(net, "net") == understand(published, "net")


def test_ways_of_writing_the_same():
    net = parsed(caffe_net.train_val())
    layer = {x.name: x for x in net.layer}
    conv = layer["res2a_branch2b"].convolution_param
    conv.ClearField("kernel_size")
    conv.kernel_h = conv.kernel_w = 3
    conv.pad[:], conv.stride[:], conv.dilation[:] = [1, 1], [], [1]
    layer["res2a"].eltwise_param.coeff[:] = [1, 1]
    pool = layer["pool5"].pooling_param
    pool.Clear()
    pool.pool, pool.global_pooling = pool.AVE, True
    layer["prob"].loss_weight[:] = [1]
    layer["prob"].loss_param.normalization = layer["prob"].loss_param.BATCH_SIZE
    layer["bn_conv1"].ClearField("param")
    layer["bn_conv1"].batch_norm_param.ClearField("filler")
    layer["scale_conv1"].scale_param.filler.value = 1
    resize = net.layer[1].transform_param
    resize.ClearField("random_resize_param")
    resize.resize_param.resize_mode = resize.resize_param.FIT_SMALL_SIZE
    resize.resize_param.height = resize.resize_param.width = 256
    resize.resize_param.interp_mode.append(resize.resize_param.CUBIC)
    resize.force_color = True
    assert understand(net, "net") == understand(parsed(caffe_net.train_val()), "net")


def test_defaults_are_caffe_s():
    net = parsed(caffe_net.train_val(val=None))
    data = net.layer[0]
    data.transform_param.Clear()
    data.transform_param.crop_size = 64
    data.data_param.ClearField("prefetch")
    data.data_param.ClearField("shuffle")
    for layer in net.layer:
        layer.ClearField("param")
        for param in (layer.convolution_param, layer.inner_product_param):
            param.ClearField("weight_filler")
        layer.batch_norm_param.ClearField("filler") if layer.type == "BatchNorm" else None
        for name in ("convolution_param", "inner_product_param"):
            if layer.type.lower() != name.removesuffix("_param").replace("_", ""):
                layer.ClearField(name)
    next(x for x in net.layer if x.name == "pool5").pooling_param.kernel_size[:] = [2]
    found = understand(net, "net")
    assert found.train == DataLayer(
        data.data_param.source, 16, 64, False, (0, 0, 0), 1.0, "random_crop", shuffle=False, prefetch=4
    )
    table = {layer.name: layer.blobs for layer in layers(Architecture(50), 1000, blob_overrides=found.blob_overrides)}
    assert (table["conv1"][0].std, table["conv1"][0].value) == (None, 0)
    assert {blob.decay_mult for blob in table["scale5c_branch2c"]} == {1}
    assert table["scale5c_branch2c"][0].value == 1
    assert found.notes == ("layer conv1 and 53 more: weight_filler is constant or absent: start from trained weights",)


def test_engines_are_noted(published):
    net = copy(published)
    net.engine, net.debug_info = "MKLDNN", True
    for layer in net.layer:
        if layer.type == "Convolution":
            layer.convolution_param.engine = layer.convolution_param.MKL2017
            layer.convolution_param.conv_algorithm = "winograd"
        if layer.name == "pool1":
            layer.engine = "CAFFE"
    found = understand(net, "net")
    assert [note.split(" has no effect")[0] for note in found.notes] == [
        "layer conv1 and 52 more: convolution_param.engine MKL2017",
        "layer conv1 and 52 more: convolution_param.conv_algorithm winograd",
        "layer pool1: engine CAFFE",
        "engine MKLDNN",
        "debug_info",
    ]
    assert replace(found, notes=()) == understand(published, "net")


def test_statistics_are_of_the_phase(published):
    net = copy(published)
    norm = next(layer for layer in net.layer if layer.name == "bn3a_branch1")
    place = list(net.layer).index(norm)
    norm.include.add(phase=TRAIN)
    norm.batch_norm_param.use_global_stats = False
    rest = list(net.layer)[place + 1 :]
    del net.layer[place + 1 :]
    net.layer.add().CopyFrom(norm)
    net.layer[-1].include[0].phase = TEST
    net.layer[-1].batch_norm_param.use_global_stats = True
    net.layer.extend(rest)
    assert understand(net, "net") == understand(published, "net")


def test_both_phases_have_one_eps(published):
    net = copy(published)
    norm = next(layer for layer in net.layer if layer.name == "bn3a_branch1")
    place = list(net.layer).index(norm)
    norm.include.add(phase=TRAIN)
    other = NetParameter(layer=[norm]).layer[0]
    other.include[0].phase, other.batch_norm_param.eps = TEST, 0.001
    before, rest = list(net.layer)[: place + 1], list(net.layer)[place + 1 :]
    with pytest.raises(InputError, match=r"bn3a_branch1: batch_norm_param.eps: found 0.001, expected 1e-05"):
        understand(NetParameter(layer=[*before, other, *rest]), "net")


def test_fillers_by_either_fan_or_their_mean():
    text = 'type: "%s" variance_norm: %s'
    shape = (64, 3, 7, 7)
    for kind, field, square in (("msra", "std", 2), ("xavier", "bound", 3)):
        for norm, fan in (("FAN_IN", 147), ("FAN_OUT", 3136), ("AVERAGE", (147 + 3136) / 2)):
            filler = text_format.Parse(text % (kind, norm), FillerParameter())
            assert start(filler, shape)[field] == pytest.approx((square / fan) ** 0.5)


def test_mistakes_in_the_text(tmp_path):
    path = tmp_path / "net.prototxt"
    with pytest.raises(InputError, match=r"net.prototxt: cannot be read: No such file"):
        read_net(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"net.prototxt: not a text in UTF-8: .*, expected NetParameter"):
        read_net(path)
    for text, line in (
        ('name: "x"\nlayer {\n  colour: 1\n}', r"net.prototxt:3:3: .*no field named .colour"),
        ('layer { name: "d" type: "HDF5Data" hdf5_data_param { source: "list" } }',
         r"net.prototxt: layer d: type: found HDF5Data, expected Data, with an LMDB: bin/make_lmdb makes"),
        ("layer { relu_param { engine: FAST } }", r"net.prototxt:1:30: .*no value named FAST"),
        ('layer {\n  name: "x\n}', r"net.prototxt:2:9: "),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=line) as caught:
            read_net(path)
        assert "\n" not in str(caught.value)


def test_a_deploy_net_is_no_net_to_train():
    with pytest.raises(InputError, match=r"^net: input: found a value, expected a Data layer: this is a deploy net$"):
        understand(deploy(PUBLISHED), "net")
    with pytest.raises(InputError, match=r"^net: no layer is the first in the TRAIN phase, expected type Data$"):
        understand(NetParameter(), "net")
