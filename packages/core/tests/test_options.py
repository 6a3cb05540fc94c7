"""Options: what is known of them, and what is said of the ones that are not."""

import pytest
import traitlets
from traitlets.config import Configurable

from kernel_provisioner_core import ConfigurationError
from kernel_provisioner_core.options import Option, check_option_names, json_schema, options_of


class Provisioner(Configurable):
    """A class with one option of each kind."""

    image = traitlets.Unicode(config=True, help="The image.\n   It has a default: none.").tag(
        example="a"
    )
    launch_timeout = traitlets.Float(60.0, min=0, config=True, help="Time.").tag(unit="seconds")
    pull_policy = traitlets.Enum(["always", "never"], "never", config=True, help="When.")
    mounts = traitlets.List(traitlets.Unicode(), config=True, help="Mounts.")
    env = traitlets.Dict(value_trait=traitlets.Unicode(), config=True, help="Env.")
    user = traitlets.Union([traitlets.Int(), traitlets.Unicode()], config=True, help="User.")
    gpu = traitlets.Int(None, allow_none=True, config=True, help="GPUs.")
    init = traitlets.Bool(True, config=True, help="Init.")
    not_an_option = traitlets.Unicode()


def test_options_are_the_configurable_traits_by_name():
    names = [option.name for option in options_of(Provisioner)]
    assert names == [
        "env",
        "gpu",
        "image",
        "init",
        "launch_timeout",
        "mounts",
        "pull_policy",
        "user",
    ]


def test_an_option_tells_all_about_itself():
    found = {option.name: option for option in options_of(Provisioner)}
    assert found["image"] == Option(
        "image", {"type": "string"}, "", "", "The image. It has a default: none.", "a"
    )
    assert found["launch_timeout"].unit == "seconds"


def test_the_json_schema_has_types_defaults_units_and_examples():
    schema = json_schema(Provisioner)
    assert schema["additionalProperties"] is False
    described = {"description", "default", "examples"}
    bare = {
        name: {k: v for k, v in value.items() if k not in described}
        for name, value in schema["properties"].items()
    }
    assert bare == {
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
        "gpu": {"type": ["integer", "null"]},
        "image": {"type": "string"},
        "init": {"type": "boolean"},
        "launch_timeout": {"type": "number", "minimum": 0},
        "mounts": {"type": "array", "items": {"type": "string"}},
        "pull_policy": {"enum": ["always", "never"]},
        "user": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    }
    assert schema["properties"]["launch_timeout"]["description"] == "Time. Unit: seconds."
    assert schema["properties"]["image"]["examples"] == ["a"]


def test_known_names_pass():
    check_option_names(Provisioner, ["image", "env"])


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigurationError, match="no option 'imgae'") as info:
        check_option_names(Provisioner, ["imgae"])
    assert info.value.hint.startswith("Did you mean 'image'? Its options are: env, gpu, image,")


def test_a_trait_that_is_no_option_is_unknown():
    with pytest.raises(ConfigurationError, match="no option 'not_an_option'"):
        check_option_names(Provisioner, ["not_an_option"])
