import pytest
@pytest.mark.needs("docker","docker_tls","podman","registry")
def test_x(): pass
