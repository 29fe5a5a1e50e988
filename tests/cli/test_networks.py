from tailcut.cli.networks import add_network
from tailcut.cli.parser import Parser


def test_a_network_is_a_file_or_a_checkpoint_with_its_model() -> None:
    parser = Parser()
    add_network(parser)
    plain = parser.parse_args(["a.tailcut"])
    assert (plain.source, plain.model, plain.model_arguments) == ("a.tailcut", None, None)
    named = parser.parse_args(["a.th", "--model", "resnet20", "--set-argument", "width=4", "--set-argument", "a=b"])
    assert (named.model, named.model_arguments) == ("resnet20", ["width=4", "a=b"])
