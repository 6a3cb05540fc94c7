"""The engines that tests run on: Docker, and Podman behind the same interface."""

IMAGE = "kernel-provisioners/kernel"
