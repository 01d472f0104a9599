"""`caffe test` in bin/evaluate: a net file in place of a solver, and a number of batches."""

from dataclasses import dataclass
from pathlib import Path

from bin.common.caffe_files import find, test_note
from nptrain.caffe.caffe_pb2 import TEST
from nptrain.caffe_net.net import NetFile, read_net, understand
from nptrain.errors import InputError, within

OUTPUTS = {"loss": 0, "loss3/top-1": 1, "loss3/top-5": 2}  # of the published net: {name: column of a batch's results}


def add_test_arguments(parser):
    """Add the flags of `caffe test`."""
    caffe = parser.add_argument_group("as `caffe test` (docs/caffe.md)")
    caffe.add_argument("--model", "-model", metavar="FILE", help="net file with a TEST data layer, instead of a recipe")
    caffe.add_argument("--iterations", "-iterations", metavar="N", type=int,
                       help="evaluate N batches and print each, in Caffe's format")  # fmt: skip


@dataclass(frozen=True)
class ModelFile:
    """A net file that is tested."""

    path: Path
    net: NetFile
    outputs: dict

    @classmethod
    def read(cls, path):
        """Raises InputError if the file is missing, or asks for something that cannot be done here."""
        message = read_net(path)
        net = understand(message, path)
        if not net.test:
            with within(path):
                raise InputError("found no TEST data layer, expected one; --solver and --data test without one")
        return cls(Path(path), net, outputs_of(message))

    def content(self):
        return self.path.read_bytes()

    def recipe(self):
        return self.net.tested_alone()

    def test_note(self, recipe):
        return test_note(self.net, self.path, recipe)

    def data(self):
        """The folder of the TEST data layer. Raises InputError if it is not there."""
        return str(find(self.net.test.source, self.path, f"{self.path}: source"))


def outputs_of(net):
    """{name: column} of what a NetParameter gives in the TEST phase: the tops of its loss and Accuracy layers."""
    outputs = {}
    for layer in net.layer:
        phases = [rule.phase for rule in layer.include]
        if layer.top and (not phases or TEST in phases):
            if layer.type == "SoftmaxWithLoss":
                outputs[layer.top[0]] = 0
            elif layer.type == "Accuracy":
                outputs[layer.top[0]] = 1 if layer.accuracy_param.top_k == 1 else 2
    return outputs
