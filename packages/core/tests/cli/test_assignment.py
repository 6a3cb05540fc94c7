import pytest

from kernel_provisioner_core.cli.assignment import config_from
from kernel_provisioner_core.errors import ConfigurationError


@pytest.fixture
def provisioner_class(tiny):
    from kernel_provisioner_tiny import TinyProvisioner

    return TinyProvisioner


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("image=python:3.11", {"image": "python:3.11"}),
        ("image=3.11", {"image": "3.11"}),
        ("image=a=b", {"image": "a=b"}),
        ("image=", {"image": ""}),
        ('image="3.11"', {"image": "3.11"}),
        ("launch_timeout=5", {"launch_timeout": 5}),
        ("launch_timeout=soon", {"launch_timeout": "soon"}),
        ("capture_output=true", {"capture_output": True}),
        ("capture_output=1", {"capture_output": "1"}),
        ("resources.cpu=2", {"resources": {"cpu": 2}}),
        ("resources.memory=2", {"resources": {"memory": "2"}}),
        ('resources={"cpu": 2}', {"resources": {"cpu": 2}}),
        ("labels.example.org/team=7", {"labels": {"example.org/team": "7"}}),
        ('mounts=[{"source": "/a"}]', {"mounts": [{"source": "/a"}]}),
        ("user=1000", {"user": 1000}),
        ("user=jovyan", {"user": "jovyan"}),
        ("user=null", {"user": None}),
        ("pull_policy=always", {"pull_policy": "always"}),
    ],
)
def test_a_value_is_json_where_that_fits_the_option(provisioner_class, text, config):
    key, _, value = text.partition("=")
    assert config_from(provisioner_class, [(key, value)]) == config


def test_parts_of_an_object_come_together(provisioner_class):
    assignments = [("resources.cpu", "2"), ("resources.memory", "2G"), ("image", "x")]
    assert config_from(provisioner_class, assignments) == {
        "resources": {"cpu": 2, "memory": "2G"},
        "image": "x",
    }


def test_the_last_assignment_counts(provisioner_class):
    assert config_from(provisioner_class, [("image", "a"), ("image", "b")]) == {"image": "b"}


def test_an_unknown_option_is_refused_with_the_nearest(provisioner_class):
    with pytest.raises(ConfigurationError, match="Did you mean 'image'"):
        config_from(provisioner_class, [("imgae", "x")])


def test_a_part_of_what_is_no_object_is_refused(provisioner_class):
    with pytest.raises(ConfigurationError, match="goes into 'image'"):
        config_from(provisioner_class, [("image", "x"), ("image.tag", "y")])
