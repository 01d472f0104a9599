"""The published train_val.prototxt and train_val_noaug.prototxt as their users have them: text in the files' own style,
written without anything of the project's.
"""

BLOCKS = {
    50: ["2a", "2b", "2c", "3a", "3b", "3c", "3d", "4a", "4b", "4c", "4d", "4e", "4f", "5a", "5b", "5c"],
    18: ["2a", "2b", "3a", "3b", "4a", "4b", "5a", "5b"],
}
LAST = {50: ["2c", "3d", "4f", "5c"], 18: ["2b", "3b", "4b", "5b"]}  # of each stage: their last gamma starts at 0

DATA = """layer {{
  name: "data"
  type: "Data"
  top: "data"
  top: "label"
  include {{
    phase: {phase}
  }}
  transform_param {{
    mirror: {mirror}
    crop_size: {crop}
    scale: 0.0078125
    mean_value: 104
    mean_value: 117
    mean_value: 123
{augmentation}  }}
  data_param {{
    #source: "/scratch/ilsvrc12_lmdb_striped_64"
    source: "{source}"
    batch_size: {batch}
    backend: LMDB
{order}  }}
}}
"""
ASPECT = """    random_aspect_ratio_param {
      min_area_ratio: 0.08
      max_area_ratio: 1
      aspect_ratio_change: 0.75
      resize_param {
        interp_mode: CUBIC
      }
    }
"""
RESIZE = """    random_resize_param {{
      min_size: {size}
      max_size: {size}
      resize_param {{
        interp_mode: CUBIC
      }}
    }}
"""
CONV1 = """
layer {
  bottom: "data"
  top: "conv1"
  name: "conv1"
  type: "Convolution"
  convolution_param {
    num_output: 64
    kernel_size: 7
    pad: 3
    stride: 2
    weight_filler {
      type: "msra"
      variance_norm: FAN_OUT
    }
    bias_filler {
      type: "constant"
      value: 0
    }
  }
}
"""
CONVOLUTION = """
layer {{
  bottom: "{bottom}"
  top: "{name}"
  name: "{name}"
  type: "Convolution"
  convolution_param {{

    num_output: {outputs}
    kernel_size: {kernel}
    pad: {pad}
    stride: {stride}
    bias_term: false
    weight_filler {{
      type: "msra"
    }}
    bias_filler {{
      type: "constant"
      value: 0
    }}
  }}
}}
"""
NORM = """
layer {{
  bottom: "{blob}"
  top: "{blob}"
  name: "bn{name}"
  type: "BatchNorm"
  param {{ lr_mult: 0 }}
  param {{ lr_mult: 0 }}
  param {{ lr_mult: 0 }}
  batch_norm_param {{
    moving_average_fraction: 0.95
    filler {{ value: {gamma} }}
  }}
}}

layer {{
  bottom: "{blob}"
  top: "{blob}"
  name: "scale{name}"
  type: "Scale"
  param {{ decay_mult: 0 }}
  param {{ decay_mult: 0 }}
  scale_param {{
    bias_term: true
  }}
}}
"""
RELU = """
layer {{
  bottom: "{blob}"
  top: "{blob}"
  name: "{blob}_relu"
  type: "ReLU"
  relu_param {{

  }}
}}
"""
POOL1 = """
layer {
  bottom: "conv1"
  top: "pool1"
  name: "pool1"
  type: "Pooling"
  pooling_param {
    kernel_size: 3
    stride: 2
    pool: MAX
  }
}
"""
SUM = """
layer {{
  bottom: "{shortcut}"
  bottom: "{branch}"
  top: "{name}"
  name: "{name}"
  type: "Eltwise"
  eltwise_param {{

  }}
}}
"""
END = """
layer {{
  bottom: "{last}"
  top: "pool5"
  name: "pool5"
  type: "Pooling"
  pooling_param {{
    kernel_size: {size}
    stride: 1
    pool: AVE
  }}
}}

layer {{
  bottom: "pool5"
  top: "fc1000"
  name: "fc1000"
  type: "InnerProduct"
  inner_product_param {{
    num_output: {classes}
    weight_filler {{
      type: "gaussian"
      std: 0.01
    }}
    bias_filler {{
      type: "constant"
      value: 0
    }}
  }}
}}

layer {{
  bottom: "fc1000"
  bottom: "label"
  top: "loss"
  name: "prob"
  type: "SoftmaxWithLoss"
}}
layer {{
  name: "loss3/top-1"
  type: "Accuracy"
  bottom: "fc1000"
  bottom: "label"
  top: "loss3/top-1"
}}
layer {{
  name: "loss3/top-5"
  type: "Accuracy"
  bottom: "fc1000"
  bottom: "label"
  top: "loss3/top-5"
  accuracy_param {{
    top_k: 5
  }}
}}
"""


def train_val(train="/tmp/ilsvrc12_train_lmdb", val="examples/imagenet/ilsvrc12_val_lmdb", augmented=True, classes=1000,
              crop=224, batch=16, val_batch=50, val_resize=256, mirror=True, depth=50, downsample="3x3",
              stem_bias=True, first_projection=False, width=64):  # fmt: skip
    """The text of the net file: by default of part 1. Part 2's is that of augmented=False and val=None, which leaves
    out the TEST data layer. val_resize: the shorter side of test images, or None. stem_bias, first_projection: of nets
    of others, conv1 without a bias, and a projection where depths 18 and 34 need none. width: channels of conv1.
    """
    text = 'name: "ResNet-50"\n'
    text += DATA.format(phase="TRAIN", mirror=str(mirror).lower(), crop=crop, source=train, batch=batch,
                        augmentation=ASPECT if augmented else "",
                        order="    prefetch: 2\n    shuffle: true\n")  # fmt: skip
    if val is not None:
        resize = RESIZE.format(size=val_resize) if val_resize else ""
        text += DATA.format(phase="TEST", mirror="false", crop=crop, source=val, batch=val_batch, order="",
                            augmentation=resize)  # fmt: skip
    conv1 = CONV1.replace("num_output: 64", f"num_output: {width}")
    text += conv1 if stem_bias else conv1.replace("stride: 2\n", "stride: 2\n    bias_term: false\n")
    text += NORM.format(blob="conv1", name="_conv1", gamma=1) + RELU.format(blob="conv1") + POOL1
    size, bottom = -(-((crop + 1) // 2 - 3) // 2) + 1, "pool1"
    for block in BLOCKS[depth]:
        strided = block in ("3a", "4a", "5a")
        projected = block[1] == "a" and (depth != 18 or block != "2a" or first_projection)
        text += _block(block, bottom, 2 if strided else 1, depth, downsample, projected, width << int(block[0]) - 2)
        size, bottom = (size + 1) // 2 if strided else size, f"res{block}"
    return text + END.format(last=bottom, size=size, classes=classes)


def _block(block, bottom, stride, depth, downsample, projected, width):
    text, shortcut = "", bottom
    if depth == 50:
        first = downsample == "1x1"
        branch = [
            ("a", width, 1, stride if first else 1),
            ("b", width, 3, 1 if first else stride),
            ("c", 4 * width, 1, 1),
        ]
    else:
        branch = [("a", width, 3, stride), ("b", width, 3, 1)]
    if projected:
        shortcut = f"res{block}_branch1"
        text += _convolution(bottom, f"{block}_branch1", branch[-1][1], 1, stride)
    for letter, outputs, kernel, step in branch:
        last = letter == branch[-1][0]
        name = f"{block}_branch2{letter}"
        text += _convolution(bottom, name, outputs, kernel, step, gamma=0 if last and block in LAST[depth] else 1)
        bottom = f"res{name}"
        text += "" if last else RELU.format(blob=bottom)
    return text + SUM.format(shortcut=shortcut, branch=bottom, name=f"res{block}") + RELU.format(blob=f"res{block}")


def _convolution(bottom, name, outputs, kernel, stride, gamma=1):
    blob = f"res{name}"
    return CONVOLUTION.format(
        bottom=bottom, name=blob, outputs=outputs, kernel=kernel, pad=kernel // 2, stride=stride
    ) + NORM.format(blob=blob, name=name, gamma=gamma)
