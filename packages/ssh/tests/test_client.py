"""How the words of an OpenSSH configuration and of the options become a way to a host."""

import pytest

from kernel_provisioner_core.errors import ConfigurationError
from kernel_provisioner_ssh.client import resolve


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a configuration and returns its path."""

    def write(text, name="config"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_an_alias_is_what_the_configuration_says(config):
    file = config(
        "Host gpu\n  HostName gpu.example.com\n  User alice\n  Port 2222\n  IdentityFile ~/k\n"
        "  ConnectTimeout 7\n  ServerAliveInterval 9\n  Compression yes\n  HostKeyAlias g\n"
        "  StrictHostKeyChecking accept-new\n  UserKnownHostsFile /a /b\n"
    )
    hop = resolve("gpu", config_file=file).host
    assert (hop.hostname, hop.user, hop.port) == ("gpu.example.com", "alice", 2222)
    assert hop.identity_files[0].endswith("/k")
    assert (hop.connect_timeout, hop.keepalive_interval, hop.compression) == (7, 9, True)
    assert (hop.host_key_name, hop.strict) == ("g", "accept-new")
    assert hop.known_hosts[:2] == ("/a", "/b")


def test_options_count_before_the_configuration(config):
    file = config("Host gpu\n  User alice\n  Port 2222\n  ProxyJump gate\n")
    target = resolve("gpu", user="bob", port=22, proxy_jump="none", config_file=file)
    assert len(target.hops) == 1
    assert (target.host.user, target.host.port) == ("bob", 22)


def test_jump_hosts_are_a_chain_with_words_of_their_own(config):
    file = config(
        "Host gpu\n  ProxyJump bob@one:2200,two\nHost one\n  HostName 1.example.com\n  ProxyJump zero\n"
        "Host two\n  User carol\n  ProxyJump never\n"
    )
    hops = resolve("gpu", config_file=file).hops
    assert [hop.alias for hop in hops] == ["zero", "one", "two", "gpu"]
    assert (hops[1].hostname, hops[1].user, hops[1].port) == ("1.example.com", "bob", 2200)
    assert hops[2].user == "carol"


def test_a_circle_of_jump_hosts_is_an_error(config):
    file = config("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(ConfigurationError, match="circle"):
        resolve("a", config_file=file)


def test_included_files_are_read_and_circles_are_an_error(config, tmp_path):
    config("Host gpu\n  User alice\n", "other")
    file = config(f"Include {tmp_path}/other\nHost gpu\n  Port 2222\n")
    hop = resolve("gpu", config_file=file).host
    assert (hop.user, hop.port) == ("alice", 2222)
    circle = config(f"Include {tmp_path}/circle\n", "circle")
    with pytest.raises(ConfigurationError, match="includes itself"):
        resolve("gpu", config_file=circle)


def test_a_configuration_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="no ssh configuration"):
        resolve("gpu", config_file=str(tmp_path / "none"))


def test_the_tokens_of_a_proxy_command_are_filled_in(config):
    file = config("Host gpu\n  HostName g.example.com\n  ProxyCommand nc %h %p\n")
    hop = resolve("gpu", port=2222, config_file=file).host
    assert hop.proxy_command == "nc g.example.com 2222"


@pytest.mark.parametrize(
    "options",
    [
        {"host": "-oProxyCommand=touch evil"},
        {"host": "a;touch evil"},
        {"host": "a\nProxyCommand touch evil"},
        {"host": "gpu", "user": "a\nProxyCommand touch evil"},
        {"host": "gpu", "user": "$(touch evil)"},
        {"host": "gpu", "proxy_jump": "a$(touch evil)"},
    ],
)
def test_names_that_would_be_something_else_are_refused(config, options):
    file = config("Host gpu\n  ProxyCommand nc %r %h\n")
    with pytest.raises(ConfigurationError):
        resolve(options.pop("host"), config_file=file, **options)


def test_connections_to_the_same_place_are_the_same(config):
    file = config("Host a b\n  HostName x.example.com\n")
    assert resolve("a", config_file=file) == resolve("a", config_file=file)
    assert resolve("a", config_file=file) != resolve("a", user="other", config_file=file)
