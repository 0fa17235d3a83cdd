from argparse import ArgumentParser
from typing import Any

import pytest

from gatedvision.engine.cfg_options import CfgOptions


def parse(*settings: str) -> dict[str, Any]:
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions)
    return parser.parse_args(["--cfg-options", *settings]).cfg_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("true", True),
        ("None", None),
        ("/data/my photos/ü", "/data/my photos/ü"),
        ("'a b'", "a b"),
        ("a=b", "a=b"),
        ("", ""),
        ("1,2", [1, 2]),
        ("(0.5, 1)", (0.5, 1)),
        ("[(1,2),(3,4)]", [(1, 2), (3, 4)]),
    ],
)
def test_values(text, value):
    assert parse(f"key.name={text}") == {"key.name": value}


def test_several_settings_of_one_command():
    assert parse("a=1", "b=x y", "--cfg-options", "a=2") == {"a": 2, "b": "x y"}


@pytest.mark.parametrize(("text", "message"), [("model", "KEY=VALUE, got 'model'"), ("a=(1,2", "in 'a=(1,2'")])
def test_mistakes_are_named(text, message, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(text)
    assert exit.value.code == 2 and message in capsys.readouterr().err
